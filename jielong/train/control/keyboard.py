"""Keys of a terminal, one by one: what was typed arrives at once and is not echoed, and the terminal is left as it was found.

cbreak rather than raw mode: Ctrl-C still interrupts. Ctrl-Z is off, because a stopped program would leave its picture behind. The old
settings come back when the context is left, by whatever exception; SIGTERM and SIGHUP, which would end the process without one, raise
SystemExit meanwhile. UTF-8 comes in pieces (a Chinese character is three bytes): half of one waits for its end.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import sys
import termios
import tty
from types import FrameType
from typing import Any, Self

ENTER, ESCAPE, BACKSPACE, CLEAR, END = "\n", "\x1b", "\x7f", "\x15", "\x04"
SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.)")  # arrows and function keys
READ_BYTES = 4096


class Keyboard:
    """A context manager that reads keys from a terminal (standard input, unless another descriptor is given)."""

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._before: Any = None
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = termios.tcgetattr(self.descriptor)
        for kind in (signal.SIGTERM, signal.SIGHUP):
            try:
                self._handlers[kind] = signal.signal(kind, _leave)
            except ValueError:  # not the main thread
                break
        tty.setcbreak(self.descriptor, termios.TCSADRAIN)
        settings = termios.tcgetattr(self.descriptor)
        settings[6][termios.VSUSP] = b"\x00"
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, settings)
        return self

    def __exit__(self, *error: object) -> None:
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)
        for kind, handler in self._handlers.items():
            signal.signal(kind, handler)
        self._handlers = {}

    def read(self, seconds: float) -> list[str]:
        """The characters that were typed within so many seconds, as soon as there are some. Raises EOFError at the end of input."""
        if not select.select([self.descriptor], [], [], seconds)[0]:
            return []
        data = os.read(self.descriptor, READ_BYTES)
        if not data:
            raise EOFError
        return split(self._decoder.decode(data))


def split(text: str) -> list[str]:
    """Characters, without arrows and function keys."""
    return list(SEQUENCE.sub("", text).replace("\r", ENTER))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
