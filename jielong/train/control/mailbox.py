"""Files between a run and whoever watches it, in `<run>/train/control/`. They work over a shared folder; nothing listens anywhere.

    <time>-<random>.json           a command: {"command": "pause"}, {"command": "generate", "prompt": "中国", ...}
    answers/<the same name>.json   {"ok", "text", "step", ...}
    status.json                    where the run stands, at most a second old

Every file is written under a hidden name and renamed: nobody sees half of one. The run looks once a step (one `scandir` of a
folder that is mostly empty: some ten microseconds on a local disk), takes a command by deleting it, and answers. Answers older
than a day are deleted. What is broken gets an answer with one sentence, and never disturbs training; neither does a disk that fails.

None of these files is flushed to disk: what must outlive a kill is in the history (steering.py).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

import orjson

from jielong.progress import say

FOLDER, ANSWERS, STATUS = "control", "answers", "status.json"
ANSWERS_SECONDS = 24 * 3600.0  # answers older than this are deleted
MOST_BYTES = 1 << 20  # of a command
POLL_SECONDS = 0.1
WITHDRAWN = "withdrawn"


class Mailbox:
    """The folder, from either side."""

    def __init__(self, train: Path) -> None:
        """train: the run's folder train/."""
        self.folder = train / FOLDER
        self._seen: set[str] = set()  # names that could not be deleted are still taken only once
        self._warned = False

    # ------------------------------------------------------------------------------------------ the side of the run

    def waiting(self) -> list[str]:
        """Names of the commands that nobody has taken, oldest first."""
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json")]
        except OSError:
            return []
        return sorted(name for name in names if name != STATUS and name[0] != "." and name not in self._seen)

    def take(self, name: str) -> tuple[dict[str, Any] | None, str]:
        """Read and delete a command: it, or None and what is wrong with the file."""
        path = self.folder / name
        self._seen.add(name)
        try:
            if not path.is_file():  # a pipe would be waited for, and training with it
                return None, f"command: the file {name} cannot be read (it is no plain file); send it again"
            size = path.stat().st_size
            data = path.read_bytes() if size <= MOST_BYTES else b""
            path.unlink()
        except OSError as error:
            return None, f"command: the file {name} cannot be read ({error.strerror}); send it again"
        if size > MOST_BYTES:
            return None, f"command: too long, got {size:,} bytes; at most {MOST_BYTES:,}; shorten it"
        self._seen.discard(name)
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            return None, f"command: the file {name} is not valid JSON ({error}); write one object"
        if not isinstance(found, dict):
            return None, f'command: must be an object, got {str(found)[:40]!r}; for example {{"command": "pause"}}'
        return found, ""

    def answer(self, name: str, found: dict[str, Any]) -> None:
        """Answer a command: {"ok", "text", "step", ...}."""
        folder = self.folder / ANSWERS
        self._put(folder / name, found)
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if time.time() - path.stat().st_mtime > ANSWERS_SECONDS:
                    path.unlink()

    def say(self, status: dict[str, Any]) -> None:
        """Replace status.json."""
        self._put(self.folder / STATUS, status)

    def _put(self, path: Path, value: dict[str, Any]) -> None:
        try:
            put(path, value)
        except OSError as error:
            if not self._warned:  # once: it may fail every second
                say(
                    f"train: warning: {path} cannot be written ({error.strerror}); the run goes on, and cannot be watched"
                )
            self._warned = True

    # ------------------------------------------------------------------------------------- the side of who watches

    def send(self, command: dict[str, Any]) -> str:
        """Lay a command there; its name. Raises OSError."""
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        put(self.folder / name, command)
        return name

    def answered(self, name: str) -> dict[str, Any] | None:
        """The answer to a command, or None: not yet."""
        return _read(self.folder / ANSWERS / name)

    def withdraw(self, name: str) -> bool:
        """Take a command back; False: the run has taken it already."""
        try:
            (self.folder / name).unlink()
        except OSError:
            return False
        return True

    def status(self) -> dict[str, Any] | None:
        """What the run said last, or None where it never said anything."""
        return _read(self.folder / STATUS)


def put(path: Path, value: dict[str, Any]) -> None:
    """Write JSON so that a reader sees all of it or nothing. Not flushed to disk. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None
