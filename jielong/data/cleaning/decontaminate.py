"""Documents that hold items of evaluation files: looked for by rare n-grams, judged letter by letter, dropped.

A model that has read the questions of an evaluation is not measured by it. GPT-3 and Llama drop or mark documents that share
13-grams with an evaluation; of Chinese exam questions that would drop every statute, poem and textbook a question quotes. So an
item has to stand in a document *as a whole*:

- Items and documents are folded to letters and digits (fingerprints.folding, radicals as the characters they look like); an
  answer letter that somebody filled in, as in （B）, is left out. Placeholders (#idiom#, [BLANK1]) cut a string into parts.
- An item is looked for by what is asked, if that is at least `ngram` letters long and no other item of its file asks the
  same; the question alone is enough. Otherwise the passage or the answers have to stand near it. Of a pair of sentences both
  have to stand near one another. What is shorter than `ngram` has to stand there unchanged.
- A string is held when `share` of its n-grams stand near one another, and, for what is asked, when its beginning and its end
  stand there too: "路漫漫其修远兮……出自" quotes a poem, and the poem lacks the words that make it a question.
- An item whose strings are all shorter than `ngram` is looked for as one string, question and choices joined, with A, B, C, D
  and without. What is too short even so is counted in `FileCounts.too_short`, not passed over.

How it is found: if a string of N n-grams is to be held to `share`, any choice of more than (1 - share) N of them has one that
stands in the document (pigeonhole). The n-grams that are rarest among the items are chosen; one compiled pass rolls a hash over
each document and looks it up in a table of bits, in which about one of sixteen is set, so most letters cost one look-up. What
passes is looked up by its 64-bit hash and then compared letter by letter: nothing depends on hashes being different. Only the
surroundings of such places are judged, in Python.

Limits: questions that were reworded, or that are in the other script (put `simplify` before), are not found; a blank in the
middle of a short question that was filled in with words hides it; a passage that `split` cut in two may be held by neither half.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data import steps
from jielong.data.cleaning.characters import CharactersCleaner
from jielong.data.cleaning.cleaner import DropDocument, Triggers
from jielong.data.cleaning.evaluation_items import (
    FIELD,
    JOINED,
    EvaluationFile,
    Way,
    evaluation_files,
    labels_of,
    read_items,
    ways_of_file,
)
from jielong.data.cleaning.scan import Bytes, Offsets, encode
from jielong.data.compiled import kernel
from jielong.data.deduplicating.fingerprints import folding
from jielong.errors import InputError

FILLED_IN = re.compile(r"[(（][ \u3000]*[A-Ha-h]{1,6}[ \u3000]*[)）]")  # U+3000 ideographic space
BASE = 0x9E3779B97F4A7C15  # of the rolling hash, modulo 2^64; odd
BITS_PER_GRAM = 16
EDGE_SLACK = 6  # letters by which the end of a question may be further away than in the item

Codes = NDArray[np.uint32]


# ------------------------------------------------------------------------------------------------------- folding


@cache
def table_of_folding() -> NDArray[np.uint32]:
    """fingerprints.folding, and radicals and compatibility ideographs as the characters they look like (CMMLU has them)."""
    table, clean = folding().copy(), CharactersCleaner(steps.Characters(step="characters"))
    for code in (*range(0x2E80, 0x2FE0), *range(0xF900, 0xFB00)):
        meant = clean(chr(code), Counter())
        if len(meant) == 1 and ord(meant) < 0x10000:
            table[code] = folding()[ord(meant)]
    return table


def fold(texts: Iterable[str]) -> list[str]:
    """Texts as they are compared: letters, marks and digits, lower case, half width; （B） is left out."""
    data, offsets = encode(list(texts))
    codes = np.empty(max(1, len(data)), np.uint32)
    folded, table = [], table_of_folding()
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        folded.append(_decoded(codes[: _fold(data, start, end, table, codes)]))
    return folded


def fold_plain(text: str) -> str:
    """The twin of `fold` for one text."""
    table = table_of_folding()
    codes = (int(table[ord(char)]) if ord(char) < 0x10000 else ord(char) for char in FILLED_IN.sub("", text))
    return "".join(chr(code) for code in codes if code)


def _decoded(codes: Codes) -> str:
    return codes.astype("<u4", copy=False).tobytes().decode("utf-32-le")


@kernel
def _after_filled_in(data, at, end):  # type: ignore[no-untyped-def]
    """Behind the bracket that closes an answer letter, for the place behind the one that opens; the place itself otherwise."""
    letters, here, gap = 0, at, False
    while here < end:
        byte = data[here]
        if 65 <= byte <= 72 or 97 <= byte <= 104:
            if gap or letters == 6:
                return at
            letters, here = letters + 1, here + 1
        elif byte == 41:
            return here + 1 if letters else at
        elif byte == 32:
            gap, here = letters > 0, here + 1
        elif here + 2 < end and byte == 0xE3 and data[here + 1] == 0x80 and data[here + 2] == 0x80:
            gap, here = letters > 0, here + 3
        elif here + 2 < end and byte == 0xEF and data[here + 1] == 0xBC and data[here + 2] == 0x89:
            return here + 3 if letters else at
        else:
            return at
    return at


@kernel
def _fold(data, at, end, table, codes):  # type: ignore[no-untyped-def]
    """The folded code points of some bytes, written to `codes`: how many."""
    used = np.int64(0)
    while at < end:
        byte = np.uint32(data[at])
        if byte < 0x80:
            code, at = byte, at + 1
        elif byte < 0xE0:
            code, at = (byte & 0x1F) << 6 | np.uint32(data[at + 1]) & 0x3F, at + 2
        elif byte < 0xF0:
            code = (byte & 0x0F) << 12 | (np.uint32(data[at + 1]) & 0x3F) << 6 | np.uint32(data[at + 2]) & 0x3F
            at += 3
        else:
            code = (byte & 0x07) << 18 | (np.uint32(data[at + 1]) & 0x3F) << 12
            code |= (np.uint32(data[at + 2]) & 0x3F) << 6 | np.uint32(data[at + 3]) & 0x3F
            at += 4
        folded = code if code >= 0x10000 else table[code]
        if folded:
            codes[used] = folded
            used += 1
        elif code == 40 or code == 0xFF08:  # brackets
            at = _after_filled_in(data, at, end)
    return used


# ---------------------------------------------------------------------------------------------------- judging


def held(way: Way, window: str, ngram: int, share: float) -> float | None:
    """The share of the way's letters that stand in a window of a folded document; None if a need is not held."""
    grams = {window[at : at + ngram] for at in range(len(window) - ngram + 1)}
    got = total = 0.0
    for need in way.needs:
        here, edges = 0.0, 0
        for number, part in enumerate(need.parts):
            count = max(0, len(part) - ngram + 1)
            found = [at for at in range(count) if part[at : at + ngram] in grams]
            stands = len(found) / count if count else float(part in window)
            here += len(part) * stands
            if need.asked and count and not _unbroken(part, found, window, ngram):
                return None
            for side in (0, 1):
                if (need.asked or 2 * number + side in need.cuts) and stands:
                    edges += not count or _edge_stands(part, found[-side], side, window, ngram, share)
        wanted = 2 * len(need.parts) if need.asked else share * len(need.cuts)
        if here < share * need.letters or edges < wanted:
            return None
        got, total = got + here, total + need.letters
    return got / total


