"""The stage opens what the loop needs; the loop itself is tested in test_loop.py, the whole in test_workflow.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jielong.errors import MissingExtraError, ShardError
from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import read_config
from jielong.model.stage import run as run_model
from jielong.runs import Run, StageContext, write_json
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.config import Config
from jielong.train.stage import run
from tests.train.conftest import TEXTS

SMALL = ModelConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                    max_position_embeddings=16)  # fmt: skip


@pytest.fixture
def context(corpus: Path, tmp_path: Path) -> StageContext:
    shutil.copytree(corpus, tmp_path / "tokenizer")
    counts = run_model(SMALL, StageContext(Run(tmp_path), tmp_path / "model", 1), tmp_path)
    manifest = {"fingerprint": "", "section": SMALL.result_fields(), "counts": counts, "outputs": [], "seed": 1}
    write_json(tmp_path / "model" / "manifest.json", manifest)
    (tmp_path / "train").mkdir()
    return StageContext(Run(tmp_path), tmp_path / "train", 1, "fingerprint")


def go(context: StageContext, **settings: Any) -> dict[str, Any]:
    config = Config.model_validate({"tokens": 320, "tokens_per_step": 32, "device": "cpu"} | settings)
    return run(config, context, Path(), lambda model, autocast: {"loss": 2.0, "bits_per_byte": 1.5},
               lambda model, step: [{"prompt": "中国", "text": "人民"}])  # fmt: skip


def test_counts_and_hooks(context: StageContext) -> None:
    counts = go(context, sample_every_steps=5, evaluate_every_steps=4)
    assert counts["steps"] == 10 and counts["tokens"] == 320
    assert counts["validation_bits_per_byte"] == 1.5
    assert (context.out / counts["checkpoint"] / "model.safetensors").is_file()
    assert [row["step"] for row in read_jsonl(context.out / "samples.jsonl")] == [0, 5, 10]
    evaluated = [row["step"] for row in read_jsonl(context.out / "metrics.jsonl") if "validation_loss" in row]
    assert evaluated == [4, 8, 10]


def test_a_checkpoint_tells_what_documents_began_with(context: StageContext) -> None:
    """The start id of the shards is the bos of the model, and of no other meaning to the tokenizer."""
    folder = context.run.stage("tokenizer")
    tokenizer = open_folder(folder)
    scheme = Scheme(tokenizer.size, tokenizer.end_id, start_id=1)
    shutil.rmtree(folder / "shards")
    with ShardWriter(folder / "shards", "train", scheme, 10_000) as writer:
        writer.add(TEXTS, tokenizer.encode(TEXTS))
    write_manifest(folder / "shards", scheme, {"train": writer.summary()})
    counts = go(context)
    table = read_config(context.out / counts["checkpoint"])
    assert (table["bos_token_id"], table["eos_token_id"]) == (1, 0)


def test_a_damaged_shard_stops_it_before_the_first_step(context: StageContext) -> None:
    path = next((context.run.stage("tokenizer") / "shards").glob("*.bin"))
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match="checksum differs"):
        go(context)
    assert not (context.out / "metrics.jsonl").exists()


def test_a_tracker_that_is_not_installed_stops_it_before_anything_is_moved(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"swanlab: not installed, .*jielong\[trackers\]"):
        go(context, trackers=["swanlab"])
    assert list(context.out.iterdir()) == []


def test_the_recipe_s_attention_is_used(context: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from jielong.model import attention

    def fused(*arguments: object) -> None:
        raise AssertionError("the fused kernel was used")

    path = context.run.stage("model") / "manifest.json"
    manifest = context.run.manifest("model")
    assert manifest is not None
    write_json(path, manifest | {"section": manifest["section"] | {"attention": "eager"}})
    monkeypatch.setattr(attention, "fused_attention", fused)
    assert go(context)["steps"] == 10
