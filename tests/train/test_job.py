"""The arithmetic of a run, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from jielong.errors import RecipeError
from jielong.train.config import Config
from jielong.train.job import Job, plan
from jielong.train.schedules import learning_rate
from tests.train.conftest import make_job


def test_plan_by_hand() -> None:
    """1,000 tokens in steps of 4 rows x 16 = 64 tokens: 15.6, so 16 steps; 20 % warm-up: 3.2, so 4."""
    config = Config(tokens=1000, tokens_per_step=64, micro_batch_tokens=40, warmup_ratio=0.2)
    found = plan(config, 16, {"text": 5000})
    (only,) = found.stretches
    assert (only.rows_per_step, only.rows_per_micro_batch, found.total_steps, found.warmup_steps) == (4, 2, 16, 4)
    assert found.tokens == 1024 and [found.tokens_after(step) for step in (0, 1, 16)] == [0, 64, 1024]
    assert plan(Config(epochs=1.5, tokens_per_step=64), 16, {"text": 1000}).total_steps == math.ceil(1500 / 64)
    assert plan(Config(tokens_per_step=96, micro_batch_tokens=64), 16, {"text": 1000}).at(1).rows_per_micro_batch == 3
    assert plan(Config(sequence_length=8, tokens_per_step=64), 16, {"text": 1000}).at(1).rows_per_step == 8


def test_processes_divide_a_step() -> None:
    """12 rows in steps of 4 processes: 3 each, so micro-batches of 1 or 3, of which 2 rows at most fit: 1."""
    config = Config(tokens=1000, tokens_per_step=192, micro_batch_tokens=32)
    found = plan(config, 16, {"text": 5000}, processes=4).at(1)
    assert (found.rows_per_step, found.rows_per_micro_batch, found.micro_batches) == (12, 1, 3)
    with pytest.raises(
        RecipeError, match="a step of 12 rows cannot be divided among 5 processes, got 192; for example 160"
    ):
        plan(config, 16, {"text": 5000}, processes=5)


def test_an_epoch_of_truncated_rows_is_the_documents() -> None:
    config = Config(packing="truncated", tokens_per_step=64, epochs=2.0)
    assert plan(config, 16, {"text": 100_000}, rows=30).total_steps == 15


# ------------------------------------------------------------------------------------------------------ phases


GROWING: dict[str, Any] = {"tokens_per_step": 64, "micro_batch_tokens": 64, "phases": [
    {"tokens": 300, "sequence_length": 8, "tokens_per_step": 32, "learning_rate": 0.004},
    {"tokens": 640, "sequence_length": 16, "optimizer": "muon"},
    {"tokens": 500, "sequence_length": 32, "tokens_per_step": 128, "schedule": "wsd", "warmup_ratio": 0.5,
     "decay_ratio": 0.25, "min_learning_rate_ratio": 0.0, "learning_rate": 0.002},
]}  # fmt: skip


def test_a_plan_of_phases_by_hand() -> None:
    """300 tokens in steps of 32: 10. 640 in steps of 64: 10. 500 in steps of 128: 4. 24 steps, 320 + 640 + 512 tokens."""
    found = plan(Config.model_validate(GROWING), 64, {})
    assert [(s.first_step, s.last_step, s.tokens_before, s.tokens) for s in found.stretches] == [
        (1, 10, 0, 320), (11, 20, 320, 640), (21, 24, 960, 512)]  # fmt: skip
    assert [(s.sequence_length, s.rows_per_step, s.rows_per_micro_batch) for s in found.stretches] == [
        (8, 4, 4), (16, 4, 4), (32, 4, 2)]  # fmt: skip
    assert (found.total_steps, found.tokens, found.warmup_steps) == (24, 1472, 1)
    assert [found.at(step).phase for step in (1, 10, 11, 20, 21, 24)] == [0, 0, 1, 1, 2, 2]
    assert [found.behind(step).phase for step in (0, 10, 11)] == [0, 0, 1]
    assert [found.tokens_after(step) for step in (0, 10, 11, 24)] == [0, 320, 384, 1472]
    lines = found.describe().splitlines()
    assert lines[0].startswith("24 steps in 3 phases, 1 warm-up steps, 1.47k tokens in all") and len(lines) == 4
    assert "phase 3, from step 21: 4 steps of 4 rows x 32 tokens, 2 micro-batches a step" in lines[3]


def test_budgets_of_phases() -> None:
    def tokens(available: int = 1000, documents: int = 0, **table: Any) -> list[int]:
        config = Config.model_validate({"tokens_per_step": 10, "micro_batch_tokens": 10, "sequence_length": 10} | table)
        return [s.tokens for s in plan(config, 16, {"a": available, "b": 500}, rows=documents).stretches]

    assert tokens(phases=[{"epochs": 0.5}, {"epochs": 2}]) == [750, 3000]
    assert tokens(phases=[{"share": 1}, {"share": 3}], tokens=400) == [100, 300]
    assert tokens(phases=[{"share": 1}, {"share": 2}]) == [500, 1000]
    assert tokens(phases=[{"share": 1e-9}, {"share": 2}]) == [10, 1500]
    assert tokens(phases=[{"epochs": 1}, {"epochs": 1}], mix={"weights": {"b": 1}}) == [500, 500]
    one_source = [{"epochs": 1, "weights": {"b": 1}}, {"epochs": 2, "weights": {"b": 2}}]
    assert tokens(phases=one_source) == [500, 1000]
    assert tokens(phases=[{"epochs": 1}, {"epochs": 0.5}], packing="truncated", documents=7) == [70, 40]


def test_a_ramp_is_rounded_to_what_processes_divide() -> None:
    """From 4 rows to 32 on two processes, whole micro-batches of 2 rows each: by 4."""
    table = {
        "tokens": 20_000,
        "tokens_per_step": 512,
        "tokens_per_step_start": 64,
        "micro_batch_tokens": 32,
        "ramp_ratio": 0.5,
    }
    found = plan(Config.model_validate(table), 16, {}, processes=2)
    sizes = [found.at(step).rows(step) for step in range(1, found.total_steps + 1)]
    assert sizes[0] == 4 and sizes[-1] == 32 and sorted(set(sizes)) == list(range(4, 33, 4)) and sizes == sorted(sizes)
    assert found.tokens == 16 * sum(sizes) == sum(found.tokens_of(step) for step in range(1, found.total_steps + 1))
    ramped = 16 * sum(size for size in sizes if size < 32)
    assert 10_000 <= ramped < 10_000 + 512
    with pytest.raises(RecipeError, match=r"train\.tokens_per_step_start: a step of 4 rows cannot be divided among 8"):
        plan(Config.model_validate(table), 16, {}, processes=8)


@pytest.fixture
def job(corpus: Path, tmp_path: Path) -> Job:
    return make_job(corpus, tmp_path, tokens=None, schedule="linear", learning_rate=0.01, warmup_ratio=0.25,
                    sequence_length=16, phases=GROWING["phases"])  # fmt: skip


def test_the_run_s_schedule_goes_through_phases_and_a_phase_may_have_its_own(job: Job) -> None:
    """Six of 24 steps are warm-up; phase 1 has a peak of its own on the same line; phase 3: 2 of 4 steps up, one down."""
    rates = [job.learning_rate(step) for step in range(1, 25)]
    run = [learning_rate("linear", step, 24, 6, 5, 1.0, 0.1) for step in range(1, 21)]
    assert rates[:10] == pytest.approx([0.004 * rate for rate in run[:10]])
    assert rates[10:20] == pytest.approx([0.01 * rate for rate in run[10:]])
    assert rates[20:] == pytest.approx([0.001, 0.002, 0.002, 0.0])


def test_what_phases_read_is_a_mix_by_their_tokens(corpus: Path, tmp_path: Path) -> None:
    """300 and 640 tokens wanted, 320 and 640 planned: a third and two thirds."""
    phases = [{"tokens": 300, "weights": {"": 1}}, {"tokens": 640, "temperature": 2.0}]
    found = make_job(corpus, tmp_path, tokens=None, tokens_per_step=32, sequence_length=16, phases=phases).mix
    assert found is not None and [phase.share for phase in found.phases] == pytest.approx([1 / 3, 2 / 3])
    assert make_job(corpus, tmp_path).mix is None
