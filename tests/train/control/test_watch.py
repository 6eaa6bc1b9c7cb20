"""`jielong watch` in a real terminal (tmux) beside a run that really trains: what the keys do, and what the run after it follows."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jielong.errors import Stopped
from jielong.train import checkpoints
from tests.train.control.runs import ENDLESS, Running, listening_job, until

REPOSITORY = Path(__file__).parents[3]


class Pane:
    """A terminal of 80 columns and 24 lines with `jielong watch` in it."""

    def __init__(self, runs: Path) -> None:
        self.socket = f"jielong-{uuid.uuid4().hex[:8]}"
        command = f"cd {shlex.quote(str(REPOSITORY))} && {sys.executable} -m jielong watch small --runs-dir {runs}; echo LEFT; exec cat"
        self.tmux("-f", "/dev/null", "-u", "new-session", "-d", "-x", "80", "-y", "24", command)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", self.socket, *words], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout

    def text(self) -> str:
        """What is on the screen."""
        return self.tmux("capture-pane", "-p")

    def shows(self, words: str) -> str:
        """Wait until some words are on the screen."""
        return str(until(lambda: (text := self.text()) and words in text.replace("\n", "") and text))

    def press(self, keys: str, enter: bool = False) -> None:
        self.tmux("send-keys", "-l", keys)
        if enter:
            self.tmux("send-keys", "Enter")


@pytest.fixture
def pane(tmp_path: Path) -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux, which is the terminal of this test")
    (tmp_path / "small" / "train").mkdir(parents=True)
    pane = Pane(tmp_path)
    yield pane
    pane.tmux("kill-server")


def test_keys_control_the_run_and_the_run_after_it_follows(corpus: Path, tmp_path: Path, pane: Pane) -> None:
    folder = tmp_path / "small" / "train"
    pane.shows("no training has begun here")
    with Running(listening_job(corpus, folder, tokens=ENDLESS, save_every_minutes=None)) as run:
        pane.shows("small  running")
        pane.press("p")
        pane.shows("pause: paused after step")
        step = run.step
        pane.shows(f"small  paused  step {step:,} of")

        pane.press("g")
        pane.shows("prompt:")
        pane.press("中国", enter=True)
        pane.shows("settings")
        pane.press("temperature=0 max_new_tokens=5", enter=True)
        pane.shows("generate: 【中国】")
        assert run.step == step  # all the while

        pane.press("l")
        pane.shows("learning rate (3e-4, or x0.5):")
        pane.press("2e-3", enter=True)
        pane.shows("learning-rate: the next step's learning rate is 0.002")
        pane.press("r")
        pane.shows("resume: going on after step")
        until(lambda: run.step > step)
        assert [record["learning_rate"] for record in run.records][step - 1 : step + 1] == [0.01, pytest.approx(2e-3)]
        asked = [(row["command"], row["step"]) for row in run.history]
        assert asked == [("pause", step), ("learning-rate", step), ("resume", step)]

        pane.press("x")
        pane.shows("y/n")
        pane.press("y")
        run.join()
        assert isinstance(run.ended, Stopped)
    last = run.step
    pane.shows(f"Only to read: stopped at step {last}")
    assert checkpoints.require_newest(folder / "checkpoints").name == f"step-{last:08d}"

    with Running(listening_job(corpus, folder, tokens=ENDLESS, save_every_minutes=None)) as again:
        pane.shows("small  running")
        assert again.records[last]["step"] == last + 1
        assert again.records[last]["learning_rate"] == pytest.approx(2e-3)
        pane.press("q")
        pane.shows("LEFT")
        before = again.step
        until(lambda: again.step > before)  # it goes on
