"""`jielong control`: what is sent, what is printed, and one sentence where nobody answers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jielong.__main__ import app
from jielong.errors import RunError
from jielong.train.control.commands import ask
from jielong.train.control.mailbox import Mailbox
from tests.train.control.runs import until
from tests.train.control.test_telling import STATUS


@pytest.fixture
def box(tmp_path: Path) -> Mailbox:
    """Of a run named small, in the folder of runs tmp_path."""
    (tmp_path / "small" / "train").mkdir(parents=True)
    return Mailbox(tmp_path / "small" / "train")


def call(runs: Path, *words: str) -> Any:
    return CliRunner().invoke(app, [words[0], "small", *words[1:], "--runs-dir", str(runs)])


def answering(box: Mailbox, answer: dict[str, Any]) -> tuple[threading.Thread, list[Any]]:
    """A run that answers the next command, and what it was sent."""
    box.say(STATUS)
    seen: list[Any] = []

    def work() -> None:
        name = until(box.waiting)[0]
        seen.append(Mailbox(box.folder.parent).take(name)[0])
        box.answer(name, answer)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, seen


def test_an_answer_is_printed(box: Mailbox, tmp_path: Path) -> None:
    thread, seen = answering(box, {"ok": True, "step": 7, "text": "【中国】人民\x1b[31m"})
    result = call(tmp_path, "control", "generate", "中国", "--temperature", "0.5", "--seed", "3")
    thread.join()
    assert result.exit_code == 0 and result.stdout == "【中国】人民\\x1b[31m\n"
    assert seen == [{"command": "generate", "prompt": "中国", "temperature": 0.5, "seed": 3}]


def test_an_answer_as_json(box: Mailbox, tmp_path: Path) -> None:
    thread, seen = answering(box, {"ok": True, "step": 7, "text": "paused"})
    result = call(tmp_path, "control", "pause", "--json")
    thread.join()
    assert json.loads(result.stdout) == {"ok": True, "step": 7, "text": "paused"} and seen == [{"command": "pause"}]


def test_a_refusal_is_an_error(box: Mailbox, tmp_path: Path) -> None:
    thread, _ = answering(box, {"ok": False, "step": 7, "text": "infer.top_p: too large"})
    result = call(tmp_path, "control", "generate", "中国", "--top-p", "2")
    thread.join()
    assert result.exit_code == 2 and "error: infer.top_p: too large" in result.stderr


def test_nobody_is_there(box: Mailbox, tmp_path: Path) -> None:
    assert "no training to control, no training has begun here; start it" in call(tmp_path, "control", "pause").stderr
    box.say(STATUS | {"state": "stopped"})
    (tmp_path / "small" / ".lock").write_text(str(STATUS["pid"]))
    error = call(tmp_path, "control", "pause").stderr
    assert "not going on: stopped at step 1200; process" in error and "before or after its training" in error
    assert (
        "no such training" in CliRunner().invoke(app, ["control", "big", "pause", "--runs-dir", str(tmp_path)]).stderr
    )
    assert "command: unknown" in call(tmp_path, "control", "sleep").stderr


def test_no_answer_in_time(box: Mailbox) -> None:
    box.say(STATUS)
    with pytest.raises(RunError, match=r"no answer in 0 s, running .*; it was withdrawn"):
        ask(box.folder.parent, "small", {"command": "pause"}, 0.0)
    assert box.waiting() == []


def test_a_run_that_ends_meanwhile(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    box.say(STATUS)
    send = Mailbox.send

    def ends(self: Mailbox, command: dict[str, Any]) -> str:
        box.say(STATUS | {"state": "done"})
        return send(self, command)

    monkeypatch.setattr(Mailbox, "send", ends)
    with pytest.raises(RunError, match="the training ended before it answered, not going on: done at step 1200"):
        ask(box.folder.parent, "small", {"command": "pause"}, 60.0)


def test_watch_without_a_terminal(box: Mailbox, tmp_path: Path) -> None:
    box.say(STATUS)
    result = call(tmp_path, "watch", "--once")
    assert result.exit_code == 0 and result.stdout.startswith("small: running, step 1,200 of 5,000")
    found = json.loads(call(tmp_path, "watch", "--json").stdout.splitlines()[-1])
    assert found["ok"] and found["alive"] and found["status"]["step"] == 1200
