"""The lookup of the trie: against a dictionary."""

from __future__ import annotations

import random

import numpy as np

from jielong.tokenizer.encoding.piece_trie import NOTHING, Table, child


def test_same_as_a_dictionary() -> None:
    source = random.Random(3)
    edges = {(source.randrange(1000), source.randrange(0x110000)): number for number in range(5000)}
    rows = np.array([(*edge, node) for edge, node in edges.items()], np.int32)
    table = Table(len(rows))
    table.add(*(np.ascontiguousarray(rows[:, column]) for column in range(3)))
    for (node, char), want in edges.items():
        assert child(table.keys, table.nodes, node, char) == want
    for _ in range(2000):
        edge = (source.randrange(1000), source.randrange(0x110000))
        assert child(table.keys, table.nodes, *edge) == edges.get(edge, NOTHING)


def test_empty() -> None:
    assert child(Table(0).keys, Table(0).nodes, 0, 0) == NOTHING
