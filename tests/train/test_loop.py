"""The loop: its arithmetic by hand, accumulation, exact resume, and what it says when it must stop."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import CheckpointError, TrainingError
from jielong.metrics import read_jsonl
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM, Losses
from jielong.train import loop
from jielong.train.checkpoints import checkpoints, newest, read_state
from jielong.train.config import Config
from jielong.train.engine import TorchEngine
from jielong.train.loader import Batch, PackedLoader
from jielong.train.loop import plan
from tests.train.conftest import SHAPE, RunTraining


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_jsonl(folder / "metrics.jsonl")]


def test_plan_by_hand() -> None:
    """1,000 tokens in steps of 4 rows x 16 = 64 tokens: 15.6, so 16 steps; 20 % warm-up: 3.2, so 4."""
    config = Config(tokens=1000, tokens_per_step=64, micro_batch_tokens=40, warmup_ratio=0.2)
    found = plan(config, 16, {"text": 5000})
    assert (found.rows_per_step, found.rows_per_micro_batch, found.total_steps, found.warmup_steps) == (4, 2, 16, 4)
    assert plan(Config(epochs=1.5, tokens_per_step=64), 16, {"text": 1000}).total_steps == math.ceil(1500 / 64)
    assert plan(Config(tokens_per_step=96, micro_batch_tokens=64), 16, {"text": 1000}).rows_per_micro_batch == 3
    assert plan(Config(sequence_length=8, tokens_per_step=64), 16, {"text": 1000}).rows_per_step == 8


def test_first_loss_by_hand(run_training: RunTraining, model: CausalLM, corpus: Path, tmp_path: Path) -> None:
    """The first record's loss is the mean over the first 4 rows of the untrained model, computed apart from the loop."""
    from jielong.tokenizer.shards.reading import Shards

    run_training(tmp_path, tokens=64)
    batch = PackedLoader(Shards(corpus / "shards", "train"), 16, seed=1).next_batch(4)
    parts = (batch.inputs, batch.labels, batch.positions, batch.documents)
    with torch.no_grad():
        expected = float(model.loss_sum(*(torch.from_numpy(part) for part in parts))) / 64
    assert losses(tmp_path) == [pytest.approx(expected, rel=1e-6)]


def test_loss_falls(run_training: RunTraining, tmp_path: Path) -> None:
    counts = run_training(tmp_path, tokens=60 * 64)
    found = losses(tmp_path)
    assert len(found) == counts["steps"] == 60
    assert found[-1] < 0.7 * found[0]


