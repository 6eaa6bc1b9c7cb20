"""The best way to put a text together from pieces, counted over the whole text; and what each piece is worth.

Every piece has a score, a way of writing a segment has the sum of its pieces' scores, and the best way is found from left to
right (Viterbi). A character that is in no piece costs as many bytes as it has. What a piece is worth to the text is what would be
lost without it: how often it is used, times the difference to the best way of writing it with the others.

Text is a flat array of character numbers (fragment_counts.Segments), pieces are nodes of a trie (piece_trie) whose score is
above DEAD. Threads take ranges of segments; counts are whole numbers, so their number changes nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel
from jielong.tokenizer.encoding.piece_trie import NOTHING, Table, child
from jielong.tokenizer.training.fragment_counts import LONG, Fragments, Segments

DEAD = -1e30  # the score of a node that is no piece

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]


def table_of(fragments: Fragments) -> Table:
    """The lookup of a trie."""
    below = fragments.depths > 1
    nodes = np.flatnonzero(below).astype(np.int32)
    table = Table(len(nodes))
    table.add(fragments.parents[below], fragments.chars[below], nodes)
    return table


def count_uses(
    text: Segments, fragments: Fragments, table: Table, scores: Scores, spelling: Scores, threads: int
) -> tuple[Counts, Counts]:
    """How often the best way of writing the text uses each node, and how often it spells each character in bytes.

    scores: of each node; spelling: of each character, when it is spelled.
    """
    arrays: tuple[Any, ...] = (fragments.depths, table.keys, table.nodes, scores, spelling)
    segments = len(text.bounds) - 1
    marks = np.searchsorted(text.bounds, np.arange(1, threads) * (len(text.ids) / threads)).tolist()
    cuts = sorted({0, segments, *marks})
    longest = int(np.diff(text.bounds).max(initial=0)) + 1

    def part(first: int, last: int) -> tuple[Counts, Counts]:
        uses, spelled = np.zeros(len(scores), np.int64), np.zeros(len(spelling), np.int64)
        best, back = np.empty(longest, np.float64), np.empty(longest, np.int32)
        _count_uses(text.ids, text.bounds, first, last, *arrays, best, back, uses, spelled)
        return uses, spelled

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(part, cuts[:-1], cuts[1:]))
    zeros = np.zeros(len(scores), np.int64), np.zeros(len(spelling), np.int64)
    return sum((uses for uses, _ in parts), zeros[0]), sum((spelled for _, spelled in parts), zeros[1])


def scores_without(
    pieces: NDArray[np.int64], fragments: Fragments, table: Table, scores: Scores, spelling: Scores
) -> Scores:
    """Of each piece, the score of the best way to write it with other pieces."""
    found = np.empty(len(pieces), np.float64)
    arrays = (fragments.parents, fragments.chars, fragments.depths, table.keys, table.nodes)
    _scores_without(pieces, *arrays, scores, spelling, found)
    return found


def best_path_plain(text: str, scores: dict[str, float], spelling: dict[str, float]) -> list[str]:
    """The twin: the best way to write one segment; a character that is spelled stands there as <E4B8AD>."""
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for end in range(1, len(text) + 1):
        spelled = f"<{text[end - 1].encode('utf-8').hex().upper()}>"
        ways = [(best[end - 1][0] + spelling[text[end - 1]], [*best[end - 1][1], spelled])]
        for start in range(max(0, end - LONG), end):
            piece = text[start:end]
            if piece in scores:
                ways.append((best[start][0] + scores[piece], [*best[start][1], piece]))
        best.append(max(ways, key=lambda way: way[0]))
    return best[-1][1]


@kernel
def _count_uses(ids, bounds, first, last, depths, keys, nodes, scores, spelling, best, back, uses, spelled):  # type: ignore[no-untyped-def]
    for segment in range(first, last):
        start, size = bounds[segment], bounds[segment + 1] - bounds[segment]
        best[0] = 0.0
        for place in range(1, size + 1):
            best[place] = -np.inf
        for place in range(size):
            here, node, end = best[place], ids[start + place], place + 1
            if here + spelling[node] > best[end]:
                best[end], back[end] = here + spelling[node], NOTHING
            while node >= 0:
                if scores[node] > DEAD and here + scores[node] > best[end]:
                    best[end], back[end] = here + scores[node], node
                if end == size:
                    break
                node = child(keys, nodes, node, ids[start + end])
                end += 1
        place = size
        while place > 0:
            node = back[place]
            if node == NOTHING:
                place -= 1
                spelled[ids[start + place]] += 1
            else:
                uses[node] += 1
                place -= depths[node]


@kernel
def _scores_without(pieces, parents, chars, depths, keys, nodes, scores, spelling, found):  # type: ignore[no-untyped-def]
    text, best = np.empty(LONG, np.int32), np.empty(LONG + 1, np.float64)
    for number in range(len(pieces)):
        piece = pieces[number]
        size, node = np.int64(depths[piece]), np.int64(piece)
        for place in range(size - 1, -1, -1):
            text[place], node = chars[node], parents[node]
        best[0] = 0.0
        for place in range(1, size + 1):
            best[place] = -np.inf
        for place in range(size):
            best[place + 1] = max(best[place + 1], best[place] + spelling[text[place]])
            node, end = np.int64(text[place]), place + 1
            while node >= 0:
                if scores[node] > DEAD and node != piece:
                    best[end] = max(best[end], best[place] + scores[node])
                if end == size:
                    break
                node = np.int64(child(keys, nodes, node, text[end]))
                end += 1
        found[number] = best[size]
