"""A tiny run that listens: trained in a thread of the test's own process, and commands sent to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jielong.errors import Stopped
from jielong.infer.config import Config as InferConfig
from jielong.infer.generate import continue_prompt
from jielong.metrics import read_jsonl
from jielong.model.transformer import CausalLM
from jielong.recipe import parse_section
from jielong.train.control.mailbox import Mailbox
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.job import Job
from jielong.train.loop import train
from tests.train import conftest
from tests.train.conftest import make_job, make_model

PATIENCE = 60.0  # seconds, of every wait: no test depends on speed
ENDLESS = 64 * 1_000_000  # tokens


def listening_job(corpus: Path, folder: Path, **settings: Any) -> Job:
    """A job as `make_job` gives it, with a schedule that stays constant, that can generate."""
    job = make_job(
        corpus, folder, conftest.SHAPE, **({"schedule": "constant", "warmup_ratio": 0.0, "device": "cpu"} | settings)
    )

    def generate(model: CausalLM, prompts: list[str], given: dict[str, Any]) -> list[dict[str, Any]]:
        config = parse_section("infer", InferConfig, {"max_new_tokens": 6, "temperature": 0.0, **given})
        written = [continue_prompt(model, job.tokenizer, prompt, config, config.seed) for prompt in prompts]
        return [{"prompt": row.prompt, "text": row.text} for row in written]

    object.__setattr__(job, "generate", generate)
    return job


def until(condition: Callable[[], Any]) -> Any:
    """What a condition gives as soon as it gives something."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


class Running:
    """A run in a thread, until it is told to stop: a context manager, which tells it so at the end."""

    def __init__(self, job: Job, go: Callable[[Job, Callable[[], bool]], Any] | None = None) -> None:
        """go: trains, until it is asked to stop; None: on the torch engine."""
        self.job, self.box, self._go = job, Mailbox(job.folder), go or _go
        self.ended: BaseException | None = None
        self._asked = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._go(self.job, self._asked.is_set)
        except BaseException as error:
            self.ended = error

    def __enter__(self) -> Running:
        self._thread.start()
        before = self.step
        until(lambda: self.ended or self.step > before)
        assert self.ended is None, self.ended
        return self

    def __exit__(self, *error: object) -> None:
        self._asked.set()
        self.join()
        if not error[0]:
            assert self.ended is None or isinstance(self.ended, Stopped), self.ended

    def join(self) -> None:
        """Until it has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    @property
    def step(self) -> int:
        """How many steps are written down."""
        return len(self.records)

    @property
    def records(self) -> list[dict[str, Any]]:
        return read_jsonl(self.job.folder / "metrics.jsonl")

    @property
    def history(self) -> list[dict[str, Any]]:
        return read_jsonl(self.job.folder / "history.jsonl")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer."""
        name = self.box.send({"command": command, **arguments})
        found: dict[str, Any] = until(lambda: self.box.answered(name))
        return found


def _go(job: Job, stop: Callable[[], bool]) -> None:
    train(job, TorchEngine(make_model(job), job.config), stop=stop)
