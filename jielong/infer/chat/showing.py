"""Events of a session as text: what models write on standard output, everything said along the way on standard error."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from jielong.console import tell
from jielong.infer.chat.columns import Columns, fits
from jielong.infer.chat.session import Asked, Began, Ended, Event, Listed, Piece, Told
from jielong.progress import say

Write = Callable[[str], None]


def to_output(text: str) -> None:
    """Write a piece of a result as it is."""
    print(text, end="", flush=True)


class Display:
    """What all displays do: this one shows sentences only, no text of a model."""

    def __init__(self, names: list[str], turns: bool, typed: bool) -> None:
        """names: of the speakers; turns: they answer, or continue text; typed: somebody types the messages and has seen them."""
        self.names, self.turns, self.typed = names, turns, typed
        self._message = ""

    def __call__(self, event: Event) -> None:
        """Show an event of a session."""
        if isinstance(event, Told):
            say(event.text)
        elif isinstance(event, Listed):
            tell(event.text)
        elif isinstance(event, Asked):
            self._message = event.message
            if self.turns and (event.again or not self.typed):
                say(f"> {event.message}")
        elif isinstance(event, Began):
            self.begin(event.speaker)
        elif isinstance(event, Piece):
            self.put(event.speaker, event.text)
        else:
            self.end(event)

    def begin(self, speaker: int) -> None:
        """A speaker begins."""

    def put(self, speaker: int, text: str) -> None:
        """A piece of its text."""

    def end(self, event: Ended) -> None:
        """It has written all."""

    def note(self, event: Ended) -> None:
        """Why a text ended where it seems unfinished, for somebody who sits there."""
        if not self.typed:
            return
        who = f"{self.names[event.speaker]}: " if len(self.names) > 1 else ""
        if event.record.stopped == "interrupted":
            say(f"[{who}stopped]")
        elif event.record.stopped == "context":
            say(f"[{who}the context is full]")
        elif event.record.stopped == "length" and self.turns:
            say(f"[{who}cut after {event.record.tokens} tokens, see /set max_new_tokens]")


class OneBelowTheOther(Display):
    """Each text as it comes; several under the names of their models."""

    def begin(self, speaker: int) -> None:
        """The name; and the text that is continued."""
        if len(self.names) > 1:
            tell(f"【{self.names[speaker]}】")
        if not self.turns:
            tell(self._message, end="")

    def put(self, speaker: int, text: str) -> None:
        """A piece."""
        tell(text, end="")

    def end(self, event: Ended) -> None:
        """The line ends."""
        tell()
        self.note(event)


class SideBySide(Display):
    """Two texts in columns. The session lets both write at the same time."""

    def __init__(self, names: list[str], turns: bool, typed: bool, write: Write = to_output) -> None:
        super().__init__(names, turns, typed)
        self._write = write
        self._columns: Columns | None = None  # while both write
        self._ended: list[Ended] = []

    def begin(self, speaker: int) -> None:
        """The head comes with the first."""
        if self._columns is None:
            left, right = self.names
            self._columns = Columns((left, right), shutil.get_terminal_size().columns)
            self._write(self._columns.head())
        if not self.turns:
            self._write(self._columns.put(speaker, self._message))

    def put(self, speaker: int, text: str) -> None:
        """A piece."""
        assert self._columns is not None
        self._write(self._columns.put(speaker, text))

    def end(self, event: Ended) -> None:
        """After the second one the notes on both."""
        assert self._columns is not None
        self._write(self._columns.end(event.speaker))
        self._ended.append(event)
        if len(self._ended) == len(self.names):
            for ended in self._ended:
                self.note(ended)
            self._columns, self._ended = None, []


def has_room() -> bool:
    """Whether the terminal is wide enough for two columns."""
    return fits(shutil.get_terminal_size().columns)
