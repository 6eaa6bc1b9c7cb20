"""Token shards: what training reads, and numpy can open with one line.

    shards/
      train-00000.bin     headerless little-endian uint16 or uint32: documents end to end, each closed by end-of-text
      train-00000.idx     int64, documents + 1: where each document starts in the .bin, in tokens
      train-00000.bytes   int64, documents: UTF-8 bytes of each document's text (bits per byte are counted from text)
      train-00000.src     uint16, documents: the number of each document's source in the manifest's list
      validation-...
      manifest.json       dtype, vocabulary, end-of-text id, sources, and per split: counts (also for each source), files and
                          their checksums

The shards are length-free: rows of any length are cut from them when they are read. The dtype follows from the
vocabulary, so an id can not overflow. Writing is a stream: memory holds one batch of documents and one shard's offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from jielong.errors import ShardError
from jielong.runs import hash_file, write_json

FORMAT = 2
UINT16_IDS = 1 << 16
PARTS = ("bin", "idx", "bytes", "src")
ONE_SOURCE = ("text",)  # where nothing is said about sources
COUNTED = ("documents", "tokens", "bytes", "chars")


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """The narrowest little-endian type that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= UINT16_IDS else np.dtype("<u4")


class ShardWriter:
    """Writes one split. Use as a context manager; `summary()` afterwards gives its manifest entry."""

    def __init__(
        self,
        folder: Path,
        split: str,
        vocab_size: int,
        end_id: int,
        shard_tokens: int,
        sources: tuple[str, ...] = ONE_SOURCE,
    ) -> None:
        assert 0 <= end_id < vocab_size and 0 < len(sources) <= 1 << 16
        self.sources = {name: number for number, name in enumerate(sources)}
        self.by_source = {name: dict.fromkeys(COUNTED, 0) for name in sources}
        self.folder, self.split, self.vocab_size, self.end_id = folder, split, vocab_size, end_id
        self.shard_tokens, self.dtype = shard_tokens, dtype_for(vocab_size)
        self.documents = self.tokens = self.text_bytes = self.characters = 0
        self._files: list[dict[str, Any]] = []
        self._offsets: list[int] = [0]
        self._lengths: list[int] = []
        self._origins: list[int] = []
        self._bin: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close_shard()
        elif self._bin is not None:
            self._bin.close()

    def add(self, texts: list[str], ids: list[list[int]], sources: list[str] | None = None) -> None:
        """Append documents: their texts (for the counts), their token ids, without the end-of-text id, and the names of
        their sources (None: the first one)."""
        names = [next(iter(self.sources))] * len(texts) if sources is None else sources
        for text, document, source in zip(texts, ids, names, strict=True):
            row = np.array([*document, self.end_id], dtype=np.int64)
            assert row.min() >= 0 and row.max() < self.vocab_size, "a tokenizer gave an id outside its vocabulary"
            if self._bin is None:
                # "x": a shard is never opened twice, so no chunk can overwrite another
                self._bin = (self.folder / f"{self._stem()}.bin").open("xb")
            self._bin.write(row.astype(self.dtype).tobytes())
            self._offsets.append(self._offsets[-1] + len(row))
            size = len(text.encode("utf-8"))
            self._lengths.append(size)
            self._origins.append(self.sources[source])
            for name, count in zip(COUNTED, (1, len(row), size, len(text)), strict=True):
                self.by_source[source][name] += count
            self.documents += 1
            self.tokens += len(row)
            self.text_bytes += size
            self.characters += len(text)
            if self._offsets[-1] >= self.shard_tokens:
                self._close_shard()

    def _stem(self) -> str:
        return f"{self.split}-{len(self._files):05d}"

    def _close_shard(self) -> None:
        if self._bin is None:
            return
        self._bin.close()
        self._bin = None
        stem = self._stem()
        (self.folder / f"{stem}.idx").write_bytes(np.array(self._offsets, dtype="<i8").tobytes())
        (self.folder / f"{stem}.bytes").write_bytes(np.array(self._lengths, dtype="<i8").tobytes())
        (self.folder / f"{stem}.src").write_bytes(np.array(self._origins, dtype="<u2").tobytes())
        sums = {part: hash_file(self.folder / f"{stem}.{part}") for part in PARTS}
        self._files.append(
            {"name": stem, "documents": len(self._lengths), "tokens": self._offsets[-1], "xxh3_128": sums}
        )
        self._offsets, self._lengths, self._origins = [0], [], []

    def summary(self) -> dict[str, Any]:
        """Counts and files of the split. `tokens` includes one end-of-text a document."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.text_bytes,
            "chars": self.characters,
            "by_source": self.by_source,
            "files": self._files,
        }


def write_manifest(folder: Path, vocab_size: int, end_id: int, splits: dict[str, dict[str, Any]]) -> None:
    """The shards folder's manifest.json; written last, it makes the folder readable."""
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "dtype": dtype_for(vocab_size).name,
            "vocab_size": vocab_size,
            "end_of_text_id": end_id,
            "splits": splits,
        },
    )


