"""LISA: which blocks work, what rests, and exact resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder
from jielong.train.checkpoints import require_newest
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.optimizers.sampling import working_blocks
from tests.train.conftest import RunTraining, make_job, make_model

DEEP = ModelConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1,
                   max_position_embeddings=16)  # fmt: skip
LISA = {"blocks": 1, "interval": 3}


def test_every_block_has_its_turns() -> None:
    found = [working_blocks(7, step, 5, 2, 8) for step in range(1, 2001)]
    assert all(len(set(blocks)) == 2 and set(blocks) <= set(range(8)) for blocks in found)
    assert all(len(set(found[at : at + 5])) == 1 for at in range(0, 2000, 5))
    times = Counter(block for blocks in found for block in blocks)
    assert all(350 < times[block] < 650 for block in range(8))  # 500 each is even
    assert working_blocks(7, 1, 5, 20, 4) == (0, 1, 2, 3)


def test_what_rests_has_neither_gradient_nor_state_and_stays_as_it_is(corpus: Path, tmp_path: Path) -> None:
    job = make_job(corpus, tmp_path, DEEP, lisa=LISA)
    model = make_model(job)
    engine = TorchEngine(model, job.configs[0])
    engine.let_work([2])
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    from jielong.train.loader import PackedLoader

    batch = PackedLoader(job.shards, 16, seed=1).next_batch(4)
    engine.backward(engine.forward(batch).cross_entropy / 64)
    assert {n for n, one in model.named_parameters() if one.grad is not None and ".layers." in n} == {
        n for n in before if ".layers.2." in n
    }
    engine.step(0.01)
    moved = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert {name.split(".")[2] for name in moved if ".layers." in name} == {
        "2"
    } and "model.embed_tokens.weight" in moved
    engine.let_work([0])
    names = {id(one): name for name, one in model.named_parameters()}
    assert not any(".layers." in names[id(one)] for one in engine.optimizer.state)


@pytest.mark.parametrize("stop", [4, 6, 8])
def test_resume_is_exact(stop: int, run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "whole", shape=DEEP, lisa=LISA)
    with pytest.raises(RuntimeError, match="injected"):
        run_training(tmp_path / "parts", fail_at=stop + 1, shape=DEEP, lisa=LISA, save_every_steps=stop)
    run_training(tmp_path / "parts", shape=DEEP, lisa=LISA)
    losses = [[row["loss"] for row in read_jsonl(tmp_path / name / "metrics.jsonl")] for name in ("whole", "parts")]
    assert losses[0] == losses[1]
    states = [load_folder(require_newest(tmp_path / name / "checkpoints")).state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_it_learns(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path, shape=DEEP, lisa=LISA, tokens=60 * 64)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.75 * losses[0]


@pytest.mark.parametrize(("more", "text"), [
    ({"engine": "deepspeed"}, "LISA is trained by the engine torch"),
    ({"optimizer": "muon"}, "Muon is for whole weights, not for LISA"),
    ({"adapter": {}}, "draws blocks of whole weights"),
    ({"ema_decay": 0.9}, "no average is kept with LISA"),
])  # fmt: skip
def test_refused(more: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Config.model_validate({"lisa": LISA, **more})
