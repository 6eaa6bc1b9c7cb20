"""How many documents each n-gram near a frequent key stands in, in bounded memory.

Keys are a sample of the n-grams; whoever wants to know where a fragment begins needs all of them. Of any span(n)
n-grams in a row one is a key, so the n-grams of a recurring fragment are not far from a frequent key: those within
AROUND n-grams of one are counted (an advert goes on behind the name that varies; Latin letters, of which no key is
made, do not use the distance up, but end at a line feed), a few percent of the text. They are counted in an open-
addressed table of MAX_SLOTS places at most. When it runs full, the n-grams whose hash leaves 1 modulo 2 go (then 3
modulo 4, and so on) and are counted in a pass of their own: the result is exact, whatever the order of the documents,
and a corpus with more in common than fits takes more passes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets
from jielong.data.compiled import kernel
from jielong.data.mining.grams import LINE, WIDE, Folded, Hashes, fold, hashes_of, hashes_plain

AROUND = 4  # times n letters on both sides of a frequent key
MAX_SLOTS = 1 << 26  # of 16 bytes each; at most half of them are used
MOST_PASSES = 1 << 12


class Chunk(NamedTuple):
    """Some documents: UTF-8 bytes, where each begins, and the number of each one's source."""

    data: Bytes
    offsets: Offsets
    sources: NDArray[Any]


class Places:
    """Hashes and where each stands in their sorted array."""

    def __init__(self, hashes: Hashes) -> None:
        size = 1 << (2 * len(hashes) + 1).bit_length()
        self.keys, self.values = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
        _put(hashes, self.keys, self.values)


@dataclass(frozen=True)
class Seen:
    """A chunk's letters, the hash of the n-gram at each, and which of those are near a frequent key."""

    folded: Folded
    grams: Hashes
    near: NDArray[np.bool_]


def look(chunk: Chunk, keys: Places, n: int) -> Seen:
    """Fold a chunk and find the n-grams that are near a frequent key."""
    folded = fold(chunk.data, chunk.offsets)
    grams = hashes_of(folded.codes, folded.starts, n)
    near = np.zeros(len(grams), np.bool_)
    _mark(grams, folded.codes, folded.gaps, folded.starts, keys.keys, n, AROUND * n, near)
    return Seen(folded, grams, near)


def common_grams(
    chunks: Iterable[Chunk], frequent: Hashes, n: int, min_documents: int, max_slots: int = MAX_SLOTS
) -> tuple[Hashes, NDArray[np.uint32]]:
    """The n-grams near frequent keys that stand in at least min_documents documents, sorted, and in how many.

    `chunks` is gone through once, or more often if the n-grams need more than max_slots places.
    """
    places = Places(frequent)
    waiting = [(1, 0)]
    found: list[tuple[Hashes, NDArray[np.uint32]]] = []
    while waiting:
        modulus, residue = waiting.pop()
        table, document = Table(), 0
        for chunk in chunks:
            seen = look(chunk, places, n)
            grams = np.where(seen.near, seen.grams, np.uint64(0))
            while 2 * (table.used + table.keep(grams, modulus, residue)) > max_slots and modulus < MOST_PASSES:
                waiting.append((2 * modulus, residue + modulus))
                modulus *= 2
                table.copy(len(table.keys), modulus, residue)
            table.count(grams, seen.folded.starts, document)
            document += len(chunk.offsets) - 1
        found.append(table.at_least(min_documents))
    hashes = np.concatenate([hashes for hashes, _ in found])
    order = np.argsort(hashes)
    return hashes[order], np.concatenate([counts for _, counts in found])[order]


