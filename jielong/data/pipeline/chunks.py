"""Chunks: the unit in which documents are worked on, written down and taken up again after a kill.

A chunk is some consecutive records of the input, as many as fill `chunk_megabytes` of text; which they are depends on
the input alone. What a pass makes of a chunk is one folder, written under a temporary name and renamed when it is whole: a
chunk is done when its folder is there.

    <pass>/00012/documents.arrow     text, source, file, line, part and the columns, for the next pass
                 rejects.parquet     what left in this pass, with step, rule, detail and place
                 places.npy          file, line and part of each document, for those that are told "the same as ..."
                 rank.npy            the order in which duplicates are kept
                 <step>.*.npy        what a corpus step compares by
                 counts.json         what happened, with samples; written last
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet
import xxhash
from numpy.typing import NDArray

from jielong.data.cleaning.scan import encode
from jielong.data.documents import ROW_GROUP_BYTES
from jielong.data.pipeline.docs import PLACE, Column, Docs
from jielong.errors import DataError
from jielong.runs import sync_folder

pa: Any = pyarrow  # it has no types of its own

LENGTH_BITS, TEXT_BITS = 18, 24  # of a rank; the rest are of the place
WORK_LEVEL = 1  # of zstd, for files that live for the length of a run
UNORDERED = ("text", "id", "meta")  # nobody looks for the smallest text
COUNTS = "counts.json"
DOCUMENTS = "documents.arrow"


@dataclass(frozen=True)
class Reject:
    """A document that left."""

    text: str
    place: Any  # of PLACE
    step: str
    rule: str
    detail: str
    like: tuple[int, int] | None = None  # pass and number of the document that stays


# ------------------------------------------------------------------------------------------------------- folders


def chunk_folder(work: Path, number: int) -> Path:
    """Where a pass keeps a chunk."""
    return work / f"{number:05d}"


def is_done(work: Path, number: int) -> bool:
    """Whether the chunk is there, whole."""
    return (chunk_folder(work, number) / COUNTS).is_file()


def finished(work: Path) -> list[int]:
    """The numbers of the chunks that are there."""
    return sorted(int(path.parent.name) for path in work.glob(f"[0-9]*/{COUNTS}") if path.parent.name.isdecimal())


class Publishing:
    """A folder under a temporary name that becomes the chunk's when the `with` block ends well."""

    def __init__(self, work: Path, number: int, owner: int) -> None:
        self._target = chunk_folder(work, number)
        self.folder = work / f".{number:05d}.{owner}.tmp"

    def __enter__(self) -> Path:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        return self.folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for file in self.folder.iterdir():  # on disk before it counts as done
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if self._target.exists():  # another process finished the same chunk, with the same bytes
            shutil.rmtree(self._target)
        self.folder.rename(self._target)
        sync_folder(self._target.parent)


def read_counts(work: Path, number: int) -> dict[str, Any]:
    """What happened to a chunk."""
    path = chunk_folder(work, number) / COUNTS
    try:
        value: dict[str, Any] = orjson.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete {work} and run the data stage again") from None
    return value


def array(work: Path, number: int, name: str) -> Column:
    """An array of a chunk, not read until it is looked at."""
    path = chunk_folder(work, number) / f"{name}.npy"
    try:
        found: Column = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete {work} and run the data stage again") from None
    return found


class Stored:
    """The arrays of one name of a pass's chunks, looked at again and again: what numpy.load(mmap_mode="r") gives, at a tenth
    of its price, for which the head of each file is read once. A file is open only while its array is in use."""

    def __init__(self, work: Path, name: str) -> None:
        self._work, self._name = work, name
        self._heads: dict[int, tuple[int, tuple[int, ...], str, Any]] = {}

    def __getitem__(self, number: int) -> Column:
        """The array of a chunk, not read until it is looked at. Raises DataError when it cannot be read."""
        path = chunk_folder(self._work, number) / f"{self._name}.npy"
        head = self._heads.get(number)
        if head is None:
            found = array(self._work, number, self._name)
            order: Any = "C" if found.flags.c_contiguous else "F"
            head = self._heads[number] = path.stat().st_size - found.nbytes, found.shape, order, found.dtype
        start, shape, order, dtype = head
        size = math.prod(shape)
        if not size:
            return np.empty(shape, dtype)
        try:
            with path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.frombuffer(mapped, dtype, size, start).reshape(shape, order=order)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); delete {self._work} and run the data stage again"
            ) from None


# -------------------------------------------------------------------------------------------------------- tables


def write_table(path: Path, table: Any, level: int, repeated: tuple[str, ...] = ()) -> None:
    """Write a table as Parquet in row groups of about ROW_GROUP_BYTES of text. The same table gives the same bytes."""
    sizes = _values(pa.compute.binary_length(table.column("text")))
    group = np.cumsum(sizes, dtype=np.int64) // ROW_GROUP_BYTES if len(sizes) else np.zeros(0, np.int64)
    starts = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), table.num_rows]
    with pa.parquet.ParquetWriter(
        path,
        table.schema,
        compression="zstd",
        compression_level=level,
        use_dictionary=list(repeated),
        write_statistics=[name for name in table.column_names if name not in UNORDERED],
    ) as writer:
        for start, end in pairwise(starts):
            if end > start:
                writer.write_table(table.slice(start, end - start), row_group_size=end - start)


def text_array(docs: Docs) -> Any:
    """The texts for Arrow, without a copy."""
    data, offsets = docs.encoded()
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.StringArray.from_buffers(len(docs), buffers[1], buffers[2])


