"""`jielong check`: read every line of some files as the data stage would, and say what is wrong where.

The inputs are never touched. With an output folder, the good texts of each input go to `<name>.clean.jsonl` and all bad
records, with their raw text, to `rejects.jsonl`. They are written under temporary names and renamed when everything has
been read; after a failure the temporary files are removed. Existing files are refused, not replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from jielong.data.config import Source
from jielong.data.reading.readers import KINDS, PACKINGS, BadRecord, expand, read_file
from jielong.data.reading.records import printable
from jielong.errors import InputError
from jielong.progress import Progress, human_count
from jielong.runs import sync_folder
from jielong.storage import AnyFile, size_of

REJECTS = "rejects.jsonl"
LISTED_BAD = 20  # bad records named in the result; all of them are in rejects.jsonl
PREVIEW_CHARS = 200


def check(
    paths: list[str],
    out: Path | None = None,
    text_field: str | None = None,
    encoding: str = "utf-8",
    preview: int = 3,
) -> dict[str, Any]:
    """Read all files of `paths` (files, folders, globs, builtin:NAME; relative to the current folder).

    Returns `files` (one entry a file), `read`, `kept`, `rejected` (reason -> records), `preview` (the first `preview`
    texts, cut to PREVIEW_CHARS characters), `bad` (the first LISTED_BAD bad records) and `out` (the files written).
    Raises InputError for paths that cannot be used and for an output that exists.
    """
    files: dict[AnyFile, Source] = {}
    for path in paths:
        if not path.strip():
            raise InputError("PATH: an empty path was given; give files, folders or globs")
        source = Source(name="check", path=path, text_field=text_field, document="auto", encoding=encoding)
        for file in expand(path, Path.cwd()):
            files.setdefault(file, source)
    if not files:
        raise InputError("PATH: no path was given; give files, folders or globs")
    result: dict[str, Any] = {"files": [], "read": 0, "kept": 0, "rejected": {}, "preview": [], "bad": [], "out": []}
    rejected: Counter[str] = Counter()
    size = sum(size_of(file) for file in files)
    with _Output(out, list(files)) as output, Progress("check", size, "B") as progress:
        for file, source in files.items():
            row = _check_file(file, source, output, progress, result, preview)
            result["files"].append(row)
            rejected.update(row["reasons"])
    result["kept"] = sum(row["good"] for row in result["files"])
    result["read"] = sum(row["records"] for row in result["files"])
    result["rejected"] = dict(rejected.most_common())
    result["out"] = [printable(str(path)) for path in output.finished]
    assert result["read"] == result["kept"] + rejected.total()
    return result


def _check_file(
    file: AnyFile, source: Source, output: _Output, progress: Progress, result: dict[str, Any], preview: int
) -> dict[str, Any]:
    good = chars = size = 0
    reasons: Counter[str] = Counter()
    fields: Counter[str] = Counter()
    with output.clean(file) as write:
        for item in read_file(file, source, progress.advance):
            if isinstance(item, BadRecord):
                reasons[item.reason] += 1
                place = {"file": item.file, "line": item.line, "reason": item.reason, "detail": item.detail}
                if len(result["bad"]) < LISTED_BAD:
                    result["bad"].append(place)
                output.reject({**place, "raw": item.raw})
                continue
            good += 1
            chars += len(item.text)
            size += len(item.text.encode("utf-8"))
            fields[item.field] += 1
            if len(result["preview"]) < preview:
                result["preview"].append(item.text[:PREVIEW_CHARS])
            write({"text": item.text, "source": _stem(file)})
            if good % 1000 == 0:
                progress.note(f"{human_count(good)} good, {human_count(reasons.total())} bad in {file.name}")
    return {
        "path": printable(str(file)),
        "records": good + reasons.total(),
        "good": good,
        "bad": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "chars": chars,
        "bytes": size,
        "text_field": ", ".join(name for name, _ in fields.most_common() if name) or None,
    }


def _stem(file: AnyFile) -> str:
    """The name without the suffixes that the readers know: 新闻.v2.jsonl.gz -> 新闻.v2."""
    stem = Path(file.name)
    for known in (PACKINGS, KINDS):
        if stem.suffix.lower() in known:
            stem = stem.with_suffix("")
    return stem.name


class _Output:
    """The cleaned files and the rejects: temporary names until the `with` block ends well. Without a folder, nothing."""

    def __init__(self, folder: Path | None, files: list[AnyFile]) -> None:
        self.finished: list[Path] = []
        self._folder = folder
        self._names: dict[AnyFile, str] = {}
        self._rejects: BinaryIO | None = None
        if folder is None:
            return
        taken: set[str] = set()
        for file in files:
            stem, number = _stem(file), 2
            while (name := f"{stem}.clean.jsonl") in taken:
                stem, number = f"{_stem(file)}-{number}", number + 1
            taken.add(name)
            self._names[file] = name
        for name in (*taken, REJECTS):
            if (folder / name).exists():
                raise InputError(
                    f"--out: already there, got {folder / name}; give another folder or move the file away"
                )

    def __enter__(self) -> _Output:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._rejects = self._temporary(REJECTS).open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._folder is None:
            return
        assert self._rejects is not None
        temporary = {name: self._temporary(name) for name in (*self._names.values(), REJECTS)}
        try:
            if kind is None:
                _sync(self._rejects)
        finally:
            self._rejects.close()
            if kind is None and all(path.exists() for path in temporary.values()):
                for name, path in temporary.items():
                    self.finished.append(path.rename(self._folder / name))
                sync_folder(self._folder)
            for path in temporary.values():
                path.unlink(missing_ok=True)

    def _temporary(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f".{name}.{os.getpid()}.tmp"

    @contextlib.contextmanager
    def clean(self, file: AnyFile) -> Iterator[Any]:
        """A function that writes one object to the cleaned copy of an input file."""
        if self._folder is None:
            yield lambda _: None
            return
        with self._temporary(self._names[file]).open("wb") as handle:
            yield lambda value: handle.write(orjson.dumps(value) + b"\n")
            _sync(handle)

    def reject(self, value: dict[str, Any]) -> None:
        """Write one bad record."""
        if self._rejects is not None:
            self._rejects.write(orjson.dumps(value) + b"\n")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
