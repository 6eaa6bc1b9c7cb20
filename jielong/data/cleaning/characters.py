"""Characters that nobody sees or that are another character in disguise.

Crawled pages and PDF extracts hold control characters, zero-width characters, bidirectional marks, byte order marks in
the middle, a dozen kinds of space, letters and digits of full width, and radicals where ideographs are meant (a Kangxi
radical looks the same and is another token). What goes, what stays, and why:

- CR LF, CR, U+0085, U+2028, U+2029, and the page breaks U+000B and U+000C become a line feed; other C0 and C1 controls go.
- Zero-width and bidirectional marks, soft hyphens, fillers, tags and variation selectors go. The joiner and the selector
  U+FE0F stay in an emoji sequence, tags stay after a flag, and joiners stay between letters of Arabic and Indic scripts.
- No-break and typographic spaces become a space; U+3000, with which Chinese indents, stays.
- width: full-width digits and letters only. Punctuation of full width is the Chinese punctuation.
- compatibility: NFC, which also unifies compatibility ideographs, and from NFKC the radicals, the Latin ligatures and
  half-width kana. Whole NFKC would turn ①, ㎡, ½, x² into 1, m2, 1/2, x2 and all Chinese punctuation into ASCII. The
  supplement's radicals have no decomposition; the simplified ones, which fonts make of real words, are listed by hand
  after EquivalentUnifiedIdeograph.txt of Unicode.
- Private-use characters and U+FFFD stay: they say that a text is damaged, and are measured.

Most texts need no more than a table: one code for another, or for none. A compiled pass does these; a text with a joiner,
a character beyond the basic plane, a ligature or half-width kana, where the neighbours matter, is searched with patterns.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import compress

import numpy as np

from jielong.data import steps
from jielong.data.cleaning.cleaner import Triggers
from jielong.data.cleaning.scan import codes_of
from jielong.data.compiled import kernel

_LINE_ENDS = "\r\x0b\x0c\x85\u2028\u2029"
_CONTROLS = "".join(chr(code) for code in [*range(9), *range(0x0E, 0x20), *range(0x7F, 0xA0)] if code != 0x85)
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200b\u200c\u200d\u200e\u200f"  # soft hyphen, joiners, marks, fillers
    "\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069"  # bidi, invisible operators
    "\u206a\u206b\u206c\u206d\u206e\u206f\u3164\ufeff\uffa0\ufff9\ufffa\ufffb"  # shaping, fillers, BOM, annotation
)
_SELECTORS = "".join(map(chr, range(0xFE00, 0xFE10)))
_BEYOND = "".join(map(chr, [0xE0001, *range(0xE0020, 0xE0080), *range(0xE0100, 0xE01F0)]))  # tags, selectors 17 to 256
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f"
_WIDE = "".join(chr(code + 0xFEE0) for code in range(0x21, 0x7F) if chr(code).isalnum())
_RADICALS = {
    0x2EA0: "民", 0x2EC4: "西", 0x2EC5: "见", 0x2EC6: "角", 0x2EC9: "贝", 0x2ECB: "车", 0x2ED1: "長", 0x2ED3: "长",
    0x2ED4: "门", 0x2ED8: "青", 0x2ED9: "韦", 0x2EDA: "页", 0x2EDB: "风", 0x2EDC: "飞", 0x2EDD: "食", 0x2EE2: "马",
    0x2EE3: "骨", 0x2EE4: "鬼", 0x2EE5: "鱼", 0x2EE6: "鸟", 0x2EE7: "卤", 0x2EE8: "麦", 0x2EE9: "黄", 0x2EEA: "黾",
    0x2EEC: "齐", 0x2EEE: "齿", 0x2EF0: "龙", 0x2EF1: "龜", 0x2EF3: "龟", 0x2E9F: "母", 0x2EBC: "月", 0x2EC1: "虎",
}  # fmt: skip
_LIGATURES = "".join(map(chr, range(0xFB00, 0xFB07)))
_KANGXI = "".join(map(chr, range(0x2F00, 0x2FD6)))
# A set with characters beyond U+FFFF is searched one by one, so they have a pattern of their own (40 times as fast).
_KANA = "".join(map(chr, range(0xFF66, 0xFFA0)))  # of half width, with their voice marks
_BEYOND_RUN = re.compile("[\U000e0001-\U000e01ef]+")
_FLAG = re.compile("[\U000e0020-\U000e007e]+\U000e007f")
_KANA_RUN = re.compile("[\uff66-\uff9f]{2,}")  # one alone is a hand of a kaomoji
_KANA_LETTERS = re.compile("[\uff66-\uff9d].*[\uff66-\uff9d]")

_KINDS = ("line_end", "control", "zero_width", "odd_space", "width", "compatibility")
_CONTEXT = 255  # in the place of a kind: what becomes of it is not in the table
_COMPOSES = 254  # it stays, but may be part of what NFC composes
_GONE = 0xFFFF  # in the place of a code: nothing

_CJK = "\u3400-\u4dbf\u4e00-\u9fff"
_FULL_WIDTH = str.maketrans(",!?:;.()", "，！？：；。（）")
_MARK = re.compile(rf"(?<=[{_CJK}])[,!?:;.](?=[{_CJK}]|[ \t]*$)", re.MULTILINE)
_BRACKETS = re.compile(
    rf"(?:(?<=[{_CJK}])\((?=[{_CJK}])([^()\n]*)(?<=[{_CJK}])\)|\((?=[{_CJK}])([^()\n]*)(?<=[{_CJK}])\)(?=[{_CJK}]))"
)


class CharactersCleaner:
    """The step `characters`. `edits` kinds: line_end, control, zero_width, odd_space, width, compatibility, composed,
    punctuation (characters of each; composed: texts)."""

    def __init__(self, step: steps.Characters) -> None:
        self._compatibility = step.compatibility
        self._punctuation = step.punctuation == "chinese"
        plain: dict[str, tuple[str, str]] = dict.fromkeys(_LINE_ENDS, ("\n", "line_end"))
        plain |= dict.fromkeys(_CONTROLS, ("", "control"))
        plain |= dict.fromkeys(_INVISIBLE + _SELECTORS, ("", "zero_width"))
        plain |= dict.fromkeys(_SPACES, (" ", "odd_space"))
        if step.width:
            plain |= {character: (chr(ord(character) - 0xFEE0), "width") for character in _WIDE}
        if self._compatibility:
            plain |= {old: (unicodedata.normalize("NFKC", old), "compatibility") for old in _LIGATURES + _KANGXI}
            plain |= {chr(code): (new, "compatibility") for code, new in _RADICALS.items()}
        self._plain = plain
        self._table = {ord(character): new for character, (new, _) in plain.items()}
        self._odd = re.compile(f"[{re.escape(''.join(plain))}]+")
        self._kinds, self._codes = np.zeros(0x10000, np.uint8), np.arange(0x10000, dtype=np.uint16)
        if self._compatibility:
            composing = [ord(character) for character in uncomposed_characters() if character < "\U00010000"]
            self._kinds[composing] = _COMPOSES
        for old, (new, kind) in plain.items():
            fits = len(new) < 2 and old not in "\u200c\u200d\ufe0f"
            self._kinds[ord(old)] = _KINDS.index(kind) + 1 if fits else _CONTEXT
            self._codes[ord(old)] = ord(new) if new and fits else _GONE
        if self._compatibility:
            self._kinds[[ord(kana) for kana in _KANA]] = _CONTEXT
        chars = set(plain) | set(_BEYOND)
        if self._compatibility:
            chars |= uncomposed_characters() | set(_KANA)
        if self._punctuation:
            chars |= set(",!?:;.(")
        self.triggers = Triggers(chars=frozenset(chars))

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text in plain characters; the same object if it was."""
        before = text
        translated, may_compose = self._translated(text, edits)
        text = self._replaced(text, edits) if translated is None else translated
        if self._compatibility and may_compose and not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
            edits["composed"] += 1
        if self._punctuation:
            text = _chinese_punctuation(text, edits)
        return before if text == before else text

    def _translated(self, text: str, edits: Counter[str]) -> tuple[str | None, bool]:
        """The text by the table alone, None where the table does not do; whether it may not be in NFC."""
        codes = codes_of(text)
        new, counts = np.empty_like(codes), np.zeros(len(_KINDS) + 1, np.int64)
        size = _translate(codes, self._kinds, self._codes, new, counts)
        if size < 0:
            return None, True
        composes, *of_kinds = counts.tolist()
        found = {kind: count for kind, count in zip(_KINDS, of_kinds, strict=True) if count}
        if found:
            edits.update(found)
            text = new[:size].tobytes().decode("utf-32-le", "surrogatepass")
        return text, composes > 0

    def _replaced(self, text: str, edits: Counter[str]) -> str:
        """The same by patterns, for any text."""

        def replace(match: re.Match[str]) -> str:
            run = match[0]
            if "\u200c" in run or "\u200d" in run or "\ufe0f" in run:
                kept = _with_sequences(match)
                edits.update([self._plain[character][1] for character, keep in zip(run, kept, strict=True) if not keep])
                return "".join(
                    character if keep else self._plain[character][0] for character, keep in zip(run, kept, strict=True)
                )
            edits.update([self._plain[character][1] for character in run])
            return run.translate(self._table)

        if "\r\n" in text:
            length = len(text)
            text = text.replace("\r\n", "\n")
            edits["line_end"] += length - len(text)
        text = _BEYOND_RUN.sub(lambda match: _flag(match, edits), text)
        text = self._odd.sub(replace, text)
        if self._compatibility:
            text = _KANA_RUN.sub(lambda match: _full_kana(match, edits), text)
        return text