class Table:
    """Hashes with the number of documents each was seen in."""

    def __init__(self, slots: int = 1 << 12) -> None:
        self.keys = np.zeros(slots, np.uint64)
        self.counts = np.zeros(slots, np.uint32)
        self.last = np.full(slots, -1, np.int32)  # document that counted last
        self.used = 0

    def keep(self, grams: Hashes, modulus: int, residue: int) -> int:
        """Put 0 for hashes that do not leave `residue`; returns how many are left."""
        # the modulus is taken of the upper half: the lower one says where a hash stands
        grams[(grams >> np.uint64(32)) % np.uint64(modulus) != residue] = 0
        return int(np.count_nonzero(grams))

    def count(self, grams: Hashes, starts: Offsets, document: int) -> None:
        """Count the n-grams of a chunk, whose first document has the given number; 0 is none."""
        slots, most = len(self.keys), self.used + int(np.count_nonzero(grams))
        while slots < 2 * most:
            slots *= 2
        if slots > len(self.keys):
            self.copy(slots, 1, 0)
        self.used += _count(grams, starts, document, self.keys, self.counts, self.last)

    def copy(self, slots: int, modulus: int, residue: int) -> None:
        """Take another size, with the hashes that leave `residue`."""
        other = Table(slots)
        stay = (self.keys != 0) & ((self.keys >> np.uint64(32)) % np.uint64(modulus) == residue)
        other.used = int(np.count_nonzero(stay))
        columns = (self.keys[stay], self.counts[stay], self.last[stay])
        _move(*columns, other.keys, other.counts, other.last)
        self.__dict__.update(other.__dict__)

    def at_least(self, documents: int) -> tuple[Hashes, NDArray[np.uint32]]:
        """The hashes seen in so many documents, and their counts."""
        chosen = self.counts >= documents
        return self.keys[chosen], self.counts[chosen]


def common_plain(documents: Iterable[list[int]], n: int, min_documents: int) -> dict[int, int]:
    """The twin of `common_grams` where every n-gram is near a frequent key."""
    counts: Counter[int] = Counter()
    for codes in documents:
        counts.update(set(hashes_plain(codes, n)))
    return {gram: count for gram, count in counts.items() if count >= min_documents}


@kernel
def find(hashed, keys):  # type: ignore[no-untyped-def]
    """The slot of a hash, or of the empty place where it would be put."""
    mask = np.uint64(len(keys) - 1)
    slot = hashed & mask
    while keys[slot] != 0 and keys[slot] != hashed:
        slot = (slot + np.uint64(1)) & mask
    return slot


@kernel
def _put(hashes, keys, values):  # type: ignore[no-untyped-def]
    for at in range(len(hashes)):
        slot = find(hashes[at], keys)
        keys[slot] = hashes[at]
        values[slot] = at


@kernel
def _mark(grams, codes, gaps, starts, keys, n, reach, near):  # type: ignore[no-untyped-def]
    for doc in range(len(starts) - 1):
        begin, end = starts[doc], starts[doc + 1]
        behind = begin  # up to here everything is marked
        for at in range(begin, end):
            if grams[at] == 0:
                break
            if keys[find(grams[at], keys)] == 0:
                continue
            near[at] = True
            left, k = reach, at - 1
            while k >= behind and left > 0 and at - k <= 2 * reach:
                if gaps[k + 1] >= LINE and codes[k] < WIDE:
                    break
                near[k] = True
                left -= codes[k] >= WIDE
                k -= 1
            left, k = reach, at + 1
            while k < end and grams[k] != 0 and left > 0 and k - at <= 2 * reach:
                if gaps[k + n - 1] >= LINE and codes[k + n - 1] < WIDE:
                    break
                near[k] = True
                left -= codes[k] >= WIDE
                k += 1
            behind = at


@kernel
def _count(grams, starts, document, keys, counts, last):  # type: ignore[no-untyped-def]
    new = 0
    for doc in range(len(starts) - 1):
        for at in range(starts[doc], starts[doc + 1]):
            if grams[at] == 0:
                continue
            slot = find(grams[at], keys)
            if keys[slot] == 0:
                keys[slot] = grams[at]
                new += 1
            if last[slot] != document + doc:
                last[slot] = document + doc
                counts[slot] += np.uint32(1)
    return new


@kernel
def _move(keys, counts, last, to_keys, to_counts, to_last):  # type: ignore[no-untyped-def]
    for at in range(len(keys)):
        slot = find(keys[at], to_keys)
        to_keys[slot], to_counts[slot], to_last[slot] = keys[at], counts[at], last[at]