def write_documents(path: Path, docs: Docs) -> None:
    """Write documents as an Arrow file, not compressed: it lives as long as a run, and is mapped instead of read."""
    columns = {"text": text_array(docs)}
    columns |= {name: column_array(docs.places[name]) for name in PLACE.names or ()}
    table = pa.table(columns | {name: column_array(values) for name, values in docs.columns.items()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def column_array(values: Column) -> Any:
    """A column for Arrow: strings or numbers. (`pyarrow.array` imports pandas where there is one: a fifth of a second.)"""
    if values.dtype.kind in "OUT":
        return string_array(values.tolist())
    if values.dtype.kind == "b":
        kind, data = pa.bool_(), np.packbits(values, bitorder="little")
    else:
        kind, data = pa.from_numpy_dtype(values.dtype), np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(data)])


def string_array(values: list[str]) -> Any:
    """Strings for Arrow."""
    data, offsets = encode(values)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data))


def read_documents(work: Path, number: int) -> Docs:
    """The documents of a chunk."""
    table = _read_arrow(work, number, None)
    places = np.empty(table.num_rows, PLACE)
    for name in PLACE.names or ():
        places[name] = _values(table.column(name))
    others = [name for name in table.column_names if name not in ("text", *(PLACE.names or ()))]
    text = table.column("text").combine_chunks()
    if not len(text):
        return Docs([], places, {name: _values(table.column(name)) for name in others})
    _, offsets, data = text.buffers()
    starts = np.frombuffer(offsets, np.int32, len(text) + 1, text.offset * 4).astype(np.int64)
    view = np.frombuffer(data or b"", np.uint8)[starts[0] : starts[-1]]
    columns = {name: _values(table.column(name)) for name in others}
    return Docs((view, starts - starts[0]), places, columns, columns.get("text_len"))


def read_columns(work: Path, number: int, names: list[str]) -> dict[str, Column]:
    """Some columns of a chunk's documents."""
    table = _read_arrow(work, number, names)
    return {name: _values(table.column(name)) for name in names}


def read_texts(work: Path, number: int) -> Any:
    """The texts of a chunk's documents as an Arrow column."""
    return _read_arrow(work, number, ["text"], whole=False).column("text")


def _read_arrow(work: Path, number: int, names: list[str] | None, whole: bool = True) -> Any:
    path = chunk_folder(work, number) / DOCUMENTS
    try:
        with pa.memory_map(str(path)) as file:  # what is not looked at is not read
            table = pa.ipc.open_file(file).read_all()
        table = table if names is None else table.select(names)
        table.validate(full=whole)  # offsets within the text, UTF-8: the compiled functions look at neither
        return table
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged work file ({error}); delete {work} and run the data stage again") from None


def _values(column: Any) -> Column:
    """A column without nulls. (`to_numpy` would import pandas.)"""
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    if not len(column):
        return np.zeros(0, column.type.to_pandas_dtype())
    whole = column.combine_chunks()
    assert whole.null_count == 0 and not pa.types.is_boolean(column.type)
    return np.frombuffer(whole.buffers()[1], column.type.to_pandas_dtype())[whole.offset : whole.offset + len(whole)]


def read_parquet(path: Path, columns: list[str] | None = None) -> Any:
    """A whole Parquet file of the work folder as an Arrow table. Raises DataError naming the file when it is damaged."""
    try:
        return pa.parquet.ParquetFile(path).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: damaged work file ({error}); delete {path.parent.parent} and run the data stage again"
        ) from None


REJECT_SCHEMA = pa.schema(
    [("text", pa.string()), *((name, pa.from_numpy_dtype(PLACE[name])) for name in PLACE.names or ()),
     ("step", pa.string()), ("rule", pa.string()), ("detail", pa.string())]
)  # fmt: skip


def rejects_table(rejects: list[Reject]) -> Any:
    """Rejects as an Arrow table of the work files."""
    places = np.array([row.place for row in rejects], PLACE)
    columns = {name: column_array(places[name]) for name in PLACE.names or ()}
    columns |= {
        name: string_array([getattr(row, name) for row in rejects]) for name in ("text", "step", "rule", "detail")
    }
    return pa.table(columns, schema=REJECT_SCHEMA)


# ---------------------------------------------------------------------------------------------------------- rank


def ranks(docs: Docs, names: list[tuple[str, str]]) -> NDArray[np.uint64]:
    """The order in which duplicates are kept, smaller first: the longer text, then a hash of the text, then of its place.

    names: of each file, source and name. The order of reading has no part in it: of different texts it is always the same
    one that stays, and of equal ones the one from the same place.
    """
    data, offsets = docs.encoded()
    view = data.data
    texts = np.array(
        [xxhash.xxh3_64_intdigest(view[start:end]) for start, end in pairwise(offsets.tolist())], np.uint64
    )
    files = np.array(
        [xxhash.xxh3_64_intdigest("\0".join(name).encode("utf-8", "replace")) for name in names], np.uint64
    )
    places = files[docs.places["file"]]
    for part in ("line", "part"):
        places = (places ^ docs.places[part].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        places ^= places >> np.uint64(32)
    longest = (1 << LENGTH_BITS) - 1
    lengths = (longest - np.minimum(docs.columns["text_len"], longest)).astype(np.uint64)
    rank = lengths << np.uint64(64 - LENGTH_BITS)
    rank |= texts >> np.uint64(64 - TEXT_BITS) << np.uint64(64 - LENGTH_BITS - TEXT_BITS)
    return np.asarray(rank | places >> np.uint64(LENGTH_BITS + TEXT_BITS), np.uint64)
