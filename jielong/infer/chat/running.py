"""A chat from its first line to its last: where messages come from, who answers, how it is shown, what is left of it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jielong.errors import InputError
from jielong.infer.chat.opening import Opened, open_all, speakers
from jielong.infer.chat.reading import from_file, from_keyboard, from_pipe
from jielong.infer.chat.saving import check_place
from jielong.infer.chat.session import Session
from jielong.infer.chat.showing import Display, OneBelowTheOther, SideBySide, has_room
from jielong.infer.config import Config
from jielong.progress import say


@dataclass(frozen=True)
class Wishes:
    """What a user asked for beside models and sampling. turns: None: not said."""

    turns: bool | None = None
    system: str = ""
    file: Path | None = None
    save: Path | None = None
    json: bool = False


def hold(names: list[str], configs: list[Config], runs_dir: Path, wishes: Wishes) -> dict[str, Any] | None:
    """Hold a chat with one model or two; what was said, where JSON is asked for.

    Raises InputError for options that do not go together, and what opening a model raises.
    """
    if wishes.save is not None:
        check_place(wishes.save)
    typed = wishes.file is None and is_terminal(sys.stdin)
    lines = from_file(wishes.file) if wishes.file is not None else from_keyboard() if typed else from_pipe()
    opened = open_all(names, runs_dir, configs)
    found, start = speakers(opened, wishes.turns, wishes.system)
    if wishes.save is not None and found[0].template is None:
        raise InputError(f"--save: only where turns are taken, got {wishes.save}; leave it out, or add --chat")
    shown = [speaker.name for speaker in found]
    side_by_side = len(found) > 1 and is_terminal(sys.stdout) and has_room()
    turns = found[0].template is not None
    kind = Display if wishes.json and not typed else SideBySide if side_by_side else OneBelowTheOther
    session = Session(found, kind(shown, turns, typed), wishes.system, kind is SideBySide, ends_on_interrupt=not typed)
    say(start)
    try:
        session.run(lines)
    finally:
        if wishes.save is not None and session.exchanges:
            session.save(str(wishes.save))
    return left(session, opened) if wishes.json else None


def left(session: Session, opened: list[Opened]) -> dict[str, Any]:
    """What was said, for each model."""
    if session.turns:
        rows: list[dict[str, Any]] = session.conversations()
    else:
        rows = [
            {"continuations": [asdict(exchange.records[number]) for exchange in session.exchanges]}
            for number in range(len(opened))
        ]
    return {"chats": [{"model": str(one.folder), **row} for one, row in zip(opened, rows, strict=True)]}


def is_terminal(stream: Any) -> bool:
    """Whether a stream is there and is a terminal."""
    return stream is not None and bool(stream.isatty())
