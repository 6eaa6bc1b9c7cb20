"""Which checkpoints are written and which stay, and a thread that writes them beside the training.

Training waits only for the copy of the state to host memory; files are written, flushed, summed and renamed by the thread.
One checkpoint is on its way at a time: a second one waits for the first, so at most two lie in memory, the one that is
written and the running state. A full disk is no reason to throw hours away: it is said, the checkpoints before stay, training
goes on, and the next one is tried; only with the first one, at its end, or when it is asked to stop, does a run fail for it. Anything
else that the thread could not do is raised by the next call, in the training's own thread.

What stays: the newest `keep_checkpoints`; with `keep_best` the one with the lowest validation bits per byte that was measured
at its own step; those of every `keep_every_steps`. The rest is deleted when a new one is whole, never before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import orjson

from jielong.errors import DiskError, explain_os_error
from jielong.model.adapters import Adapted
from jielong.model.config import Config as ModelConfig
from jielong.progress import say
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train import checkpoints
from jielong.train.config import Config
from jielong.train.engines.interface import Snapshot


class Keeper:
    """Writes the checkpoints of a run, a context manager: leaving it waits for what is on its way."""

    def __init__(
        self,
        config: Config,
        model: ModelConfig,
        tokenizer: TokenizerFolder,
        folder: Path,
        adapted: Adapted | None = None,
    ) -> None:
        """folder: of all checkpoints of the run. adapted: what is written is an adapter."""
        self.config, self.model, self.tokenizer, self.folder, self.adapted = config, model, tokenizer, folder, adapted
        self._thread = ThreadPoolExecutor(1, "checkpoint") if config.async_checkpoints else None
        self._going: Future[Path] | None = None
        self.best = self._best()

    def save(self, take: Callable[[], Snapshot], step: int, state: dict[str, Any], before: Callable[[], None]) -> None:
        """Take a snapshot once the one before is on disk, and have it written.

        before: called before the checkpoint becomes visible (records of the run must be on disk by then).
        Raises what the writing of the one before has raised, but for a full disk.
        """
        self.settle()
        validated = (state.get("validation") or {}).get("bits_per_byte")
        if state.get("validated_step") == step and validated is not None and math.isfinite(validated):
            self.best = min(self.best, validated) if self.best is not None else validated
        snapshot = take()
        if not snapshot.weights:  # not rank 0
            return

        def work() -> Path:
            before()
            path = checkpoints.save(snapshot, self.model, self.tokenizer, self.folder, step, state, self.adapted)
            self._rotate()
            return path

        if self._thread is not None:
            self._going = self._thread.submit(work)
            return
        self._going = Future()
        try:
            self._going.set_result(work())
        except Exception as error:
            self._going.set_exception(error)

    def done(self) -> bool:
        """Whether a checkpoint that was on its way is there, or has failed, and nobody has asked yet."""
        return self._going is not None and self._going.done()

    def settle(self) -> None:
        """`wait` in the middle of a run, where a full disk is said and borne."""
        try:
            self.wait()
        except Exception as error:
            full = explain_os_error(error)
            if not isinstance(full, DiskError):
                raise
            say(
                f"train: warning: the last checkpoint was not written ({full}); training goes on, the next one is tried"
            )

    def wait(self) -> None:
        """Until the last checkpoint is on disk. Raises what went wrong with it."""
        going, self._going = self._going, None
        if going is not None:
            going.result()

    def _best(self) -> float | None:
        found = [value for path in checkpoints.checkpoints(self.folder) if (value := _validated(path)) is not None]
        return min(found, default=None)

    def _rotate(self) -> None:
        """Delete what need not stay."""
        found = checkpoints.checkpoints(self.folder)
        stay = set(found[-self.config.keep_checkpoints :])
        if (every := self.config.keep_every_steps) is not None:
            stay |= {path for path in found if checkpoints.step_of(path) % every == 0 < checkpoints.step_of(path)}
        if self.config.keep_best:
            measured = {path: value for path in found if (value := _validated(path)) is not None}
            stay |= {min(measured, key=lambda path: measured[path])} if measured else set()
        for path in found:
            if path not in stay:
                checkpoints.delete(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown(wait=True)


def _validated(checkpoint: Path) -> float | None:
    """The validation bits per byte that were measured at a checkpoint's own step."""
    try:
        state = orjson.loads((checkpoint / checkpoints.TRAINER / checkpoints.STATE).read_bytes())
        measured = state["validation"].get("bits_per_byte") if state.get("validated_step") == state["step"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return measured if isinstance(measured, float) else None
