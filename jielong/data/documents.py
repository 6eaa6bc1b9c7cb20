"""The Parquet formats of the data stage: documents, and rejects that carry the rule and the place as well.

Documents are `id, text, source, meta`; `id` is the xxh3_128 of the UTF-8 text in hex, `meta` a JSON string with the file
and the line the text came from. Behind these stand `text_len` and what the steps measure and annotate add. Rejects have the
first four and `stage, rule, detail, file, line`.

Files are numbered (`train-00000.parquet`), compressed with zstd, and made of row groups of about ROW_GROUP_BYTES of text,
which bounds the memory of the writer and of every reader. The same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import xxhash

from jielong.errors import DataError

pa: Any = pyarrow  # it has no types of its own

DOCUMENT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "text", "source", "meta")])
REJECT_SCHEMA = pa.schema(
    [
        *DOCUMENT_SCHEMA,
        *((name, pa.string()) for name in ("stage", "rule", "detail", "file")),
        ("line", pa.int64()),
    ]
)
LEVEL = 2  # of zstd: 15 % smaller than level 1 on Chinese text; level 3 takes a third longer for another 6 %
ROW_GROUP_BYTES = 8_000_000  # of text; a row group holds at least one document
SPLITS = ("train", "validation")


def text_id(data: bytes | memoryview) -> str:
    """The id of a document: xxh3_128 of its UTF-8 bytes, in hex."""
    return xxhash.xxh3_128_hexdigest(data)


def split_files(documents_folder: Path, split: str) -> list[Path]:
    """The files of a split, in order. Raises DataError when there is none."""
    assert split in SPLITS, split
    files = sorted(documents_folder.glob(f"{split}-*.parquet"))
    if not files:
        raise DataError(f"documents: no {split}-*.parquet in {documents_folder}; run the data stage again")
    return files


def iter_rows(path: Path, batch: int = 1000, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of a Parquet file, at most `batch` at a time. Raises DataError naming the file when it is damaged."""
    with path.open("rb"):  # a file that is absent or not ours to read is an OSError, not a damaged one
        pass
    try:
        with pa.parquet.ParquetFile(path) as file:
            for rows in file.iter_batches(batch_size=batch, columns=columns):
                if rows.num_columns < len(columns or ()):
                    raise DataError(
                        f"{path}: not a documents file, it lacks some of {columns}; run the data stage again"
                    )
                yield rows.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: damaged Parquet file ({error}); delete its stage folder and run the stage again"
        ) from None


def iter_documents(documents_folder: Path, split: str, batch: int = 1000) -> Iterator[dict[str, Any]]:
    """The documents of a split ("train" or "validation"), in the order in which they were written."""
    for path in split_files(documents_folder, split):
        for rows in iter_rows(path, batch):
            yield from rows


def iter_sourced(documents_folder: Path, split: str, batch: int = 1000) -> Iterator[list[tuple[str, str]]]:
    """Text and source of each document of a split, in order, at most `batch` at a time."""
    for path in split_files(documents_folder, split):
        for rows in iter_rows(path, batch, ["text", "source"]):
            yield [(row["text"], row["source"]) for row in rows]


def iter_texts(documents_folder: Path, split: str, batch: int = 1000) -> Iterator[list[str]]:
    """The texts of a split, in order, at most `batch` at a time."""
    for path in split_files(documents_folder, split):
        for rows in iter_rows(path, batch, ["text"]):
            yield [row["text"] for row in rows]


def count_rows(path: Path) -> int:
    """The rows of a Parquet file. Raises DataError when it is damaged."""
    try:
        return int(pa.parquet.ParquetFile(path).metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: damaged Parquet file ({error}); delete it and run the stage again") from None


def move_one(folder: Path, identity: str, target: str) -> None:
    """Move the document of that id from its split to the other one, which is empty: a small corpus has bad luck with hashes."""
    start = next(split for split in SPLITS if split != target)
    for file in split_files(folder, start):
        table = pa.parquet.ParquetFile(file).read()
        here = pa.compute.index(table.column("id"), identity).as_py()
        if here < 0:
            continue
        rest = pa.concat_tables([table.slice(0, here), table.slice(here + 1)])
        for split, rows in ((target, table.slice(here, 1)), (start, rest)):
            path = folder / file.name.replace(start, split)
            scratch = path.with_suffix(".moving")
            pa.parquet.write_table(
                rows, scratch, compression="zstd", compression_level=LEVEL, use_dictionary=["source"]
            )
            scratch.replace(path)
        return
    raise AssertionError(f"no document {identity} in {folder}")
