r"""Where code stands in a Markdown text, and in what is not code the tags of HTML: two compiled passes over code points.

The first goes line by line and also tells whether beginnings of markup stand outside code. Three sorts of code, looked
for in this order on each line:

- fences: three backticks or tildes or more behind nothing but blanks, up to a line of as many of the same or more and
  nothing else, or to the end of the text. After backticks the rest of the line holds none.
- indented code: a line with four blanks or a tab before it, after an empty line or indented code, that does not begin
  with a Chinese character: paragraphs indented by four blanks are common on Chinese pages, code that begins so is not.
- inline code: backticks, and as many again later on the line. It does not go on over a line end: on dirty pages a lone
  backtick is more common than code over two lines.

It reads some 500 million characters a second; the regular expressions that it replaced (they are in its test, to
compare with) read 140 million. Source: CommonMark 0.31, but for the restrictions named.

The second pass decides which tags go, by rules and words that are in markup.py, beside the patterns that say the same.
Both passes are in one file because kernels of two files, kept on disk, would not notice each other's changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import codes_of
from jielong.data.compiled import kernel

# Beginnings of markup outside code: < and a letter / ! ?; & and a letter #; ](; ]:; of the first, < and s S !, and < and ! ?
LESS, AND, LINK, COLON, SECRET, DECLARED = 1, 2, 4, 8, 16, 32
MOST_BLANKS = 255  # before indented code that begins the text
BLOCK, BREAK, CELL, DOUBTFUL = 1, 2, 3, 4  # kinds of a tag's name, 0 the others; the last is a bit
NEW = ("", "\n", "\t", " ")  # what may stand in place of a tag
LONGEST_NAME = 12  # more letters would not fit in a number

# What str.isspace and \s of a regular expression take for a blank.
WHITESPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
SPACES = np.zeros(0x3001, np.bool_)  # by code point; none beyond the last
SPACES[[ord(space) for space in WHITESPACE]] = True


def code_spans(text: str, inline: bool = True) -> list[tuple[int, int]]:
    """Where code stands in a Markdown text: (start, end) of fences, indented blocks and, if `inline`, code spans."""
    spans, _ = find_code(text, inline)
    places: list[int] = spans.tolist()
    return list(zip(places[::2], places[1::2], strict=True))


def find_code(text: str, inline: bool = True) -> tuple[NDArray[np.int32], int]:
    """Code as start, end, start, ... in characters, and the beginnings of markup outside it: LESS | AND | LINK |
    COLON | SECRET | DECLARED."""
    codes = codes_of(text)
    most = (len(codes) + 1) // 3  # no code is shorter than three characters, its line feed counted
    found = np.empty(2 * most, np.int32)
    used, marks = _find_code(codes, SPACES, inline, found)
    return found[:used], marks


def name_number(name: str) -> int:
    """A name of small letters and digits as one number that no other has."""
    number = 0
    for letter in name:
        number = number * 37 + (ord(letter) - 96 if letter >= "a" else ord(letter) - 21)
    return number


def word_rows(words: Iterable[str]) -> NDArray[np.uint32]:
    """The code points of words, a row each, 0 behind the end."""
    words = list(words)
    size = max(map(len, words)) + 1
    return np.array([[*map(ord, word), *[0] * (size - len(word))] for word in words], np.uint32)


@kernel
def _find_code(codes, spaces, inline, found):  # type: ignore[no-untyped-def]
    size = len(codes)
    used = marks = 0
    fence, longest, opened = np.uint32(0), 0, 0  # of the fence that is open: its character, how many, where
    free = True  # indented code may begin here
    at = 0
    while at < size:
        start = at
        while at < size and (codes[at] == 32 or codes[at] == 9):
            at += 1
        first = codes[at] if at < size else np.uint32(10)
        run = _run(codes, at, first) if first == 96 or first == 126 else 0  # ` or ~
        if fence:
            if first == fence and run >= longest:
                end = _blanks_end(codes, at + run, spaces)
                if end == size or codes[end] == 10:
                    found[used], found[used + 1] = opened, end
                    used += 2
                    fence, free = np.uint32(0), False
            at = _line_end(codes, at) + 1
            continue
        if run >= 3:
            end = _line_end(codes, at + run)
            if first == 126 or not _holds(codes, at + run, end, np.uint32(96)):
                fence, longest, opened = first, run, start
                at = end + 1
                continue
        if free and _is_indented(codes, start, at) and not (start == 0 and at > MOST_BLANKS) and at < size:
            han = 0x4E00 <= first <= 0x9FFF or 0x3400 <= first <= 0x4DBF
            if not han and not _is_space(first, spaces):
                at = _line_end(codes, at)
                found[used], found[used + 1] = start, at
                used += 2
                at += 1
                continue
        end = _blanks_end(codes, at, spaces)
        free = end == size or codes[end] == 10
        while at < size:
            code = codes[at]
            at += 1
            if code > 96:
                continue
            if code == 10:
                break
            if code == 96:
                run = _run(codes, at - 1, code)
                after = at - 1 + run
                end = _answer(codes, after, run) if inline else 0
                if end:
                    found[used], found[used + 1] = at - 1, end
                    used += 2
                at = max(after, end)
            elif code == 60 or code == 38 or code == 93:  # < & ]
                after_code = codes[at] if at < size else np.uint32(10)
                letter = 97 <= (after_code | 32) <= 122
                if code == 60 and (letter or after_code == 47 or after_code == 33 or after_code == 63):
                    marks |= LESS
                    if after_code == 33 or after_code == 63:
                        marks |= DECLARED
                    if after_code == 33 or after_code | 32 == 115:
                        marks |= SECRET
                elif code == 38 and (letter or after_code == 35):
                    marks |= AND
                elif code == 93 and after_code == 40:
                    marks |= LINK
                elif code == 93 and after_code == 58:
                    marks |= COLON
    if fence:
        found[used], found[used + 1] = opened, size
        used += 2
    return used, marks


@kernel
def _is_space(code, spaces):  # type: ignore[no-untyped-def]
    return code < len(spaces) and spaces[code]


@kernel
def _run(codes, at, mark):  # type: ignore[no-untyped-def]
    """How many of one character stand at a place."""
    end = at
    while end < len(codes) and codes[end] == mark:
        end += 1
    return end - at


@kernel
def _line_end(codes, at):  # type: ignore[no-untyped-def]
    while at < len(codes) and codes[at] != 10:
        at += 1
    return at


@kernel
def _blanks_end(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Where the blanks of this line end."""
    while at < len(codes) and codes[at] != 10 and _is_space(codes[at], spaces):
        at += 1
    return at


