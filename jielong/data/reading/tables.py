"""Tables -> records: CSV and TSV row by row, Parquet batch by batch.

CSV is read strictly: in the csv module's lenient mode a quote that is opened and never closed takes the rest of the file
into one cell, in silence. Here such a row is one `bad_csv`, and reading goes on with the line after it. A row with more
cells than the header has an unquoted separator in its text; its text would be cut, so it is a `bad_csv` too.

Parquet strings are read as bytes and decoded here: Arrow does not check their UTF-8, and one bad string would stop its
whole batch.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections import deque
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.parquet
import pyarrow.types

from jielong.data.config import Source
from jielong.data.reading import streams
from jielong.data.reading.presets import PRESETS
from jielong.data.reading.records import BadRecord, Item, absent, composed, find_field, judge, reject, undecodable
from jielong.data.reading.streams import BrokenStreamError, Count, read_lines
from jielong.storage import AnyFile, Remote

pa: Any = pyarrow  # it has no types of its own

PARQUET_BATCH_ROWS = 256
UNCLOSED_QUOTES = 100  # rows with a quote that never closes, per file, after which the rest of the file is not retried


class _CsvLines:
    """Lines for csv.reader, which remembers those of the row being read."""

    def __init__(self, stream: io.BufferedReader, encoding: str) -> None:
        self._lines, self._encoding = read_lines(stream, encoding), encoding
        self._again: deque[tuple[int, bytes, bool]] = deque()
        self._row: list[tuple[int, bytes, bool]] = []
        self._size = 0

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        item = self._again.popleft() if self._again else next(self._lines)
        self._row.append(item)
        self._size += len(item[1])
        if item[2] or self._size > streams.MAX_RECORD_BYTES:
            raise csv.Error(f"a row longer than {streams.MAX_RECORD_BYTES} bytes; is a quote not closed?")
        return item[1].decode(self._encoding, "surrogateescape")

    def take(self) -> tuple[int, bytes]:
        """The number of the row's first line, and its bytes; the next row begins."""
        number, raw = self._row[0][0], b"".join(line for _, line, _ in self._row)
        self._row, self._size = [], 0
        return number, raw

    def retry(self) -> None:
        """Give back all lines of the row but its first."""
        self._again.extendleft(reversed(self._row[1:]))
        del self._row[1:]


def read_csv(stream: io.BufferedReader, encoding: str, path: AnyFile, source: Source, delimiter: str) -> Iterator[Item]:
    """Rows of a CSV or TSV stream under its header row; blank rows are passed over."""
    header, field, column = list[str](), None, 0
    for item in csv_rows(stream, encoding, path, delimiter):
        if isinstance(item, BadRecord):
            yield item
            continue
        number, raw, names, row = item
        if names is not header:
            header, field = names, find_field(names, source)
            column = names.index(field) if field is not None else 0
        if field is None or column >= len(row):
            yield reject("missing_text", absent(names[: len(row)], source), raw, path, number, encoding)
        else:
            yield judge(row[column], field, raw, path, number, encoding)


def csv_rows(
    stream: io.BufferedReader, encoding: str, path: AnyFile, delimiter: str
) -> Iterator[tuple[int, bytes, list[str], list[str]] | BadRecord]:
    """Line, bytes, column names and cells (perhaps fewer) of each row, or why it is none. The names are one list for all rows."""
    csv.field_size_limit(2**31 - 1)  # the module's own limit, 128 KiB, is below many articles; it is process-wide
    lines = _CsvLines(stream, encoding)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)  # not strict, an open quote swallows the file in silence
    header: list[str] = []
    unclosed = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            if not header:
                raise BrokenStreamError(f"the header row cannot be read: {error}") from None
            if "unexpected end" in str(error) and unclosed < UNCLOSED_QUOTES:
                unclosed += 1
                lines.retry()
            number, raw = lines.take()
            yield reject("bad_csv", str(error), raw, path, number, encoding)
            continue
        if row is None:
            return
        number, raw = lines.take()
        if not row:
            continue
        if not header:
            header = [name.strip() for name in row]
            continue
        try:
            raw.decode(encoding)
        except UnicodeDecodeError as error:
            yield undecodable(error, raw, path, number, encoding)
            continue
        if len(row) > len(header):
            detail = f"{len(row)} cells under {len(header)} column names; is a separator not in quotes?"
            yield reject("bad_csv", detail, raw, path, number, encoding)
        else:
            yield number, raw, header, row


@contextlib.contextmanager
def _opened(path: AnyFile) -> Iterator[Any]:
    """A Parquet file. Raises BrokenStreamError where it cannot be read, OSError where it must not be."""
    with path.open("rb"):  # not being allowed to read it is an error of its own, not a broken file
        pass
    try:
        with pa.parquet.ParquetFile(path.open("rb") if isinstance(path, Remote) else path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise BrokenStreamError(str(error)) from None


def read_parquet(path: AnyFile, source: Source, count: Count, size: int) -> Iterator[Item]:
    """Rows of a Parquet file of `size` bytes. Raises BrokenStreamError where it cannot be read."""
    number = 0
    known = None if source.preset is None else PRESETS[source.preset]
    with _opened(path) as file:
        total, names = file.metadata.num_rows, file.schema_arrow.names
        if known is not None:
            columns = [name for name in known.fields if name in names]
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield composed(row, known, b"", path, number)
                count(size * batch.num_rows // total)
            return
        field = find_field(names, source)
        if field is None:
            for number in range(1, total + 1):
                yield reject("missing_text", absent(names, source), b"", path, number)
            return
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[field]):
            for value in _column_values(batch.column(0)):
                number += 1
                yield _judge_cell(value, field, path, number)
            count(size * batch.num_rows // total)


def parquet_rows(path: AnyFile, count: Count, size: int) -> Iterator[tuple[int, dict[str, Any]] | BadRecord]:
    """Number and cells of each row of a Parquet file of `size` bytes. Raises BrokenStreamError where it cannot be read."""
    number = 0
    with _opened(path) as file:
        total = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for row in _rows(batch):
                number += 1
                if isinstance(row, dict):
                    yield number, row
                elif isinstance(row, UnicodeDecodeError):
                    yield undecodable(row, row.object, path, number, "utf-8")
                else:
                    yield reject("text_not_string", f"a cell that cannot be read: {row}", b"", path, number)
            count(size * batch.num_rows // total)


def _rows(batch: Any) -> list[dict[str, Any] | ValueError]:
    """The rows of a batch; one with a cell that cannot be had, a string that is not UTF-8 say, costs itself alone."""
    try:
        rows: list[dict[str, Any] | ValueError] = batch.to_pylist()
        return rows
    except ValueError as error:
        if batch.num_rows == 1:
            return [error]
    return [row for number in range(batch.num_rows) for row in _rows(batch.slice(number, 1))]


def _column_values(column: Any) -> list[Any]:
    """A column's values, strings as bytes."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        column = column.cast(pa.large_binary())
    values: list[Any] = column.to_pylist()
    return values


def _judge_cell(value: Any, field: str, path: AnyFile, number: int) -> Item:
    raw = (
        value if isinstance(value, bytes) else b"" if value is None else str(value).encode("utf-8", "backslashreplace")
    )
    try:
        text = value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        return undecodable(error, raw, path, number, "utf-8")
    return judge(text, field, raw, path, number)