def _edge_stands(part: str, at: int, side: int, window: str, ngram: int, share: float) -> bool:
    """Whether what stands before the first (side 0) or behind the last n-gram found stands there in the window, too."""
    gram = part[at : at + ngram]
    edge = part[at + ngram - 1 :] if side else part[: at + 1]
    size = 2 * len(edge) + EDGE_SLACK
    pairs = [edge[n : n + 2] for n in range(len(edge) - 1)]
    for place in _places(gram, window):
        near = window[place + ngram - 1 :][:size] if side else window[max(0, place - size) : place + 1]
        if sum(pair in near for pair in pairs) >= share * len(pairs):
            return True
    return False


def _unbroken(part: str, found: list[int], window: str, ngram: int) -> bool:
    """Whether n-grams with a gap between them stand as far apart as in the item, give or take one letter."""
    for one, other in pairwise(found):
        if other - one > 1:
            firsts, seconds = (_places(part[at : at + ngram], window) for at in (one, other))
            distances = {second - first for first, second in product(firsts, seconds)}
            if distances.isdisjoint(range(other - one - 1, other - one + 2)):
                return False
    return bool(found)


def _places(gram: str, window: str) -> Iterator[int]:
    at = window.find(gram)
    while at >= 0:
        yield at
        at = window.find(gram, at + 1)


# ------------------------------------------------------------------------------------------------------ the index


@dataclass(frozen=True, slots=True)
class FileCounts:
    """What is looked for of a file: `joined` items only as question and choices in one, `too_short` not at all."""

    label: str
    items: int
    joined: int
    too_short: int
    fields: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Leak:
    """An item that a document holds."""

    label: str
    number: int
    half: str
    share: float