@kernel
def _is_indented(codes, start, at):  # type: ignore[no-untyped-def]
    """Whether the blanks from `start` on begin with a tab or four spaces."""
    if at > start and codes[start] == 9:
        return True
    if at - start < 4:
        return False
    return codes[start] == 32 and codes[start + 1] == 32 and codes[start + 2] == 32 and codes[start + 3] == 32


@kernel
def _holds(codes, start, end, mark):  # type: ignore[no-untyped-def]
    for at in range(start, end):  # noqa: SIM110 - numba
        if codes[at] == mark:
            return True
    return False


@kernel
def _answer(codes, at, size):  # type: ignore[no-untyped-def]
    """Where the next backticks on the line end that are exactly as many; 0 if there are none."""
    while at < len(codes) and codes[at] != 10:
        if codes[at] != 96:
            at += 1
            continue
        run = _run(codes, at, codes[at])
        at += run
        if run == size:
            return at
    return 0


@kernel
def find_tags(codes, spaces, names, bare, before_about, about, english, talk, rows):  # type: ignore[no-untyped-def]
    """The tags that go, as in markup._without_tags_plain; `rows` takes where they begin, where they end and what comes
    in their place, by its place in NEW. Their number; -1 where it takes Unicode's tables of letters to tell."""
    size = len(codes)
    used = position = 0
    last = np.uint32(10)  # the last character that stays
    line = seen = 0  # where the line begins, of the characters seen so far
    closed = np.zeros(0, np.bool_)  # which names have a closing tag; looked for when that matters
    at = -1
    while at + 1 < size:
        at += 1
        if codes[at] != 60:  # <
            continue
        closing = at + 1 < size and codes[at + 1] == 47
        start = at + 1 + closing
        name_end, number, small, large = _name(codes, start)
        if number < 0 or small == large:
            continue
        place = _place(number, names[0])
        if place < 0:
            continue
        if not _is_followed(codes, name_end, spaces):
            continue
        after = _attributes_end(codes, name_end, spaces, bare)
        if after < 0:
            return -1
        end = _tag_end(codes, after, spaces)
        if not end:
            continue
        kind = names[1, place]
        if not closing and after == name_end:
            if kind & DOUBTFUL and small:
                if not len(closed):
                    closed = _closed_names(codes, names)
                if not closed[place]:
                    continue
            if name_end - start == 1 and large and at and _is_ascii_word(codes[at - 1]):
                continue  # Box<S>
        if at and end < size and _is_pair(codes[at - 1], codes[end], talk):
            continue
        talked = _is_about(codes, end, spaces, before_about, about, english)
        if talked < 0:
            return -1
        if talked:
            continue
        if at > position:
            last = codes[at - 1]
        position = end
        kind &= 3
        new = 0
        if kind == CELL:
            new = 2 if closing else 0
        elif kind:
            new = 1
            if kind == BREAK:
                for n in range(seen, at):
                    if codes[n] == 10:
                        line = n + 1
                seen = at
                if codes[line] == 124:  # in a table's row
                    new = 3
            elif last == 10:
                new = 0
            if new != 3 and end < size and codes[end] == 10:
                position += 1  # the page's own line end after the tag
                new = 1 if kind == BREAK or last != 10 else 0
        if new:
            last = np.uint32(10 if new == 1 else 9 if new == 2 else 32)
        rows[0, used], rows[1, used], rows[2, used] = at, position, new
        used += 1
        at = position - 1
    return used


