"""The compiled steps, each beside a dictionary, a sorted list or a loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.tokenizer.training import merge_steps as steps


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_the_table_is_a_dictionary(pairs: list[tuple[int, int]]) -> None:
    keys, counts = np.full(64, steps.EMPTY, np.int64), np.zeros(64, np.int64)
    plain: dict[int, int] = {}
    for key, count in pairs:
        assert steps.put(keys, counts, key << 32 | 1, count) == (key not in plain)
        plain[key] = count
    assert all(steps.get(keys, counts, key << 32 | 1) == plain.get(key, -1) for key in range(42))
    more_keys, more_counts = np.full(128, steps.EMPTY, np.int64), np.zeros(128, np.int64)
    kept = {key: count for key, count in plain.items() if count >= 5}
    assert steps.move_pairs(keys, counts, more_keys, more_counts, 5) == len(kept)
    assert all(steps.get(more_keys, more_counts, key << 32 | 1) == kept.get(key, -1) for key in range(42))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 20)), max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_heap_gives_the_largest_count_and_then_the_smallest_key(entries: list[tuple[int, int]]) -> None:
    heap, size = np.zeros((4, 64), np.int64), 0
    for count, key in entries:
        size = steps.push_entry(heap, size, count, key, 0, 0)
    found = []
    while size:
        found.append((int(heap[0, 0]), int(heap[1, 0])))
        size = steps.pop(heap, size)
    assert found == sorted(entries, key=lambda entry: (-entry[0], entry[1]))


def filled(entries: list[tuple[int, int, int, int]]) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], int]:
    heap, size = np.zeros((4, 16), np.int64), 0
    for entry in entries:
        size = steps.push_entry(heap, size, *entry)
    return heap, size


def test_counts_that_fell_are_put_back_or_leave() -> None:
    keys, counts = np.full(16, steps.EMPTY, np.int64), np.zeros(16, np.int64)
    for key, count in ((1, 3), (2, 7), (3, 1)):
        steps.put(keys, counts, key, count)
    heap, size = filled([(9, 1, 0, 0), (8, 2, 0, 0), (10, 3, 0, 0), (10, 4, 0, 0)])
    size = steps.settle(heap, size, keys, counts, 2)
    assert (size, heap[:2, 0].tolist()) == (2, [7, 2])  # 3 is too rare, 4 is not in the table, 1 went down
    heap, size = filled([(9, 1, 0, 0), (8, 2, 0, 0), (10, 3, 0, 0)])
    size = steps.keep_alive(heap, size, keys, counts, 2)
    assert (size, heap[:2, :2].T.tolist()) == (2, [[7, 2], [3, 1]])


def test_gaps_between_lists_are_closed() -> None:
    heap, size = filled([(3, 1, 4, 6), (2, 2, 1, 3)])
    lists = np.array([0, 11, 12, 0, 21, 22, 0], np.int32)
    assert steps.close_gaps(heap, np.argsort(heap[2, :size]), lists) == 4
    assert lists[:4].tolist() == [11, 12, 21, 22]
    assert heap[1:, :size].T.tolist() == [[1, 2, 4], [2, 0, 2]]


def test_pairs_of_bytes() -> None:
    raw = np.frombuffer(b"aaab" + b"ab", np.uint8)
    starts, weights = np.array([0, 4, 6]), np.array([2, 5])
    counts, listed = steps.count_byte_pairs(raw, starts, weights)
    a, ab = ord("a") << 8 | ord("a"), ord("a") << 8 | ord("b")
    assert (counts[a], listed[a], counts[ab], listed[ab], counts.sum()) == (4, 1, 7, 2, 11)
    places = np.full(steps.BYTE_PAIRS, steps.EMPTY, np.int64)
    places[ab] = 1
    lists = np.full(4, 9, np.int32)
    steps.list_byte_pairs(raw, starts, places, lists)
    assert lists.tolist() == [9, 0, 1, 9]


def test_what_a_merge_finds_beside_it() -> None:
    """x a b a b y: left neighbours x and the first new token, right neighbours a and y."""
    symbols = np.array([5, 1, 2, 1, 2, 6], np.uint16)
    lengths = np.array([6], np.int32)
    beside, pieces = np.zeros((2, 9), np.int64), np.zeros((2, 9), np.int32)
    last, touched, noted = np.full((2, 9), -1, np.int32), np.zeros((2, 9), np.int32), np.zeros((2, 9), np.int32)
    sums = (beside, pieces, last, touched, noted)
    starts, weights = np.array([0, 6]), np.array([3])
    assert steps.merge_pieces(symbols, starts, lengths, weights, np.array([0], np.int32), 1, 2, 7, *sums) == (2, 2, 4)
    assert symbols[: lengths[0]].tolist() == [5, 7, 7, 6]
    assert beside[0].tolist() == [0, 0, 0, 0, 0, 3, 0, 3, 0] and beside[1].tolist() == [0, 3, 0, 0, 0, 0, 3, 0, 0]
    assert noted[:, :4].T.tolist() == [[5, 0], [~1, 0], [7, 0], [~6, 0]]
