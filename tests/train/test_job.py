"""The arithmetic of a run, by hand."""

from __future__ import annotations

import math

import pytest

from jielong.errors import RecipeError
from jielong.train.config import Config
from jielong.train.job import plan


def test_plan_by_hand() -> None:
    """1,000 tokens in steps of 4 rows x 16 = 64 tokens: 15.6, so 16 steps; 20 % warm-up: 3.2, so 4."""
    config = Config(tokens=1000, tokens_per_step=64, micro_batch_tokens=40, warmup_ratio=0.2)
    found = plan(config, 16, {"text": 5000})
    assert (found.rows_per_step, found.rows_per_micro_batch, found.total_steps, found.warmup_steps) == (4, 2, 16, 4)
    assert plan(Config(epochs=1.5, tokens_per_step=64), 16, {"text": 1000}).total_steps == math.ceil(1500 / 64)
    assert plan(Config(tokens_per_step=96, micro_batch_tokens=64), 16, {"text": 1000}).rows_per_micro_batch == 3
    assert plan(Config(sequence_length=8, tokens_per_step=64), 16, {"text": 1000}).rows_per_step == 8


def test_processes_divide_a_step() -> None:
    """12 rows in steps of 4 processes: 3 each, so micro-batches of 1 or 3, of which 2 rows at most fit: 1."""
    config = Config(tokens=1000, tokens_per_step=192, micro_batch_tokens=32)
    found = plan(config, 16, {"text": 5000}, processes=4)
    assert (found.rows_per_step, found.rows_per_micro_batch, found.micro_batches) == (12, 1, 3)
    with pytest.raises(
        RecipeError, match="a step of 12 rows cannot be divided among 5 processes, got 192; for example 160"
    ):
        plan(config, 16, {"text": 5000}, processes=5)


def test_an_epoch_of_truncated_rows_is_the_documents() -> None:
    config = Config(packing="truncated", tokens_per_step=64, epochs=2.0)
    assert plan(config, 16, {"text": 100_000}, documents=30).total_steps == 15