@kernel
def _translate(codes, kinds, plain, new, counts):  # type: ignore[no-untyped-def]
    """Fills `new`, counts the characters of each kind, and returns the new length; -1 where the table does not do.
    counts[0]: what may be part of a composition."""
    used, one = np.uint64(0), np.uint64(1)  # unsigned: no look whether an index counts from the end
    for at in range(np.uint64(len(codes))):
        code = np.uint64(codes[at])
        kind = kinds[code] if code < 0x10000 else np.uint8(_COMPOSES)
        if kind == 0 or kind == _COMPOSES:
            if 0xE0000 < code < 0xE01F0:  # tags and selectors
                return -1
            counts[0] += kind == _COMPOSES
            new[used] = codes[at]
            used += one
        elif kind == _CONTEXT:
            return -1
        else:
            counts[kind] += 1
            pair = code == 13 and at + one < len(codes) and codes[at + one] == 10  # CR LF, one line feed
            if not pair and plain[code] != _GONE:
                new[used] = plain[code]
                used += one
    return np.int64(used)


def _flag(match: re.Match[str], edits: Counter[str]) -> str:
    """Tags stay behind a black flag, where they name a country's part; everything else in the run goes."""
    run, start = match[0], match.start()
    flag = _FLAG.match(run) if start and match.string[start - 1] == "\U0001f3f4" else None
    kept = flag[0] if flag else ""
    if len(run) > len(kept):
        edits["zero_width"] += len(run) - len(kept)
    return kept


