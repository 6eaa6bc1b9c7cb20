"""What a code point is: Han or not, letter, digit, blank, punctuation, script, traditional, broken - one table for all.

Every question is a bit, every distinct set of bits a *class* (about 40 of them), and the table gives the class of each of
the 1 114 112 code points in one byte. So the compiled counting only has to count classes, one addition for a character,
and every ratio is read off that histogram. Categories come from Python's own Unicode tables (14.0 in Python 3.11, 15.0 in
3.12: a character assigned between the two is "unassigned" under the older one); Han and the other scripts come from
the ranges below (Unicode's Scripts.txt, 15.0), because Python has no script property. Built once in a process: 0.3 s.

Traditional characters are those that Big5 can encode and GB2312 cannot, by the codecs in Python's library. A few characters
that both ways of writing share are among them (rare ones that GB2312 had no room for, such as 囧 or 堃); a few traditional
ones are not, because GB2312 has them too (乾, 著, 後). Good enough for a ratio of a whole text.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HAN, LATIN, DIGIT, ALNUM, SPACE, SPECIAL, PUNCTUATION, TRADITIONAL, BAD, STOP, WORD = (1 << bit for bit in range(11))
BULLET, TERMINAL, GAP = 1 << 11, 1 << 12, 1 << 13
SCRIPT_SHIFT = 14  # the number of the script stands above the flags; 0: not a letter

STOP_CHARACTERS = "的了是在和有不我他这就也都着你而之与及或其等被把对于以为所"
TERMINAL_CHARACTERS = "。！？…；.!?;”’」』\"'\uff0e\uff61"  # U+FF0E full-width, U+FF61 half-width ideographic full stop
BULLETS = (
    "•●○■□▪▫◆◇★☆►▶‣·\u2043\u25e6\uf0b7\uf06c"  # hyphen bullet, white bullet; U+F0B7, U+F06C bullets of Symbol fonts
)
GAPS = "|>»\u203a\uff5c"  # between items of a menu, beside white space; U+203A single angle quote, U+FF5C full-width vertical line
PLAIN_BULLETS = "-*+"  # these only with a blank after them

HAN_RANGES = (
    (0x2E80, 0x2FD5), (0x3005, 0x3005), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAD9), (0x16FF0, 0x16FF1), (0x20000, 0x2FA1D), (0x30000, 0x323AF),
)  # fmt: skip
# BCP 47 tag of a text in that script -> ranges. Chinese, Japanese and Korean are told apart by Han, kana and Hangul.
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "und": (),  # letters of any script that is not listed
    "zh": HAN_RANGES,
    "ja": ((0x3031, 0x3035), (0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF),
           (0xFF66, 0xFF9F), (0x1AFF0, 0x1B167)),
    "ko": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xAC00, 0xD7FB), (0xFFA0, 0xFFDC)),
    "und-Latn": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0xAA), (0xBA, 0xBA), (0xC0, 0x2B8), (0x1D00, 0x1D25), (0x1D2C, 0x1D5C),
                 (0x1D62, 0x1D65), (0x1D6B, 0x1D77), (0x1D79, 0x1DBE), (0x1E00, 0x1EFF), (0x2071, 0x2071), (0x207F, 0x209C),
                 (0x212A, 0x212B), (0x2C60, 0x2C7F), (0xA722, 0xA7FF), (0xAB30, 0xAB69), (0xFB00, 0xFB06), (0xFF21, 0xFF3A),
                 (0xFF41, 0xFF5A)),
    "und-Cyrl": ((0x400, 0x52F), (0x1C80, 0x1C88), (0x1D2B, 0x1D2B), (0xA640, 0xA69F)),
    "und-Grek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "und-Arab": ((0x600, 0x6FF), (0x750, 0x77F), (0x870, 0x8C9), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "und-Hebr": ((0x5D0, 0x5F2), (0xFB1D, 0xFB4F)),
    "und-Deva": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "und-Beng": ((0x980, 0x9FE),),
    "und-Taml": ((0xB80, 0xBFA),),
    "und-Thai": ((0xE01, 0xE5B),),
    "und-Laoo": ((0xE80, 0xEDF),),
    "und-Tibt": ((0xF00, 0xFDA),),
    "und-Mymr": ((0x1000, 0x109F), (0xA9E0, 0xA9FE), (0xAA60, 0xAA7F)),
    "und-Geor": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF)),
    "und-Armn": ((0x531, 0x58A),),
    "und-Khmr": ((0x1780, 0x17FF),),
    "und-Mong": ((0x1800, 0x18AA),),
}  # fmt: skip
TAGS = tuple(SCRIPTS)


CATEGORIES = (
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
    "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn",
)  # fmt: skip


class Classes(NamedTuple):
    """The class of every code point, uint8 [0x110000], and the flags of every class, int64 [classes]."""

    of: NDArray[np.uint8]
    flags: NDArray[np.int64]


def in_ranges(ranges: tuple[tuple[int, int], ...]) -> NDArray[np.bool_]:
    """Which of all code points lie in the ranges, ends included."""
    found = np.zeros(sys.maxunicode + 1, np.bool_)
    for first, last in ranges:
        found[first : last + 1] = True
    return found


def traditional_characters() -> frozenset[str]:
    """The Han characters that Big5 encodes and GB2312 does not."""
    return _encodable("big5") - _encodable("gb2312")


@functools.cache
def categories() -> NDArray[np.uint8]:
    """The general category of every code point, by its place in CATEGORIES."""
    place = {name: index for index, name in enumerate(CATEGORIES)}
    found = np.full(sys.maxunicode + 1, place["Cn"], np.uint8)
    for first, last in ((0, 0x33FFF), (0xE0000, 0xE0FFF)):  # all that Unicode has assigned, or soon will
        names = map(unicodedata.category, map(chr, range(first, last + 1)))
        found[first : last + 1] = np.fromiter(map(place.__getitem__, names), np.uint8, last + 1 - first)
    for first in (0xF0000, 0x100000):
        found[first : first + 0xFFFE] = place["Co"]
    return found


def having_category(*names: str) -> NDArray[np.bool_]:
    """Which code points have one of these categories; one letter stands for all that begin with it."""
    wanted = np.array([name.startswith(names) for name in CATEGORIES])
    return np.take(wanted, categories())


@functools.cache
def classes() -> Classes:
    """The table. Built on first use."""
    letter, han = having_category("L"), in_ranges(HAN_RANGES)
    space = having_category("Z")
    space[:0x100] = [chr(code).isspace() for code in range(0x100)]  # some control characters are white space
    alnum = having_category("L", "N")
    emoji_parts = _members("\u200d\u20e3\ufe0e\ufe0f") | in_ranges(
        ((0xE0020, 0xE007F),)
    )  # joiner, keycap, selectors, tags
    script = (letter | han).astype(np.uint8)
    for index, ranges in enumerate(SCRIPTS.values(), 1):
        for first, last in ranges:
            part = script[first : last + 1]
            part[part > 0] = index  # only letters
    masks = {
        HAN: han,
        LATIN: letter & in_ranges(SCRIPTS["und-Latn"]),
        DIGIT: having_category("Nd"),
        ALNUM: alnum,
        SPACE: space,
        SPECIAL: (having_category("P", "S", "N") | space | emoji_parts) & ~han,
        PUNCTUATION: having_category("P"),
        TRADITIONAL: _members(traditional_characters()),
        BAD: having_category("Cn", "Co") | (having_category("Cc") & ~space) | _members("\ufffd"),
        STOP: _members(STOP_CHARACTERS),
        WORD: (alnum | having_category("Mn", "Mc")) & ~han,
        BULLET: _members(BULLETS),
        TERMINAL: _members(TERMINAL_CHARACTERS),
        GAP: space | _members(GAPS),
    }
    flags = script.astype(np.int64) << SCRIPT_SHIFT
    for bit, mask in masks.items():
        flags[mask] |= bit
    return Classes(*numbered(flags))


def numbered(flags: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct values, ascending, and for each value its number among them: np.unique for small values."""
    distinct = np.flatnonzero(np.bincount(flags))
    assert len(distinct) <= 256
    number = np.zeros(distinct[-1] + 1, np.uint8)
    number[distinct] = np.arange(len(distinct))
    return np.take(number, flags), distinct


def _members(chars: str | frozenset[str]) -> NDArray[np.bool_]:
    found = np.zeros(sys.maxunicode + 1, np.bool_)
    found[[ord(char) for char in chars]] = True
    return found


def _encodable(codec: str) -> frozenset[str]:
    """The Han characters of the basic plane that a codec can encode."""
    every = "".join(map(chr, range(0x3400, 0xA000)))
    return frozenset(every.encode(codec, "ignore").decode(codec))
