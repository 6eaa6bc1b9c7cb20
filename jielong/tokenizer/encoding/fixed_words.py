"""Find the words of a tokenizer that are tokens wherever they stand in a text: "added tokens", user words kept whole.

The library looks for them before anything else: at the first place where one of them stands, the longest that stands there,
and goes on behind it. Special tokens take part in the search even where their spelling is ordinary text for us
(`encode_special_tokens`): what they cover is not searched again. Tokens with `normalized` are looked for in a second pass,
in what the first left over.

A trie over bytes, in one open hash table (node and byte -> node), and a table of first bytes, so text without such words
costs one look a byte: about 1 GB/s. The twin is the library itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
NODE_FACTOR = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
NOTHING, AS_TEXT = -1, -2  # of a node: no word ends here; a word ends here that is ordinary text
ORDINARY = -1  # of a segment


class FixedWords:
    """Words and their ids; None as id: the word is found, but stays text."""

    def __init__(self, words: Iterable[tuple[bytes, int | None]]) -> None:
        nodes: dict[int, int] = {}
        ends = [NOTHING]
        self._first = np.zeros(256, np.bool_)
        for word, number in words:
            assert word, "an empty word stands everywhere"
            self._first[word[0]] = True
            node = 0
            for byte in word:
                node = nodes.setdefault(node << 8 | byte, len(ends))
                if node == len(ends):
                    ends.append(NOTHING)
            ends[node] = AS_TEXT if number is None else number
        self._ends = np.array(ends, np.int64)
        size = 2
        while size < 2 * len(nodes):
            size *= 2
        self._keys, self._nodes = np.full(size, NOTHING, np.int64), np.zeros(size, np.int64)
        _fill(np.array(list(nodes.items()), np.int64).reshape(-1, 2), self._keys, self._nodes)

    def cut(self, data: Bytes, bounds: Offsets, fixed: NDArray[np.int64]) -> tuple[Offsets, Offsets, NDArray[np.int64]]:
        """Cut segments end to end, of which those with an id (not ORDINARY) stay as they are. Returns the new bounds, where
        the segments of each old one begin among the new ones, and the id of each new one."""
        arrays = (self._first, self._ends, self._keys, self._nodes)
        count = _cut(data, bounds, fixed, *arrays, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64))
        cuts, first, ids = np.empty(count + 1, np.int64), np.empty(len(bounds), np.int64), np.empty(count, np.int64)
        _cut(data, bounds, fixed, *arrays, cuts, first, ids)
        return cuts, first, ids


@kernel
def _place_of(keys, key):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    place = (np.uint64(key) * np.uint64(NODE_FACTOR)) >> np.uint64(32) & mask
    while keys[place] != key and keys[place] != NOTHING:
        place = (place + np.uint64(1)) & mask
    return place


@kernel
def _fill(edges, keys, nodes):  # type: ignore[no-untyped-def]
    for edge in range(len(edges)):
        place = _place_of(keys, edges[edge, 0])
        keys[place], nodes[place] = edges[edge, 0], edges[edge, 1]


@kernel
def _longest(data, at, end, ends, keys, nodes):  # type: ignore[no-untyped-def]
    """Where the longest word ends that begins at a place, and what it is; NOTHING if there is none."""
    node, found, stop = np.int64(0), np.int64(NOTHING), at
    while at < end:
        key = node << 8 | np.int64(data[at])
        place = _place_of(keys, key)
        if keys[place] != key:
            break
        node = nodes[place]
        at += 1
        if ends[node] != NOTHING:
            found, stop = ends[node], at
    return stop, found


@kernel
def _cut(data, bounds, fixed, starts, ends, keys, nodes, cuts, first, ids):  # type: ignore[no-untyped-def]
    """The number of segments, which are written where there is room for them."""
    count, write = 0, len(cuts) > 0
    if write:
        cuts[0] = bounds[0]
        first[0] = 0
    for segment in range(len(bounds) - 1):
        at = begin = bounds[segment]
        end = bounds[segment + 1]
        if fixed[segment] != ORDINARY:
            if write:
                cuts[count + 1], ids[count] = end, fixed[segment]
            count += 1
            begin = at = end
        while at < end:
            if not starts[data[at]]:
                at += 1
                continue
            stop, found = _longest(data, at, end, ends, keys, nodes)
            if found == NOTHING:
                at += 1
                continue
            if found != AS_TEXT:
                if at > begin:
                    if write:
                        cuts[count + 1], ids[count] = at, ORDINARY
                    count += 1
                if write:
                    cuts[count + 1], ids[count] = stop, found
                count += 1
                begin = stop
            at = stop
        if end > begin:
            if write:
                cuts[count + 1], ids[count] = end, ORDINARY
            count += 1
        if write:
            first[segment + 1] = count
    return count
