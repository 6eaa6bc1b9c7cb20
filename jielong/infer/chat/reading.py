"""Messages for a chat, from a terminal, a pipe or a file: one a line, or several lines of which all but the last end with a backslash.

At a terminal and in a pipe an empty line ends the chat, in a file it is passed over.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jielong.errors import InputError

SIGN, MORE = "> ", ". "  # before a message, and before a further line of one
GOES_ON = "\\"


def messages(read: Callable[[str], str], passes_over: bool = False) -> Iterator[str]:
    """Messages as they are read, until the end or an empty one. passes_over: empty ones do not end it.

    read: given the sign to show, returns a line without its end; raises EOFError when there is none.
    """
    while True:
        parts = list[str]()
        ended = False
        while not parts or parts[-1].endswith(GOES_ON):
            try:
                parts.append(read(MORE if parts else SIGN))
            except EOFError:
                ended = True
                break
        message = "\n".join(part.removesuffix(GOES_ON) for part in parts)
        if message.strip():
            yield message
        elif not passes_over:
            return
        if ended:
            return


def from_keyboard() -> Iterator[str]:
    """What is typed, with the line editing of readline; Ctrl-C leaves, as Ctrl-D and an empty line do."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it: arrows, and backspace over wide characters

    def read(sign: str) -> str:
        try:
            if sys.stdout is not None and sys.stdout.isatty():
                return input(sign)
            print(sign, end="", file=sys.stderr, flush=True)  # results go elsewhere
            return input()
        except EOFError:
            print(file=sys.stderr)
            raise

    try:
        yield from messages(read)
    except KeyboardInterrupt:
        print(file=sys.stderr)


def from_pipe() -> Iterator[str]:
    """The lines of standard input; none where there is none at all."""

    def read(sign: str) -> str:
        try:
            return input()
        except RuntimeError:  # there is no standard input
            raise EOFError from None

    return messages(read)


def from_file(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file. Raises InputError when there is none that says something."""
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise InputError(f"--file: holds no question, got {path}; write one a line")
    lines = iter(text.splitlines())

    def read(sign: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    return messages(read, passes_over=True)
