"""The files of a run: each step once, going back, a rank that writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from jielong.metrics import read_jsonl
from jielong.trackers import Trackers
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.logbook import DISCARDED, HISTORY, METRICS, SAMPLES, Logbook, console_line, trackers_of
from jielong.train.loop import train
from tests.train.conftest import make_job, make_model

TOKENS = (64).__mul__  # steps of 64 tokens


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0, "tokens_per_second": 1e4} | more


def test_a_killed_run_s_later_steps_are_cut_off_and_its_history_is_not(tmp_path: Path) -> None:
    with Logbook(tmp_path, True, 0, 10, TOKENS) as log:
        for step in range(1, 6):
            log.record(record(step), False)
            log.sample(step, [{"prompt": "中国", "text": "人民"}])
        log.event(4, "skipped", "not taken", loss=None)
    with Logbook(tmp_path, True, 3, 10, TOKENS) as log:
        log.event(3, "resumed", "going on")
        log.record(record(4), False)
    assert [row["step"] for row in read_jsonl(tmp_path / METRICS)] == [1, 2, 3, 4]
    assert [row["step"] for row in read_jsonl(tmp_path / SAMPLES)] == [1, 2, 3]
    assert [row["event"] for row in read_jsonl(tmp_path / HISTORY)] == ["skipped", "resumed"]


def test_going_back_moves_records_aside(tmp_path: Path) -> None:
    with Logbook(tmp_path, True, 0, 10, TOKENS) as log:
        for step in range(1, 6):
            log.record(record(step), False)
        log.go_back(2)
        log.record(record(3, loss=1.0), False)
    assert [(row["step"], row["loss"]) for row in read_jsonl(tmp_path / METRICS)] == [(1, 2.0), (2, 2.0), (3, 1.0)]
    assert [row["step"] for row in read_jsonl(tmp_path / DISCARDED)] == [3, 4, 5]


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logbook(tmp_path, False, 0, 10, TOKENS) as log:
        log.record(record(1), True)
        log.event(1, "skipped", "not taken")
        log.sample(1, [{"prompt": "中国", "text": "人民"}])
        log.go_back(0)
        log.sync()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


class Told:
    """Trackers that write down what they are told."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given: self.said.append((name, *given))


def test_trackers_get_a_copy_of_everything(tmp_path: Path) -> None:
    told = Told()
    with Logbook(tmp_path, True, None, 10, TOKENS, cast(Trackers, told)) as log:
        log.record(record(1), False)
        log.sample(1, [{"prompt": "中国", "text": "人民"}])
        log.event(1, "skipped", "not taken", loss=None)
        log.go_back(0)
    assert told.said == [
        ("go_back", -1),
        ("record", record(1)),
        ("sample", 1, [{"prompt": "中国", "text": "人民"}]),
        ("event", 1, "skipped", "not taken"),
        ("go_back", 0),
        ("close",),
    ]
    with Logbook(tmp_path, False, 3, 10, TOKENS, cast(Trackers, told)) as log:  # another rank
        log.record(record(4), False)
        log.sample(4, [{}])
    assert len(told.said) == 6


def test_training_feeds_the_trackers_of_the_recipe(corpus: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = make_job(corpus, tmp_path / "mine" / "train", trackers=["tensorboard"])
    train(job, TorchEngine(make_model(job), job.config))
    read = EventAccumulator(str(job.folder / "trackers" / "tensorboard")).Reload()
    losses = [(row["step"], row["loss"]) for row in read_jsonl(job.folder / METRICS)]
    assert len(losses) == 12
    assert [(row.step, row.value) for row in read.Scalars("train/loss")] == losses  # both float32
    asked = read.Tensors("recipe")[0].tensor_proto.string_val[0].decode()
    assert '"trackers"' in asked and '"hidden_size": 16' in asked
    assert trackers_of(job, False)._lines == []


def test_the_console_line() -> None:
    assert console_line(record(3), 10) == "step      3/10  loss 2.0000  lr 1.00e-01  norm 1.00  10k tokens/s"
    line = console_line(record(3, loss=None, grad_norm=None, skipped="loss is nan", validation_bits_per_byte=1.5), 10)
    assert (
        "loss not finite" in line and "norm not finite" in line and "not taken" in line and "1.5000 bits/byte" in line
    )