class Shards:
    """One split of a shards folder, memory-mapped. Documents are numbered through all its files."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open and check sizes. Raises ShardError for what is missing or truncated."""
        self.folder, self.split = folder, split
        try:
            manifest = orjson.loads((folder / "manifest.json").read_bytes())
            entry = manifest["splits"][split]
            self.end_id, self.vocab_size = int(manifest["end_of_text_id"]), int(manifest["vocab_size"])
            dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
            self.files: list[dict[str, Any]] = entry["files"]
            self.documents, self.tokens = int(entry["documents"]), int(entry["tokens"])
            self.text_bytes, self.characters = int(entry["bytes"]), int(entry["chars"])
            self.by_source: dict[str, dict[str, int]] = entry["by_source"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ShardError(
                f"{folder}: not a readable shards folder for split {split!r} ({error!r}); {_AGAIN}"
            ) from None
        self._bins: list[npt.NDArray[Any]] = []
        self._offsets: list[npt.NDArray[np.int64]] = []
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._origins: list[npt.NDArray[np.uint16]] = []
        for row in self.files:
            self._bins.append(self._map(f"{row['name']}.bin", dtype, row["tokens"]))
            self._offsets.append(self._map(f"{row['name']}.idx", np.dtype("<i8"), row["documents"] + 1))
            self._lengths.append(self._map(f"{row['name']}.bytes", np.dtype("<i8"), row["documents"]))
            self._origins.append(self._map(f"{row['name']}.src", np.dtype("<u2"), row["documents"]))
        self._first = np.cumsum([0, *(row["documents"] for row in self.files)])

    def _map(self, name: str, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
        path = self.folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != length * dtype.itemsize:
            got = "no such file" if size is None else f"got {size} bytes"
            raise ShardError(f"{path}: damaged shard, {got}, must be {length * dtype.itemsize}; {_AGAIN}")
        return np.memmap(path, dtype=dtype, mode="r")

    def verify(self) -> None:
        """Read every file and compare its checksum. Raises ShardError naming the file."""
        for row in self.files:
            for part in PARTS:
                path = self.folder / f"{row['name']}.{part}"
                if hash_file(path) != row["xxh3_128"][part]:
                    raise ShardError(f"{path}: damaged shard, its checksum differs from the manifest's; {_AGAIN}")

    def document(self, number: int) -> npt.NDArray[Any]:
        """Token ids of a document, with its end-of-text id, as a view of the file (no copy)."""
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        offsets = self._offsets[file]
        local = number - int(self._first[file])
        return self._bins[file][int(offsets[local]) : int(offsets[local + 1])]

    def document_bytes(self, number: int) -> int:
        """UTF-8 bytes of a document's text."""
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        return int(self._lengths[file][number - int(self._first[file])])

    def numbers_of(self, source: str) -> npt.NDArray[np.int64]:
        """The numbers of a source's documents, in order: 8 bytes of memory a document."""
        number = list(self.by_source).index(source)
        found = [
            np.flatnonzero(origins == number) + first
            for origins, first in zip(self._origins, self._first[:-1], strict=True)
        ]
        return np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return (self.document(number) for number in range(self.documents))


_AGAIN = "make the shards again: jielong tokenizer RECIPE --fresh"
