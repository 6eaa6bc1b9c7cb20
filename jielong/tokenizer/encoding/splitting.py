"""Cut text into the pieces that no token crosses, in compiled code, exactly where the `tokenizers` library cuts.

A pre-split pattern ("a run of Han characters | a word with the space before it | ...") is a regular expression of a small
kind: alternatives, each a sequence of sets of characters with a count, the longest first, and perhaps a look at what must
not follow. Such a pattern is read here into a table, and a matcher of a hundred lines walks it: the first character says
which alternatives can match at all, runs are loops over one table of classes, and what was taken too much is given back
(`\\s+(?!\\S)`). That covers our own pattern and those of GPT-2, cl100k, Llama 3, Qwen 2 and DeepSeek (three patterns, one
after another); what it does not cover (look-behind, lazy counts, back references, counted groups) is refused with None and
stays with the library.

The Unicode version is the library's, not Python's: the members of every set of the pattern are asked of its own engine,
once a process, by cutting a string of all code points. (Planes 4 to 13, 15 and 16 hold nothing but unassigned and private
characters, which are alike: one in 256 of them is asked.) Sets that tell the same characters apart share a class, and
a class is one byte a code point: 1.1 MB, of which Chinese text touches about 30 KB.

Cost: 80 to 120 MB/s on one core (DeepSeek's three patterns: 60). The twin is the library itself: `split_plain`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import pre_tokenizers

from jielong.data.compiled import kernel

# what ByteLevel(use_regex=True) cuts by: GPT-2's pattern, built into the library
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CODES = 0x110000
ASKED_WHOLE = 0x40000  # planes 0 to 3, and 14
MANY = 1 << 40  # "any number of times"
MOST_ALTERNATIVES = MOST_CLASSES = 64  # bits of a mask
ESCAPED_SETS = "sSdDwWhH"
ESCAPED_CHARS = {"r": "\r", "n": "\n", "t": "\t", "f": "\f", "v": "\v"}
FOLDED_PAIRS = ("ss", "st", "ff", "fi", "fl")  # U+00DF, U+FB00 to U+FB06
QUANTIFIERS = {"?": (0, 1), "*": (0, MANY), "+": (1, MANY)}

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Item:
    """Characters of one set, `least` to `most` of them; `sticky`: what was taken is never given back."""

    set: str  # as the pattern writes it
    least: int = 1
    most: int = 1
    sticky: bool = False


@dataclass(frozen=True)
class Alternative:
    """A sequence of items; `not_ahead` is a set of which no character may follow."""

    items: tuple[Item, ...] = ()
    not_ahead: str | None = None


class _NotCoveredError(Exception):
    """The pattern is of a kind that the matcher does not know."""


@dataclass
class _Reader:
    """Reads a pattern from left to right."""

    pattern: str
    at: int = 0
    fold: bool = False  # inside (?i:
    found: list[Alternative] = field(default_factory=list)

    def alternatives(self, inside: bool = False) -> list[Alternative]:
        """Those up to the end of the pattern, or of the group."""
        result: list[Alternative] = []
        while True:
            result += self._sequence()
            if self.at == len(self.pattern):
                if inside:
                    raise _NotCoveredError
                return result
            if self.pattern[self.at] == ")":
                if not inside:
                    raise _NotCoveredError
                return result
            self.at += 1  # "|"

    def _sequence(self) -> list[Alternative]:
        """The sequences that one alternative stands for: a group in it is written out."""
        open_ends = [Alternative()]
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if any(alternative.not_ahead is not None for alternative in open_ends):
                raise _NotCoveredError  # a look ahead stands last
            if self.pattern.startswith("(?!", self.at):
                self.at += 3
                ahead = self._set()
                self._expect(")")
                open_ends = [Alternative(alternative.items, ahead) for alternative in open_ends]
            elif self.pattern[self.at] == "(":
                group = self._group()
                # the order of attempts stays the same only where nothing before the group can be given back
                if any(item.least != item.most for one in open_ends for item in one.items):
                    raise _NotCoveredError
                open_ends = [Alternative(a.items + b.items, b.not_ahead) for a in open_ends for b in group]
            else:
                item = self._item()
                open_ends = [Alternative((*one.items, item)) for one in open_ends]
        return open_ends

    def _group(self) -> list[Alternative]:
        fold = self.fold
        for start in ("(?i:", "(?:"):
            if self.pattern.startswith(start, self.at):
                self.at += len(start)
                self.fold = fold or start == "(?i:"
                group = self.alternatives(inside=True)
                if self.fold:
                    _check_folding(group)
                self.fold = fold
                self._expect(")")
                if self.pattern[self.at : self.at + 1] in ("?", "*", "+", "{"):
                    raise _NotCoveredError
                return group
        raise _NotCoveredError

    def _expect(self, char: str) -> None:
        if not self.pattern.startswith(char, self.at):
            raise _NotCoveredError
        self.at += 1

    def _item(self) -> Item:
        chars = self._set()
        mark = self.pattern[self.at : self.at + 1]
        if mark == "{":
            end = self.pattern.find("}", self.at)
            least, comma, most = self.pattern[self.at + 1 : end].partition(",")
            if not least.isascii() or not least.isdigit() or (most and not most.isdigit()):
                raise _NotCoveredError
            self.at = end + 1
            if self.pattern[self.at : self.at + 1] in ("?", "+"):  # {1,3}+ is no possessive count in every syntax
                raise _NotCoveredError
            return Item(chars, int(least), int(most) if most else MANY if comma else int(least))
        if mark not in QUANTIFIERS:
            return Item(chars)
        self.at += 1
        fewest, highest = QUANTIFIERS[mark]
        follows = self.pattern[self.at : self.at + 1]
        if follows in ("?", "*"):
            raise _NotCoveredError
        self.at += follows == "+"
        return Item(chars, fewest, highest, sticky=follows == "+")

    def _set(self) -> str:
        """One set of characters, as it is written; a letter that may be large or small as (?i:x)."""
        start = self.at
        if start == len(self.pattern):
            raise _NotCoveredError
        char = self.pattern[start]
        if char == "[":
            self.at = _bracket_end(self.pattern, start)
        elif char == "\\":
            after = self.pattern[start + 1 : start + 2]
            if after in ("p", "P"):
                end = self.pattern.find("}", start)
                if not self.pattern.startswith("{", start + 2) or end < 0:
                    raise _NotCoveredError
                self.at = end + 1
            elif (after in ESCAPED_SETS or after in ESCAPED_CHARS or not after.isalnum()) and after:
                self.at = start + 2
            else:
                raise _NotCoveredError
        elif char in "^$.*+?{}()|":
            raise _NotCoveredError
        else:
            self.at = start + 1
        written = self.pattern[start : self.at]
        return f"(?i:{written})" if self.fold else written


def _check_folding(group: list[Alternative]) -> None:
    """Two letters may fold to one character (ss, and U+00DF): such a group is not a sequence of sets."""
    for one in group:
        sets = [item.set.removeprefix("(?i:").removesuffix(")").lower() for item in one.items]
        letters = "".join(sets)
        if len(sets) > 1 and (len(letters) > len(sets) or any(pair in letters for pair in FOLDED_PAIRS)):
            raise _NotCoveredError
        if not letters.isascii():
            raise _NotCoveredError


def _bracket_end(pattern: str, start: int) -> int:
    """Behind the bracket that closes a set, in which further sets may stand."""
    depth, at = 0, start
    while at < len(pattern):
        char = pattern[at]
        if char == "\\":
            at += 1
        elif char == "[":
            depth += 1
            if pattern.startswith(":", at + 1):  # [:alpha:]
                raise _NotCoveredError
        elif char == "]":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    raise _NotCoveredError


def read_pattern(pattern: str) -> tuple[Alternative, ...] | None:
    """The alternatives of a pattern in the order in which they are tried, or None where it is of another kind."""
    try:
        found = tuple(_Reader(pattern).alternatives())
    except _NotCoveredError:
        return None
    empty = any(sum(item.least for item in alternative.items) == 0 for alternative in found)
    rare = any(ord(char) >= ASKED_WHOLE for char in pattern)
    return None if empty or rare or len(found) > MOST_ALTERNATIVES else found


@lru_cache
def _asked() -> tokenizers.NormalizedString:
    """The characters of which an engine is asked, as the library holds them."""
    whole = [*range(0xD800), *range(0xE000, ASKED_WHOLE), *range(0xE0000, 0xF0000)]
    alike = [*range(ASKED_WHOLE, 0xE0000, 256), *range(0xF0000, CODES, 256)]
    return tokenizers.NormalizedString("".join(map(chr, whole + alike)))


@lru_cache(maxsize=32)
def members(written: str) -> NDArray[np.bool_]:
    """Which code points a set holds, asked of the library's engine: bool, one each. Raises what the library raises for a
    set that it cannot read."""
    others = "".join(str(part.normalized) for part in _asked().split(tokenizers.Regex(f"(?:{written})+"), "removed"))
    outside = np.frombuffer(others.encode("utf-32-le"), np.uint32)
    held = np.ones(CODES, np.bool_)
    held[0xD800:0xE000] = False  # surrogates never come in UTF-8
    held[outside] = False
    for start, end in ((ASKED_WHOLE, 0xE0000), (0xF0000, CODES)):
        held[start:end] = np.repeat(held[start:end:256], 256)
    return held


class Pattern:
    """A pattern as tables for the matcher."""

    def __init__(self, alternatives: tuple[Alternative, ...]) -> None:
        """Raises _NotCoveredError when the sets need more classes than a mask has bits."""
        sets: dict[str, int] = {}
        for one in alternatives:
            for written in (*(item.set for item in one.items), one.not_ahead):
                if written is not None:
                    sets.setdefault(written, len(sets))
        signature = np.zeros(CODES, np.uint64)
        if len(sets) > 64:
            raise _NotCoveredError
        for written, bit in sets.items():
            signature |= members(written).astype(np.uint64) << np.uint64(bit)
        kinds, classes = np.unique(signature, return_inverse=True)
        if len(kinds) > MOST_CLASSES:
            raise _NotCoveredError

        def mask(written: str) -> int:
            return sum(1 << n for n, kind in enumerate(kinds.tolist()) if kind >> sets[written] & 1)

        self.classes = classes.astype(np.uint8)
        items = [item for one in alternatives for item in one.items]
        self.masks = np.array([mask(item.set) for item in items], np.uint64)
        self.counts = np.array([(item.least, item.most, item.sticky) for item in items], np.int64).reshape(-1, 3)
        ends = np.cumsum([0, *(len(one.items) for one in alternatives)])
        self.spans = np.array([ends[:-1], ends[1:]], np.int64).T.copy()
        ahead = [0 if one.not_ahead is None else mask(one.not_ahead) for one in alternatives]
        self.ahead = np.array(ahead, np.uint64)
        self.starts = np.zeros(MOST_CLASSES, np.uint64)  # class of the first character -> alternatives that may match
        for number, one in enumerate(alternatives):
            able = 0
            for item in one.items:
                able |= mask(item.set)
                if item.least:
                    break
            for bit in range(MOST_CLASSES):
                self.starts[bit] |= np.uint64((able >> bit & 1) << number)

    def cut(self, data: Bytes, offsets: Offsets) -> tuple[Offsets, Offsets]:
        """As Splitter."""
        bounds = np.empty(int(offsets[-1] - offsets[0]) + 1, np.int64)  # memory is used as far as it is written
        first = np.empty(len(offsets), np.int64)
        longest = int((self.spans[:, 1] - self.spans[:, 0]).max())
        state = np.empty((2, longest), np.int64)
        tables = (self.classes, self.masks, self.counts, self.spans, self.ahead, self.starts)
        pieces = _cut(data, offsets, *tables, state, bounds, first)
        return bounds[: pieces + 1], first


class Splitter:
    """Patterns that are applied one after the other, each within the pieces of the one before."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self._patterns = patterns

    def __call__(self, data: Bytes, offsets: Offsets) -> tuple[Offsets, Offsets]:
        """Cut texts that stand end to end: `data` is UTF-8, text n is data[offsets[n] : offsets[n + 1]].

        Returns `bounds` and `first`, both int64: piece p is data[bounds[p] : bounds[p + 1]], and text n has the pieces
        first[n] to first[n + 1]. No piece is empty, but without any pattern an empty text is one.
        """
        bounds, first = offsets, np.arange(len(offsets), dtype=np.int64)
        for pattern in self._patterns:
            bounds, inner = pattern.cut(data, bounds)
            first = inner[first]
        return bounds, first


