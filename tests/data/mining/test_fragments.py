"""Fragments: where they begin and end, what is known of their surroundings, whatever the order of the documents."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from jielong.data.mining.fragments import Fragment, find_fragments, variety
from jielong.data.mining.grams import gram_hashes
from tests.data.mining.test_counting import chunks_of, letters

N = 8


def find(texts: list[str], least: int = 10, size: int = 1000) -> list[Fragment]:
    chunks = chunks_of(texts, size)
    keys = [gram_hashes(chunk.data, chunk.offsets, N)[0] for chunk in chunks]
    values, counts = np.unique(np.concatenate(keys), return_counts=True)
    return find_fragments(chunks, values[counts >= least], N, least)


def test_edges_are_those_of_the_text_even_where_the_next_letter_is_often_the_same() -> None:
    shared = letters(30, 1)
    texts = [
        letters(20, 50 + row) + shared + ("的" if row % 3 == 0 else "") + letters(20, 500 + row) for row in range(90)
    ]
    (fragment,) = find(texts)
    assert fragment.example == shared and fragment.documents == fragment.occurrences == 90
    assert (
        fragment.glued == 1 and fragment.before > 0.8 and fragment.behind > 0.8 and fragment.head == fragment.tail == 0
    )


def test_two_that_often_stand_side_by_side_are_two() -> None:
    first, second = letters(30, 1), letters(30, 2)
    texts = [
        letters(20, 50 + row) + (first, second, first + second)[row % 3] + letters(20, 500 + row) for row in range(90)
    ]
    texts += [letters(20, 2000 + row) + (first, second)[row % 2] + letters(20, 3000 + row) for row in range(120)]
    assert {fragment.example for fragment in find(texts)} == {first, second}


def test_places_and_numbers() -> None:
    shared = letters(10, 1) + "{}" + letters(10, 2)
    texts = [
        shared.format(10000 + row) + "\n" + letters(30, 50 + row) + "\n" + shared.format(10000 + row)
        for row in range(40)
    ]
    (fragment,) = find(texts)
    assert fragment.documents == 40 and fragment.occurrences == 80
    assert fragment.head == fragment.tail == 0.5 and fragment.own_line == 1
    assert fragment.numbered == 1 and fragment.numbers > 0.5 and len(fragment.contexts) == 3


def test_neighbours_of_one_line() -> None:
    first, second = letters(20, 1), letters(20, 2)
    apart = [letters(20, 50 + row) + first + "张王李赵"[row % 4] * (row % 7 + 1) + second for row in range(60)]
    found = {fragment.example: fragment for fragment in find(apart + [first + "\n" + second] * 0, 12)}
    assert found[first].neighbours[0][1:] == (1, 1.0) and found[second].neighbours[0][1:] == (-1, 1.0)
    lines = [text.replace(second, "\n" + second) for text in apart]
    assert all(not fragment.neighbours for fragment in find(lines, 12))


def test_the_order_of_the_documents_does_not_matter() -> None:
    source = random.Random(3)
    shared = [letters(25, seed) for seed in range(5)]
    texts = [letters(20, 50 + row) + "，" + source.choice(shared) + "。" + letters(20, 500 + row) for row in range(150)]
    once = find(texts)
    source.shuffle(texts)
    again = find(texts, size=11)
    assert len(once) == len(again) == 5
    for one, other in zip(once, again, strict=True):
        assert (
            (one.grams == other.grams).all() and (one.counts == other.counts).all() and (one.wide == other.wide).all()
        )
        empty = {"grams": one.grams, "counts": one.counts, "wide": one.wide}
        assert repr(replace(one, **empty)) == repr(replace(other, **empty))


def test_nothing() -> None:
    assert find(["一些文字，没有重复。", ""]) == []


def test_variety_by_hand() -> None:
    """64 bits: one of ten things is 0, ten different ones that fell on nine places are about 1."""
    assert variety(1, 10) == 0 and variety(0, 0) == 0 and variety(1, 1) == 0
    assert variety((1 << 9) - 1, 10) == pytest.approx(8 / (64 * (1 - (63 / 64) ** 10) - 1))
