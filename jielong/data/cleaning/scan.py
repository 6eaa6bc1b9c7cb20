"""Which documents need which cleaning step, found in one compiled pass over their bytes.

The triggers of all steps (cleaning.Triggers) become two tables of one bit a step: one indexed by code point, one by a hash
of two neighbouring code points. The pass decodes UTF-8 and collects the bits; two table look-ups a character, 128 KiB each,
which stay in the second-level cache. Pairs share places in the table: a document of a thousand characters has a few hundred
different pairs, and one of them falls on a trigger's place more often than not. So a bit that is new for a document is
looked up once more among the pairs themselves; without that cleaners saw 1.2 to 3 times as many bytes as they had to.
Characters beyond the basic plane stand for one another, so a bit may still be set without need, never missing: a cleaner
that is called for nothing does nothing.

A text is taken to stand between two line feeds, so "a blank at a line end" is one pair wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.cleaner import Triggers
from jielong.data.compiled import kernel

MAX_STEPS = 32  # bits of a table entry; config.MAX_STEPS keeps to it
PAIR_PLACES = 1 << 15
PAIR_FACTOR = 40503  # Knuth's multiplicative hash for 16 bits
BLOCK = 1024  # characters between two looks at what was found
ROOM = (
    2000  # places found that are made room for at once: memory for as many as there may be costs more than the search
)
HEAD = 20  # characters of a line before a word that counts only there

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Codes = NDArray[np.uint32]


def encode(texts: list[str]) -> tuple[Bytes, Offsets]:
    """The UTF-8 bytes of texts one after the other, and where each begins (and the last ends)."""
    parts = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return np.frombuffer(b"".join(parts), np.uint8), offsets


def codes_of(text: str) -> Codes:
    """The code points of a text. (Two bytes each would do for most texts, but take longer to make.)"""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class Scanner:
    """The tables of a list of steps; bit i belongs to the i-th triggers."""

    def __init__(self, triggers: list[Triggers]) -> None:
        assert len(triggers) <= MAX_STEPS
        self._chars = np.zeros(0x10000, np.uint32)
        self._pairs = np.zeros(PAIR_PLACES, np.uint32)
        exact: dict[int, int] = {}  # a pair as one number -> its bits
        self._digits = np.zeros(len(triggers), np.int64)
        self._always = self._astral = 0
        for number, trigger in enumerate(triggers):
            bit = 1 << number
            self._digits[number] = trigger.digits
            self._always |= bit if trigger.always else 0
            for char in trigger.chars:
                if ord(char) < 0x10000:
                    self._chars[ord(char)] |= np.uint32(bit)
                else:
                    self._astral |= bit  # all characters beyond the basic plane stand for one another
            for pair in trigger.pairs:
                number = _number(pair)
                self._pairs[pair_place(number >> 16, number & 0xFFFF)] |= np.uint32(bit)
                exact[number] = exact.get(number, 0) | bit
        self._known = np.array(sorted(exact), np.int64)
        self._bits = np.array([exact[pair] for pair in sorted(exact)], np.uint32)

    def flags(self, data: Bytes, offsets: Offsets) -> NDArray[np.uint32]:
        """For each document, the steps whose triggers it holds: uint32, a bit a step."""
        found = np.empty(len(offsets) - 1, np.uint32)
        tables = (self._chars, self._pairs, self._known, self._bits)
        _scan(data, offsets, *tables, self._digits, np.uint32(self._astral), found)
        found |= np.uint32(self._always)
        return found


class WordSearch:
    """Where any of some words begins in a text: a look-up of each pair of neighbours, then the words that begin with it.

    Of `heads`, words that count only behind at most HEAD characters of a line, the line is found.
    """

    def __init__(self, words: Iterable[str], heads: Iterable[str] = ()) -> None:
        both = sorted([(word, 0) for word in set(words)] + [(word, 1) for word in set(heads)])
        both.sort(key=lambda word: _number(word[0]))
        assert all(len(head) > 1 for head in heads)
        singles = "".join(re.escape(word) for word, _ in both if len(word) == 1)
        self._singles = re.compile(f"[{singles}]") if singles else None
        both = [(word, head) for word, head in both if len(word) > 1]
        ordered = [word for word, _ in both]
        numbers = [_number(word) for word in ordered]
        self._pairs = np.zeros(PAIR_PLACES, np.bool_)
        for number in numbers:
            self._pairs[pair_place(number >> 16, number & 0xFFFF)] = True
        known = sorted(set(numbers))
        first = np.searchsorted(numbers, [*known, 1 << 32])  # the words of each pair
        self._known = np.array([known, first[:-1], first[1:]], np.int64)
        ends = np.cumsum([0, *map(len, ordered)])
        self._words = np.array([ends[:-1], ends[1:], [head for _, head in both]], np.int64)
        self._codes = np.frombuffer("".join(ordered).encode("utf-32-le"), np.uint32)

    def places(self, text: str) -> tuple[list[int], list[int]]:
        """Characters before each word, and before each line with a head; in order."""
        codes = codes_of(text)
        found = np.empty(ROOM, np.int32)
        tables = (self._pairs, self._known, self._words, self._codes)
        words, lines = _search(codes, *tables, found)
        if words + lines > ROOM:
            found = np.empty(words + lines, np.int32)
            _search(codes, *tables, found)
        places: list[int] = found[:words].tolist()
        if self._singles:  # nobody's habit, so they may take their time
            places = sorted({*places, *(match.start() for match in self._singles.finditer(text))})
        return places, found[len(found) - lines :][::-1].tolist()


def count_chars(data: Bytes, offsets: Offsets) -> NDArray[np.int32]:
    """Characters of each document: the bytes that do not continue one."""
    found = np.empty(len(offsets) - 1, np.int32)
    _count_chars(data, offsets, found)
    return found


@kernel
def _place(pair, known):  # type: ignore[no-untyped-def]
    """Where a number stands among sorted ones; their count if it does not."""
    low, high = 0, len(known)
    while low < high:
        middle = (low + high) // 2
        if known[middle] < pair:
            low = middle + 1
        else:
            high = middle
    return low if low < len(known) and known[low] == pair else len(known)


@kernel
def _exact(first, second, known, bits):  # type: ignore[no-untyped-def]
    """The bits of a pair."""
    place = _place(first << 16 | second, known)
    return bits[place] if place < len(known) else np.uint32(0)


@kernel
def _search(codes, pairs, known, words, letters, found):  # type: ignore[no-untyped-def]
    """Places of words to the front of `found`, lines with heads to the back, and how many there are of both, which may be
    more than there is room for."""
    used = lines = 0
    before_line = np.int64(-1)
    # Unsigned numbers: no look whether an index counts from the end.
    one, last, size = np.uint64(1), np.uint64(0xFFFF), np.uint64(max(len(codes), 1) - 1)
    factor, mask = np.uint64(PAIR_FACTOR), np.uint64(PAIR_PLACES - 1)
    likely = np.empty(BLOCK, np.int64)
    for block in range(np.uint64(0), size, np.uint64(BLOCK)):
        count = np.uint64(0)
        after = min(np.uint64(codes[block]), last)
        for at in range(block, min(block + np.uint64(BLOCK), size)):  # without a branch that is hard to foresee
            before, after = after, min(np.uint64(codes[at + one]), last)
            likely[count] = at
            count += np.uint64(pairs[((before * factor) ^ after) & mask])
        for at in likely[:count]:
            line, hit = _looked_up(codes, at, known, words, letters)
            if hit:
                if used + lines < len(found):
                    found[used] = at
                used += 1
            if line > before_line:
                if used + lines < len(found):
                    found[len(found) - 1 - lines] = line
                lines += 1
                before_line = line
    return used, lines


@kernel
def _looked_up(codes, at, known, words, letters):  # type: ignore[no-untyped-def]
    """The line, if a head stands there, else -1; whether a word does."""
    line, hit = np.int64(-1), False
    last = np.int64(0xFFFF)
    place = _place(min(np.int64(codes[at]), last) << 16 | min(np.int64(codes[at + 1]), last), known[0])
    if place < known.shape[1]:
        for word in range(known[1, place], known[2, place]):
            if _stands(codes, at, letters[words[0, word] : words[1, word]]):
                if words[2, word]:
                    line = _line_of(codes, at)
                else:
                    hit = True
    return line, hit


@kernel
def _stands(codes, at, word):  # type: ignore[no-untyped-def]
    """Whether a word stands at a place."""
    same = at + len(word) <= len(codes)
    for n in range(len(word) if same else 0):
        same &= codes[at + n] == word[n]
    return same


@kernel
def _line_of(codes, at):  # type: ignore[no-untyped-def]
    """Where the line of a place begins, -1 if that is more than HEAD characters before."""
    for n in range(at, max(at - HEAD, 1) - 1, -1):
        if codes[n - 1] == 10:
            return n
    return 0 if at <= HEAD else -1


@kernel
def _count_chars(data, offsets, found):  # type: ignore[no-untyped-def]
    for doc in range(len(found)):
        count = 0
        for at in range(offsets[doc], offsets[doc + 1]):
            count += (data[at] & 0xC0) != 0x80
        found[doc] = count


def _number(word: str) -> int:
    """The first two characters as one number; one character alone is followed by nothing, 0."""
    codes = [min(ord(char), 0xFFFF) for char in word[:2].ljust(2, "\0")]
    return codes[0] << 16 | codes[1]


def pair_place(first: int, second: int) -> int:
    """Where a pair of code points stands in the table."""
    return ((first * PAIR_FACTOR) ^ second) & (PAIR_PLACES - 1)


@kernel
def _scan(data, offsets, chars, pairs, known, pair_bits, digits, astral, found):  # type: ignore[no-untyped-def]
    for doc in range(len(offsets) - 1):
        at, end = offsets[doc], offsets[doc + 1]
        bits = np.uint32(0)
        before = np.int64(10)  # line feed
        run, longest = 0, 0
        gap = False  # the character before is a separator within a number
        while at < end:
            byte = np.int64(data[at])
            if byte < 0x80:
                code, at = byte, at + 1
            elif byte < 0xE0:
                code, at = (byte & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F, at + 2
            elif byte < 0xF0:
                code = (byte & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | np.int64(data[at + 2]) & 0x3F
                at += 3
            else:
                code, at = np.int64(0xFFFF), at + 4
                bits |= astral
            bits |= chars[code]
            if pairs[((before * PAIR_FACTOR) ^ code) & (PAIR_PLACES - 1)] & ~bits:
                bits |= _exact(before, code, known, pair_bits)
            if 48 <= code <= 57:
                run += 1
                gap = False
                longest = max(longest, run)
            elif run:
                if not gap and (code == 32 or code == 45 or code == 46):
                    gap = True
                else:
                    run, gap = 0, False
            before = code
        if pairs[((before * PAIR_FACTOR) ^ 10) & (PAIR_PLACES - 1)] & ~bits:
            bits |= _exact(before, 10, known, pair_bits)
        for step in range(len(digits)):
            if digits[step] and longest >= digits[step]:
                bits |= np.uint32(1 << step)
        found[doc] = bits


def flags_plain(text: str, triggers: list[Triggers]) -> int:
    """The twin: the exact bits of one text, without tables. Every bit set here is set by the scanner."""
    framed = f"\n{text}\n"
    pairs = {framed[n : n + 2] for n in range(len(framed) - 1)}
    bits = 0
    for number, trigger in enumerate(triggers):
        hit = trigger.always or bool(trigger.chars & set(text)) or bool(trigger.pairs & pairs)
        hit = hit or (trigger.digits > 0 and longest_number(text) >= trigger.digits)
        bits |= hit << number
    return bits


def longest_number(text: str) -> int:
    """Digits of the longest number in which single blanks, hyphens and full stops may stand."""
    longest = run = 0
    gap = False
    for char in text:
        if "0" <= char <= "9":
            run, gap = run + 1, False
            longest = max(longest, run)
        elif run and not gap and char in " -.":
            gap = True
        else:
            run, gap = 0, False
    return longest
