"""Documents of each n-gram near a frequent key: exact, in one pass or many."""

from __future__ import annotations

import random

import numpy as np

from jielong.data.cleaning.scan import encode
from jielong.data.mining.counting import Chunk, Places, common_grams, common_plain, look
from jielong.data.mining.grams import fold_plain, gram_hashes, hashes_plain

N = 6


def chunks_of(texts: list[str], size: int) -> list[Chunk]:
    parts = [texts[at : at + size] for at in range(0, len(texts), size)]
    return [Chunk(*encode(part), np.zeros(len(part), np.int64)) for part in parts]


def letters(count: int, seed: int) -> str:
    source = random.Random(seed)
    return "".join(chr(0x4E00 + source.randrange(400)) for _ in range(count))


def some_texts() -> list[str]:
    shared = [letters(40, seed) for seed in range(8)]
    source = random.Random(5)
    return [letters(30, 100 + row) + source.choice(shared) + letters(30, 900 + row) for row in range(120)]


def frequent_of(texts: list[str], least: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    values, counts = np.unique(gram_hashes(*encode(texts), N)[0], return_counts=True)
    return values[counts >= least]


def test_counts_are_the_plain_ones_for_any_memory_and_order() -> None:
    texts = some_texts()
    frequent = frequent_of(texts, 5)
    expected = common_plain([[x[0] for x in fold_plain(text)] for text in texts], N, 5)
    for slots, size, order in ((1 << 26, 50, 1), (1 << 11, 3, 1), (1 << 10, 1, -1)):
        hashes, counts = common_grams(chunks_of(texts[::order], size), frequent, N, 5, slots)
        assert dict(zip(hashes.tolist(), counts.tolist(), strict=True)) == expected
        assert (hashes[1:] > hashes[:-1]).all()


def test_only_what_is_near_a_key_is_looked_at() -> None:
    common = letters(30, 1)
    text = letters(300, 2) + common + letters(300, 3)
    frequent = frequent_of([common], 1)
    seen = look(chunks_of([text, letters(100, 4)], 2)[0], Places(frequent), N)
    grams = hashes_plain([x[0] for x in fold_plain(text)], N)
    assert seen.grams[: len(grams)].tolist() == grams
    places = np.flatnonzero(seen.near)
    assert set(range(300, 300 + 30 - N + 1)) <= set(places.tolist())
    assert places.min() + 8 >= 300 - 4 * N and places.max() <= 330 + 4 * N


def test_nothing_frequent() -> None:
    hashes, counts = common_grams(chunks_of(["甲乙丙丁戊己庚"], 1), np.zeros(0, np.uint64), N, 1)
    assert len(hashes) == len(counts) == 0