class EvaluationIndex:
    """Items of evaluation files, ready to be looked for in documents. Built anew in each process."""

    def __init__(self, files: Sequence[EvaluationFile], ngram: int, share: float) -> None:
        self._ngram, self._share = ngram, share
        self._labels = [file.label for file in files]
        self.counts: list[FileCounts] = []
        self.ways: list[Way] = []
        for number, file in enumerate(files):
            found = ways_of_file(number, file, ngram, fold)
            joined = sum(bool(ways) and ways[0].half == JOINED for ways in found)
            self.counts.append(FileCounts(file.label, len(found), joined, found.count([]), file.fields))
            self.ways += [way for ways in found for way in ways]
        self._tables = _tables(self.ways, ngram, share)

    def flags(self, data: Bytes, offsets: Offsets) -> NDArray[np.bool_]:
        """For each document (as scan.encode gives them) whether a chosen n-gram stands in it; no other can hold an item."""
        found = np.zeros(len(offsets) - 1, np.bool_)
        _screen(data, offsets, table_of_folding(), self._ngram, *self._tables, found)
        return found

    def hits(self, text: str) -> tuple[Codes, list[tuple[int, int]]]:
        """The folded text, and (place in it, number of the way) of every chosen n-gram that stands there, by place."""
        data = np.frombuffer(text.encode("utf-8"), np.uint8)
        codes = np.empty(len(data) + 1, np.uint32)
        used = int(_fold(data, 0, len(data), table_of_folding(), codes))
        room = 256
        while True:
            places, owners = np.empty(room, np.int64), np.empty(room, np.int32)
            count = int(_look(codes, used, self._ngram, *self._tables, places, owners))
            if count < room:
                return codes[:used], list(zip(places[:count].tolist(), owners[:count].tolist(), strict=True))
            room *= 16

    def leaks(self, text: str) -> Iterator[Leak]:
        """The items that a document holds, in the order in which it comes upon them."""
        codes, hits = self.hits(text)
        done: dict[int, int] = {}  # way -> the place up to which its surroundings were judged
        told: set[tuple[int, int]] = set()
        for place, owner in hits:
            way = self.ways[owner]
            if place <= done.get(owner, -1) or (way.file, way.number) in told:
                continue
            # as far again to the right: every hit up to `done` has its own surroundings within this window
            window = _decoded(codes[max(0, place - way.reach) : place + self._ngram + 2 * way.reach])
            done[owner] = place + way.reach
            share = held(way, window, self._ngram, self._share)
            if share is not None:
                told.add((way.file, way.number))
                yield Leak(self._labels[way.file], way.number, way.half, share)


class DecontaminateCleaner:
    """The step `decontaminate`: changes nothing, drops by rule = the label of the evaluation file."""

    triggers = Triggers(always=True)

    def __init__(self, step: steps.Decontaminate) -> None:
        self.index = open_index(step)

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The same text. Raises DropDocument if it holds an item."""
        leak = next(self.index.leaks(text), None)
        if leak is not None:
            raise DropDocument(leak.label, f"item {leak.number}: {leak.share:.0%} of its {leak.half}")
        return text


def open_index(step: steps.Decontaminate) -> EvaluationIndex:
    """The index of a step's files; kept while they are the same. Raises InputError when none of their items is found."""
    files = evaluation_files(step.against)
    seen = tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _open_index(seen, step.ngram, step.share)


@lru_cache(maxsize=1)
def _open_index(seen: tuple[tuple[Path, int, int], ...], ngram: int, share: float) -> EvaluationIndex:
    files = [path for path, _, _ in seen]
    read = [read_items(path, label) for path, label in zip(files, labels_of(files), strict=True)]
    index = EvaluationIndex(read, ngram, share)
    if not index.ways:
        items = sum(counts.items for counts in index.counts)
        raise InputError(
            f"{FIELD}: nothing to look for, got {items} items in {len(files)} files, none of {ngram} letters and digits; "
            "check the files, or lower ngram"
        )
    return index


# ---------------------------------------------------------------------------------------------------- the tables


