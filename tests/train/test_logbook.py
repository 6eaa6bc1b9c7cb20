"""The files of a run: each step once, going back, a rank that writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.metrics import read_jsonl
from jielong.train.logbook import DISCARDED, HISTORY, METRICS, SAMPLES, Logbook, console_line


def record(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0, "tokens_per_second": 1e4} | more


def test_a_killed_run_s_later_steps_are_cut_off_and_its_history_is_not(tmp_path: Path) -> None:
    with Logbook(tmp_path, True, 0, 10, 64) as log:
        for step in range(1, 6):
            log.record(record(step), False)
            log.sample(step, [{"prompt": "中国", "text": "人民"}])
        log.event(4, "skipped", "not taken", loss=None)
    with Logbook(tmp_path, True, 3, 10, 64) as log:
        log.event(3, "resumed", "going on")
        log.record(record(4), False)
    assert [row["step"] for row in read_jsonl(tmp_path / METRICS)] == [1, 2, 3, 4]
    assert [row["step"] for row in read_jsonl(tmp_path / SAMPLES)] == [1, 2, 3]
    assert [row["event"] for row in read_jsonl(tmp_path / HISTORY)] == ["skipped", "resumed"]


def test_going_back_moves_records_aside(tmp_path: Path) -> None:
    with Logbook(tmp_path, True, 0, 10, 64) as log:
        for step in range(1, 6):
            log.record(record(step), False)
        log.go_back(2)
        log.record(record(3, loss=1.0), False)
    assert [(row["step"], row["loss"]) for row in read_jsonl(tmp_path / METRICS)] == [(1, 2.0), (2, 2.0), (3, 1.0)]
    assert [row["step"] for row in read_jsonl(tmp_path / DISCARDED)] == [3, 4, 5]


def test_other_ranks_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logbook(tmp_path, False, 0, 10, 64) as log:
        log.record(record(1), True)
        log.event(1, "skipped", "not taken")
        log.sample(1, [{"prompt": "中国", "text": "人民"}])
        log.go_back(0)
        log.sync()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().err == ""


def test_the_console_line() -> None:
    assert console_line(record(3), 10) == "step      3/10  loss 2.0000  lr 1.00e-01  norm 1.00  10k tokens/s"
    line = console_line(record(3, loss=None, grad_norm=None, skipped="loss is nan", validation_bits_per_byte=1.5), 10)
    assert (
        "loss not finite" in line and "norm not finite" in line and "not taken" in line and "1.5000 bits/byte" in line
    )
