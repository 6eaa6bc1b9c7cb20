"""Counting different pieces: the same as a dictionary, in the order of first occurrence."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.tokenizer.training.piece_counts import PieceCounter


def counted(batches: list[list[bytes]]) -> PieceCounter:
    counter = PieceCounter()
    for batch in batches:
        bounds = np.cumsum([0, *map(len, batch)], dtype=np.int64)
        counter.add(np.frombuffer(b"".join(batch), np.uint8), bounds)
    return counter


def plain(batches: list[list[bytes]]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for batch in batches:
        for piece in batch:
            found[piece] = found.get(piece, 0) + 1
    return found


@given(st.lists(st.lists(st.binary(max_size=5), max_size=30), max_size=4))
@settings(max_examples=200, deadline=None)
def test_as_a_dictionary(batches: list[list[bytes]]) -> None:
    assert list(counted(batches).items().items()) == list(plain(batches).items())


def test_everything_grows() -> None:
    batches = [
        [f"{n % 9973}".encode() * (1 + n % 3) for n in range(start, start + 7000)] for start in (0, 5000, 14_000)
    ]
    batches.append([b"x" * 1_000_000, b"y" * 3_000_000, b"x" * 1_000_000])
    counter = counted(batches)
    assert counter.items() == plain(batches)
    counter.clear()
    assert counter.size == 0 and counter.items() == {}


def test_only_wanted_pieces() -> None:
    counter = PieceCounter()
    counter.add(np.frombuffer(b"abab", np.uint8), np.arange(5), np.array([True, False, True, False]))
    assert counter.items() == {b"a": 2}
