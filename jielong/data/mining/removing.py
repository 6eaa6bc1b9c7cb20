"""Cutting fragments out of a text so that what stays reads well.

What goes is known by its n-grams alone (`gone`): a run of letters that such n-grams cover. Because an advert's inside
may vary and another may stand beside it, nothing is compared as a whole. Each entry of `gone` is the upper 58 bits of
an n-gram's hash; its lower six say how many such n-grams a run must hold (half of what is typical for the fragment),
so that a phrase which an advert shares with ordinary text is not cut out of ordinary text. An entry of 0 follows
others and does not count: an n-gram of Latin letters or digits, which may be the beginning of any address of that
site.

A run is not yet what is cut:

- where it ends in the middle of a sentence and only a few of its letters lie beyond a sentence end or a line feed, it
  is taken back to there (they follow the advert often, and are not part of it);
- lines of Latin letters and digits at its ends stay: links of the text, which an n-gram may reach;
- two runs in one sentence with no more than n letters between are one: the name or the price that varies (and one of
  them may be too short to go by itself);
- an address or a name of Latin letters and digits that is cut in its middle, or that follows 微信号 or a colon, goes
  whole;
- a line of which a few letters would stay goes whole;
- so do a bracket of which a few letters would stay, and the few usual endings of a sentence that advertises;
- the brackets and ornaments around it go, and of the punctuation on both sides what would be left over.

Cutting is repeated until nothing is found, so that doing it again changes nothing. A text of which no letter stays is
"".
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets, encode
from jielong.data.compiled import kernel
from jielong.data.mining.grams import (
    LINE,
    SENTENCE,
    WIDE,
    Folded,
    Hashes,
    flat,
    fold,
    fold_plain,
    hashes_of,
    hashes_plain,
)

NEED = 63  # the bits of an entry that are a count, and the most it can be
REST = 4  # letters that may be left of a line that goes whole
BRACKET_REST = 8  # letters of a bracket that go with the rest of it
BITMAP_BITS = 22
_STRONG = "。！？；…!?;"
_WEAK = "，、：,:~～"
_MARKS = _STRONG + _WEAK + "."
_STRONG_MARK = re.compile(f"[{_STRONG}]")
_LATER_SENTENCE = re.compile(rf"[{_STRONG}]\W*\w")
_BLANK = " \t\r\u00a0\u3000"  # U+00A0 no-break space, U+3000 ideographic space
_PAIRS = dict(zip("（([【「『《〈“‘{", "）)]】」』》〉”’}", strict=True))
_OPENERS = {close: start for start, close in _PAIRS.items()}
_CLOSERS = frozenset(_OPENERS)
_ORNAMENTS = frozenset("★☆●○◎◆◇■□▲△▼▽※→←↑↓►▶◀*=_|｜\\/#>—-·•+")
_HEADS = re.compile(r"(?:免责|版权|特别|郑重|重要)+$")
_ENDINGS = re.compile(
    r"(?:[、和及]?(?:腾讯|新浪|网易|搜狐|本)[网站])?(?:的|之)?(?:观点|立场|意见|看法)(?:[和或及与、]?(?:观点|立场))?|"
    r"(?:我们|本站|小编|作者)?(?:删除|处理|联系|授权)(?:处理|删除)?|即可(?:获取|领取|观看|下载|咨询|关注)?|(?:了解|查看)(?:更多|详情)|我们"
)
# U+FF10 to U+FF19, U+FF21 to U+FF3A, U+FF41 to U+FF5A: full-width digits and letters
_LATIN = r"A-Za-z0-9\uff10-\uff19\uff21-\uff3a\uff41-\uff5a"
_TOKEN = re.compile(rf"[{_LATIN}/_.\-~?=&%#@+]*[{_LATIN}/]")
_CONTACT = re.compile(r"(?:[号信群址话线扣Qq：:]|[Vv][Xx]?)[：: ]*$")
_TOKEN_BEFORE = re.compile(rf"[{_LATIN}/_.\-~?=&%#@+:]*$")
_LATIN_END = re.compile(rf"[{_LATIN}/_\-=&]")
_SIGN = re.compile(r"[：: ]{1,2}")


def entries(grams: Hashes, need: int) -> Hashes:
    """n-grams as they stand in `gone`, not sorted; need: 0 for those that only follow others."""
    return grams & np.uint64(~NEED & 0xFFFFFFFFFFFFFFFF) | np.uint64(max(0, min(NEED, need)))


def merge(parts: list[Hashes]) -> Hashes:
    """Entries as one sorted array; of an n-gram that has several the least need counts."""
    joined = np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
    first = np.ones(len(joined), np.bool_)
    first[1:] = joined[1:] >> np.uint64(6) != joined[:-1] >> np.uint64(6)
    return joined[first]


def removable(data: Bytes, offsets: Offsets, gone: Hashes, n: int) -> NDArray[np.bool_]:
    """Which documents hold an n-gram of `gone`: only those need `remove`."""
    found = np.zeros(len(offsets) - 1, np.bool_)
    if len(gone):
        folded = fold(data, offsets)
        bitmap = np.zeros(1 << BITMAP_BITS, np.bool_)
        bitmap[gone >> np.uint64(64 - BITMAP_BITS)] = True
        _any(hashes_of(folded.codes, folded.starts, n), folded.starts, gone, bitmap, found)
    return found


def remove(text: str, gone: Hashes, n: int) -> tuple[str, list[str]]:
    """The text without the fragments whose n-grams of n letters are `gone`, and what was cut, in order.

    The same object if nothing is.
    """
    new, cut = text, []
    while spans := _spans(new, gone, n):
        new, pieces = _without(new, spans)
        cut += pieces
    return (new, cut) if cut else (text, cut)


def runs(folded: Folded, gone: Hashes, n: int) -> list[tuple[int, int, bool]]:
    """First and last letter (exclusive) of the runs of one document, and whether each is long enough to go by itself."""
    grams = hashes_of(folded.codes, folded.starts, n)
    found = np.empty((len(grams), 3), np.int32)
    count = _runs(grams, gone, n, found)
    return [(first, last, bool(enough)) for first, last, enough in found[:count].tolist()]


def runs_plain(text: str, gone: Hashes, n: int) -> list[tuple[int, int, bool]]:
    """The twin of `runs`."""
    needs = {entry >> 6: entry & NEED for entry in gone.tolist()}
    hits: dict[int, int] = {}
    for at, gram in enumerate(hashes_plain([letter[0] for letter in fold_plain(text)], n)):
        if gram >> 6 in needs:
            hits[at] = needs[gram >> 6]
    found: list[list[int]] = []  # first, last, n-grams, least need
    for at, need in hits.items():
        if found and at <= found[-1][1]:
            found[-1] = [found[-1][0], at + n, found[-1][2] + int(need > 0), min(found[-1][3], need or NEED)]
        else:
            found.append([at, at + n, int(need > 0), need or NEED])
    return [(first, last, grams >= need) for first, last, grams, need in found]


def _spans(text: str, gone: Hashes, n: int) -> list[tuple[int, int]]:
    """First and last character (exclusive) of what is to be cut, before brackets and punctuation."""
    data, offsets = encode([text])
    folded, view = fold(data, offsets), data.data
    gaps, wide = folded.gaps.tolist(), (folded.codes >= WIDE).tolist()
    joined: list[list[int]] = []  # first, last, whether any of them goes
    for covered, covered_to, enough in runs(folded, gone, n):
        first, last = _taken_back(*_without_links(covered, covered_to, gaps, wide), gaps, n)
        if joined and first - joined[-1][1] <= n and max(gaps[joined[-1][1] : first + 1], default=0) < SENTENCE:
            joined[-1] = [joined[-1][0], last, joined[-1][2] or enough]
        else:
            joined.append([first, last, enough])
    spans = []
    chars = at = 0
    for first, last, goes in joined:
        if not goes:
            continue
        begin, end = int(folded.begins[first]), int(folded.ends[last - 1])
        start = chars + len(str(view[at:begin], "utf-8"))
        stop = start + len(str(view[begin:end], "utf-8"))
        spans.append((start, stop))
        chars, at = stop, end
    return spans


def _without_links(first: int, last: int, gaps: list[int], wide: list[bool]) -> tuple[int, int]:
    """A run without lines at its ends that hold Latin letters and digits only: links of the text, ids of a table."""
    if not any(wide[first:last]):
        return first, last
    for at in range(last - 1, first, -1):
        if wide[at]:
            break
        if gaps[at] >= LINE:
            last = at
    for at in range(first, last - 1):
        if wide[at]:
            break
        if gaps[at + 1] >= LINE:
            first = at + 1
    return first, last


def _taken_back(first: int, last: int, gaps: list[int], n: int) -> tuple[int, int]:
    """A run without the few letters that lie beyond a sentence end or a line feed near its ends."""
    if last < len(gaps) and gaps[last] < SENTENCE:
        for at in range(last - 1, max(first + n // 3, last - n), -1):
            if gaps[at] >= LINE or (gaps[at] == SENTENCE and last - at < n // 2):
                last = at
                break
    if gaps[first] < SENTENCE:
        for at in range(first + 1, min(last - n // 3, first + n)):
            if gaps[at] >= LINE or (gaps[at] == SENTENCE and at - first < n // 2):
                first = at
                break
    return first, last


def _without(text: str, spans: list[tuple[int, int]]) -> tuple[str, list[str]]:
    wide: list[tuple[int, int]] = []
    for number, (start, stop) in enumerate(spans):
        start, stop = _whole_tokens(text, start, stop)
        if (ending := _ENDINGS.match(text, stop)) and not _is_letter(text[ending.end() : ending.end() + 1] or " "):
            stop = ending.end()
        if heading := _HEADS.search(text, max(0, start - 8), start):
            start = heading.start()
        floor = wide[-1][1] if wide else 0
        ceiling = spans[number + 1][0] if number + 1 < len(spans) else len(text)
        start, stop = max(start, floor), min(stop, ceiling)
        if wide and not _letters(text[floor:start]) and "\n" not in text[floor:start]:
            start = wide.pop()[0]
        wide.append((start, stop))
    parts: list[str] = []
    cut: list[str] = []
    position = 0
    for number, (start, stop) in enumerate(wide):
        ceiling = wide[number + 1][0] if number + 1 < len(wide) else len(text)
        start, stop, joint = _with_surroundings(text, start, stop, position, ceiling)
        parts += (text[position:start], joint)
        cut.append(text[start:stop].strip())
        position = stop
    new = "".join([*parts, text[position:]])
    return (new if any(map(_is_letter, new)) else ""), cut


def _whole_tokens(text: str, start: int, stop: int) -> tuple[int, int]:
    """Addresses and names that are cut in their middle, or that follow the word for them."""
    if (_LATIN_END.match(text, stop - 1) or _CONTACT.search(text, max(start, stop - 8), stop)) and (
        more := _TOKEN.match(text, stop)
    ):
        stop = more.end()
    elif (sign := _SIGN.match(text, stop)) and _CONTACT.search(text, start, sign.end()):
        more = _TOKEN.match(text, sign.end())
        stop = more.end() if more else stop
    if _LATIN_END.match(text, start):
        before = _TOKEN_BEFORE.search(text, max(0, start - 80), start)
        start = before.start() if before else start
    return start, stop


def _with_surroundings(text: str, start: int, stop: int, floor: int, ceiling: int) -> tuple[int, int, str]:
    """What is cut with its brackets, ornaments, blanks and marks, and what is put in its place."""
    line = max(floor, text.rfind("\n", 0, start) + 1)
    end = text.find("\n", stop)
    end = ceiling if end < 0 else min(end, ceiling)
    rest = _letters(text[line:start]) + _letters(text[stop:end])
    whole_line = (line == 0 or text[line - 1] == "\n") and (end == len(text) or text[end] == "\n")
    sentences = _STRONG_MARK.search(text, line, start) or _LATER_SENTENCE.search(text, stop, end)
    if whole_line and not (rest and sentences) and rest <= REST and 5 * rest <= _letters(text[start:stop]):
        start, stop = line, end
    else:
        start, stop = _brackets(text, start, stop, line, end)
        start, stop = _marks(text, start, stop, line, end)
        if not text[line:start].strip(_BLANK) and not text[stop:end].strip(_BLANK):
            start, stop = line, end
    if whole_line and (start, stop) == (line, end):
        if stop < len(text):
            stop += 1
            blank_before = start == 0 or text[:start].endswith("\n\n")
            while blank_before and stop < ceiling and text[stop] == "\n":
                stop += 1
        else:
            while start > floor and text[start - 1] == "\n":
                start -= 1
        return start, stop, ""
    before, behind = text[start - 1 : start], text[stop : stop + 1]
    joint = " " if before.isascii() and before.isalnum() and behind.isascii() and behind.isalnum() else ""
    return start, stop, joint


def _brackets(text: str, start: int, stop: int, line: int, end: int) -> tuple[int, int]:
    """With ornaments on both sides, and brackets whose other half goes or that hold nothing else."""
    unclosed: list[str] = []
    unopened: list[str] = []
    for char in text[start:stop]:
        if char in _PAIRS:
            unclosed.append(_PAIRS[char])
        elif char in _CLOSERS:
            if unclosed and unclosed[-1] == char:
                unclosed.pop()
            else:
                unopened.append(char)
    while True:
        left, right = start, stop
        while left > line and (text[left - 1] in _BLANK or text[left - 1] in _ORNAMENTS):
            left -= 1
        while right < end and (text[right] in _BLANK or text[right] in _ORNAMENTS):
            right += 1
        closing = _half(text, stop, end, unclosed[-1], 1) if unclosed else -1
        opening = _half(text, start - 1, line - 1, _OPENERS[unopened[0]], -1) if unopened else -1
        if closing >= 0:
            unclosed.pop()
            stop = closing + 1
        elif opening >= 0:
            unopened.pop(0)
            start = opening
        elif left > line and (closing := _half(text, stop, end, _PAIRS.get(text[left - 1], ""), 1)) >= 0:
            start, stop = left - 1, closing + 1
        else:
            break
    if any(char in _ORNAMENTS for char in text[left:start]):
        start = left
    if any(char in _ORNAMENTS for char in text[stop:right]):
        stop = right
    return start, stop


def _half(text: str, at: int, end: int, wanted: str, step: int) -> int:
    """Where the other half of a bracket stands, a few letters away at most (what is left in it goes too); -1: nowhere."""
    letters = 0
    while wanted and at != end and letters <= BRACKET_REST:
        if text[at] == wanted:
            return at
        if text[at] in _PAIRS or text[at] in _CLOSERS:
            return -1
        letters += _is_letter(text[at])
        at += step
    return -1


def _marks(text: str, start: int, stop: int, line: int, end: int) -> tuple[int, int]:
    """With the marks that would be left over."""
    left, right = start, stop
    while left > line and text[left - 1] in _BLANK:
        left -= 1
    while right < end and text[right] in _BLANK:
        right += 1
    before = text[left - 1] if left > line else "\n"
    closed = left
    while closed > line and text[closed - 1] in _CLOSERS:
        closed -= 1
    if before == "\n" or before in _STRONG or (closed < left and text[closed - 1 : closed] in (*_STRONG,)):
        while right < end and (text[right] in _MARKS or text[right] in _BLANK):
            right += 1
        return start, right
    if before in _WEAK:
        if right >= end or text[right] in _STRONG or text[right] == ".":
            while left > line and (text[left - 1] in _WEAK or text[left - 1] in _BLANK):
                left -= 1
            return left, right
        while right < end and (text[right] in _WEAK or text[right] in _BLANK):
            right += 1
        return start, right
    if right >= end or text[right] in _MARKS:
        return left, right
    return (start, right) if left < start else (start, stop)


def _letters(text: str) -> int:
    return sum(map(_is_letter, text))


def _is_letter(char: str) -> bool:
    return ord(char) >= 0x10000 or bool(flat()[ord(char)])


@kernel
def _place(hashed, gone):  # type: ignore[no-untyped-def]
    """The need of an n-gram, -1 if it is no entry."""
    low, high = 0, len(gone)
    wanted = hashed >> np.uint64(6)
    while low < high:
        middle = (low + high) // 2
        if gone[middle] >> np.uint64(6) < wanted:
            low = middle + 1
        else:
            high = middle
    return np.int64(gone[low] & np.uint64(63)) if low < len(gone) and gone[low] >> np.uint64(6) == wanted else -1


@kernel
def _any(grams, starts, gone, bitmap, found):  # type: ignore[no-untyped-def]
    for doc in range(len(found)):
        for at in range(starts[doc], starts[doc + 1]):
            hashed = grams[at]
            if hashed != 0 and bitmap[hashed >> np.uint64(64 - BITMAP_BITS)] and _place(hashed, gone) > 0:
                found[doc] = True
                break


@kernel
def _runs(grams, gone, n, found):  # type: ignore[no-untyped-def]
    used = 0
    first, last = -1, -1
    count, least = 0, 63
    for at in range(len(grams) + 1):
        need = -1
        if at < len(grams) and grams[at] != 0:
            need = _place(grams[at], gone)
        if need < 0 and at < len(grams):
            continue
        if first >= 0 and (at == len(grams) or at > last):
            found[used, 0], found[used, 1], found[used, 2] = first, last, count >= least
            used += 1
            first = -1
        if at < len(grams):
            if first < 0:
                first, count, least = at, 0, 63
            last = at + n
            if need > 0:
                count += 1
                least = min(least, need)
    return used
