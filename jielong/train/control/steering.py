"""What a person changed while the run went on: a factor of the learning rate, other sample prompts. Part of every checkpoint.

A change is written to the history, and is on disk, before it takes effect. So a run that is killed and goes on from an older
checkpoint finds there what was changed since, and changes it again behind the same steps: it becomes the run that was not
killed, bit for bit. Changes are numbered; a checkpoint says which number was the last, and what is still to be made again.

A change that is made again later than a newer one of its kind was made would undo that one: it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jielong.metrics import read_jsonl
from jielong.train.logbook import HISTORY

EVENT = "intervention"  # in the history
REFUSED = "refused"  # there, too: one that was written but could not be put on disk, so it was not made
STATE = ("learning-rate", "prompts")  # commands that change what is here; the others are over when they are done


@dataclass
class Steering:
    """What was changed, as JSON."""

    rate: float = 1.0  # what the learning rate is multiplied by
    prompts: list[str] | None = None  # of the samples; None: the recipe's
    number: int = 0  # of the newest intervention
    pending: list[dict[str, Any]] = field(default_factory=list)  # to be made again: rows of the history

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    def change(self, row: dict[str, Any]) -> None:
        """Make an intervention, a row of the history with "command", "number" and what it changes."""
        self.pending = _without_older(self.pending, row)
        self._set(row)

    def take_up(self, history: Iterable[dict[str, Any]]) -> None:
        """Note what a run did after the checkpoint whose state this is, to make it again when its step comes."""
        for row in history:
            if row.get("event") != EVENT or not row.get("number", 0) > self.number:
                continue
            self.number = row["number"]
            if row.get("command") in STATE:
                self.pending = [*_without_older(self.pending, row), row]

    def replay(self, step: int) -> list[dict[str, Any]]:
        """Make again what was changed when `step` steps were done, and before; returns the rows."""
        due = [row for row in self.pending if row["step"] <= step]
        self.pending = [row for row in self.pending if row["step"] > step]
        for row in due:
            self._set(row)
        return due

    def _set(self, row: dict[str, Any]) -> None:
        self.number = max(self.number, row["number"])
        if row["command"] == "learning-rate":
            self.rate = row["rate"]
        elif row["command"] == "prompts":
            self.prompts = row["prompts"]


def _without_older(pending: list[dict[str, Any]], row: dict[str, Any]) -> list[dict[str, Any]]:
    """Without those of the same kind that would come behind a row that is newer."""
    return [one for one in pending if one["command"] != row["command"] or one["step"] <= row["step"]]


def made_by_hand(folder: Path) -> list[dict[str, Any]]:
    """The interventions in a run's history, oldest first. folder: train/."""
    found = list[dict[str, Any]]()
    for row in read_jsonl(folder / HISTORY):
        if row.get("event") == EVENT:
            found.append(row)
        elif row.get("event") == REFUSED and found and found[-1]["number"] == row["of"]:
            found.pop()
    return found
