"""What a reader hands on where all fields of a record are wanted: the record as it stands, with its place.

Conversations have several fields, and which of them count is for others to say. Here a line of JSON, an element of an array and a row of
a table become the same thing, a dictionary; what is none of them has the reason that it has where a text is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from jielong.data.reading.records import BadRecord, printable, reject, shown, too_big, undecodable
from jielong.storage import AnyFile


class Object(NamedTuple):
    """A record and its place. `line` counts from 1 (the first line of a multi-line record; the row in Parquet)."""

    record: dict[str, Any]
    file: str
    line: int
    raw: bytes  # as it stands in the file; empty for Parquet
    encoding: str

    def excerpt(self, most: int) -> str:
        """The record as text, at most so many characters of it."""
        raw = self.raw or orjson.dumps(self.record, default=str, option=orjson.OPT_NON_STR_KEYS)
        return printable(raw[: 4 * most].decode(self.encoding, "backslashreplace")).strip()[:most]


def json_objects(
    rows: Iterator[tuple[int, bytes, bool]], encoding: str, path: AnyFile
) -> Iterator[tuple[int, bytes, dict[str, Any]] | BadRecord]:
    """Line, bytes and value of each JSON object among lines or elements (number, bytes, whether they were cut); blank ones are passed
    over.
    """
    for number, line, cut in rows:
        if cut:
            yield too_big(line, path, number, encoding)
            continue
        if line.isspace() or not line:
            continue
        try:
            value = orjson.loads(line if encoding == "utf-8" else line.decode(encoding))
        except UnicodeDecodeError as error:
            yield undecodable(error, line, path, number, encoding)
        except orjson.JSONDecodeError as error:
            try:
                line.decode(encoding)
            except UnicodeDecodeError as inner:
                yield undecodable(inner, line, path, number, encoding)
            else:
                yield reject("bad_json", str(error), line, path, number, encoding)
        else:
            if isinstance(value, dict):
                yield number, line, value
            else:
                yield reject("bad_json", f"not an object but a {type(value).__name__}", line, path, number, encoding)


Row = tuple[int, bytes, list[str], list[str]]  # of a table: line, bytes, column names, cells
Parsed = tuple[int, bytes, dict[str, Any]]


def objects_of(
    found: Iterator[Parsed | BadRecord] | Iterator[Row | BadRecord] | Iterator[tuple[int, dict[str, Any]] | BadRecord],
    path: AnyFile,
    encoding: str = "utf-8",
) -> Iterator[Object | BadRecord]:
    """What `json_objects`, `csv_rows` or `parquet_rows` give, in one form."""
    name = shown(path)
    for item in found:
        if isinstance(item, BadRecord):
            yield item
        elif len(item) == 2:
            yield Object(item[1], name, item[0], b"", "utf-8")
        elif len(item) == 3:
            yield Object(item[2], name, item[0], item[1], encoding)
        else:
            number, raw, names, cells = item
            # UTF-7 and the like can spell a lone surrogate
            if encoding != "utf-8" and any(printable(cell) != cell for cell in cells):
                yield reject("bad_encoding", "a cell holds a lone surrogate", raw, path, number, encoding)
            else:
                yield Object(dict(zip(names, cells, strict=False)), name, number, raw, encoding)
