"""Count every fragment of a text that is frequent enough to become a piece, shortest first.

A fragment of n characters can be frequent only if its first n - 1 and its last n - 1 characters are (the a-priori rule). So
fragments are counted level by level, and on each level only where both parts were frequent on the one before; what is
left of the text thins out quickly. A fragment is counted under the pair of numbers of its two parts, which says exactly
which fragment it is: no hash stands for a text. Its first part is its parent in the trie that the pieces are looked up in.

Fragments have at most LONG characters; those that hold anything but ASCII at most `longest` (7 by default: longer Chinese ones
are set phrases, names and adverts). They do not cross the borders of segments, which are the pieces of a pre-split pattern.

Memory: 4 bytes a character for the text, 8 more while a level is counted, and 12 to 24 bytes a distinct candidate of that
level: about 350 MB for 50 MB of mixed text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import encode
from jielong.data.compiled import kernel
from jielong.tokenizer.encoding.piece_trie import FACTOR
from jielong.tokenizer.encoding.splitting import Splitter

LONG = 16  # characters of the longest fragments, which are ASCII
CODES = 0x110000
FIRST_SIZE = 1 << 20  # places of the table that fragments of a level are counted in, to begin with
ASCII = 0x80

Ints = NDArray[np.int32]


@dataclass
class Segments:
    """A text as numbers of characters. `ids`: of each character its number, the most frequent first; `bounds`: where segments
    begin, and the last ends; `chars`: the code point of each number; `covered`: numbers below it may stand in pieces, the
    others are only ever spelled in bytes; `size`: UTF-8 bytes."""

    ids: Ints
    bounds: Ints
    chars: NDArray[np.uint32]
    covered: int
    size: int


def read_segments(batches: Iterable[list[str]], splitter: Splitter, coverage: float, least: int) -> Segments:
    """Cut texts into segments and number their characters.

    coverage: share of the text that the covered characters make up, about; least: times that each of them occurs.
    """
    codes, bounds, total, size = [], [np.zeros(1, np.int64)], 0, 0
    counts = np.zeros(CODES, np.int64)
    for batch in batches:
        data, offsets = encode(batch)
        cuts, _ = splitter(data, offsets)
        found, ends = np.empty(len(data), np.uint32), np.empty(len(cuts), np.int64)
        chars = _decode(data, cuts, found, ends, counts)
        codes.append(found[:chars].copy())
        bounds.append(ends[1:] + total)
        total, size = total + chars, size + len(data)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    before = np.cumsum(counts[order]) - counts[order]
    covered = int(np.count_nonzero((before < coverage * max(total, 1)) & (counts[order] >= least)))
    numbers = np.zeros(CODES, np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    ids = np.empty(total, np.int32)
    at = 0
    for number, part in enumerate(codes):
        np.take(numbers, part, out=ids[at : at + len(part)])
        at += len(part)
        codes[number] = part[:0]  # its memory goes
    return Segments(ids, np.concatenate(bounds).astype(np.int32), order.astype(np.uint32), covered, size)


@dataclass
class Fragments:
    """The nodes of a trie, parents before children; the first ones are single characters, in the order of their numbers.
    `parents` of those are -1. `chars`: the number of the last character; `depths`: characters; `counts`: occurrences."""

    parents: Ints
    chars: Ints
    depths: NDArray[np.int8]
    counts: NDArray[np.int64]


def count_fragments(text: Segments, least: int, longest: int) -> Fragments:
    """All fragments that occur at least `least` times, and every single character."""
    ids, characters = text.ids, len(text.chars)
    singles = np.bincount(ids, minlength=characters)
    parents, chars = [np.full(characters, -1, np.int32)], [np.arange(characters, dtype=np.int32)]
    depths, counts = [np.ones(characters, np.int8)], [singles.astype(np.int64)]
    plain, before, total, previous = text.chars < ASCII, 0, characters, np.where(ids < text.covered, ids, np.int32(-1))
    for depth in range(2, LONG + 1):
        allowed = plain if depth == longest + 1 else np.ones(0, np.bool_)
        keys, times = _count_level(previous, text, depth, allowed)
        kept = times >= least
        number = np.full(len(keys), -1, np.int32)
        found = int(np.count_nonzero(kept))
        if not found:
            break
        number[kept] = np.arange(found, dtype=np.int32)
        current, last = np.empty(len(ids), np.int32), np.zeros(found, np.int32)
        _number_level(previous, ids, text.bounds, depth, allowed, keys, number, current, last)
        parents.append((before + (keys[kept] - np.uint64(1) >> np.uint64(32)).astype(np.int64)).astype(np.int32))
        chars.append(last)
        depths.append(np.full(found, depth, np.int8))
        counts.append(times[kept].astype(np.int64))
        before, total, previous = total, total + found, current
    return Fragments(np.concatenate(parents), np.concatenate(chars), np.concatenate(depths), np.concatenate(counts))


def _count_level(
    previous: Ints, text: Segments, depth: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """A hash table of the candidates of a level and how often each occurs."""
    keys, counts = np.zeros(FIRST_SIZE, np.uint64), np.zeros(FIRST_SIZE, np.int32)
    segment = used = 0
    while True:
        segment, used = _count(previous, text.ids, text.bounds, depth, allowed, segment, keys, counts, used)
        if segment == len(text.bounds) - 1:
            return keys, counts
        old_keys, old_counts = keys, counts
        keys, counts = np.zeros(2 * len(old_keys), np.uint64), np.zeros(2 * len(old_keys), np.int32)
        _move(old_keys, old_counts, keys, counts)


def spell(fragments: Fragments, characters: NDArray[np.uint32], nodes: NDArray[np.int64]) -> Iterator[str]:
    """The text of some nodes."""
    parents, chars = fragments.parents.tolist(), characters[fragments.chars].tolist()
    for node in nodes.tolist():
        found = []
        while node >= 0:
            found.append(chr(chars[node]))
            node = parents[node]
        yield "".join(reversed(found))


@kernel
def _decode(data, cuts, codes, ends, counts):  # type: ignore[no-untyped-def]
    """The code points of UTF-8, and the bounds of segments counted in them; how many there are."""
    number = 0
    for segment in range(len(cuts) - 1):
        ends[segment] = number
        at = cuts[segment]
        while at < cuts[segment + 1]:
            byte = np.uint32(data[at])
            if byte < 0x80:
                code, size = byte, 1
            elif byte < 0xE0:
                code, size = (byte & 0x1F) << 6 | np.uint32(data[at + 1]) & 0x3F, 2
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | (np.uint32(data[at + 1]) & 0x3F) << 6 | np.uint32(data[at + 2]) & 0x3F
                size = 3
            else:
                code = (byte & 0x07) << 18 | (np.uint32(data[at + 1]) & 0x3F) << 12
                code |= (np.uint32(data[at + 2]) & 0x3F) << 6 | np.uint32(data[at + 3]) & 0x3F
                size = 4
            codes[number] = code
            counts[code] += 1
            number += 1
            at += size
    ends[len(cuts) - 1] = number
    return number


@kernel
def _place_of(keys, key):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(keys) - 1)
    place = (key * np.uint64(FACTOR)) >> np.uint64(24) & mask
    while keys[place] != key and keys[place] != 0:
        place = (place + np.uint64(1)) & mask
    return place


@kernel
def _pair(previous, ids, at, end, depth, allowed):  # type: ignore[no-untyped-def]
    """The key of the fragment that begins at a place, 0 if it can not be frequent."""
    if at + depth > end or previous[at] < 0 or previous[at + 1] < 0:
        return np.uint64(0)
    if len(allowed):
        for place in range(at, at + depth):
            if not allowed[ids[place]]:
                return np.uint64(0)
    return ((np.uint64(previous[at]) << np.uint64(32)) | np.uint64(previous[at + 1])) + np.uint64(1)


@kernel
def _count(previous, ids, bounds, depth, allowed, segment, keys, counts, used):  # type: ignore[no-untyped-def]
    """Count from a segment on, until the table is half full; the segment to go on with, and the places used."""
    while segment < len(bounds) - 1:
        end = bounds[segment + 1]
        if used + (end - bounds[segment]) > len(keys) // 2 and used > len(keys) // 4:
            return segment, used
        if end - bounds[segment] >= len(keys) // 2:  # one segment longer than that: room for all of it first
            return segment, used
        for at in range(bounds[segment], end - depth + 1):
            key = _pair(previous, ids, at, end, depth, allowed)
            if key:
                place = _place_of(keys, key)
                if keys[place] == 0:
                    keys[place] = key
                    used += 1
                counts[place] += 1
        segment += 1
    return segment, used


@kernel
def _move(old_keys, old_counts, keys, counts):  # type: ignore[no-untyped-def]
    for old in range(len(old_keys)):
        if old_keys[old]:
            place = _place_of(keys, old_keys[old])
            keys[place], counts[place] = old_keys[old], old_counts[old]


@kernel
def _number_level(previous, ids, bounds, depth, allowed, keys, number, current, last):  # type: ignore[no-untyped-def]
    """The number of the kept fragment that begins at each place, -1 where there is none, and the last character of each."""
    current[:] = -1
    for segment in range(len(bounds) - 1):
        end = bounds[segment + 1]
        for at in range(bounds[segment], end - depth + 1):
            key = _pair(previous, ids, at, end, depth, allowed)
            if key:
                found = number[_place_of(keys, key)]
                current[at] = found
                if found >= 0:
                    last[found] = ids[at + depth - 1]
