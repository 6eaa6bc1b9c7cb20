"""Lines without a terminal, and the dashboard in a pseudo-terminal, without tmux (test_watch.py has one)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jielong.train.control import watching
from jielong.train.control.mailbox import Mailbox
from jielong.train.control.reading import Reader, View
from jielong.train.control.watching import is_terminal, line_of, watch_lines
from tests.train.control.test_telling import STATUS


def test_lines_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    box = Mailbox(tmp_path)
    box.say(STATUS)
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: box.say(STATUS | {"state": "done", "step": 5000}))
    found = watch_lines(Reader("small", tmp_path), once=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("small: running, step 1,200")
    assert (
        lines[1].startswith("small: not going on: done at step 5000; last: step 5,000 of 5,000") and not found["alive"]
    )


def test_one_line_for_what_never_began_or_was_killed() -> None:
    assert line_of(View("small")) == "small: no training has begun here"
    assert line_of(View("small", None, [{"step": 7}])) == "small: no training has begun here, last at step 7"


def test_there_is_no_terminal_in_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert not is_terminal()