@kernel
def _name(codes, at):  # type: ignore[no-untyped-def]
    """Where a name ends, its number (-1: none or too long), and whether small and large letters are in it."""
    number, small, large = np.int64(0), False, False
    start = at
    while at < len(codes):
        code = np.int64(codes[at])
        if 97 <= code <= 122:
            small = True
            code -= 96
        elif 65 <= code <= 90:
            large = True
            code -= 64
        elif 48 <= code <= 57 and at > start:
            code -= 21
        else:
            break
        at += 1
        if at - start > LONGEST_NAME:
            return at, np.int64(-1), small, large
        number = number * 37 + code
    return at, number if at > start else np.int64(-1), small, large


@kernel
def _place(number, numbers):  # type: ignore[no-untyped-def]
    """Where a number stands among sorted ones, -1 if it does not."""
    place = np.searchsorted(numbers, number)
    return place if place < len(numbers) and numbers[place] == number else -1


@kernel
def _closed_names(codes, names):  # type: ignore[no-untyped-def]
    """For each name, whether </name> stands in the text, in small letters."""
    closed = np.zeros(names.shape[1], np.bool_)
    for at in range(len(codes) - 3):
        if codes[at] == 60 and codes[at + 1] == 47:
            end, number, _, large = _name(codes, at + 2)
            place = _place(number, names[0])
            if place >= 0 and not large and end < len(codes) and codes[end] == 62:
                closed[place] = True
    return closed


