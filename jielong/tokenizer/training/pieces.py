"""Learn a vocabulary of pieces from the top: all frequent fragments of a text, less and less of them, until the wanted number.

A round writes the whole text in the best way that the pieces of the round before allow, counts which of them were used, scores each
by its share (the logarithm of it, less `penalty`), and lets those go that the text loses least by (best_paths.scores_without).
What is not used goes as well. Near the end the rounds go on without removing anything until the counts are settled.

`penalty` is what makes two kinds of one method. At 0 the best way is the most probable one: the unigram model of
sentencepiece (Kudo, arXiv:1804.10959), with counts of best paths instead of expected ones. With a penalty that
outweighs probabilities the best way is the one with the fewest tokens, and of those the most probable: then the vocabulary
is shaped for what a token budget is spent on.

Rare characters are spelled in bytes. The first two bytes of a character may be one piece, a *prefix*: a few hundred of them
make every Chinese character two tokens at most instead of three, as merges of bytes do in a BPE. They stand in the same
competition as the other pieces.

From n-grams to pieces by rounds of the best path is how bytepiece learns (Su Jianlin, kexue.fm/archives/9752); what is
different is the loss as the measure of a piece, the penalty and the prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.tokenizer.training.best_paths import DEAD, Counts, Scores, count_uses, scores_without, table_of
from jielong.tokenizer.training.fragment_counts import Fragments, Segments, count_fragments, spell

ROUNDS_AFTER = 2  # rounds at the wanted size, in which counts and scores settle
KEPT_A_ROUND = 0.8  # at least so many of the pieces
GRAIN = 1 / 1024  # scores are multiples of it, so that sums are exact whatever their order
CANDIDATES = 24  # for each piece that is wanted: with 10 a text takes 2 percent more tokens, with all of them no less
BYTES = 256
PREFIXES = 1 << 16

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Round:
    """What a round found: pieces in use, tokens of the text, and what that makes."""

    number: int
    pieces: int
    tokens: int
    bytes_per_token: float

    def line(self) -> str:
        """For the console."""
        return (
            f"tokenizer: round {self.number}: {self.pieces:,} pieces in use, {self.bytes_per_token:.3f} bytes a token"
        )


@dataclass(frozen=True)
class Learned:
    """Pieces (UTF-8; prefixes are no whole characters) with their scores, the most used first; the score of every byte that
    is not among them; how often each piece was used; the rounds."""

    pieces: list[tuple[bytes, float]]
    uses: list[int]
    byte_score: float
    rounds: list[Round]


class Spelling:
    """The bytes of characters, and the prefixes that are pieces."""

    def __init__(self, chars: NDArray[np.uint32]) -> None:
        spelled = [chr(code).encode("utf-8") for code in chars.tolist()]
        self.sizes = np.array([len(data) for data in spelled], np.int64)
        self.prefixes = np.array([data[0] << 8 | data[1] if len(data) > 2 else 0 for data in spelled], np.int64)
        self.kept = np.zeros(PREFIXES, np.bool_)
        self.kept[self.prefixes] = True
        self.kept[0] = False  # characters of one or two bytes have none

    def prefix_uses(self, spelled: Counts) -> Counts:
        """How often each prefix occurs in what is spelled."""
        uses = np.bincount(self.prefixes, spelled, PREFIXES).astype(np.int64)
        uses[~self.kept] = 0
        return uses

    def byte_uses(self, spelled: Counts) -> int:
        """How many single bytes are left of what is spelled."""
        return int(((self.sizes - 2 * self.kept[self.prefixes]) * spelled).sum())

    def scores(self, byte_score: float, prefix_scores: Scores) -> Scores:
        """Of each character, when it is spelled."""
        with_prefix = prefix_scores[self.prefixes] + (self.sizes - 2) * byte_score
        return np.where(self.kept[self.prefixes], with_prefix, self.sizes * byte_score)


def learn_pieces(
    text: Segments,
    wanted: int,
    penalty: float,
    longest: int,
    least: int,
    threads: int,
    tell: Callable[[Round], None] = lambda _: None,
) -> Learned:
    """Learn at most `wanted` pieces (fewer when the text has no more), not counting single ASCII characters, which are bytes.

    longest: characters of a piece that holds more than ASCII; least: times that a fragment occurs to be a candidate; `tell` is
    called with every round.
    """
    fragments, spelling = likely(count_fragments(text, least, longest), text, wanted), Spelling(text.chars)
    free = np.zeros(len(fragments.parents), np.bool_)  # ASCII characters alone take no place: each is a byte
    free[: len(text.chars)] = text.chars < 0x80
    kept = np.ones(len(free), np.bool_)
    kept[: len(text.chars)] = free[: len(text.chars)] | (np.arange(len(text.chars)) < text.covered)
    uses, spelled = fragments.counts, np.zeros(len(text.chars), np.int64)
    spelled[text.covered :] = fragments.counts[text.covered : len(text.chars)]
    table, rounds, settled = table_of(fragments), list[Round](), 0
    fill = _most_frequent(text, fragments, wanted)
    while True:
        scores, byte_score, prefix_scores = score(uses, kept, spelled, spelling, penalty)
        ways = spelling.scores(byte_score, prefix_scores)
        uses, spelled = count_uses(text, fragments, table, scores, ways, threads)
        prefix_uses = spelling.prefix_uses(spelled)
        if not settled:  # what is not used goes
            kept = (uses > 0) | free
            spelling.kept &= prefix_uses > 0
        alive, prefixes = np.flatnonzero(kept & ~free), np.flatnonzero(spelling.kept)
        tokens = int(uses.sum() + prefix_uses.sum()) + spelling.byte_uses(spelled)
        rounds.append(Round(len(rounds), len(alive) + len(prefixes), tokens, text.size / max(tokens, 1)))
        tell(rounds[-1])
        if rounds[-1].pieces <= wanted:
            if settled == ROUNDS_AFTER:
                break
            settled += 1
            continue
        goal = max(wanted, int(KEPT_A_ROUND * rounds[-1].pieces))
        scores, byte_score, prefix_scores = score(uses, kept, spelled, spelling, penalty)
        ways = spelling.scores(byte_score, prefix_scores)
        worth = (scores[alive] - scores_without(alive, fragments, table, scores, ways)) * uses[alive]
        prefix_worth = (prefix_scores[prefixes] - 2 * byte_score) * prefix_uses[prefixes]
        order = np.argsort(np.concatenate([worth, prefix_worth]), kind="stable")[: rounds[-1].pieces - goal]
        removed = alive[order[order < len(alive)]]
        kept[removed] = False
        spelling.kept[prefixes[order[order >= len(alive)] - len(alive)]] = False
        if 2 * goal < len(kept) - len(text.chars):
            fragments, (kept, free, uses) = thinned(fragments, kept, (kept, free, uses))
            table = table_of(fragments)
    return _learned(text, fragments, spelling, (uses, kept, spelled), penalty, rounds, fill, wanted)


def likely(fragments: Fragments, text: Segments, wanted: int) -> Fragments:
    """The fragments that most characters stand in, CANDIDATES for each piece that is wanted, and every single character."""
    weight = fragments.counts * (fragments.depths - 1)
    weight[: len(text.chars)] = np.iinfo(np.int64).max
    if len(weight) <= CANDIDATES * wanted:
        return fragments
    kept = np.zeros(len(weight), np.bool_)
    kept[np.argsort(-weight, kind="stable")[: max(CANDIDATES * wanted, len(text.chars))]] = True
    return thinned(fragments, kept, ())[0]


def score(
    uses: Counts, kept: Flags, spelled: Counts, spelling: Spelling, penalty: float
) -> tuple[Scores, float, Scores]:
    """Scores of nodes (DEAD: not kept), of a byte, and of prefixes: the logarithm of the share of all tokens, less the penalty."""
    prefix_uses, byte_uses = spelling.prefix_uses(spelled), spelling.byte_uses(spelled)
    whole = math.log(max(int(uses[kept].sum() + prefix_uses.sum()) + byte_uses, 1)) + penalty
    scores = np.full(len(uses), DEAD)
    scores[kept] = np.log(np.maximum(uses[kept], 0.5)) - whole
    return scores, math.log(byte_uses / BYTES + 0.5) - whole, np.log(np.maximum(prefix_uses, 0.5)) - whole


def thinned(fragments: Fragments, kept: Flags, arrays: tuple[Any, ...]) -> tuple[Fragments, tuple[Any, ...]]:
    """Without the nodes that are no piece and lead to none, and arrays of nodes too; single characters stay."""
    stays = kept | (fragments.depths == 1)
    for depth in range(int(fragments.depths.max()), 1, -1):
        stays[fragments.parents[stays & (fragments.depths == depth)]] = True
    number = np.cumsum(stays, dtype=np.int32) - 1
    parents = fragments.parents[stays]
    parents = np.where(parents < 0, parents, number[parents]).astype(np.int32)
    left = Fragments(parents, fragments.chars[stays], fragments.depths[stays], fragments.counts[stays])
    return left, tuple(values[stays] for values in arrays)


def grained(value: float) -> float:
    """A score as a multiple of GRAIN, below 0."""
    return min(round(value / GRAIN) * GRAIN, -GRAIN)


def _most_frequent(text: Segments, fragments: Fragments, wanted: int) -> list[bytes]:
    """What fills up a vocabulary: single characters by falling count, then the fragments that most characters stand in."""
    characters = np.arange(text.covered)
    characters = characters[text.chars[characters] >= 0x80]
    longer = np.flatnonzero(fragments.depths > 1)
    weight = fragments.counts[longer] * (fragments.depths[longer] - 1)
    nodes = np.concatenate([characters, longer[np.argsort(-weight, kind="stable")]])[: 2 * wanted]
    return [piece.encode("utf-8") for piece in spell(fragments, text.chars, nodes)]


def _learned(
    text: Segments, fragments: Fragments, spelling: Spelling, counts: tuple[Counts, Flags, Counts], penalty: float,
    rounds: list[Round], fill: list[bytes], wanted: int,
) -> Learned:  # fmt: skip
    """The result: pieces by falling use, of equal ones the first by their bytes. ASCII characters are among them. What is
    missing to the wanted number is filled up: a text that repeats itself is written in few pieces, another one is not."""
    uses, kept, spelled = counts
    scores, byte_score, prefix_scores = score(uses, kept, spelled, spelling, penalty)
    nodes, prefixes = np.flatnonzero(kept), np.flatnonzero(spelling.kept)
    found = [
        (piece.encode("utf-8"), count, value)
        for piece, count, value in zip(
            spell(fragments, text.chars, nodes), uses[nodes].tolist(), scores[nodes].tolist(), strict=True
        )
    ]
    prefix_uses = spelling.prefix_uses(spelled)
    found += [
        (number.to_bytes(2, "big"), int(prefix_uses[number]), float(prefix_scores[number]))
        for number in prefixes.tolist()
    ]
    known, missing = {piece for piece, _, _ in found}, wanted - rounds[-1].pieces
    unused = byte_score - math.log(spelling.byte_uses(spelled) / BYTES + 0.5) + math.log(0.5)
    found += [(piece, 0, unused) for piece in [piece for piece in fill if piece not in known][:missing]]
    found.sort(key=lambda row: (-row[1], row[0]))
    pieces = [(piece, grained(value)) for piece, _, value in found]
    return Learned(pieces, [count for _, count, _ in found], grained(byte_score), rounds)
