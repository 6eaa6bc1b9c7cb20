"""Files between a run and whoever watches it: whole or not there, taken once, answered, forgotten after a day."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from jielong.train.control.mailbox import ANSWERS, ANSWERS_SECONDS, MOST_BYTES, STATUS, Mailbox, put


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path)


def test_a_command_is_taken_once_and_answered(box: Mailbox, tmp_path: Path) -> None:
    assert box.waiting() == [] and box.status() is None  # there is no folder yet
    first, second = box.send({"command": "generate", "prompt": "中国"}), box.send({"command": "pause"})
    run = Mailbox(tmp_path)
    assert run.waiting() == [first, second]  # oldest first
    assert run.take(first) == ({"command": "generate", "prompt": "中国"}, "")
    assert run.waiting() == [second] and box.answered(first) is None
    run.answer(first, {"ok": True, "text": "人民"})
    assert box.answered(first) == {"ok": True, "text": "人民"}
    assert box.withdraw(second) and not box.withdraw(first) and run.waiting() == []


def test_the_status_and_half_written_files_are_no_commands(box: Mailbox) -> None:
    box.say({"step": 3})
    (box.folder / ".half.json.1.tmp").write_bytes(b"{")
    (box.folder / ".hidden.json").write_bytes(b"{}")
    assert box.waiting() == [] and box.status() == {"step": 3}
    assert [path.name for path in box.folder.glob(".*.tmp")] == [".half.json.1.tmp"]  # ours are renamed


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{", "is not valid JSON"),
        (b"[1]", 'must be an object, got .*; for example {"command": "pause"}'),
        (b"\xff", "is not valid JSON"),
        (b'"' + b"x" * MOST_BYTES, "too long, got 1,048,577 bytes; at most 1,048,576"),
    ],
)
def test_what_is_broken_is_a_sentence(box: Mailbox, data: bytes, sentence: str) -> None:
    import re

    put(box.folder / "x.json", {})
    (box.folder / "x.json").write_bytes(data)
    found, why = box.take("x.json")
    assert found is None and re.search(sentence, why) and box.waiting() == []


def test_what_cannot_be_taken_away_is_taken_once(box: Mailbox) -> None:
    (box.folder / "folder.json").mkdir(parents=True)
    assert box.waiting() == ["folder.json"]
    found, why = box.take("folder.json")
    assert found is None and "cannot be read" in why and box.waiting() == []


def test_a_pipe_is_not_waited_for(box: Mailbox) -> None:
    box.say({})
    os.mkfifo(box.folder / "pipe.json")
    found, why = box.take("pipe.json")
    assert found is None and "no plain file" in why and box.waiting() == []


def test_old_answers_go(box: Mailbox) -> None:
    box.answer("old.json", {})
    box.answer("young.json", {})
    before = time.time() - ANSWERS_SECONDS - 60
    os.utime(box.folder / ANSWERS / "old.json", (before, before))
    box.answer("new.json", {})
    assert sorted(path.name for path in (box.folder / ANSWERS).iterdir()) == ["new.json", "young.json"]


def test_a_disk_that_fails_is_said_once_and_disturbs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "control").write_text("a file where the folder should be")
    box = Mailbox(tmp_path)
    for _ in range(3):
        box.say({"step": 1})
        box.answer("x.json", {})
    assert box.waiting() == [] and capsys.readouterr().err.count("cannot be written") == 1


def test_a_reader_never_sees_half_a_file(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    replace = Path.replace

    def look(self: Path, target: Path) -> Path:
        seen.append(box.status())
        return replace(self, target)

    box.say({"step": 1})
    monkeypatch.setattr(Path, "replace", look)
    box.say({"step": 2})
    assert seen == [{"step": 1}] and box.status() == {"step": 2} and (box.folder / STATUS).is_file()
