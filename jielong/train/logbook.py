"""What a run writes down: every step, every sample, everything out of the ordinary. Rank 0 writes; the others do nothing.

    metrics.jsonl     one record a step, in order, each step once
    samples.jsonl     continuations of the sample prompts
    history.jsonl     what happened: stopped, resumed, overflow, skipped, rolled back; with the reason and the numbers
    discarded.jsonl   records of steps that the run went back behind
    spikes/           the text of every step that the guard refused
    trackers/         what the trackers that the recipe names keep of the same (trackers.py)

Metrics and samples after the newest checkpoint are cut off when a killed run goes on: those steps are made again. The history is
only ever added to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from jielong.metrics import JsonLines, keep_until, read_jsonl
from jielong.progress import Progress, human_count, say
from jielong.runs import now
from jielong.trackers import Trackers, open_trackers
from jielong.train.control.telling import in_words

if TYPE_CHECKING:
    from jielong.train.job import Job

METRICS, SAMPLES, HISTORY, DISCARDED = "metrics.jsonl", "samples.jsonl", "history.jsonl", "discarded.jsonl"


class Logbook:
    """The files of a run and its progress bar, a context manager."""

    def __init__(
        self,
        folder: Path,
        writes: bool,
        step: int | None,
        total_steps: int,
        tokens_after: Callable[[int], int],
        trackers: Trackers | None = None,
        unit: str = "tokens",
    ) -> None:
        """Cut the files back to what the checkpoint of `step` saw (None: there is none), and open them.

        tokens_after: how many were read when so many steps are done. trackers: get a copy of everything, and are closed with it.
        """
        step = -1 if step is None else step
        self._trackers = trackers or Trackers()
        self.folder, self.writes = folder, writes
        self.total_steps, self._tokens_after = total_steps, tokens_after
        self._bar = Progress("train", tokens_after(total_steps), unit)
        self._bar.start_at(tokens_after(max(0, step)))
        if writes:
            keep_until(folder / METRICS, step)
            keep_until(folder / SAMPLES, step)
            self._open()
            self._trackers.go_back(step)

    def _open(self) -> None:
        self._metrics, self._samples, self._history = (
            JsonLines(self.folder / name) for name in (METRICS, SAMPLES, HISTORY)
        )

    def __enter__(self) -> Self:
        if self.writes:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.writes:
            self._bar.__exit__(*error)
            try:
                for file in (self._metrics, self._samples, self._history):
                    file.__exit__(*error)
            finally:
                self._trackers.close()

    def record(self, record: dict[str, Any], to_console: bool) -> None:
        """A step is done."""
        if not self.writes:
            return
        self._metrics.write(record)
        self._trackers.record(record)
        if record["loss"] is not None:
            self._bar.note(f"loss {record['loss']:.3f}")
        self._bar.advance(self._tokens_after(record["step"]) - self._tokens_after(record["step"] - 1))
        if to_console:
            say(console_line(record, self.total_steps))

    def sample(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Continuations that the model wrote."""
        for row in rows if self.writes else []:
            self._samples.write({"step": step, **row})
        if self.writes:
            self._trackers.sample(step, rows)

    def event(self, step: int, event: str, text: str, **more: Any) -> None:
        """Something out of the ordinary; `text` is said to the person who watches, too."""
        if self.writes:
            self._history.write({"time": now(), "step": step, "event": event, "text": text, **more})
            self._trackers.event(step, event, text)
            say(f"train: step {step}: {text}")

    def go_back(self, step: int) -> None:
        """The run goes back to a step: records after it are moved to discarded.jsonl."""
        if not self.writes:
            return
        self.sync()
        later = [record for record in read_jsonl(self.folder / METRICS) if record["step"] > step]
        with JsonLines(self.folder / DISCARDED) as file:
            for record in later:
                file.write(record)
        for open_file in (self._metrics, self._samples, self._history):
            open_file.__exit__()
        keep_until(self.folder / METRICS, step)
        keep_until(self.folder / SAMPLES, step)
        self._open()
        self._trackers.go_back(step)
        if later:
            self._bar.advance(self._tokens_after(step) - self._tokens_after(later[-1]["step"]))

    def sync(self) -> None:
        """Put everything written so far on disk."""
        if self.writes:
            for file in (self._metrics, self._samples, self._history):
                file.sync()


def trackers_of(job: Job, writes: bool) -> Trackers:
    """The trackers that the recipe names, told what the run was asked for; none on a rank that writes nothing.

    Raises MissingExtraError for one that is not installed.
    """
    config = job.config
    if not (writes and config.trackers):
        return Trackers()
    asked = {"train": config.model_dump(mode="json"), "model": job.model.model_dump(mode="json"), "seed": job.seed}
    place, name = job.folder / "trackers", job.folder.parent.name
    return open_trackers(config.trackers, place, config.tracker_project, name, config.tracker_online, asked)


def console_line(record: dict[str, Any], total_steps: int) -> str:
    """A step's record in one line."""
    loss = "not finite" if record["loss"] is None else f"{record['loss']:.4f}"
    norm = "not finite" if record["grad_norm"] is None else f"{record['grad_norm']:.2f}"
    line = (
        f"step {record['step']:>6}/{total_steps}  loss {loss}  lr {record['learning_rate']:.2e}  "
        f"norm {norm}  {_speed(record)}"
    )
    if "skipped" in record:
        line += "  not taken"
    if "expert_share_max" in record:
        line += f"  busiest expert {record['expert_share_max']:.0%}"
    prefix = "validation_"
    if measured := {name.removeprefix(prefix): record[name] for name in record if name.startswith(prefix)}:
        line += f"  validation {in_words(measured)}"
    return line


def _speed(record: dict[str, Any]) -> str:
    if "tokens_per_second" in record:
        return f"{human_count(record['tokens_per_second'])} tokens/s"
    return f"{record['examples_per_second']:.2f} examples/s"
