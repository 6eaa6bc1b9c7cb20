"""What fragments are found by: n-grams of letters and digits, one 64-bit hash each, and those of them that serve as keys.

A text is folded as it is for comparing documents (fingerprints.folding: case and width; punctuation and blanks are
left out), and every digit becomes 0, of a number's digits no more than eight: an advert that gives another telephone
number in every document, of eight digits or of eleven, has one form. For every letter that is kept, `fold` says which
bytes it stands for and what stands before it (nothing, a mark, a sentence end, a line feed, the edge of the
document): whoever cuts wants to know.

The hash of n letters is a polynomial of their code points modulo 2^64, which rolls along the text (two
multiplications a letter), through the finaliser of MurmurHash3.

Not every n-gram is a key. A key is an n-gram whose least s-gram (by a hash) is its first or its last one: a closed
syncmer (Edgar 2021). Whether it is one depends on itself alone, so it is a key in every document or in none and the
documents are counted exactly; of any SPAN n-grams in a row at least one is a key; two of SPAN + 1 are. Keeping hashes
divisible by 4 instead would keep as many, but of a fragment of 20 letters would keep none in one case of thirteen. A
key must also hold some Han characters (or kana, or hangul: a third): twelve Latin letters are two words, and every
pair of words recurs.

A key is 8 bytes, so that the keys of a corpus are about half its size (0.45 measured). About 150 MB/s on one core.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets
from jielong.data.compiled import kernel
from jielong.data.deduplicating.fingerprints import Codes, folding, mix, mix_plain

Hashes = NDArray[np.uint64]

SPAN = 8  # n-grams in a row among which at least one is a key
MAX_DIGITS = 8  # of one number; longer ones count as so long
FACTOR = 0x9E3779B97F4A7C15
SHORT_FACTOR = 0xD1342543DE82EF95
WIDE = 0x2E80  # code points from here on are Han, kana, hangul and the like
GLUED, MARK, SENTENCE, LINE, EDGE = range(5)  # what stands before a letter
_ENDS = "。！？；!?…"


@dataclass(frozen=True)
class Folded:
    """The letters of some documents, one after the other; `starts` says where each document's begin (and the last ends).

    `begins` and `ends` are the bytes of each letter, counted from its document's first; `gaps` what stands before it.
    """

    codes: Codes
    starts: Offsets
    begins: NDArray[np.int32]
    ends: NDArray[np.int32]
    gaps: NDArray[np.uint8]


@cache
def flat() -> NDArray[np.uint32]:
    """fingerprints.folding with every decimal digit as 0."""
    table = folding().copy()
    for code in np.flatnonzero(table).tolist():
        if unicodedata.category(chr(code)) == "Nd":
            table[code] = ord("0")
    return table


def fold(data: Bytes, offsets: Offsets) -> Folded:
    """The letters and digits of documents, with their places."""
    codes, starts = np.empty(len(data), np.uint32), np.empty(len(offsets), np.int64)
    begins, ends = np.empty(len(data), np.int32), np.empty(len(data), np.int32)
    gaps = np.empty(len(data), np.uint8)
    used = _fold(data, offsets, flat(), codes, starts, begins, ends, gaps)
    return Folded(codes[:used], starts, begins[:used], ends[:used], gaps[:used])


def fold_plain(text: str) -> list[tuple[int, int, int, int]]:
    """The twin of `fold` for one text: code, first and last byte (exclusive), and what stands before, of each letter."""
    table = flat()
    letters: list[tuple[int, int, int, int]] = []
    gap, digits, at = EDGE, 0, 0
    for char in text:
        begin, at = at, at + len(char.encode("utf-8"))
        code = int(table[ord(char)]) if ord(char) < 0x10000 else ord(char)
        if not code:
            gap = max(gap, LINE if char == "\n" else SENTENCE if char in _ENDS else MARK)
            digits = digits if char == "-" else 0
            continue
        digits = digits + 1 if code == ord("0") else 0
        if digits > MAX_DIGITS:
            letters[-1] = (*letters[-1][:2], at, letters[-1][3])
        else:
            letters.append((code, begin, at, gap))
        gap = GLUED
    return letters


def hashes_of(codes: Codes, starts: Offsets, n: int) -> Hashes:
    """The hash of the n-gram that begins at each letter; 0 where its document ends within it."""
    grams = np.zeros(len(codes), np.uint64)
    _roll(codes, starts, n, np.uint64(pow(FACTOR, n, 1 << 64)), grams)
    return grams


def hashes_plain(codes: list[int], n: int) -> list[int]:
    """The twin of `hashes_of` for one document, without the zeros."""
    return [_hash_plain(codes[at : at + n], FACTOR) or 1 for at in range(len(codes) - n + 1)]


def gram_hashes(data: Bytes, offsets: Offsets, n: int) -> tuple[Hashes, Offsets]:
    """Of each document the different keys of n letters, in the order in which they come, and where each document's begin."""
    codes, starts = np.empty(len(data), np.uint32), np.empty(len(offsets), np.int64)
    nothing = np.empty(0, np.int32)
    used = _fold(data, offsets, flat(), codes, starts, nothing, nothing, np.empty(0, np.uint8))
    codes = codes[:used]
    keys, begins = np.empty(used, np.uint64), np.empty(len(offsets), np.int64)
    short = _short(n)
    longest = int(np.diff(starts).max(initial=0))
    seen = np.empty(1 << max(longest, 1).bit_length() + 1, np.uint64)
    powers = (np.uint64(pow(FACTOR, n, 1 << 64)), np.uint64(pow(SHORT_FACTOR, short, 1 << 64)))
    count = _keys(codes, starts, n, short, *powers, n // 3, seen, keys, begins)
    return keys[:count].copy(), begins


def keys_plain(text: str, n: int) -> list[int]:
    """The twin of `gram_hashes` for one text."""
    codes, short = [letter[0] for letter in fold_plain(text)], _short(n)
    found: dict[int, None] = {}
    for at in range(len(codes) - n + 1):
        gram = codes[at : at + n]
        values = [_hash_plain(gram[k : k + short], SHORT_FACTOR) for k in range(n - short + 1)]
        if min(values) in (values[0], values[-1]) and sum(code >= WIDE for code in gram) >= n // 3:
            found[_hash_plain(gram, FACTOR) or 1] = None
    return list(found)


def span(n: int) -> int:
    """N-grams in a row among which at least one is a key (where all hold enough Han)."""
    return n - _short(n)


def _short(n: int) -> int:
    return max(2, n - SPAN)


def _hash_plain(codes: list[int], factor: int) -> int:
    x = 0
    for code in codes:
        x = (x * factor + code + 1) % (1 << 64)
    return mix_plain(x)


@kernel
def _fold(data, offsets, table, codes, starts, begins, ends, gaps):  # type: ignore[no-untyped-def]
    used = np.int64(0)
    places = len(begins) > 0
    for doc in range(len(offsets) - 1):
        starts[doc] = used
        base = offsets[doc]
        at, end = base, offsets[doc + 1]
        gap, digits = np.uint8(EDGE), 0
        while at < end:
            begin = at
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
            if folded == 0:
                if code != 45:  # a hyphen may stand within a number
                    digits = 0
                if places:
                    kind = MARK
                    if code == 10:
                        kind = LINE
                    elif (code == 0x3002 or code == 0xFF01 or code == 0xFF1F or code == 0xFF1B or code == 33
                            or code == 63 or code == 0x2026):  # fmt: skip
                        kind = SENTENCE
                    gap = max(gap, np.uint8(kind))
                continue
            if folded == 48:
                digits += 1
                if digits > MAX_DIGITS:
                    if places:
                        ends[used - 1] = at - base
                        gap = np.uint8(GLUED)
                    continue
            else:
                digits = 0
            codes[used] = folded
            if places:
                begins[used], ends[used], gaps[used] = begin - base, at - base, gap
                gap = np.uint8(GLUED)
            used += 1
    starts[len(offsets) - 1] = used
    return used


@kernel
def _roll(codes, starts, n, power, grams):  # type: ignore[no-untyped-def]
    for doc in range(len(starts) - 1):
        begin, end = starts[doc], starts[doc + 1]
        x = np.uint64(0)
        for at in range(begin, end):
            x = x * np.uint64(FACTOR) + np.uint64(codes[at]) + np.uint64(1)
            if at - begin >= n:
                x -= (np.uint64(codes[at - n]) + np.uint64(1)) * power
            if at - begin >= n - 1:
                grams[at - n + 1] = max(mix(x), np.uint64(1))


@kernel
def _keys(codes, starts, n, short, power, short_power, min_wide, seen, keys, begins):  # type: ignore[no-untyped-def]
    used = 0
    width = n - short + 1  # s-grams in an n-gram
    ring = np.empty(width, np.uint64)
    one = np.uint64(1)
    for doc in range(len(starts) - 1):
        begin, end = starts[doc], starts[doc + 1]
        begins[doc] = used
        x, y = np.uint64(0), np.uint64(0)
        wide, place = 0, 0
        least, age = np.uint64(0xFFFFFFFFFFFFFFFF), width
        for at in range(begin, end):
            code = np.uint64(codes[at]) + one
            x = x * np.uint64(FACTOR) + code
            y = y * np.uint64(SHORT_FACTOR) + code
            wide += 1 if code > WIDE else 0
            if at - begin >= short:
                y -= (np.uint64(codes[at - short]) + one) * short_power
            if at - begin >= n:
                old = np.uint64(codes[at - n]) + one
                x -= old * power
                wide -= 1 if old > WIDE else 0
            if at - begin < short - 1:
                continue
            value = mix(y)
            ring[place] = value
            age += 1
            if value <= least:
                least, age = value, 0
            elif age >= width and at - begin >= n - 1:
                least = value
                for k in range(width):  # the least of the window, the latest of equals
                    back = (place - k) % width
                    if ring[back] < least or k == 0:
                        least, age = ring[back], k
            place = place + 1 if place + 1 < width else 0
            if at - begin >= n - 1 and wide >= min_wide and (value == least or ring[place] == least):
                keys[used] = max(mix(x), one)
                used += 1
        used = begins[doc] + _distinct(keys, begins[doc], used, seen)
    begins[len(starts) - 1] = used
    return used


@kernel
def _distinct(keys, begin, end, seen):  # type: ignore[no-untyped-def]
    """Keep the first of equal keys; returns how many stay."""
    size = 4
    while size < 2 * (end - begin):
        size *= 2
    seen[:size] = np.uint64(0)
    mask = np.uint64(size - 1)
    stay = begin
    for at in range(begin, end):
        key = keys[at]
        slot = key & mask
        while seen[slot] != 0 and seen[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if seen[slot] == 0:
            seen[slot] = key
            keys[stay] = key
            stay += 1
    return stay - begin
