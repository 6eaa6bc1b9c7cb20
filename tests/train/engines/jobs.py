"""A tiny job from a folder, the same in every process, and what a run has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM
from jielong.train.job import Job
from jielong.world import World
from tests.train.conftest import SHAPE, make_job, make_model

PHASES: list[dict[str, Any]] = [  # steps 1 to 4, 5 to 8 and 9 to 12
    {"tokens": 4 * 32, "sequence_length": 4, "tokens_per_step": 32, "optimizer": "adamw"},
    {"tokens": 4 * 64, "sequence_length": 8, "optimizer": "muon", "learning_rate": 0.02},
    {"tokens": 4 * 64, "weight_decay": 0.5, "schedule": "wsd", "warmup_ratio": 0.5, "optimizer_state": "fresh"},
]
THREE: dict[str, Any] = {"tokens": None, "phases": PHASES, "micro_batch_tokens": 32}  # settings of a run of them


def tiny_job(
    corpus: Path, folder: Path, world: World, shape: ModelConfig = SHAPE, **settings: Any
) -> tuple[Job, CausalLM]:
    """A job of 20 steps of 4 rows of 16 tokens on the CPU unless the settings say otherwise, and its model: the newest
    checkpoint's in `folder`, or the one that every process makes from the same seed.

    corpus: what the fixture of that name gives.
    """
    job = make_job(corpus, folder, shape, world.size, **({"tokens": 20 * 64, "device": "cpu"} | settings))
    return job, make_model(job)


def records(folder: Path) -> list[dict[str, Any]]:
    """What a run wrote of each of its steps."""
    return read_jsonl(folder / "metrics.jsonl")


def losses(folder: Path) -> list[float]:
    """The loss of each step."""
    return [record["loss"] for record in records(folder)]
