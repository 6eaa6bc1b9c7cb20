"""Near-duplicates: from a target similarity to bands and rows, and from bands to the documents that leave.

Two documents of Jaccard similarity s agree in a hash function with probability s, in a band of r functions with s^r, and in
at least one of b bands with 1 - (1 - s^r)^b: the S-curve (Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, 3.4).
`layout` takes the longest band for which a pair of the target similarity still meets with probability MEET. A pair that
meets is then checked: the share of all functions that agree must be at least `verify_at`, which is the target less
SLACK standard deviations of that estimate. So a pair at the target is found with probability of about MEET x 0.98, and what met by
accident is told apart. `curve` multiplies the two, and the report draws it.

Who leaves: documents are ranked (longer first, then by a hash of the text and its place, so not by the order of reading).
In the order of rank, a document leaves if it is similar to one that stays. So every document that leaves has
one that stays and is like it, and a chain of versions, each like the next, does not collapse into one as connected components
would. Among the documents that meet in a band only the pairs with a *leader* are checked: the best-ranked one and, in
turn, the best-ranked that resembles no leader before it, at most LEADERS. The pairs checked grow with the
documents, not with their square; what stays is searched again until nothing more leaves. All of this depends on the set of documents alone: not on their order, the chunks or the
number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import comb, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel

MEET = 0.99
SLACK = 2.2
LEADERS = 16
CHANCE = 1 / 256  # two bytes of different hashes agree by accident
PART_DOCUMENTS = 4_000_000  # of a band are sorted at a time: 64 MB
SIEVE_PLACES = 4  # bytes for each document of a band, at least
SLICE = 1 << 15  # documents checked at a time

Pairs = NDArray[np.int64]  # [pairs, 3]: document, leader, functions that agree


@dataclass(frozen=True)
class Layout:
    """How a signature is cut and what a pair must reach. `verify_at` is a share of functions."""

    similarity: float
    permutations: int
    bands: int
    rows: int
    verify_at: float

    @property
    def least_agreeing(self) -> int:
        """Bytes of two signatures that must agree: those of `verify_at`, and what agrees by accident."""
        return int(np.ceil(self.permutations * (self.verify_at + (1 - self.verify_at) * CHANCE) - 1e-9))


def layout(similarity: float, permutations: int) -> Layout:
    """Bands and rows for a target similarity: the longest bands for which a pair at the target meets with MEET."""
    rows = 1
    for candidate in range(1, permutations + 1):
        if meeting(similarity, permutations // candidate, candidate) >= MEET:
            rows = candidate
    slack = SLACK * sqrt(similarity * (1 - similarity) / permutations)
    return Layout(similarity, permutations, permutations // rows, rows, similarity - slack)


def meeting(similarity: float, bands: int, rows: int) -> float:
    """Probability that two documents of this similarity share a band."""
    return float(1 - (1 - similarity**rows) ** bands)


def agreeing(similarity: float, permutations: int, least: int) -> float:
    """Probability that at least `least` bytes of two signatures agree (binomial)."""
    p = similarity + (1 - similarity) * CHANCE
    return float(
        sum(comb(permutations, k) * p**k * (1 - p) ** (permutations - k) for k in range(least, permutations + 1))
    )


def curve(plan: Layout, points: int = 101) -> list[tuple[float, float]]:
    """Similarity and the probability that a pair of it is found. The two conditions are taken as independent."""
    rows = []
    for n in range(points):
        s = n / (points - 1)
        found = meeting(s, plan.bands, plan.rows) * agreeing(s, plan.permutations, plan.least_agreeing)
        rows.append((round(s, 4), round(found, 6)))
    return rows


# ------------------------------------------------------------------------------------------------------ deciding


Rows = Callable[..., NDArray[Any]]  # of document numbers (and a band)


def decide(
    bands: Rows, signatures: Rows, rank: NDArray[np.uint64], alive: NDArray[np.bool_], plan: Layout
) -> dict[int, tuple[int, int]]:
    """Document that leaves -> (document that stays and is like it, bytes that agree).

    Two that were compared with a common leader only must be compared with each other when the leader leaves. So the
    documents that stay are searched again, until no two of them that meet are alike; there is rarely a third search.
    """
    pairs: Pairs = np.empty((0, 3), np.int64)
    gone: dict[int, tuple[int, int]] = {}
    while True:
        stay = alive.copy()
        stay[list(gone)] = False
        found = similar_pairs(bands, signatures, rank, stay, plan)
        if not len(found):
            return gone
        pairs = _once([pairs, found])
        gone = resolve(pairs, rank)
        left = np.zeros(len(alive), np.bool_)
        left[list(gone)] = True
        if not (left[pairs[:, 1]] & ~left[pairs[:, 0]]).any():  # nobody stays whose leader left: nothing was hidden
            return gone


def similar_pairs(
    bands: Rows, signatures: Rows, rank: NDArray[np.uint64], alive: NDArray[np.bool_], plan: Layout
) -> Pairs:
    """The checked pairs (document, leader of better rank, bytes that agree), each once, in order.

    bands: gives, for document numbers and a band, the hashes. signatures: for document numbers, [documents, permutations].
    rank: smaller is better. alive: documents that take part.
    """
    numbers = np.flatnonzero(alive)
    assert len(alive) < 1 << 31
    pairs: Pairs = np.empty((0, 3), np.int64)
    parts = max(1, -(-len(numbers) // PART_DOCUMENTS))
    for band in range(plan.bands):
        hashes = bands(numbers, band)
        for part in range(parts):
            here = slice(None) if parts == 1 else hashes % np.uint64(parts) == part
            members, groups = _groups(hashes[here], numbers[here], rank)
            pairs = _once([pairs, *_check_groups(members, groups, signatures, plan)])
    return pairs


def _once(parts: list[Pairs]) -> Pairs:
    """Each pair once, in order: the same two meet in many bands."""
    pairs = np.concatenate(parts)
    return pairs[np.unique(pairs[:, 0] << 32 | pairs[:, 1], return_index=True)[1]]


def _groups(
    keys: NDArray[np.uint64], values: NDArray[np.int64], rank: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The values that share a key with another, those of a key together and best rank first, and the number of each key.

    Nearly all keys are alone, so they are sifted before they are sorted; and sorting by key only is several times as fast,
    so ranks are looked at afterwards.
    """
    some = np.empty(len(keys), np.int64)
    places = 1 << max(SIEVE_PLACES * len(keys), 2).bit_length()
    some = some[: _sift(keys, np.zeros(places, np.uint8), np.uint64(64 - places.bit_length() + 1), some)]
    keys, values = keys[some], values[some]
    order = np.argsort(keys)
    found = keys[order]
    same = found[1:] == found[:-1]
    shared = np.concatenate([[False], same]) | np.concatenate([same, [False]]) if len(keys) else np.zeros(0, np.bool_)
    found, values = found[shared], values[order[shared]]
    order = np.lexsort((values, rank[values], found))
    found, values = found[order], values[order]
    return values, np.cumsum(np.concatenate([[0], found[1:] != found[:-1]])) if len(found) else np.empty(0, np.int64)