def test_accumulation_equals_one_large_batch(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "one", micro_batch_tokens=64)
    run_training(tmp_path / "four", micro_batch_tokens=16)
    assert losses(tmp_path / "one") == [pytest.approx(loss, rel=1e-4) for loss in losses(tmp_path / "four")]


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
def test_resume_is_bit_exact(run_training: RunTraining, tmp_path: Path, stop: int) -> None:
    run_training(tmp_path / "unbroken", save_every_steps=5)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=stop + 1, save_every_steps=5)
    run_training(tmp_path / "broken", save_every_steps=5)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    one, two = (newest(tmp_path / name / "checkpoints") for name in ("unbroken", "broken"))
    assert one is not None and two is not None
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_resume_with_dropout_is_bit_exact(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout every step draws random numbers, so this fails unless the generator's state is restored."""
    from tests.train import conftest

    monkeypatch.setattr(conftest, "SHAPE", conftest.SHAPE.model_copy(update={"attention_dropout": 0.3}))
    run_training(tmp_path / "unbroken", save_every_steps=5)
    with pytest.raises(RuntimeError):
        run_training(tmp_path / "broken", fail_at=8, save_every_steps=5)
    torch.manual_seed(999)
    run_training(tmp_path / "broken", save_every_steps=5)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_a_finished_run_does_nothing_more(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    before = losses(tmp_path)
    again = run_training(tmp_path)
    assert again["steps"] == 12 and again["final_loss"] == before[-1] and again["validation_bits_per_byte"] == 1.0
    assert losses(tmp_path) == before


def test_another_recipe_s_checkpoint_is_refused(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    checkpoint = newest(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert read_state(checkpoint)["fingerprint"] == "fingerprint"
    from jielong.model.hf import write_checksums
    from jielong.runs import write_json

    write_json(checkpoint / "trainer" / "state.json", read_state(checkpoint) | {"fingerprint": "other"})
    write_checksums(checkpoint)
    with pytest.raises(CheckpointError, match="belongs to another recipe"):
        run_training(tmp_path)


def test_not_finite_stops_before_the_step(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = TorchEngine.forward, [0]

    def poisoned(self: TorchEngine, batch: Batch) -> Losses:
        seen[0] += 1
        found = forward(self, batch)
        return found._replace(cross_entropy=found.cross_entropy * (math.nan if seen[0] == 8 else 1))

    monkeypatch.setattr(TorchEngine, "forward", poisoned)
    with pytest.raises(TrainingError, match="step 8 is not finite, got loss nan"):
        run_training(tmp_path, save_every_steps=7)
    assert len(losses(tmp_path)) == 7
    checkpoint = newest(tmp_path / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "step-00000007"
    assert all(bool(p.isfinite().all()) for p in load_folder(checkpoint).parameters())


def test_a_stop_signal_saves_and_resumes(
    run_training: RunTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(tmp_path / "unbroken")
    log = loop._log

    def interrupting(record: dict[str, object], run: loop.Plan) -> None:
        log(record, run)  # type: ignore[arg-type]
        if record["step"] == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop, "_log", interrupting)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 4, saved"):
        run_training(tmp_path / "broken", log_every_steps=1)
    monkeypatch.setattr(loop, "_log", log)
    assert [path.name for path in checkpoints(tmp_path / "broken" / "checkpoints")] == ["step-00000004"]
    run_training(tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")


def test_bfloat16_stays_near_float32(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "full")
    run_training(tmp_path / "half", precision="bfloat16")
    assert losses(tmp_path / "half") != losses(tmp_path / "full")  # it is really used
    assert losses(tmp_path / "half") == [pytest.approx(loss, rel=0.02) for loss in losses(tmp_path / "full")]


@pytest.mark.parametrize(
    "changes", [{}, {"scoring_func": "sigmoid", "router_bias_update_rate": 0.01}], ids=["loss", "bias"]
)
def test_experts_are_logged_and_resume_exactly(
    changes: dict[str, Any], run_training: RunTraining, tmp_path: Path
) -> None:
    """Every step says how even the experts' use was; a broken run goes on with the same biases and losses, bit for bit."""
    shape = SHAPE.model_copy(update={"num_experts": 4, "moe_intermediate_size": 8, **changes})
    run_training(tmp_path / "unbroken", shape=shape, log_every_steps=6)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=9, shape=shape, save_every_steps=4, log_every_steps=6)
    run_training(tmp_path / "broken", shape=shape, log_every_steps=6)
    first, second = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("unbroken", "broken"))
    for one, other in zip(first, second, strict=True):
        for key in ("loss", "auxiliary_loss", "expert_share_max", "experts_unused"):
            assert one[key] == other[key]
        assert one["auxiliary_loss"] > 0 and 0.25 <= one["expert_share_max"] <= 0.5  # each token takes two of four
        assert ("expert_use" in one) == (one["step"] % 6 == 0)
    assert [sum(row) for row in first[-1]["expert_use"]] == [64 * 2, 64 * 2]
    weights = [load_folder(newest(tmp_path / name / "checkpoints")).state_dict() for name in ("unbroken", "broken")]  # type: ignore[arg-type]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    biases = [value for name, value in weights[0].items() if name.endswith("e_score_correction_bias")]
    assert len(biases) == (2 if changes else 0) and all(bias.abs().max() > 0 for bias in biases)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
def test_compiled_equals_eager(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path / "eager", tokens=3 * 64)
    run_training(tmp_path / "compiled", tokens=3 * 64, compile=True)
    assert losses(tmp_path / "compiled") == [pytest.approx(loss, rel=1e-4) for loss in losses(tmp_path / "eager")]
