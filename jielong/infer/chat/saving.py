"""Conversations as JSON lines, in the form `messages` that is tuned on: {"messages": [{"role", "content"}, ...]}."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from jielong.errors import InputError
from jielong.tokenizer.chat.conversations import Unfit, parse


def check_place(path: Path) -> None:
    """Raises InputError for a file that cannot be written, before a long chat is held."""
    if path.is_dir():
        raise InputError(f"--save: a folder, got {path}; give the name of a file, for example {path / 'chat.jsonl'}")
    if not path.parent.is_dir():
        raise InputError(f"--save: its folder does not exist, got {path}; make {path.parent} first, or give another")


def append_lines(path: Path, rows: list[dict[str, Any]]) -> list[str]:
    """Add rows to the end of a file, which need not exist. Returns sentences on those that tuning would set aside.

    Raises InputError for a folder or a place that is not there, OSError for one that cannot be written.
    """
    check_place(path)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":  # somebody's editor left the last line open
                file.write(b"\n")
        file.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    found = []
    for row in rows:
        try:
            parse(row)
        except Unfit as unfit:
            found.append(f"{path}: tuning will set {row.get('model', 'this conversation')} aside, {unfit.detail}")
    return found
