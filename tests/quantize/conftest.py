"""A finished run of a small model that has learned something, for all tests of the stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.recipe import load
from jielong.runs import Run
from jielong.workflow import run_stages
from tests.corpus import write_recipe

SETTINGS = (
    "model.hidden_size=64", "model.num_attention_heads=4", "model.num_key_value_heads=4", "model.intermediate_size=128",
    "model.max_position_embeddings=64", "train.tokens=40960", "train.tokens_per_step=1024", "train.micro_batch_tokens=1024",
    "train.sample_every_steps=none", "train.evaluate_every_steps=none", "train.save_every_steps=none",
)  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run, with its recipe beside runs/."""
    folder = tmp_path_factory.mktemp("quantize")
    write_recipe(folder)
    recipe = load(str(folder / "mini.toml"), list(SETTINGS))
    run = Run(folder / "runs" / "mini")
    run_stages(recipe, run, ["data", "tokenizer", "model", "train"])
    return run


@pytest.fixture(scope="session")
def source(finished: Run) -> Path:
    """The run's checkpoint."""
    return next((finished.stage("train") / "checkpoints").glob("step-0000004*"))