@kernel
def _attributes_end(codes, at, spaces, bare):  # type: ignore[no-untyped-def]
    """Where the attributes end that begin at a place, as markup._ATTRIBUTES; -1 behind a letter that is not of
    ASCII."""
    size = len(codes)
    while True:
        start = _gap_end(codes, at, spaces)
        if start == size or not (_is_letter(codes[start]) or codes[start] == 58 or codes[start] == 64):
            return at
        end = start
        while end < size and (
            _is_letter(codes[end]) or (45 <= codes[end] <= 58 and codes[end] != 47) or codes[end] == 64
        ):
            end += 1
        if end < size and codes[end] >= 128:
            return -1
        value_end = _value_end(codes, end, spaces)
        if value_end:
            at = value_end
        elif start > at and _is_followed(codes, end, spaces) and _begins(codes, start, bare) == end - start:
            at = end
        else:
            return at


@kernel
def _is_followed(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Whether a blank, / or > stands at a place."""
    return at < len(codes) and (codes[at] == 47 or codes[at] == 62 or _is_space(codes[at], spaces))


@kernel
def _value_end(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Where the value of an attribute ends whose name ends at a place; 0 if it has none."""
    size = len(codes)
    at = _gap_end(codes, at, spaces)
    if at == size or codes[at] != 61:  # =
        return 0
    at = start = _gap_end(codes, at + 1, spaces)
    if at < size and (codes[at] == 34 or codes[at] == 39):
        at += 1
        while at < size and codes[at] != codes[start] and codes[at] != 60:
            at += 1
        return at + 1 if at < size and codes[at] != 60 else 0
    while at < size and not _is_space(codes[at], spaces):
        code = codes[at]
        if code == 34 or code == 39 or 60 <= code <= 62 or code == 96:
            break
        at += 1
    return at if at > start else 0


@kernel
def _tag_end(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Where a tag ends whose name and attributes end at a place; 0 if it does not."""
    at = _gap_end(codes, at, spaces)
    if at < len(codes) and codes[at] == 47:
        at = _gap_end(codes, at + 1, spaces)
    return at + 1 if at < len(codes) and codes[at] == 62 else 0


@kernel
def _is_about(codes, at, spaces, before_about, about, english):  # type: ignore[no-untyped-def]
    """Whether the words for "tag" and the like stand at a place, as markup._ABOUT: 1 or 0; -1 before a letter not of
    ASCII."""
    at = min(_gap_end(codes, at, spaces), at + 2)
    size = _begins(codes, at, english)
    if size:
        at += size
        if at < len(codes) and codes[at] == 115:  # s
            at += 1
        if at < len(codes) and codes[at] >= 128:
            return -1
        return 0 if at < len(codes) and _is_ascii_word(codes[at]) and codes[at] != 93 and codes[at] != 41 else 1
    at += _begins(codes, at, before_about)
    return 1 if _begins(codes, at, about) else 0


@kernel
def _begins(codes, at, words):  # type: ignore[no-untyped-def]
    """How long the word is, of a row each and none the beginning of another, that stands at a place; 0: none."""
    for row in range(len(words)):
        size = 0
        while words[row, size] and at + size < len(codes) and codes[at + size] == words[row, size]:
            size += 1
        if not words[row, size]:
            return size
    return 0


@kernel
def _is_pair(before, after, pairs):  # type: ignore[no-untyped-def]
    found = False
    for n in range(len(pairs)):
        found |= pairs[n, 0] == before and pairs[n, 1] == after
    return found


@kernel
def _is_letter(code):  # type: ignore[no-untyped-def]
    """Whether it is an ASCII letter or an underscore."""
    return 97 <= (code | 32) <= 122 or code == 95


@kernel
def _is_ascii_word(code):  # type: ignore[no-untyped-def]
    """As the pattern markup._ASCII_WORD."""
    return _is_letter(code) or 48 <= code <= 57 or code == 93 or code == 41


@kernel
def _gap_end(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Where blanks end, line feeds among them."""
    while at < len(codes) and _is_space(codes[at], spaces):
        at += 1
    return at
