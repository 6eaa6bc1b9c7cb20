"""One record a step: appended to a jsonl file that `tail -f`, pandas and the report read.

A run that was killed may have written records past its last checkpoint. On resume they are cut off
(`keep_until`), so the file of an interrupted run holds the same steps, once each, as the file of an unbroken one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import orjson

from jielong.errors import FULL
from jielong.runs import write_bytes

BUFFER = 1 << 20  # bytes; records that a full disk did not take wait there


class JsonLines:
    """An append-only jsonl file, a context manager; a record is handed to the system when `write` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=BUFFER)

    def write(self, record: dict[str, Any]) -> None:
        """Write a record. On a full disk it stays in memory, and is written with a later one."""
        self._file.write(orjson.dumps(record, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        try:
            self._file.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise

    def sync(self) -> None:
        """Put everything written so far on disk: a checkpoint must not outlive the records before it. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, kind: object = None, *rest: object) -> None:
        try:
            self.sync()
        except OSError:
            if kind is None:
                raise
        finally:
            with contextlib.suppress(OSError):  # it tries once more
                self._file.close()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All whole records of a jsonl file; a last line cut short by a kill is left out. A missing file is empty."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        if line.strip():
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def keep_until(path: Path, step: int) -> None:
    """Rewrite a jsonl file so that it holds only the records with `step` at most the given one."""
    if path.exists():
        kept = [record for record in read_jsonl(path) if record.get("step", 0) <= step]
        write_bytes(path, b"".join(orjson.dumps(record) + b"\n" for record in kept))
