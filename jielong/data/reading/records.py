"""What a reader hands on: a text with its place, or the reason why there is none.

Every reader judges a value through `judge`, so a null, a number, an empty string or a NUL gets the same reason whatever
file it came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from jielong.data.config import Source
from jielong.data.reading import streams
from jielong.data.reading.presets import Preset
from jielong.storage import AnyFile

REASONS = {
    "bad_utf8": "bytes that are not UTF-8",
    "bad_encoding": "bytes that are not in the encoding the source names",
    "bad_json": "a line that is not one JSON object",
    "bad_csv": "a row whose quotes or number of cells are wrong",
    "missing_text": "the text field is absent or null",
    "text_not_string": "the text field holds something other than a string",
    "empty_text": "the text is empty or white space only",
    "binary": "the text holds a NUL character",
    "too_big": "one record longer than the limit of 64 MiB",
    "broken_file": "the file cannot be read to its end",
}
TEXT_FIELDS = (
    "text",
    "Text",
    "content",
    "Content",
    "contents",
    "body",
    "article",
    "raw_content",
    "document",
    "正文",
    "内容",
    "文本",
)  # tried in this order when the source names no field
MAX_RAW_BYTES = 1 << 16  # of a bad record, kept as evidence
MAX_DETAIL_FIELDS = 20


class Record(NamedTuple):
    """A text and its place. `line` counts from 1 (the first line of a multi-line record; the row in Parquet).

    There is one for each document, and a tuple is made four times as fast as a frozen dataclass."""

    text: str
    file: str
    line: int
    field: str = ""  # the field or column that held the text; empty for txt


@dataclass(frozen=True, slots=True)
class BadRecord:
    """What could not be used: `reason` is a key of REASONS, `raw` its text with undecodable bytes written as \\xNN."""

    reason: str
    detail: str
    raw: str
    file: str
    line: int


Item = Record | BadRecord


def printable(text: str) -> str:
    """The text with lone surrogates, by which Python carries undecodable bytes of file names and cells, as \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@lru_cache(maxsize=64)
def shown(path: AnyFile) -> str:
    """A path as it is written beside a document."""
    return printable(str(path))


def reject(reason: str, detail: str, raw: bytes, path: AnyFile, line: int, encoding: str = "utf-8") -> BadRecord:
    """A BadRecord; of `raw`, the first MAX_RAW_BYTES are kept, and the detail says so."""
    if len(raw) > MAX_RAW_BYTES:
        detail += f" (raw cut to {MAX_RAW_BYTES} of {len(raw)} bytes)"
    shown = raw[:MAX_RAW_BYTES].decode(encoding, "backslashreplace")
    return BadRecord(reason, printable(detail), printable(shown), printable(str(path)), line)


def too_big(raw: bytes, path: AnyFile, line: int, encoding: str) -> BadRecord:
    """A BadRecord for what is longer than streams.MAX_RECORD_BYTES."""
    return reject("too_big", f"longer than {streams.MAX_RECORD_BYTES} bytes", raw, path, line, encoding)


def undecodable(error: UnicodeDecodeError, raw: bytes, path: AnyFile, line: int, encoding: str) -> BadRecord:
    """A BadRecord that names the first byte that is not in the encoding."""
    reason = "bad_utf8" if encoding == "utf-8" else "bad_encoding"
    detail = f"{error.reason} at byte {error.start} of the record: 0x{error.object[error.start]:02x}"
    return reject(reason, detail, raw, path, line, encoding)


def judge(value: object, field: str, raw: bytes, path: AnyFile, line: int, encoding: str = "utf-8") -> Item:
    """A record, or why the value of its text field cannot be one."""
    if isinstance(value, str) and value and not value.isspace() and "\x00" not in value and encoding == "utf-8":
        return Record(value, shown(path), line, field)  # nearly always
    name = f"field {field!r}" if field else "the text"
    if isinstance(value, str):
        if not value or value.isspace():
            return reject(
                "empty_text", f"{name} is {'white space only' if value else 'empty'}", raw, path, line, encoding
            )
        if "\x00" in value:
            detail = f"{name} holds NUL at character {value.index(chr(0))}"
            return reject("binary", detail, raw, path, line, encoding)
        if encoding != "utf-8" and printable(value) != value:  # UTF-7 and the like can spell a lone surrogate
            return reject("bad_encoding", f"{name} holds a lone surrogate", raw, path, line, encoding)
        return Record(value, shown(path), line, field)
    if value is None:
        return reject("missing_text", f"{name} is null", raw, path, line, encoding)
    return reject("text_not_string", f"{name} is of type {type(value).__name__}", raw, path, line, encoding)


def composed(
    value: dict[str, Any], preset: Preset, raw: bytes, path: AnyFile, line: int, encoding: str = "utf-8"
) -> Item:
    """The text that a preset makes of a record."""
    text = preset.compose(value)
    if text is None:
        there = ", ".join(str(name)[:40] for name in list(value)[:MAX_DETAIL_FIELDS]) or "none"
        return reject(
            "missing_text", f"no text for preset {preset.name}; there are: {there}", raw, path, line, encoding
        )
    return judge(text, preset.name, raw, path, line, encoding)


def find_field(fields: Any, source: Source) -> str | None:
    """The name of the text field among those that are there, or None."""
    if source.text_field is not None:
        return source.text_field if source.text_field in fields else None
    return next((name for name in TEXT_FIELDS if name in fields), None)


def absent(fields: list[str], source: Source) -> str:
    """The detail of a missing text: what was looked for and what is there."""
    wanted = repr(source.text_field) if source.text_field is not None else f"any of {', '.join(TEXT_FIELDS)}"
    shown = ", ".join(str(name)[:40] for name in fields[:MAX_DETAIL_FIELDS]) or "none"
    return f"no field {wanted}; there are: {shown}{', ...' if len(fields) > MAX_DETAIL_FIELDS else ''}"
