"""Tails of growing files, and which run is meant."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jielong.errors import RunError
from jielong.metrics import keep_until
from jielong.train.control import reading
from jielong.train.control.mailbox import Mailbox
from jielong.train.control.reading import Reader, Tail, train_folder
from jielong.train.logbook import HISTORY, METRICS


def write(path: Path, *steps: int) -> None:
    with path.open("ab") as file:
        for step in steps:
            file.write(orjson.dumps({"step": step}) + b"\n")


def seen(tail: Tail) -> list[int]:
    return [record["step"] for record in tail.read()]


def test_a_tail_reads_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    tail = Tail(path, 4)
    assert seen(tail) == []
    write(path, 1, 2)
    assert seen(tail) == [1, 2] and seen(tail) == [1, 2]
    with path.open("ab") as file:
        file.write(b'{"step": 3')
    assert seen(tail) == [1, 2]  # half a line waits
    with path.open("ab") as file:
        file.write(b"}\nbroken\n[1]\n")
    write(path, 4, 5)
    assert seen(tail) == [2, 3, 4, 5]  # only so many are kept


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    write(path, 1, 2, 3)
    tail = Tail(path, 100)
    assert seen(tail) == [1, 2, 3]
    keep_until(path, 1)
    write(path, 2, 3, 4, 5)
    assert seen(tail) == [1, 2, 3, 4, 5]
    path.write_bytes(b"")
    write(path, 7)
    assert seen(tail) == [7]


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.jsonl"
    write(path, *range(100, 200))
    monkeypatch.setattr(reading, "FIRST_BYTES", 35)  # two lines of 13 bytes, and nine bytes of one
    assert seen(Tail(path, 1000)) == [198, 199]


def test_a_view(tmp_path: Path) -> None:
    reader = Reader("small", tmp_path)
    view = reader.view()
    assert not view.alive and view.standing == "no training has begun here" and view.steps == []
    write(tmp_path / METRICS, 1)
    write(tmp_path / HISTORY, 1)
    Mailbox(tmp_path).say({"state": "done", "step": 1})
    view = reader.view()
    assert [len(view.steps), len(view.events)] == [1, 1] and view.standing == "not going on: done at step 1"


def test_the_run_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.toml").write_text("")
    with pytest.raises(RunError, match=r"no such training in .*, got 'small'; runs there: other"):
        train_folder(tmp_path, "small")
    with pytest.raises(RunError, match="got 'other'; its training has not begun"):
        train_folder(tmp_path, "other")
    (tmp_path / "other" / "train").mkdir()
    assert train_folder(tmp_path, "other") == tmp_path / "other" / "train"
    (tmp_path / "other" / "tune").mkdir()
    assert train_folder(tmp_path, "other") == tmp_path / "other" / "tune"  # what goes on now
