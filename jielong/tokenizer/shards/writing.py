"""Write shards of a set size from arrays of tokens, in a stream.

Nothing here loops over documents in Python: framing (the start and end ids around each document) and the cut into files are
array operations. A shard is closed by the first document that reaches `shard_tokens`, so it is at most one document longer
than that. Checksums are taken of what is written, not of what is read back. Memory: what one `append` is given.

A closed shard is on disk (fsync) when `on_close` is called with its entry of the manifest; a writer that is given those entries
again as `done` goes on behind them (making.py).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from jielong.tokenizer.shards.manifest import COUNTED, MASK, Scheme

ONE_SOURCE = ("text",)  # where nothing is said about sources
Ids = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Documents:
    """Documents as a shard holds them: tokens end to end, and of each document its tokens, bytes, characters, source."""

    tokens: npt.NDArray[Any]  # (tokens,), of the scheme's id_type, start and end ids included
    lengths: Counts  # (documents,) tokens of each
    text_bytes: Counts
    characters: Counts
    origins: Counts  # the numbers of their sources
    learned: npt.NDArray[np.bool_] | None = None  # (tokens,), where the scheme has a mask

    def part(self, start: int, end: int) -> Documents:
        """Documents from `start` up to `end`."""
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:end].sum())
        lengths, sizes, characters, origins = (
            row[start:end] for row in (self.lengths, self.text_bytes, self.characters, self.origins)
        )
        learned = None if self.learned is None else self.learned[first:last]
        return Documents(self.tokens[first:last], lengths, sizes, characters, origins, learned)


def pack(rows: Sequence[Sequence[int]]) -> tuple[Ids, Counts]:
    """Ids of several texts as one array, and where each begins (and the last one ends)."""
    offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return np.fromiter(itertools.chain.from_iterable(rows), np.uint32, int(offsets[-1])), offsets


def frame(ids: Ids, offsets: Counts, scheme: Scheme) -> tuple[npt.NDArray[Any], Counts]:
    """Ids of texts end to end -> tokens of documents end to end with start and end ids, and the tokens of each document."""
    assert not ids.size or int(ids.max()) < scheme.vocab_size, "a tokenizer gave an id outside its vocabulary"
    lengths = np.diff(offsets) + scheme.around
    tokens = np.empty(len(ids) + scheme.around * len(lengths), scheme.id_type)
    ends = np.cumsum(lengths)
    own = np.ones(len(tokens), np.bool_)
    if scheme.closes:
        own[ends - 1] = False
        tokens[ends - 1] = scheme.end_id
    if scheme.start_id is not None:
        own[ends - lengths] = False
        tokens[ends - lengths] = scheme.start_id
    tokens[own] = ids
    return tokens, lengths


class _Part:
    """One file of a shard, and the checksum of what was written to it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")  # "x": a shard is never opened twice, so nothing overwrites another
        self._digest = xxhash.xxh3_128()

    def write(self, values: npt.NDArray[Any]) -> None:
        data = values.tobytes()
        self._file.write(data)
        self._digest.update(data)

    def close(self) -> str:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        self._file.close()


