"""Fragments that stand in many documents: found by the counts of their n-grams, and described by where they stand.

Two adverts stand side by side, one has ten endings, a third is glued into a sentence: runs of frequent n-grams differ
from document to document. So a fragment is not a run. n-grams that follow one another belong to one fragment when
their counts are within a factor of two (`LINK`): where an advert of 1,000 documents ends, the n-grams that reach over
its edge into this or that text have counts of 300 or 20. What hangs on such an edge is a fragment by itself only if
it brings a third of an n-gram of letters of its own with counts that hold (the 的 that happens to follow in 40
documents does not), and what reaches from one fragment into the next brings none.

Three passes over the documents that hold a frequent key: count (counting.py), link, collect. What is collected of a
fragment does not grow with the documents: sums, bitmaps of 64 bits for "how many different" (linear counting, Whang
et al. 1990), the longest run as the example and the surroundings of the three places whose hash is least, so that the
order of the documents does not matter. Fragments beyond MAX_FRAGMENTS, those with the fewest documents, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel
from jielong.data.deduplicating.fingerprints import mix
from jielong.data.mining.counting import Chunk, Places, Seen, common_grams, find, look
from jielong.data.mining.grams import EDGE, GLUED, LINE, SENTENCE, WIDE, Hashes

LINK = 2  # counts of n-grams of one fragment that follow one another differ by this factor at most
MAX_FRAGMENTS = 200_000
CONTEXTS = 3
CONTEXT_BYTES = 60
BACK = 3  # runs before one, none across a line feed, that are its neighbours
EXAMPLE_CHARS = 400

(DOCUMENTS, OCCURRENCES, HEAD, TAIL, OWN_LINE, CLEAN, GLUED_BOTH, OWN, GRAMS, LAST, BEFORE, BEHIND, NUMBERED) = range(
    13
)
LEFT, RIGHT, NUMBERS, SOURCES = range(4)  # bitmaps


@dataclass(frozen=True)
class Fragment:
    """A text that stands in many documents. Shares are of its occurrences, variety is 0 (always the same) to 1."""

    example: str  # the longest form found, cut at EXAMPLE_CHARS
    contexts: tuple[tuple[str, str], ...]  # what stands before and behind, at some places
    documents: int
    occurrences: int
    letters: int  # of the example
    sources: int
    head: float  # share at the beginning of a document
    tail: float  # at its end
    own_line: float  # that are whole lines
    clean: float  # that begin and end where a sentence does
    glued: float  # with letters directly before and behind
    numbered: float  # that hold digits
    numbers: float  # variety of the digits
    before: float  # variety of the letters before
    behind: float  # and behind
    grams: Hashes = field(repr=False)  # its n-grams
    counts: NDArray[np.uint32] = field(repr=False)  # and the documents of each
    wide: NDArray[np.bool_] = field(repr=False)  # which of them hold enough Han to tell the fragment
    typical: float = 1.0  # n-grams of an occurrence, on average
    neighbours: tuple[
        tuple[int, int, float], ...
    ] = ()  # fragments in the same line: number, side, share of occurrences


def find_fragments(chunks: Iterable[Chunk], frequent: Hashes, n: int, min_documents: int) -> list[Fragment]:
    """The fragments of some documents, by documents, the most first.

    chunks: gone through three times at least. frequent: sorted keys (grams.gram_hashes) of at least min_documents documents.
    """
    if not len(frequent):
        return []
    hashes, counts = common_grams(chunks, frequent, n, min_documents)
    keys, common = Places(frequent), Places(hashes)
    parent = np.arange(len(hashes), dtype=np.int32)
    for chunk in chunks:
        seen = look(chunk, keys, n)
        _link(ranks(seen, common), seen.folded.starts, counts, LINK, parent)
    _settle(parent)
    roots, member = np.unique(parent, return_inverse=True)
    sums = np.zeros(len(roots), np.uint32)
    np.maximum.at(sums, member, counts)
    if len(roots) > MAX_FRAGMENTS:
        chosen = np.lexsort((hashes[roots], -sums.astype(np.int64)))[:MAX_FRAGMENTS]
        number = np.full(len(roots), -1, np.int64)
        number[chosen] = np.arange(MAX_FRAGMENTS)
        member, size = number[member], MAX_FRAGMENTS
    else:
        size = len(roots)
    collected = Collected(size, len(hashes))
    for chunk in chunks:
        seen = look(chunk, keys, n)
        collected.add(chunk, seen, ranks(seen, common), member.astype(np.int32), counts, n)
    return collected.fragments(hashes, counts, member, n, min_documents)


def ranks(seen: Seen, common: Places) -> NDArray[np.int32]:
    """Where the n-gram at each letter stands among the common ones, -1 for others."""
    found = np.full(len(seen.grams), -1, np.int32)
    _ranks(seen.grams, seen.near, common.keys, common.values, found)
    return found


class Collected:
    """What is known of each fragment."""

    def __init__(self, size: int, grams: int) -> None:
        self.stats = np.zeros((size, 13), np.int64)
        self.stats[:, LAST] = -1
        self.bits = np.zeros((size, 4), np.uint64)
        self.best = np.zeros((size, 5), np.int64)  # letters, hash, document, first and last byte
        self.best[:, 2] = -1
        self.near = np.full((size, CONTEXTS, 4), -1, np.int64)  # hash, document, first and last byte
        self.near[:, :, 0] = np.iinfo(np.int64).max
        self.pairs: dict[int, int] = {}  # of fragments that stand in one line, as left * size + right
        self.wide = np.zeros(grams, np.bool_)
        self.examples: list[str] = [""] * size
        self.contexts: list[dict[int, tuple[str, str]]] = [{} for _ in range(size)]  # by their hashes
        self._documents = 0

    def add(
        self, chunk: Chunk, seen: Seen, found: NDArray[np.int32], member: NDArray[np.int32], counts: Any, n: int
    ) -> None:
        """Look at a chunk."""
        folded = seen.folded
        places = (folded.codes, folded.starts, folded.begins, folded.ends, folded.gaps)
        source_bits = np.uint64(1) << (chunk.sources.astype(np.uint64) % np.uint64(64))
        pairs = np.empty(BACK * (int(np.count_nonzero(found >= 0)) + 1), np.int64)
        used = _collect(
            chunk.data, chunk.offsets, *places, found, member, counts, source_bits, self._documents, n, self.stats,
            self.bits, self.best, self.near, pairs,
        )  # fmt: skip
        for pair, times in zip(*(part.tolist() for part in np.unique(pairs[:used], return_counts=True)), strict=True):
            self.pairs[pair] = self.pairs.get(pair, 0) + times
        _mark_wide(folded.codes, folded.starts, found, n, n // 3, self.wide)
        view = chunk.data.data
        for number in np.flatnonzero(self.best[:, 2] >= self._documents).tolist():
            _, _, document, begin, end = self.best[number].tolist()
            start = int(chunk.offsets[document - self._documents])
            text = str(view[start + begin : start + min(end, begin + 4 * EXAMPLE_CHARS)], "utf-8", "ignore")
            self.examples[number] = text[:EXAMPLE_CHARS]
        for number in np.flatnonzero((self.near[:, :, 1] >= self._documents).any(axis=1)).tolist():
            kept: dict[int, tuple[str, str]] = {}
            for hashed, document, begin, end in self.near[number].tolist():
                if document < self._documents:
                    kept |= {hashed: self.contexts[number][hashed]} if document >= 0 else {}
                    continue
                first, last = chunk.offsets[document - self._documents : document - self._documents + 2].tolist()
                before = view[max(first, first + begin - CONTEXT_BYTES) : first + begin]
                behind = view[first + end : min(last, first + end + CONTEXT_BYTES)]
                kept[hashed] = (str(before, "utf-8", "ignore"), str(behind, "utf-8", "ignore"))
            self.contexts[number] = kept
        self._documents += len(chunk.offsets) - 1

    def fragments(self, hashes: Hashes, counts: Any, member: Any, n: int, min_documents: int) -> list[Fragment]:
        """Those that have letters of their own."""
        order = np.argsort(member, kind="stable")
        bounds = np.searchsorted(member[order], np.arange(len(self.stats) + 1))
        found: dict[int, Fragment] = {}
        for number, row in enumerate(self.stats.tolist()):
            times = row[OCCURRENCES]
            if not times or row[DOCUMENTS] < min_documents or row[OWN] < times * (n // 3):
                continue
            mine = order[bounds[number] : bounds[number + 1]]
            left, right, numbers, sources = self.bits[number].tolist()
            contexts = self.contexts[number]
            found[number] = Fragment(
                example=self.examples[number],
                contexts=tuple(contexts[hashed] for hashed in sorted(contexts)),
                documents=row[DOCUMENTS],
                occurrences=times,
                letters=int(self.best[number, 0]),
                sources=sources.bit_count(),
                head=row[HEAD] / times,
                tail=row[TAIL] / times,
                own_line=row[OWN_LINE] / times,
                clean=row[CLEAN] / times,
                glued=row[GLUED_BOTH] / times,
                numbered=row[NUMBERED] / times,
                numbers=variety(numbers, row[NUMBERED]),
                before=variety(left, row[BEFORE]),
                behind=variety(right, row[BEHIND]),
                grams=hashes[mine],
                counts=counts[mine],
                wide=self.wide[mine],
                typical=row[GRAMS] / times,
            )
        ordered = sorted(found, key=lambda at: (-found[at].documents, found[at].example, int(found[at].grams[0])))
        return self._with_neighbours(ordered, found)

    def _with_neighbours(self, ordered: list[int], found: dict[int, Fragment]) -> list[Fragment]:
        place = {number: at for at, number in enumerate(ordered)}
        beside: dict[int, list[tuple[int, int, float]]] = {}
        for pair, times in self.pairs.items():
            left, right = divmod(pair, len(self.stats))
            if left in place and right in place:
                for one, other, side in ((left, right, 1), (right, left, -1)):
                    beside.setdefault(one, []).append((place[other], side, times / found[one].occurrences))
        return [replace(found[number], neighbours=tuple(sorted(beside.get(number, ())))) for number in ordered]


def variety(bitmap: int, times: int) -> float:
    """How different the things are that left a bit each in 64 places: 1 as of as many different ones, near 0 of one."""
    expected = 64 * (1 - (1 - 1 / 64) ** times)
    return 0.0 if times < 2 else max(0.0, min(1.0, (bitmap.bit_count() - 1) / (expected - 1)))


@kernel
def _root(parent, at):  # type: ignore[no-untyped-def]
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = parent[at]
    return at


@kernel
def _settle(parent):  # type: ignore[no-untyped-def]
    for at in range(len(parent)):
        parent[at] = _root(parent, at)


@kernel
def _ranks(grams, near, keys, values, found):  # type: ignore[no-untyped-def]
    for at in range(len(grams)):
        if near[at]:
            found[at] = values[find(grams[at], keys)]


@kernel
def _mark_wide(codes, starts, found, n, least, marked):  # type: ignore[no-untyped-def]
    for doc in range(len(starts) - 1):
        wide = 0
        for at in range(starts[doc], starts[doc + 1]):
            wide += codes[at] >= WIDE
            first = at - n + 1
            if first > starts[doc]:
                wide -= codes[first - 1] >= WIDE
            if first >= starts[doc] and found[first] >= 0:
                marked[found[first]] = wide >= least


@kernel
def _link(found, starts, counts, factor, parent):  # type: ignore[no-untyped-def]
    """Join n-grams that follow one another with like counts; the least rank of a fragment stands for it."""
    for doc in range(len(starts) - 1):
        for at in range(starts[doc], starts[doc + 1] - 1):
            first, second = found[at], found[at + 1]
            if first < 0 or second < 0:
                continue
            low, high = min(counts[first], counts[second]), max(counts[first], counts[second])
            if np.int64(low) * factor < np.int64(high):
                continue
            first, second = _root(parent, first), _root(parent, second)
            if first != second:
                parent[max(first, second)] = min(first, second)


@kernel
def _hash_bytes(data, begin, end, digits_only):  # type: ignore[no-untyped-def]
    x = np.uint64(0xCBF29CE484222325)
    for at in range(begin, end):
        if not digits_only or 48 <= data[at] <= 57:
            x = (x ^ np.uint64(data[at])) * np.uint64(0x100000001B3)
    return mix(x)


@kernel
def _hash_letters(codes, begin, end):  # type: ignore[no-untyped-def]
    x = np.uint64(0)
    for at in range(begin, end):
        x = (x + np.uint64(codes[at]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    return mix(x)


@kernel
def _bit(hashed):  # type: ignore[no-untyped-def]
    return np.uint64(1) << (hashed & np.uint64(63))


@kernel
def _collect(  # type: ignore[no-untyped-def]
    data, offsets, codes, starts, begins, ends, gaps, found, member, counts, source_bits, documents, n, stats, bits,
    best, near, pairs,
):  # fmt: skip
    used = 0
    recent = np.full(BACK, -1, np.int64)
    edge = 0  # the letter behind the last run
    for doc in range(len(starts) - 1):
        begin, end = starts[doc], starts[doc + 1]
        recent[:] = -1
        at = begin
        while at < end:
            if found[at] < 0 or member[found[at]] < 0:
                at += 1
                continue
            one = member[found[at]]
            last = at  # of its n-grams that follow one another
            while last + 1 < end and found[last + 1] >= 0 and member[found[last + 1]] == one:
                last += 1
            own = last - at + n
            wide = 0
            for k in range(at, last + n):
                wide += codes[k] >= WIDE
            if wide < n // 3:  # an address in which its site's name stands: no occurrence of the fragment
                at = last + 1
                continue
            if at > begin and found[at - 1] >= 0 and counts[found[at - 1]] > counts[found[at]]:
                own -= n - 1
            if last + 1 < end and found[last + 1] >= 0 and counts[found[last + 1]] > counts[found[last]]:
                own -= n - 1
            stop = last + n  # the letter behind
            row = stats[one]
            row[OCCURRENCES] += 1
            row[OWN] += max(own, 0)
            row[GRAMS] += last - at + 1
            if row[LAST] != documents + doc:
                row[LAST] = documents + doc
                row[DOCUMENTS] += 1
            before, behind = gaps[at], gaps[stop] if stop < end else np.uint8(EDGE)
            row[HEAD] += at == begin
            row[TAIL] += stop == end
            row[OWN_LINE] += before >= LINE and behind >= LINE
            row[CLEAN] += before >= SENTENCE and behind >= SENTENCE
            row[GLUED_BOTH] += before == GLUED and behind == GLUED
            if at > begin:
                row[BEFORE] += 1
                bits[one, LEFT] |= _bit(_hash_letters(codes, max(begin, at - 4), at))
            if stop < end:
                row[BEHIND] += 1
                bits[one, RIGHT] |= _bit(_hash_letters(codes, stop, min(end, stop + 4)))
            base = offsets[doc]
            first_byte, last_byte = base + begins[at], base + ends[stop - 1]
            for k in range(at, stop):
                if codes[k] == 48:
                    row[NUMBERED] += 1
                    bits[one, NUMBERS] |= _bit(_hash_bytes(data, first_byte, last_byte, True))
                    break
            bits[one, SOURCES] |= source_bits[doc]
            _keep_example(data, documents + doc, base, first_byte, last_byte, stop - at, best[one])
            _keep_context(data, documents + doc, base, offsets[doc + 1], first_byte, last_byte, near[one])
            if at > edge + 2 * n:
                recent[:] = -1
            inside = False  # of one line
            for k in range(min(edge, at + 1), stop):
                if gaps[k] >= LINE:
                    recent[:] = -1
                    inside |= k > at
            if inside:
                edge, at = stop, last + 1
                continue
            for k in range(BACK):
                if recent[k] >= 0 and recent[k] != one:
                    pairs[used] = recent[k] * len(stats) + one
                    used += 1
            for k in range(BACK - 1, 0, -1):
                recent[k] = recent[k - 1]
            recent[0], edge = one, stop
            at = last + 1
    return used


@kernel
def _keep_example(data, document, base, first, last, letters, best):  # type: ignore[no-untyped-def]
    if letters < best[0]:
        return
    hashed = np.int64(_hash_bytes(data, first, last, False) >> np.uint64(1))
    if letters > best[0] or hashed < best[1]:
        best[0], best[1], best[2], best[3], best[4] = letters, hashed, document, first - base, last - base


@kernel
def _keep_context(data, document, base, end, first, last, kept):  # type: ignore[no-untyped-def]
    before = _hash_bytes(data, max(base, first - CONTEXT_BYTES), first, False)
    behind = _hash_bytes(data, last, min(end, last + CONTEXT_BYTES), False)
    hashed = np.int64(mix(before + np.uint64(3) * behind) >> np.uint64(1))
    for k in range(len(kept)):
        if kept[k, 0] == hashed:
            return
        if hashed < kept[k, 0]:
            for other in range(len(kept) - 1, k, -1):
                kept[other] = kept[other - 1]
            kept[k, 0], kept[k, 1], kept[k, 2], kept[k, 3] = hashed, document, first - base, last - base
            return
