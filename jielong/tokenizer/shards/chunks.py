"""Chunks: documents encoded apart from each other, kept on disk until the shards that hold them are whole.

A chunk is some consecutive row groups of one Parquet file of documents, about CHUNK_BYTES of text. Which they are depends on the
documents alone, not on who encodes them or how often. What is made of one is a folder, written under a temporary name and
renamed when everything in it is on disk: a chunk is done when its folder is there.

    00012/tokens.bin       tokens of its documents end to end, framed, in the scheme's dtype
          documents.npy    int64, (4, documents): tokens, UTF-8 bytes, characters and the source's number of each

Memory of encoding one: a batch of BATCH_BYTES of text (or one longer document) and what the encoder takes for it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from jielong.data.documents import split_files
from jielong.errors import DataError
from jielong.runs import publish
from jielong.tokenizer.encoding_arrays import BATCH_BYTES, BATCH_DOCUMENTS, Encode, Offsets
from jielong.tokenizer.shards.manifest import Scheme
from jielong.tokenizer.shards.writing import Documents, frame

pa: Any = pyarrow  # it has no types of its own

CHUNK_BYTES = 16_000_000  # of text: a few seconds of work
TOKENS, TABLE = "tokens.bin", "documents.npy"


@dataclass(frozen=True)
class Chunk:
    """Row groups `groups[0]` up to `groups[1]` of a documents file."""

    number: int
    file: Path
    groups: tuple[int, int]
    documents: int
    size: int  # bytes of text, about


def chunks_of(documents: Path, split: str) -> list[Chunk]:
    """The chunks of a split, in order; only the ends of its files are read. Raises DataError for a damaged file."""
    chunks: list[Chunk] = []
    for path in split_files(documents, split):
        try:
            groups = _groups(path)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise DataError(f"{path}: damaged documents file ({error}); run the data stage again") from None
        start = rows = size = 0
        for number, (group_rows, group_size) in enumerate(groups):
            rows, size = rows + group_rows, size + group_size
            if number + 1 == len(groups) or size + groups[number + 1][1] > CHUNK_BYTES:
                chunks.append(Chunk(len(chunks), path, (start, number + 1), rows, size))
                start, rows, size = number + 1, 0, 0
    return chunks


def _groups(path: Path) -> list[tuple[int, int]]:
    """Documents and bytes of text of each row group."""
    meta = pa.parquet.read_metadata(path)
    names = {meta.schema.column(number).path: number for number in range(meta.num_columns)}
    parts = [meta.row_group(number) for number in range(meta.num_row_groups)]
    return [(part.num_rows, part.column(names["text"]).total_uncompressed_size) for part in parts]


def chunk_folder(work: Path, number: int) -> Path:
    """Where a chunk is kept."""
    return work / f"{number:06d}"


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` when the block ends well, with everything in it on disk."""
    scratch = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        publish(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def encode_chunk(chunk: Chunk, work: Path, encode: Encode, scheme: Scheme, sources: tuple[str, ...]) -> None:
    """Encode the documents of a chunk and keep them. Raises DataError for a damaged file."""
    tables = []
    with whole(chunk_folder(work, chunk.number)) as scratch:
        with (scratch / TOKENS).open("wb") as file:
            for texts, origins in _read(chunk, sources):
                tokens, lengths = frame(*encode(*bytes_of(texts)), scheme)
                file.write(tokens.tobytes())
                sizes = [np.asarray(f(texts), np.int64) for f in (pa.compute.binary_length, pa.compute.utf8_length)]
                tables.append(np.stack([lengths, *sizes, origins]))
        table = np.concatenate([np.empty((4, 0), np.int64), *tables], axis=1)
        assert table.shape[1] == chunk.documents, f"documents are missing in {chunk.file}"
        np.save(scratch / TABLE, table, allow_pickle=False)


def is_there(chunk: Chunk, work: Path) -> bool:
    """Whether a chunk is kept."""
    return (chunk_folder(work, chunk.number) / TABLE).is_file()


def read_chunk(chunk: Chunk, work: Path, scheme: Scheme) -> Documents:
    """What was kept of a chunk."""
    folder = chunk_folder(work, chunk.number)
    lengths, sizes, characters, origins = np.load(folder / TABLE, allow_pickle=False)
    tokens = np.fromfile(folder / TOKENS, scheme.id_type)
    assert len(tokens) == lengths.sum() and len(lengths) == chunk.documents, f"{folder} is not whole"
    return Documents(tokens, lengths, sizes, characters, origins)


def _read(chunk: Chunk, sources: tuple[str, ...]) -> Iterator[tuple[Any, NDArray[np.int64]]]:
    """Texts (an Arrow array of strings) and numbers of their sources, about BATCH_BYTES of text at a time."""
    names = pa.array(sources, pa.string())
    try:
        with pa.parquet.ParquetFile(chunk.file) as file:
            for rows in file.iter_batches(
                BATCH_DOCUMENTS, row_groups=list(range(*chunk.groups)), columns=["text", "source"]
            ):
                texts = rows.column("text")
                origins = pa.compute.index_in(rows.column("source").cast(pa.string()), value_set=names)
                assert not origins.null_count and not texts.null_count, f"{chunk.file}: a text or a source is not known"
                numbers = np.asarray(origins, np.int64)
                batch = np.cumsum(np.asarray(pa.compute.binary_length(texts), np.int64)) // BATCH_BYTES
                starts = [0, *(np.flatnonzero(np.diff(batch)) + 1).tolist(), len(texts)]
                for start, end in pairwise(starts):
                    yield texts.slice(start, end - start), numbers[start:end]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{chunk.file}: damaged documents file ({error}); run the data stage again") from None


def bytes_of(texts: Any) -> tuple[NDArray[np.uint8], Offsets]:
    """An Arrow array of strings as UTF-8 bytes end to end, and where each begins, without a copy of the bytes."""
    wide = texts.cast(pa.large_string())
    _, places, data = wide.buffers()
    offsets = np.frombuffer(places, np.int64)[wide.offset : wide.offset + len(wide) + 1]
    whole_data = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    return whole_data[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0]