@lru_cache(maxsize=16)
def open_splitter(patterns: tuple[str, ...]) -> Splitter | None:
    """The compiled form of some patterns, or None where one of them is of a kind that only the library knows."""
    found = []
    for pattern in patterns:
        alternatives = read_pattern(pattern)
        if alternatives is None:
            return None
        try:
            found.append(Pattern(alternatives))
        except Exception:  # the library raises bare Exception for a set that its engine cannot read
            return None
    return Splitter(found)


def split_plain(text: str, patterns: tuple[str, ...]) -> list[str]:
    """The twin: the pieces of one text, cut by the library."""
    pieces = [text] if text else []
    for pattern in patterns:
        cut = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
        pieces = [part for piece in pieces for part, _ in cut.pre_tokenize_str(piece)]
    return pieces


@kernel
def _class_at(data, at, classes):  # type: ignore[no-untyped-def]
    """The class of the character at a place, and its bytes."""
    byte = np.int64(data[at])
    if byte < 0x80:
        code, size = byte, 1
    elif byte < 0xE0:
        code, size = (byte & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F, 2
    elif byte < 0xF0:
        code = (byte & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | np.int64(data[at + 2]) & 0x3F
        size = 3
    else:
        code = (byte & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12
        code |= (np.int64(data[at + 2]) & 0x3F) << 6 | np.int64(data[at + 3]) & 0x3F
        size = 4
    return np.uint64(classes[code]), size


@kernel
def _run(data, at, end, mask, most, classes):  # type: ignore[no-untyped-def]
    """Where the characters of a set end, at most so many of them, and how many there are."""
    count, one = 0, np.uint64(1)
    while at < end and count < most:
        kind, size = _class_at(data, at, classes)
        if not (mask >> kind) & one:
            break
        at += size
        count += 1
    return at, count


@kernel
def _match(data, at, end, classes, masks, counts, first, last, ahead, state):  # type: ignore[no-untyped-def]
    """Where an alternative, items `first` to `last`, ends that begins at a place; -1 if it does not match there."""
    item, place, one = first, at, np.uint64(1)
    while True:
        matched = True
        while item < last:
            place, count = _run(data, place, end, masks[item], counts[item, 1], classes)
            if count < counts[item, 0]:
                matched = False
                break
            state[0, item - first], state[1, item - first] = place, count
            item += 1
        if matched:
            if not ahead or place == end:
                return place
            kind, _ = _class_at(data, place, classes)
            if not (ahead >> kind) & one:
                return place
        # the last item that can gives one character back
        item -= 1
        while item >= first and (counts[item, 2] or state[1, item - first] <= counts[item, 0]):
            item -= 1
        if item < first:
            return -1
        place = state[0, item - first] - 1
        while (data[place] & 0xC0) == 0x80:
            place -= 1
        state[0, item - first] = place
        state[1, item - first] -= 1
        item += 1


@kernel
def _cut(data, offsets, classes, masks, counts, spans, ahead, starts, state, bounds, first):  # type: ignore[no-untyped-def]
    """The pieces of all texts; what no alternative matches is a piece up to the next match."""
    pieces, one = 0, np.uint64(1)
    bounds[0] = offsets[0]
    for text in range(len(offsets) - 1):
        first[text] = pieces
        at, end = offsets[text], offsets[text + 1]
        while at < end:
            kind, size = _class_at(data, at, classes)
            able = starts[kind]
            number, found = 0, -1
            while able and found < 0:
                if able & one:
                    begin, stop = spans[number, 0], spans[number, 1]
                    found = _match(data, at, end, classes, masks, counts, begin, stop, ahead[number], state)
                able >>= one
                number += 1
            if found >= 0:
                if at > bounds[pieces]:
                    pieces += 1
                    bounds[pieces] = at
                pieces += 1
                bounds[pieces] = at = found
            else:
                at += size
        if at > bounds[pieces]:
            pieces += 1
            bounds[pieces] = at
    first[len(offsets) - 1] = pieces
    return pieces
