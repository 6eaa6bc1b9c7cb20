"""What a person changed, and its replay, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jielong.metrics import JsonLines
from jielong.train.control.steering import EVENT, REFUSED, Steering, made_by_hand
from jielong.train.logbook import HISTORY


def rate(number: int, step: int, value: float) -> dict[str, Any]:
    return {"event": EVENT, "command": "learning-rate", "number": number, "step": step, "rate": value}


def test_changes_are_the_state_and_a_pause_is_not() -> None:
    steering = Steering()
    steering.change(rate(1, 5, 0.5))
    steering.change({"command": "pause", "number": 2, "step": 6})
    steering.change({"command": "prompts", "number": 3, "step": 6, "prompts": ["中国"]})
    assert steering == Steering(0.5, ["中国"], 3, []) and Steering(**steering.to_json()) == steering


def test_what_came_after_the_checkpoint_is_made_again_at_its_step() -> None:
    steering = Steering(0.5, None, 1)
    steering.take_up([rate(1, 5, 0.5), rate(2, 8, 0.25), {"event": EVENT, "command": "save", "number": 3, "step": 9}])
    assert steering.rate == 0.5 and steering.number == 3 and [row["number"] for row in steering.pending] == [2]
    assert steering.replay(7) == [] and steering.rate == 0.5
    again = Steering(**steering.to_json())  # a checkpoint in between keeps what is still to come
    assert [row["number"] for row in again.replay(8)] == [2] and again.rate == 0.25
    assert again.replay(8) == [] and again.pending == []  # once


def test_a_newer_change_is_not_undone_by_an_older_one_that_comes_later() -> None:
    """Changed behind step 15; the run went back to 10 and was changed again behind 12: from there on that holds."""
    steering = Steering()
    steering.take_up([rate(1, 15, 0.1), rate(2, 12, 0.7)])
    steering.replay(12)
    assert steering.rate == 0.7 and steering.pending == []
    live = Steering()
    live.take_up([rate(1, 15, 0.1), {"event": EVENT, "command": "prompts", "number": 2, "step": 15, "prompts": ["好"]}])
    live.change(rate(3, 12, 0.7))
    live.replay(15)
    assert (live.rate, live.prompts) == (0.7, ["好"])


def test_other_events_are_left_alone(tmp_path: Path) -> None:
    with JsonLines(tmp_path / HISTORY) as file:
        for row in ({"event": "skipped", "step": 3}, rate(1, 4, 0.5), {"event": "replayed", "of": 1, "step": 4}):
            file.write(row)
    assert made_by_hand(tmp_path) == [rate(1, 4, 0.5)] and made_by_hand(tmp_path / "none") == []


def test_what_the_disk_did_not_take_was_not_made(tmp_path: Path) -> None:
    """Its number may be that of the next one."""
    with JsonLines(tmp_path / HISTORY) as file:
        for row in (rate(1, 4, 0.5), {"event": REFUSED, "of": 1, "step": 4}, rate(1, 6, 0.2), rate(2, 7, 0.3)):
            file.write(row)
    assert made_by_hand(tmp_path) == [rate(1, 6, 0.2), rate(2, 7, 0.3)]