@kernel
def _sift(keys, sieve, shift, some):  # type: ignore[no-untyped-def]
    """Where the keys stand that share a place of the sieve with another: all that are equal, and a few others."""
    one = np.uint8(1)
    for n in range(len(keys)):
        place = keys[n] >> shift
        sieve[place] = (sieve[place] << one) | one  # 0, 1, 3, 7, ...: the second bit says twice
    found = 0
    for n in range(len(keys)):
        some[found] = n
        found += (sieve[keys[n] >> shift] >> one) & one
    return found


def _check_groups(
    members: NDArray[np.int64],
    groups: NDArray[np.int64],
    signatures: Callable[[NDArray[np.int64]], NDArray[np.uint8]],
    plan: Layout,
) -> Iterator[Pairs]:
    """The pairs of each group's leaders with its other members that agree in enough bytes, a slice at a time."""
    leader_rows = np.empty((LEADERS, plan.permutations), np.uint8)
    leaders = np.empty(LEADERS, np.int64)
    state = np.array([-1, 0])  # the group at work, its number of leaders: a group may go on in the next slice
    for at in range(0, len(members), SLICE):
        chosen = members[at : at + SLICE]
        out = np.empty((len(chosen) * LEADERS, 3), np.int64)
        rows, of = signatures(chosen), groups[at : at + SLICE]
        yield out[: _check(chosen, of, rows, plan.least_agreeing, leader_rows, leaders, state, out)].copy()


@kernel
def _check(members, groups, rows, least, leader_rows, leaders, state, out):  # type: ignore[no-untyped-def]
    used = 0
    for n in range(len(members)):
        if groups[n] != state[0]:
            state[0], state[1] = groups[n], 0
        alone = True
        for leader in range(state[1]):
            same = 0
            for k in range(rows.shape[1]):
                same += rows[n, k] == leader_rows[leader, k]
            if same >= least:
                alone = False
                out[used, 0], out[used, 1], out[used, 2] = members[n], leaders[leader], same
                used += 1
        if alone and state[1] < len(leaders):
            leader_rows[state[1]] = rows[n]
            leaders[state[1]] = members[n]
            state[1] += 1
    return used


def resolve(pairs: Pairs, rank: NDArray[np.uint64]) -> dict[int, tuple[int, int]]:
    """Document that leaves -> (document that stays and is like it, bytes that agree), by rank, best first."""
    order = np.lexsort((pairs[:, 1], rank[pairs[:, 1]], -pairs[:, 2], pairs[:, 0], rank[pairs[:, 0]]))
    gone: dict[int, tuple[int, int]] = {}
    for document, leader, same in pairs[order].tolist():
        if document not in gone and leader not in gone:
            gone[document] = (leader, same)
    return gone


def estimate(same: int, permutations: int) -> float:
    """The similarity that a number of agreeing bytes stands for."""
    return max(0.0, (same / permutations - CHANCE) / (1 - CHANCE))