def _tables(ways: Sequence[Way], ngram: int, share: float) -> tuple[Any, ...]:
    """Of the n-grams chosen: power, words, shift, first, shift of first, hashes (sorted), places, owners, letters."""
    parts = [(owner, part) for owner, way in enumerate(ways) for part in way.key.parts if len(part) >= ngram]
    codes = np.frombuffer("".join(part for _, part in parts).encode("utf-32-le"), "<u4").astype(np.uint32)
    sizes = np.array([len(part) for _, part in parts], np.int64)
    counts = sizes - ngram + 1
    begins = np.cumsum(sizes) - sizes
    inner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places = np.repeat(begins, counts) + inner
    owners = np.repeat(np.array([owner for owner, _ in parts], np.int32), counts)
    weights = np.repeat(sizes / counts, counts)  # letters that an n-gram stands for
    power = np.uint64(pow(BASE, ngram - 1, 1 << 64))
    hashes = np.empty(len(places), np.uint64)
    _hashes(codes, places, ngram, hashes)
    _, same, often = np.unique(hashes, return_inverse=True, return_counts=True)
    order = np.lexsort((np.arange(len(places)), often[same], owners))  # of each way the rarest first
    before = np.cumsum(weights[order]) - weights[order]
    starts = np.searchsorted(owners[order], np.arange(len(ways)))
    missing = np.array([(1 - share) * way.key.letters for way in ways])
    if len(order):
        before -= before[starts][owners[order]]
        order = order[before <= missing[owners[order]] + 1e-6]
    order = order[np.lexsort((places[order], hashes[order]))]
    hashes, places, owners = hashes[order], places[order], owners[order]
    wide = max(10, int(len(order) * BITS_PER_GRAM // 64).bit_length())
    words = np.zeros(1 << wide, np.uint64)
    for low in (20, 26, 32):  # three bits of one word for each n-gram (a Bloom filter that costs one access)
        bit = np.uint64(1) << (hashes >> np.uint64(low) & np.uint64(63))
        np.bitwise_or.at(words, hashes >> np.uint64(64 - wide), bit)
    narrow = max(1, len(order).bit_length())
    first = np.searchsorted(hashes >> np.uint64(64 - narrow), np.arange((1 << narrow) + 1, dtype=np.uint64))
    shifts = np.uint64(64 - wide), np.uint64(64 - narrow)
    return power, words, shifts[0], first.astype(np.int32), shifts[1], hashes, places, owners, codes


@kernel
def _hashes(codes, places, ngram, hashes):  # type: ignore[no-untyped-def]
    for number in range(len(places)):
        h = np.uint64(0)
        for at in range(places[number], places[number] + ngram):
            h = h * np.uint64(BASE) + np.uint64(codes[at])
        hashes[number] = h


@kernel
def _look(codes, used, ngram, power, words, shift, first, shift_first, hashes, places, owners, letters, at, by):  # type: ignore[no-untyped-def]
    """Where chosen n-grams stand among folded letters, written to `at` and `by` (the ways) up to their room: how many."""
    count, room = 0, len(at)
    h = np.uint64(0)
    for n in range(min(ngram - 1, used)):
        h = h * np.uint64(BASE) + np.uint64(codes[n])
    for begin in range(used - ngram + 1):
        h = h * np.uint64(BASE) + np.uint64(codes[begin + ngram - 1])
        mask = np.uint64(1) << (h >> np.uint64(20) & np.uint64(63)) | np.uint64(1) << (
            h >> np.uint64(26) & np.uint64(63)
        )
        mask |= np.uint64(1) << (h >> np.uint64(32) & np.uint64(63))
        if words[h >> shift] & mask == mask:
            bucket = h >> shift_first
            for entry in range(first[bucket], first[bucket + np.uint64(1)]):
                if hashes[entry] == h:
                    same = True
                    for n in range(ngram):
                        same &= letters[places[entry] + n] == codes[begin + n]
                    if same:
                        at[count], by[count] = begin, owners[entry]
                        count += 1
                        if count == room:
                            return count
        h -= np.uint64(codes[begin]) * power
    return count


@kernel
def _screen(  # type: ignore[no-untyped-def]
    data, offsets, table, ngram, power, words, shift, first, shift_first, hashes, places, owners, letters, found
):
    at, by = np.empty(1, np.int64), np.empty(1, np.int32)
    longest = 0
    for doc in range(len(found)):
        longest = max(longest, offsets[doc + 1] - offsets[doc])
    codes = np.empty(longest + 1, np.uint32)
    for doc in range(len(found)):
        used = _fold(data, offsets[doc], offsets[doc + 1], table, codes)
        found[doc] = (
            _look(codes, used, ngram, power, words, shift, first, shift_first, hashes, places, owners, letters, at, by)
            > 0
        )
