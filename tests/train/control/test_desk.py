"""Keys become commands, answers come back: without a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.train.control.desk import HELP, STOP, Desk
from jielong.train.control.mailbox import Mailbox
from jielong.train.control.reading import View
from tests.train.control.test_telling import STATUS


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(Mailbox(tmp_path), lambda: View("small", STATUS))


def press(desk: Desk, keys: str) -> list[dict[str, Any]]:
    """What the run is sent when these keys are pressed."""
    for key in keys:
        desk.press(key)
    found = [desk.box.take(name)[0] for name in desk.box.waiting()]
    return [command for command in found if command is not None]


@pytest.mark.parametrize(
    ("keys", "command"),
    [
        ("p", {"command": "pause"}),
        ("r", {"command": "resume"}),
        ("s", {"command": "save"}),
        ("b", {"command": "batch"}),
        ("xy", {"command": "stop"}),
        ("lx0.5\n", {"command": "learning-rate", "value": "x0.5"}),
        ("l3\x7f\x7f2e-4\n", {"command": "learning-rate", "value": "2e-4"}),
        ("g人工智能\n\n", {"command": "generate", "prompt": "人工智能"}),
        ("gqps\ntemperature=0.5 top_k=3\n", {"command": "generate", "prompt": "qps", "temperature": 0.5, "top_k": 3}),
        ("tbad\x15中国 | 美国\n", {"command": "prompts", "prompts": ["中国", "美国"]}),
    ],
)
def test_keys(desk: Desk, keys: str, command: dict[str, Any]) -> None:
    assert press(desk, keys) == [command] and desk.typed.question == "" and not desk.left


def test_keys_that_send_nothing(desk: Desk) -> None:
    assert press(desk, "xn") == press(desk, "x\x1b") == press(desk, "l\n") == press(desk, "g中国\x1b") == []
    assert press(desk, "t | \n") == [] and "prompts: must be texts" in desk.typed.answers[-1]
    assert press(desk, "lfast\n") == [] and "not a rate" in desk.typed.answers[-1]
    assert press(desk, "g中国\nheat=1\n") == [] and "settings: got 'heat=1'" in desk.typed.answers[-1]
    assert press(desk, "?") == [] and desk.typed.answers[-1] == HELP and max(map(len, HELP.split("\n"))) <= 80
    assert press(desk, "x") == [] and desk.typed.question == STOP
    desk.press("n")
    assert press(desk, "vkkj") == [] and desk.typed.large and desk.typed.scroll == 1
    desk.press("q")
    assert desk.left


def test_answers_are_shown_when_they_come(desk: Desk) -> None:
    desk.press("p")
    desk.collect()
    assert desk.typed.answers == []
    (name,) = desk.box.waiting()
    desk.box.answer(name, {"ok": True, "step": 7, "text": "paused"})
    desk.collect()
    desk.collect()
    assert desk.typed.answers == ["[step 7] pause: paused"]


def test_a_run_that_does_not_go_on_is_sent_nothing(tmp_path: Path) -> None:
    desk = Desk(Mailbox(tmp_path), lambda: View("small", STATUS | {"state": "done"}))
    assert press(desk, "p") == [] and desk.typed.answers == ["nothing to control: not going on: done at step 1200"]


def test_the_end_of_a_run_is_said_once(tmp_path: Path) -> None:
    views = [View("small", STATUS)]
    desk = Desk(Mailbox(tmp_path), lambda: views[0])
    for state, said in (
        ("running", []),
        ("stopped", ["Only to read: stopped at step 1200."]),
        ("running", ["It goes on: running (process"]),
    ):
        views[0] = View("small", STATUS | {"state": state})
        desk.typed.answers.clear()
        desk.collect()
        desk.collect()
        assert len(desk.typed.answers) == len(said)
        assert all(found.startswith(text) for found, text in zip(desk.typed.answers, said, strict=True))
