"""What a person sees while long work runs: a bar with rate and time left, or, without a terminal, a line now and then.

Everything here goes to standard error, so that standard output holds results only (`--json` prints one object there).
rich is imported when the first bar is drawn: `jielong --help` never pays for it.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # C0 but tab and newline, DEL, C1: they command a terminal
LOG_EVERY_SECONDS = 10.0  # how often a line is written when standard error is not a terminal


def plain(text: str) -> str:
    """Text from a corpus or a model, safe for a terminal: control characters but newline and tab are shown as \\xNN."""
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_silent: list[bool] = []


def be_silent() -> None:
    """Say nothing from now on: one of several processes that do the same work speaks, the others do not."""
    _silent.append(True)


def say(text: str) -> None:
    """Print one line for a person, on standard error; a reader that went away stops nothing."""
    if sys.stderr is not None and not _silent:
        with contextlib.suppress(BrokenPipeError):
            print(plain(text), file=sys.stderr, flush=True)


def human_count(value: float) -> str:
    """1234567 -> '1.23M'. Three significant figures; no unit."""
    for suffix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.3g}"


def human_bytes(value: float) -> str:
    """1234567 -> '1.23 MB' (decimal units)."""
    for suffix, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {suffix}"
    return f"{value:.0f} B"


def human_seconds(value: float) -> str:
    """3723 -> '1 h 02 min'; 95 -> '1 min 35 s'; 3.2 -> '3.2 s'."""
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A progress display for work of `total` units (None: unknown), used as a context manager.

    `advance(n)` moves it, `note(text)` sets the text at its end. `unit` is "B" for bytes (shown as MB) or a plural noun
    ("documents", "tokens").
    """

    def __init__(self, label: str, total: float | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = 0.0
        self._start = self._last_line = time.monotonic()
        self._start_done = 0.0
        self._note = ""
        self._rich: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        self._start = self._last_line = time.monotonic()
        if sys.stderr is not None and sys.stderr.isatty() and not _silent:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[line]}"),
                console=Console(stderr=True),
                transient=False,
            )
            self._rich.start()
            self._task = self._rich.add_task(self.label, total=self.total, line="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._draw()
            self._rich.stop()
        elif kind is None and time.monotonic() - self._start > 1.0:
            say(f"{self.label}: {self.describe()}")

    def start_at(self, done: float) -> None:
        """Begin at `done` units (a resumed run): they count as done but not toward the rate."""
        self.done = self._start_done = done

    def advance(self, amount: float = 1.0) -> None:
        self.done += amount
        now = time.monotonic()
        if self._rich is not None:
            if now - self._last_line > 0.1:
                self._last_line = now
                self._draw()
        elif now - self._last_line >= LOG_EVERY_SECONDS:
            self._last_line = now
            say(f"{self.label}: {self.describe()}")

    def note(self, text: str) -> None:
        self._note = text

    def _draw(self) -> None:
        assert self._rich is not None and self._task is not None
        self._rich.update(self._task, completed=self.done, line=self.describe())

    def describe(self) -> str:
        """'3.1 MB of 12 MB, 1.5 MB/s, 6.0 s left'."""
        show = human_bytes if self.unit == "B" else human_count
        unit = "" if self.unit == "B" else f" {self.unit}"
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._start_done) / seconds
        parts = [f"{show(self.done)} of {show(self.total)}{unit}" if self.total else f"{show(self.done)}{unit}"]
        parts.append(f"{show(rate)}{unit}/s")
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{human_seconds((self.total - self.done) / rate)} left")
        if self._note:
            parts.append(self._note)
        return ", ".join(parts)