def _full_kana(match: re.Match[str], edits: Counter[str]) -> str:
    if not _KANA_LETTERS.search(match[0]):
        return match[0]
    edits["compatibility"] += len(match[0])
    return unicodedata.normalize("NFKC", match[0])


def _with_sequences(match: re.Match[str]) -> list[bool]:
    """Which characters of a run stay, because they belong to an emoji or to a script that needs them."""
    text, start, end = match.string, match.start(), match.end()
    kept = [False] * (end - start)
    for number in range(end - start):
        at = start + number
        character = text[at]
        before = text[at - 1] if at else ""
        after = text[at + 1 : at + 2]
        if number and not kept[number - 1]:
            continue  # behind something that goes, so not part of a sequence
        if character == "\ufe0f":
            kept[number] = _is_emoji(before) or (before in "0123456789#*" and before != "" and after == "\u20e3")
        elif character == "\u200d":
            kept[number] = ((before == "\ufe0f" and number > 0) or _is_emoji(before)) and _is_emoji(after)
            kept[number] = kept[number] or (_joins(before) and _joins(after))
        elif character == "\u200c":
            kept[number] = _joins(before) and _joins(after)
    return kept


def _is_emoji(character: str) -> bool:
    if not character:
        return False
    code = ord(character)
    return (
        0x1F000 <= code <= 0x1FAFF
        or 0x2190 <= code <= 0x2BFF
        or character in "\u00a9\u00ae\u203c\u2049\u2122\u2139\u3030\u303d\u3297\u3299"
    )


def _joins(character: str) -> bool:
    """Letters of Arabic, Indic and their neighbours, in which joiners choose a letter's form."""
    return bool(character) and 0x0600 <= ord(character) <= 0x1CFF


def _chinese_punctuation(text: str, edits: Counter[str]) -> str:
    text, count = _MARK.subn(lambda match: match[0].translate(_FULL_WIDTH), text)
    while True:
        text, more = _BRACKETS.subn(lambda match: f"（{match[1] or match[2]}）", text)
        count += more
        if not more:
            break
    if count:
        edits["punctuation"] += count
    return text


@lru_cache(maxsize=1)
def uncomposed_characters() -> frozenset[str]:
    """Characters one of which stands in every text that is not in NFC: marks, second parts of a composition, singletons."""
    found: set[str] = set()
    every = list(map(chr, [*range(0x300, 0xAC00), *range(0xF900, 0x1F000), *range(0x2F800, 0x2FA20)]))
    found.update(compress(every, map(unicodedata.combining, every)))
    for character, decomposition in zip(every, map(unicodedata.decomposition, every), strict=True):
        if decomposition:
            parts = decomposition.split()
            if len(parts) == 2 and parts[0][0] != "<":
                found.add(chr(int(parts[1], 16)))
            if not unicodedata.is_normalized("NFC", character):  # what is not has a decomposition
                found.add(character)
    found |= {chr(code) for code in [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]}  # Hangul vowels and finals
    return frozenset(found)
