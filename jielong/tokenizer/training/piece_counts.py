"""How often each different piece of a text occurs: what training a vocabulary needs of a corpus.

A hash table over bytes. The pieces lie end to end in one array in the order of their first occurrence, so the result does
not depend on hashes; documents stream through and are not kept.

Cost: about 80 MB/s; 1 byte of memory a byte of different pieces and 32 to 48 bytes a piece (two million pieces, 36 MB, in
50 MB of Chinese text cut at punctuation: close to every clause is a piece of its own). The twin is a dictionary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
EMPTY = -1
HASH_START, HASH_FACTOR = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a, 64 bits


class PieceCounter:
    """Counts different pieces of bytes; grows with the number of different ones."""

    def __init__(self) -> None:
        self.bytes: Bytes = np.empty(1 << 16, np.uint8)
        self.starts: Numbers = np.zeros((1 << 12) + 1, np.int64)
        self.counts: Numbers = np.zeros(1 << 12, np.int64)
        self._hashes: NDArray[np.uint64] = np.zeros(1 << 12, np.uint64)
        self._table: NDArray[np.int32] = np.full(1 << 13, EMPTY, np.int32)
        self.size = 0  # different pieces

    def add(self, data: Bytes, bounds: Numbers, wanted: NDArray[np.bool_] | None = None) -> None:
        """Count the pieces data[bounds[p] : bounds[p + 1]]; of them only those `wanted`, if that is given."""
        taken = np.ones(len(bounds) - 1, np.bool_) if wanted is None else wanted
        at = 0
        while at < len(bounds) - 1:
            arrays = (self.bytes, self.starts, self.counts, self._hashes, self._table)
            at, self.size = _count_pieces(data, bounds, taken, at, self.size, *arrays)
            if at == len(bounds) - 1:
                break
            if self.size == len(self.counts):
                self.starts = grown(self.starts, 2 * self.size + 1)
                self.counts = grown(self.counts, 2 * self.size)
                self._hashes = grown(self._hashes, 2 * self.size)
                self._table = np.full(4 * self.size, EMPTY, np.int32)
                _fill_table(self._hashes[: self.size], self._table)
            needed = int(self.starts[self.size] + bounds[at + 1] - bounds[at])
            if needed > len(self.bytes):
                self.bytes = grown(self.bytes, max(needed, len(self.bytes) * 3 // 2))

    def clear(self) -> None:
        """Forget everything, and let the memory go."""
        self.__dict__.update(PieceCounter().__dict__)

    def items(self) -> dict[bytes, int]:
        """All pieces and their counts; for tests and small texts."""
        raw, starts = self.bytes.tobytes(), self.starts.tolist()
        return {raw[starts[n] : starts[n + 1]]: int(self.counts[n]) for n in range(self.size)}


def grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """A longer copy, zero behind what there was."""
    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer


@kernel
def _hash(data, begin, end):  # type: ignore[no-untyped-def]
    code, factor = np.uint64(HASH_START), np.uint64(HASH_FACTOR)
    for at in range(begin, end):
        code = (code ^ np.uint64(data[at])) * factor
    return code


@kernel
def _count_pieces(data, bounds, taken, at, size, held, starts, counts, hashes, table):  # type: ignore[no-untyped-def]
    """Count until a piece does not fit; that piece, and how many different ones there are."""
    mask = np.uint64(len(table) - 1)
    while at < len(bounds) - 1:
        begin, end = bounds[at], bounds[at + 1]
        if not taken[at]:
            at += 1
            continue
        code = _hash(data, begin, end)
        place = (code ^ code >> np.uint64(32)) & mask
        while table[place] != EMPTY:
            piece = table[place]
            if hashes[piece] == code and starts[piece + 1] - starts[piece] == end - begin:
                same, other = True, starts[piece]
                for step in range(end - begin):
                    if held[other + step] != data[begin + step]:
                        same = False
                        break
                if same:
                    break
            place = (place + np.uint64(1)) & mask
        piece = table[place]
        if piece == EMPTY:
            if size == len(counts) or starts[size] + end - begin > len(held):
                break
            held[starts[size] : starts[size] + end - begin] = data[begin:end]
            starts[size + 1] = starts[size] + end - begin
            hashes[size] = code
            counts[size] = 0
            table[place] = piece = size
            size += 1
        counts[piece] += 1
        at += 1
    return at, size


@kernel
def _fill_table(hashes, table):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for piece in range(len(hashes)):
        place = (hashes[piece] ^ hashes[piece] >> np.uint64(32)) & mask
        while table[place] != EMPTY:
            place = (place + np.uint64(1)) & mask
        table[place] = piece
