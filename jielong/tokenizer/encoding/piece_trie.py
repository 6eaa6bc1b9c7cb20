"""A trie over characters in one open hash table: which pieces begin at a place of a text.

A node is a string of characters; its child by a character is looked up under (node, character). Nodes 0 to C - 1 are the C
characters that occur in any piece, in the order of their dense numbers, so the first step is no lookup at all. The table is at
most half full, 12 bytes an entry: the trie of a vocabulary of 65,536 takes about 4 MB, and a text of ordinary Chinese stays
within the part that a second-level cache holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel

FACTOR = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
CHAR_BITS = 21  # of a key: a code point, or its dense number
NOTHING = -1

Ints = NDArray[np.int32]


class Table:
    """(node, character) -> node."""

    def __init__(self, edges: int) -> None:
        """`edges`: how many are put in at most."""
        size = 1 << max(4, int(2 * edges).bit_length())
        self.keys, self.nodes = np.zeros(size, np.uint64), np.full(size, NOTHING, np.int32)

    def add(self, parents: Ints, chars: Ints, nodes: Ints) -> None:
        """Put edges in; none of them may be there already."""
        _add(self.keys, self.nodes, parents, chars, nodes)


@kernel
def key_of(node, char):  # type: ignore[no-untyped-def]
    """The key of an edge, above 0."""
    return ((np.uint64(node) << np.uint64(CHAR_BITS)) | np.uint64(char)) + np.uint64(1)


@kernel
def _add(keys, nodes, parents, chars, children):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    for edge in range(len(parents)):
        key = key_of(parents[edge], chars[edge])
        place = (key * np.uint64(FACTOR)) >> np.uint64(24) & mask
        while keys[place] != 0:
            place = (place + np.uint64(1)) & mask
        keys[place], nodes[place] = key, children[edge]


@kernel
def child(keys, nodes, node, char):  # type: ignore[no-untyped-def]
    """The node of a longer string, NOTHING if there is none."""
    key = key_of(node, char)
    mask = np.uint64(len(keys) - 1)
    place = (key * np.uint64(FACTOR)) >> np.uint64(24) & mask
    while keys[place] != key and keys[place] != 0:
        place = (place + np.uint64(1)) & mask
    return nodes[place]
