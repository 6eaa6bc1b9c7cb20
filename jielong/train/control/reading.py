"""What whoever watches a run sees of its folder: the newest steps, the newest events, where it stands. Only files are read.

metrics.jsonl grows by a line a step, and may have millions: only what is new is read each time, and at first only its end. A run that
goes on from a checkpoint, or back to one, writes the file anew; that is noticed (another inode, or a shorter file) and it is read again.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jielong.errors import RunError
from jielong.runs import TRAINED, list_runs, open_run
from jielong.train.control.mailbox import Mailbox
from jielong.train.control.telling import alive, standing
from jielong.train.logbook import HISTORY, METRICS

FIRST_BYTES = 4 << 20  # of a file's end that are read at first
STEPS, EVENTS = 20_000, 100  # that are kept


class Tail:
    """The newest records of a jsonl file that grows."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self.records: deque[dict[str, Any]] = deque(maxlen=keep)
        self._at, self._inode, self._rest = 0, -1, b""

    def read(self) -> deque[dict[str, Any]]:
        """Take in what is new; all that are kept, oldest first. Half a line waits for its end."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                cut = False
                if facts.st_ino != self._inode or facts.st_size < self._at:
                    self.records.clear()
                    self._inode, self._at, self._rest = facts.st_ino, max(0, facts.st_size - FIRST_BYTES), b""
                    cut = self._at > 0
                file.seek(self._at)
                data = file.read()
        except OSError:
            return self.records
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines[1:] if cut else lines:
            self._take(line)
        return self.records

    def _take(self, line: bytes) -> None:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        if isinstance(record, dict):
            self.records.append(record)


@dataclass
class View:
    """What is drawn of a run."""

    name: str
    status: dict[str, Any] | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether the run goes on."""
        return alive(self.status)

    @property
    def standing(self) -> str:
        """Whether it does, in a sentence."""
        return standing(self.status)


class Reader:
    """Reads a run again and again."""

    def __init__(self, name: str, train: Path) -> None:
        """train: the run's folder train/."""
        self.name, self.box = name, Mailbox(train)
        self._metrics, self._history = Tail(train / METRICS, STEPS), Tail(train / HISTORY, EVENTS)

    def view(self) -> View:
        """The run as it is now. What its status does not say (it has none, or never began) the last step does."""
        steps, status = list(self._metrics.read()), self.box.status()
        return View(self.name, status, steps, list(self._history.read()))


def train_folder(runs_dir: Path, name: str) -> Path:
    """The folder of a run's training: train/, tune/ once that has begun, then align/. Raises RunError where there is none."""
    run = open_run(runs_dir, name)
    folder = next((run.stage(stage) for stage in TRAINED if run.stage(stage).is_dir()), run.stage("train"))
    first = folder / "reward"  # the reward model of [align.reward], before the policy's training has begun
    if first.is_dir() and not (folder / METRICS).is_file():
        return first
    if not folder.is_dir():
        known = ", ".join(found.name for found in list_runs(runs_dir)) or "none yet"
        there = "its training has not begun" if run.root.is_dir() else f"runs there: {known}"
        raise RunError(f"RUN: no such training in {runs_dir}, got {name!r}; {there}; start it with jielong train")
    return folder