class ShardWriter:
    """Writes one split. Use as a context manager; `summary()` afterwards gives its manifest entry."""

    def __init__(
        self,
        folder: Path,
        split: str,
        scheme: Scheme,
        shard_tokens: int,
        sources: tuple[str, ...] = ONE_SOURCE,
        done: Sequence[dict[str, Any]] = (),
        on_close: Callable[[dict[str, Any]], None] = lambda entry: None,
    ) -> None:
        """done: entries of shards that are there already. on_close: called with the entry of each shard that is whole."""
        assert 0 < len(sources) <= 1 << 16 and shard_tokens > 0
        self.folder, self.split, self.scheme, self.shard_tokens = folder, split, scheme, shard_tokens
        self.sources = {name: number for number, name in enumerate(sources)}
        self.files, self._on_close = list(done), on_close
        self._counts = np.zeros((len(sources), len(COUNTED)), np.int64)  # of the open shard
        self._parts: dict[str, _Part] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._close_shard()
        for part in self._parts.values():
            part.abandon()

    @property
    def documents(self) -> int:
        """Documents written so far."""
        return sum(int(row["documents"]) for row in self.files) + int(self._counts[:, 0].sum())

    @property
    def tokens(self) -> int:
        """Tokens written so far, start and end ids included."""
        return sum(int(row["tokens"]) for row in self.files) + int(self._counts[:, 1].sum())

    def add(self, texts: list[str], ids: Sequence[Sequence[int]], sources: list[str] | None = None) -> None:
        """Append documents given as lists: texts (for the counts), their ids without start and end, and the names of their
        sources (None: the first one)."""
        assert len(texts) == len(ids) and (sources is None or len(sources) == len(texts))
        tokens, lengths = frame(*pack(ids), self.scheme)
        sizes = np.array([len(text.encode("utf-8")) for text in texts], np.int64)
        characters = np.array([len(text) for text in texts], np.int64)
        origins = np.array([self.sources[name] for name in sources or ()] or [0] * len(texts), np.int64)
        self.append(Documents(tokens, lengths, sizes, characters, origins))

    def append(self, given: Documents) -> None:
        """Append documents, framed."""
        ends = np.cumsum(given.lengths)
        at = first = 0  # the document and the token that come next
        while at < len(ends):
            room = self.shard_tokens - int(self._counts[:, 1].sum())
            to = min(len(ends), int(np.searchsorted(ends, first + room)) + 1)  # the first one that reaches it closes it
            last = int(ends[to - 1])
            self._write(given, slice(at, to), slice(first, last))
            if last - first >= room:
                self._close_shard()
            at, first = to, last

    def _write(self, given: Documents, rows: slice, tokens: slice) -> None:
        if not self._parts:
            self._parts = {part: _Part(self.folder / f"{self._stem()}.{part}") for part in self.scheme.parts}
            self._parts["idx"].write(np.zeros(1, "<i8"))
        lengths, origins = given.lengths[rows], given.origins[rows]
        self._parts["bin"].write(given.tokens[tokens].astype(self.scheme.id_type, copy=False))
        if self.scheme.masked:
            assert given.learned is not None and len(given.learned) == len(given.tokens)
            self._parts[MASK].write(given.learned[tokens].astype(np.uint8))
        self._parts["idx"].write((np.cumsum(lengths) + int(self._counts[:, 1].sum())).astype("<i8"))
        self._parts["bytes"].write(given.text_bytes[rows].astype("<i8"))
        self._parts["src"].write(origins.astype("<u2"))
        ones = np.ones(len(lengths), np.int64)
        for column, values in enumerate((ones, lengths, given.text_bytes[rows], given.characters[rows])):
            np.add.at(self._counts[:, column], origins, values)

    def _stem(self) -> str:
        return f"{self.split}-{len(self.files):05d}"

    def _close_shard(self) -> None:
        if not self._parts:
            return
        sums = {name: part.close() for name, part in self._parts.items()}
        entry = {
            "name": self._stem(),
            **dict(zip(COUNTED, self._counts.sum(axis=0).tolist(), strict=True)),
            "by_source": {
                name: dict(zip(COUNTED, self._counts[number].tolist(), strict=True))
                for name, number in self.sources.items()
                if self._counts[number, 0]
            },
            "xxh3_128": sums,
        }
        self._parts = {}
        self._counts[:] = 0
        self.files.append(entry)
        self._on_close(entry)

    def summary(self) -> dict[str, Any]:
        """Counts and files of the split, of its closed shards. `tokens` includes start and end ids."""
        assert not self._parts, "a shard is still open"
        by_source = {name: dict.fromkeys(COUNTED, 0) for name in self.sources}
        for entry in self.files:
            for name, row in entry["by_source"].items():
                for key in COUNTED:
                    by_source[name][key] += row[key]
        whole = {key: sum(row[key] for row in by_source.values()) for key in COUNTED}
        return {**whole, "by_source": by_source, "files": self.files}
