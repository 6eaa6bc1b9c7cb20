from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from jielong.data.cleaning.scan import encode
from jielong.data.deduplicating import near
from jielong.data.deduplicating.fingerprints import normalise, normalise_plain, signatures


def test_the_s_curve_by_hand() -> None:
    """16 bands of 8: a pair of 0.8 meets with 1 - (1 - 0.8^8)^16 = 1 - (1 - 0.16777)^16 = 0.9470."""
    assert near.meeting(0.8, 16, 8) == pytest.approx(0.9470, abs=1e-4)
    assert near.meeting(1.0, 3, 5) == 1 and near.meeting(0.0, 3, 5) == 0


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.85, 0.9, 0.95])
def test_the_layout_finds_the_target_and_leaves_the_rest(similarity: float) -> None:
    plan = near.layout(similarity, 128)
    assert plan.bands * plan.rows <= 128
    assert near.meeting(similarity, plan.bands, plan.rows) >= near.MEET
    curve = dict(near.curve(plan))
    assert curve[round(similarity, 2)] >= 0.95 and curve[1.0] == pytest.approx(1)
    assert curve[round(similarity - 0.3, 2)] < 0.001
    values = list(curve.values())
    assert values == sorted(values)


def noisy(text: str, share: float, random: np.random.Generator) -> str:
    chars = list(text)
    for place in random.choice(len(chars), round(len(chars) * share), replace=False):
        chars[place] = chr(0x4E00 + int(random.integers(8000)))
    return "".join(chars)


def jaccard(first: str, second: str, n: int) -> float:
    left, right = (
        {tuple(codes[i : i + n]) for i in range(len(codes) - n + 1)} for codes in map(normalise_plain, (first, second))
    )
    return len(left & right) / len(left | right)


def rows_of(values: NDArray[np.uint64] | NDArray[np.uint8]) -> Callable[..., NDArray[np.uint64]]:
    def rows(numbers: NDArray[np.int64], column: int | None = None) -> NDArray[np.uint64]:
        return values[numbers] if column is None else values[numbers, column]  # type: ignore[return-value]

    return rows


def decide(texts: list[str], similarity: float, rank: NDArray[np.uint64]) -> dict[int, tuple[int, int]]:
    plan = near.layout(similarity, 128)
    lows, bands = signatures(*normalise(*encode(texts)), 5, 128, plan.bands, plan.rows)
    alive = np.ones(len(texts), np.bool_)
    return near.decide(rows_of(bands), rows_of(lows), rank, alive, plan)


def corpus(seed: int) -> tuple[list[str], int]:
    """300 random texts, each with one noisy copy behind all of them."""
    random = np.random.default_rng(seed)
    originals = [
        "".join(chr(0x4E00 + int(c)) for c in random.integers(0, 8000, int(random.integers(200, 900))))
        for _ in range(300)
    ]
    return originals + [noisy(text, random.uniform(0.002, 0.06), random) for text in originals], len(originals)


def test_recall_and_precision_on_random_text() -> None:
    texts, half = corpus(2)
    rank = np.arange(len(texts), dtype=np.uint64)
    gone = decide(texts, 0.85, rank)
    similar = [jaccard(texts[n], texts[n + half], 5) for n in range(half)]
    sure = [n for n, value in enumerate(similar) if value >= 0.85]
    found = [n for n in sure if n + half in gone]
    assert len(sure) > 60 and len(found) / len(sure) >= 0.95
    assert all(leader == document - half for document, (leader, _) in gone.items())
    assert all(similar[document - half] > 0.7 for document in gone)
    for document, (_, same) in gone.items():
        assert abs(near.estimate(same, 128) - similar[document - half]) < 0.2


def test_the_survivors_do_not_depend_on_the_order() -> None:
    texts, _ = corpus(3)
    random = np.random.default_rng(4)
    rank = random.permutation(len(texts)).astype(np.uint64)
    first = {texts[n] for n in decide(texts, 0.8, rank)}
    order = random.permutation(len(texts))
    shuffled = [texts[n] for n in order]
    second = {shuffled[n] for n in decide(shuffled, 0.8, rank[order])}
    assert first == second and len(first) > 100


def test_a_chain_does_not_collapse() -> None:
    """a is like b and b like c, but a is not like c: with the ranks a, b, c only b leaves, because b is like a, which stays."""
    pairs = np.array([[1, 0, 120], [2, 1, 120]], np.int64)
    assert near.resolve(pairs, np.arange(3, dtype=np.uint64)) == {1: (0, 120)}
    assert near.resolve(pairs[:0], np.arange(3, dtype=np.uint64)) == {}


def test_a_crowd_of_copies_costs_one_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near, "SLICE", 7)  # the crowd goes on from slice to slice
    monkeypatch.setattr(near, "PART_DOCUMENTS", 11)
    texts = ["今天的天气很好，我们一起去公园里散步，看见了许多花。" * 3] * 50 + [
        "完全不同的另一段文字，讲的是经济和贸易的问题。" * 3
    ]
    gone = decide(texts, 0.8, np.arange(len(texts), dtype=np.uint64)[::-1].copy())
    assert sorted(gone) == list(range(49)) and {leader for leader, _ in gone.values()} == {49}


def families(seed: int) -> list[str]:
    """Texts that are like a leader, which itself is like a longer one that they are not like: the leader leaves."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(12):
        leader = "".join(chr(0x4E00 + int(c)) for c in random.integers(0, 8000, 600))
        texts += [leader + "".join(chr(0x4E00 + int(c)) for c in random.integers(0, 8000, 110)), leader]
        texts += [noisy(leader[:590], 0.02, random) for _ in range(6)]
    return texts


@pytest.mark.parametrize("texts", [corpus(5)[0], families(6)], ids=["pairs", "families"])
def test_groups_against_all_pairs(texts: list[str]) -> None:
    """Of every pair of documents that meets and agrees enough, one leaves; who leaves is like one that stays."""
    rank = np.arange(len(texts), dtype=np.uint64)
    plan = near.layout(0.8, 128)
    lows, bands = signatures(*normalise(*encode(texts)), 5, 128, plan.bands, plan.rows)
    gone = decide(texts, 0.8, rank)
    for first, second in combinations(range(len(texts)), 2):
        if (bands[first] == bands[second]).any() and (lows[first] == lows[second]).sum() >= plan.least_agreeing:
            assert first in gone or second in gone
    assert all(leader not in gone for leader, _ in gone.values())


@pytest.mark.parametrize("spread", [40, 1 << 63])
def test_keys_that_are_shared_are_found(spread: int) -> None:
    """The sieve loses no key, whether keys are well mixed or not."""
    random = np.random.default_rng(3)
    keys = random.integers(0, spread, 500, np.uint64)
    keys[random.integers(0, 500, 60)] = keys[random.integers(0, 500, 60)]
    values, rank = np.arange(500) * 2, random.permutation(1000).astype(np.uint64)
    expected = []
    for key in sorted(set(keys.tolist())):
        held = [value for value, of in zip(values.tolist(), keys.tolist(), strict=True) if of == key]
        expected += [sorted(held, key=lambda value: int(rank[value]))] if len(held) > 1 else []
    members, groups = near._groups(keys, values, rank)
    assert members.tolist() == [value for held in expected for value in held]
    assert groups.tolist() == [number for number, held in enumerate(expected) for _ in held]
    assert all(len(found) == 0 for found in near._groups(keys[:0], values[:0], rank))
