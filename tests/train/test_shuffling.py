"""The shuffle is a permutation, even where it is small, and the compiled one is the plain one."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.train.shuffling import WORD, mix, mixed, shuffle, shuffled


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_shuffle_is_a_permutation(size: int) -> None:
    order = [shuffled(n, size, seed=1, epoch=0) for n in range(size)]
    assert sorted(order) == list(range(size))
    if size >= 16:
        assert order != [shuffled(n, size, seed=1, epoch=1) for n in range(size)]
        assert order != [shuffled(n, size, seed=2, epoch=0) for n in range(size)]


def test_shuffle_looks_random() -> None:
    """Neighbours do not stay neighbours, and the order is not correlated with the old one (|r| < 4/sqrt(n))."""
    order = np.array([shuffle(n, 4000, np.uint64(7), 3) for n in range(4000)])
    assert abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 4 / np.sqrt(4000)
    assert (np.abs(np.diff(order)) == 1).mean() < 0.01


@pytest.mark.parametrize("of", ["seeds", "epochs"])
def test_small_sizes_are_even(of: str) -> None:
    """All 120 orders of 5 documents come up about equally often: chi-squared of 119 degrees of freedom, 5 sigma."""
    draws, found = 12_000, Counter[tuple[int, ...]]()
    for n in range(draws):
        seed, epoch = (n, 0) if of == "seeds" else (1, n)
        found[tuple(shuffle(place, 5, np.uint64(seed), epoch) for place in range(5))] += 1
    expected = draws / 120
    chi_squared = sum((found[order] - expected) ** 2 / expected for order in permutations(range(5)))
    assert sum(found.values()) == draws and chi_squared < 119 + 5 * (2 * 119) ** 0.5


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 1 << 40), st.data(), st.integers(0, WORD), st.integers(0, 1 << 40))
def test_compiled_is_plain(size: int, data: st.DataObject, seed: int, epoch: int) -> None:
    number = data.draw(st.integers(0, size - 1))
    assert shuffle(number, size, np.uint64(seed), epoch) == shuffled(number, size, seed, epoch) < size


@given(st.integers(0, WORD))
def test_mixers_agree(x: int) -> None:
    assert int(mix(np.uint64(x))) == mixed(x)


def test_the_mixer_is_splitmix64() -> None:
    """The first number of SplitMix64 seeded with 0, as its reference implementation gives it."""
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_a_seed_of_any_size_is_its_lowest_64_bits() -> None:
    assert [shuffled(n, 50, -1, 0) for n in range(50)] == [shuffled(n, 50, WORD, 0) for n in range(50)]
