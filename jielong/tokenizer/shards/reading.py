"""Open shards: memory maps of one split, its documents by number, and every byte checked on request.

Opening looks at the manifest (whose own checksum is checked) and at the sizes of the files, which costs nothing; `verify`
reads everything, at the speed of the disk (the checksum itself takes some GB/s). Training and evaluation verify before their first
step: what that finds would otherwise be found by nobody.

Two views of a document: `document` is what is stored, `targets` what a model learns to predict. They differ where a
start id is stored: it is given, never predicted. In shards with a mask `learned` says which of the targets count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jielong.errors import ShardError
from jielong.progress import Progress
from jielong.runs import hash_file
from jielong.tokenizer.shards.manifest import AGAIN, COUNTED, MASK, Scheme, read_manifest


class Shards:
    """One split of a shards folder, memory-mapped. Documents are numbered through all its files."""

    def __init__(self, folder: Path, split: str) -> None:
        """Open and check sizes. Raises ShardError for what is missing or truncated."""
        scheme, splits = read_manifest(folder)
        if split not in splits:
            raise ShardError(f"{folder}: no split {split!r}; it has {', '.join(splits) or 'none'}; name one of them")
        entry = splits[split]
        self.files: list[dict[str, Any]] = entry["files"]
        bins, offsets, lengths, origins, masks = [], [], [], [], []
        for row in self.files:
            name, documents = folder / row["name"], row["documents"]
            bins.append(_map(name.with_suffix(".bin"), scheme.id_type, row["tokens"]))
            offsets.append(_map(name.with_suffix(".idx"), np.dtype("<i8"), documents + 1))
            lengths.append(_map(name.with_suffix(".bytes"), np.dtype("<i8"), documents))
            origins.append(_map(name.with_suffix(".src"), np.dtype("<u2"), documents))
            if scheme.masked:
                masks.append(_map(name.with_suffix(f".{MASK}"), np.dtype(np.uint8), row["tokens"]))
        self._hold(folder, split, scheme, entry["by_source"], bins, offsets)
        self._lengths, self._origins, self._masks = lengths, origins, masks

    def _hold(
        self,
        folder: Path,
        split: str,
        scheme: Scheme,
        by_source: dict[str, dict[str, int]],
        bins: list[npt.NDArray[Any]],
        offsets: list[npt.NDArray[np.int64]],
    ) -> None:
        self.folder, self.split, self.scheme, self.by_source = folder, split, scheme, by_source
        self.end_id, self.vocab_size, self.start_id = scheme.end_id, scheme.vocab_size, scheme.row_start
        self.documents, self.tokens, self.text_bytes, self.characters = (
            sum(row[key] for row in by_source.values()) for key in COUNTED
        )
        self._skipped = int(scheme.start_id is not None)  # tokens of a document that are no targets
        self._bins, self._offsets = bins, offsets
        documents = [len(part) - 1 for part in offsets]
        self._first = np.cumsum([0, *documents], dtype=np.int64)
        self._first_token = np.cumsum([0, *map(len, bins)], dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.split)  # another process maps the files itself; nothing is copied

    def verify(self) -> None:
        """Read every file and compare its checksum. Raises ShardError naming the file."""
        paths = [
            (self.folder / f"{row['name']}.{part}", row["xxh3_128"][part])
            for row in self.files
            for part in self.scheme.parts
        ]
        with Progress(f"checking the {self.split} shards", sum(path.stat().st_size for path, _ in paths), "B") as bar:
            for path, expected in paths:
                if hash_file(path, bar.advance) != expected:
                    raise ShardError(f"{path}: damaged shard, its checksum differs from the manifest's; {AGAIN}")

    def document(self, number: int) -> npt.NDArray[Any]:
        """Token ids of a document as they are stored, start and end ids included, as a view of the file (no copy)."""
        file, local = self._place(number)
        offsets = self._offsets[file]
        return self._bins[file][int(offsets[local]) : int(offsets[local + 1])]

    def targets(self, number: int) -> npt.NDArray[Any]:
        """Token ids of a document that are predicted: all but a stored start id."""
        return self.document(number)[self._skipped :]

    def learned(self, number: int) -> npt.NDArray[np.bool_]:
        """Of each of a document's targets, whether it is learned; in shards without a mask all are."""
        if not self.scheme.masked:
            return np.ones(self.length(number), np.bool_)
        file, local = self._place(number)
        offsets = self._offsets[file]
        return self._masks[file][int(offsets[local]) + self._skipped : int(offsets[local + 1])].view(np.bool_)

    def learned_counts(self) -> npt.NDArray[np.int64]:
        """Of each document, how many of its targets are learned. Reads the whole mask."""
        found = [np.diff(offsets) - self._skipped for offsets in self._offsets]
        if self.scheme.masked:
            found = []
            for mask, offsets in zip(self._masks, self._offsets, strict=True):
                sums = np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])
                first = np.minimum(offsets[:-1] + self._skipped, offsets[1:])
                found.append(sums[offsets[1:]] - sums[first])
        return np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)

    def length(self, number: int) -> int:
        """Tokens of a document that are predicted; reads two numbers of the index and nothing of the document."""
        file, local = self._place(number)
        return int(self._offsets[file][local + 1]) - int(self._offsets[file][local]) - self._skipped

    def maps(self) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[np.int64]]]:
        """Of each file its first document's number, its ids, and where each document starts in them (documents + 1): the
        memory maps themselves, for compiled code that reads them where they lie.
        """
        return zip(self._first[:-1].tolist(), self._bins, self._offsets, strict=True)

    @property
    def target_tokens(self) -> int:
        """The tokens of all documents that are predicted."""
        return self.tokens - self._skipped * self.documents

    def available(self) -> dict[str, int]:
        """The tokens of each source that are predicted."""
        return {name: row["tokens"] - self._skipped * row["documents"] for name, row in self.by_source.items()}

    def locate(self, position: int) -> tuple[int, int]:
        """The document and the place in its targets of the target token at `position` of the whole split."""
        assert 0 <= position < self.target_tokens
        firsts = self._first_token - self._skipped * self._first
        file = int(np.searchsorted(firsts, position, side="right")) - 1
        offsets, rest = self._offsets[file], position - int(firsts[file])

        def begin(local: int) -> int:
            return int(offsets[local]) - self._skipped * local

        local = bisect_right(range(len(offsets) - 1), rest, key=begin) - 1
        return int(self._first[file]) + local, rest - begin(local)

    def stream(self, start: int, end: int) -> npt.NDArray[Any]:
        """Stored tokens from `start` up to `end` of the whole split, documents end to end: a copy."""
        parts = [
            part[max(0, start - first) : max(0, end - first)]
            for part, first in zip(self._bins, self._first_token[:-1].tolist(), strict=True)
            if first < end and start < first + len(part)
        ]
        return np.concatenate([np.empty(0, self.scheme.id_type), *parts])

    def lengths(self) -> Iterator[npt.NDArray[np.int64]]:
        """Stored tokens of each document, a file at a time."""
        return (np.diff(offsets) for offsets in self._offsets)

    def document_bytes(self, number: int) -> int:
        """UTF-8 bytes of a document's text."""
        file, local = self._place(number)
        return int(self._lengths[file][local])

    def source_of(self, number: int) -> str:
        """The name of a document's source."""
        file, local = self._place(number)
        return list(self.by_source)[int(self._origins[file][local])]

    def numbers_of(self, source: str) -> npt.NDArray[np.int64]:
        """The numbers of a source's documents, in order: 8 bytes of memory a document."""
        number = list(self.by_source).index(source)
        found = [
            np.flatnonzero(origins == number) + first
            for origins, first in zip(self._origins, self._first[:-1], strict=True)
        ]
        return np.concatenate([*found, np.empty(0, np.int64)]).astype(np.int64)

    def _place(self, number: int) -> tuple[int, int]:
        file = int(np.searchsorted(self._first, number, side="right")) - 1
        return file, number - int(self._first[file])

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        return (self.document(number) for number in range(self.documents))


def _map(path: Path, dtype: np.dtype[Any], length: int) -> npt.NDArray[Any]:
    size = path.stat().st_size if path.is_file() else None
    if size != length * dtype.itemsize:
        got = "no such file" if size is None else f"got {size} bytes"
        raise ShardError(f"{path}: damaged shard, {got}, must be {length * dtype.itemsize}; {AGAIN}")
    return np.memmap(path, dtype=dtype, mode="r") if length else np.empty(0, dtype)
