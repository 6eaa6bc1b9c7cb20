"""What of Markdown does not belong to the words.

Only what points elsewhere goes: the targets of links and their definitions, images (their alternative text describes
something that is no longer there), comments, front matter. Structure stays, because a model should learn to write it:
headings, lists, tables, emphasis, code. A target must look like one (a scheme, a path, a file with an ending), so that
`[注1](见下文)` and `handlers[key](arguments.x)` stay; footnotes such as [1] stay, even where their definition goes.

Definitions, what refers to them and comments are found by a compiled pass; regular expressions read the rest, and texts
that it does not decide on. Where code stands: codespans.py.

Source: CommonMark 0.31 for links and definitions; the comment form [#]: is used by translators.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np

from jielong.data.cleaning.codespans import SPACES
from jielong.data.cleaning.codespans import code_spans as code_spans  # where those who read Markdown look for it
from jielong.data.cleaning.scan import codes_of
from jielong.data.compiled import kernel

_WORDS = r"(?:[^\[\]\n]++|\[[^\[\]\n]*+\])*+"
_TITLE = r"""(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'|\([^()\n]*\)))?"""
_TARGET = r"(?:<[^<>\n]*>|(?:[^\s()<>]++|\([^\s()<>]*\))*+)"
_IMAGE = re.compile(rf"!\[({_WORDS})\]\([ \t]*({_TARGET}){_TITLE}[ \t]*\)")
_LINK = re.compile(rf"\[({_WORDS})\]\([ \t]*({_TARGET}){_TITLE}[ \t]*\)")
_SCHEME = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//|(?:mailto|tel|javascript|data|file|ftp|sms|xref|thunder|magnet):", re.I
)
_PLACE = re.compile(
    rf"{_SCHEME.pattern}|www\.\S|\.{{0,2}}/[\w%.~-]|\#\S|\?\w+=|~/"
    r"|[^\s，。；、]*[^\s，。；、.]\.[A-Za-z][A-Za-z0-9]{1,8}(?:[#?]\S*)?$"  # a file with its ending
    r"|(?=\S*[-_0-9/]\S*/|\S*/\S*[-_0-9/])[A-Za-z0-9_%.-]+/[A-Za-z0-9_%./#?=&-]*$",  # docs/how-to, but not and/or
    re.IGNORECASE,
)
_ASCII_WORD = re.compile(r"[A-Za-z0-9_\])]")
_REFERENCE = re.compile(rf"\[({_WORDS})\](?:[ ]?\[([^\[\]\n]*)\])?(?![\[(:])")  # with ! before it an image
_DEFINITION = re.compile(rf" {{0,3}}\[(?!\^)([^\[\]\n]+)\]:[ \t]*<?([^\s<>]+)>?{_TITLE}[ \t]*(?:\n|\Z)")  # of a line
_COMMENT = re.compile(r"^\[(?:#|//|comment)\]:[^\n]*(?:\n|\Z)", re.MULTILINE)
_WEB = ("http://", "https://")  # begins most targets: no need for the patterns
_FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?:[ \t]*\n|#[^\n]*\n)*+(?=[A-Za-z_])"
    r"(?:[\w.-]+[ \t]*:(?:[ \t][^\n]*)?\n|[ \t]+[^\n]*\n|-[ \t][^\n]*\n|#[^\n]*\n|[ \t]*\n)+?(?:---|\.\.\.)[ \t]*(?:\n+|\Z)"
)
_HEADING = re.compile(r"^ {0,3}#{1,6}[ \t]+|(?<=\S)[ \t]+#+[ \t]*$", re.MULTILINE)
_EMPHASIS = re.compile(
    r"(\*\*|__|~~)(?=\S)([^\n]*?\S)\1|(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?!\*)|(?<![\w_])_(?=[^\s_])([^_\n]*[^\s_])_(?!\w)"
)

_KINDS = ("comment_marker", "definition", "link", "image")  # of edits, as they are counted by the pass
_LONGEST_LABEL = 9  # more characters of ASCII would not fit in a number
_MARKERS = np.array(
    [
        [ord(char) for char in marker.ljust(11, "\0")]
        for marker in ("[#]:", "[//]:", "[comment]:", "http://", "https://")
    ],
    np.uint32,
)


def counted(
    pattern: re.Pattern[str], new: str | Callable[[re.Match[str]], str], text: str, edits: Counter[str], kind: str
) -> str:
    """The text with every match replaced, and their number in `edits`."""
    text, count = pattern.subn(new, text)
    if count:
        edits[kind] += count
    return text


def strip_front_matter(text: str, edits: Counter[str]) -> str:
    """The text without the YAML block that it begins with, if it does."""
    match = _FRONT_MATTER.match(text)
    if match is None:
        return text
    edits["front_matter"] += 1
    return text[match.end() :]


def strip_marks(text: str, edits: Counter[str]) -> str:
    """The text without heading marks and emphasis; code must be out of it."""
    text = counted(_HEADING, "", text, edits, "heading")
    return counted(_EMPHASIS, lambda match: match[2] or match[3] or match[4] or "", text, edits, "emphasis")


def strip_links(text: str, edits: Counter[str]) -> str:
    """Images, the targets of links, definitions of targets and comment markers go."""
    if "]:" in text:
        text = _without_definitions(text, edits)
    if "](" not in text:
        return text

    def image(match: re.Match[str]) -> str:
        if not _is_target(match):
            return match[0]
        edits["image"] += 1
        return ""

    def link(match: re.Match[str]) -> str:
        if not _is_target(match):
            return match[0]
        edits["link"] += 1
        return match[1]

    if "![" in text:
        text = _IMAGE.sub(image, text)
    return _LINK.sub(link, text)


def _is_target(match: re.Match[str]) -> bool:
    target = match[2].strip("<>")
    if target.startswith(_WEB):
        return True
    if target and not _PLACE.match(target):
        return False
    start = match.start()
    return _SCHEME.match(target) is not None or not start or not _ASCII_WORD.match(match.string, start - 1)


def _without_definitions(text: str, edits: Counter[str]) -> str:
    """The text without comment markers, definitions of targets and the labels that refer to these."""
    rows = np.empty((4, text.count("]")), np.int32)
    counts = np.zeros(len(_KINDS), np.int64)
    used = _find_definitions(codes_of(text), SPACES, _MARKERS, rows, counts)
    if used < 0:
        return _without_definitions_plain(text, edits)
    for kind, count in zip(_KINDS, counts.tolist(), strict=True):
        if count:
            edits[kind] += count
    starts, ends, words, words_ends = rows[:, :used].tolist()
    new = [text[start:end] for start, end in zip(words, words_ends, strict=True)]
    return _spliced(text, list(zip(starts, ends, new, strict=True)))


def _without_definitions_plain(text: str, edits: Counter[str]) -> str:
    """The same without the compiled pass: for texts that it does not decide on."""
    text = counted(_COMMENT, "", text, edits, "comment_marker")
    definitions = _definitions(text)
    if not definitions:
        return text
    labels = {match[1].lower() for match in definitions}
    edits["definition"] += len(definitions)
    text = _spliced(text, [(match.start(), match.end(), "") for match in definitions])
    changes: list[tuple[int, int, str]] = []
    for match in _REFERENCE.finditer(text):
        label = (match[2] or match[1]).lower()
        if label not in labels or (match[2] is None and label.isdecimal()):
            continue  # [1] is a footnote
        start = match.start()
        image = text.startswith("!", start - 1) if start else False
        edits["image" if image else "link"] += 1
        changes.append((start - image, match.end(), "" if image else match[1]))
    return _spliced(text, changes)


def _definitions(text: str) -> list[re.Match[str]]:
    """The lines that define the target of a label, in order."""
    found: list[re.Match[str]] = []
    at = text.find("]:")
    while at >= 0:
        match = _DEFINITION.match(text, text.rfind("\n", 0, at) + 1)
        if match and _PLACE.match(match[2]):
            found.append(match)
        end = match.end() if match else text.find("\n", at)
        at = text.find("]:", end) if end >= 0 else -1
    return found


def _spliced(text: str, changes: list[tuple[int, int, str]]) -> str:
    """The text with each (start, end, new) put in; in order, without overlap."""
    parts: list[str] = []
    position = 0
    for start, end, new in changes:
        parts += (text[position:start], new)
        position = end
    return "".join([*parts, text[position:]]) if parts else text


@kernel
def _find_definitions(codes, spaces, markers, rows, counts):  # type: ignore[no-untyped-def]
    """What goes, as in _without_definitions_plain: where it begins and ends, and where the words that stay begin and
    end.

    How many there are; -1 where the target of a definition needs the pattern _PLACE, or a label is not short and of
    ASCII."""
    size = len(codes)
    lines = np.empty((2, rows.shape[1]), np.int64)
    labels = np.empty(rows.shape[1], np.int64)
    gone = defined = at = 0
    while at < size:
        start = at
        is_comment = False
        for marker in range(3):
            is_comment |= _stands(codes, at, markers[marker])
        target, label_start, label_end = (at, at, at) if is_comment else _definition(codes, at, spaces)
        at = _line_end(codes, at)
        if target < 0:
            at += 1
            continue
        if not is_comment:
            label = _label(codes, label_start, label_end)
            if label < 0 or not (_stands(codes, target, markers[3]) or _stands(codes, target, markers[4])):
                return -1
            labels[defined] = label
            defined += 1
        at = min(at + 1, size)
        lines[0, gone], lines[1, gone] = start, at
        gone += 1
    counts[0], counts[1] = gone - defined, defined
    labels = np.sort(labels[:defined])
    used = line = at = 0
    while line < gone or (defined and at < size):
        if line < gone and (at == lines[0, line] or not defined):
            at = lines[1, line]
            rows[0, used], rows[1, used], rows[2, used], rows[3, used] = lines[0, line], at, at, at
            used += 1
            line += 1
            continue
        start = at
        at += 1
        if codes[start] != 91:  # [
            continue
        end, second, second_end, after = _reference(codes, start)
        if not after:
            continue
        at = after
        label = _label(codes, second, second_end) if second_end > second else _label(codes, start + 1, end)
        if label == -2:
            return -1
        place = np.searchsorted(labels, label)
        if place == len(labels) or labels[place] != label:
            continue
        if second < 0 and _is_number(codes, start + 1, end):
            continue  # [1] is a footnote
        image = start > 0 and codes[start - 1] == 33
        counts[3 if image else 2] += 1
        rows[0, used], rows[1, used] = start - image, after
        rows[2, used], rows[3, used] = (start, start) if image else (start + 1, end)
        used += 1
    return used


@kernel
def _definition(codes, at, spaces):  # type: ignore[no-untyped-def]
    """Where, if a line is a definition, as _DEFINITION, its target begins, and its label begins and ends; else -1
    first."""
    size = len(codes)
    for _ in range(3):
        at += at < size and codes[at] == 32
    if at == size or codes[at] != 91:
        return -1, 0, 0
    label = at + 1
    end = _brackets_end(codes, label)
    if end == label or codes[label] == 94 or end + 1 >= size or codes[end] != 93 or codes[end + 1] != 58:
        return -1, 0, 0
    at = _blanks_end(codes, end + 2)
    at += at < size and codes[at] == 60  # <
    target = at
    while at < size and codes[at] != 60 and codes[at] != 62 and not (codes[at] < len(spaces) and spaces[codes[at]]):
        at += 1
    if at == target:
        return -1, 0, 0
    at += at < size and codes[at] == 62  # >
    title = _blanks_end(codes, at)
    if title > at and title < size and (codes[title] == 34 or codes[title] == 39 or codes[title] == 40):
        last = 41 if codes[title] == 40 else codes[title]
        at = title + 1
        while at < size and codes[at] != last and codes[at] != 10 and not (last == 41 and codes[at] == 40):
            at += 1
        if at == size or codes[at] != last:
            return -1, 0, 0
        title = _blanks_end(codes, at + 1)
    return target if title == size or codes[title] == 10 else -1, label, end


@kernel
def _reference(codes, at):  # type: ignore[no-untyped-def]
    """What begins at a bracket, as _REFERENCE: where the words end, where a label begins and ends (-1: there is none),
    and where all ends, 0 if nothing does."""
    size = len(codes)
    end = at + 1
    while end < size and codes[end] != 93 and codes[end] != 10:
        if codes[end] == 91:
            inner = _brackets_end(codes, end + 1)
            if inner == size or codes[inner] != 93:
                return 0, 0, 0, 0
            end = inner
        end += 1
    if end == size or codes[end] != 93:
        return 0, 0, 0, 0
    label = end + 1
    label += label < size and codes[label] == 32
    if label < size and codes[label] == 91:
        label_end = _brackets_end(codes, label + 1)
        if label_end < size and codes[label_end] == 93 and not _goes_on(codes, label_end + 1):
            return end, label + 1, label_end, label_end + 1
    return end, -1, -1, 0 if _goes_on(codes, end + 1) else end + 1


@kernel
def _goes_on(codes, at):  # type: ignore[no-untyped-def]
    """Whether [ ( or : stands at a place."""
    return at < len(codes) and (codes[at] == 91 or codes[at] == 40 or codes[at] == 58)


@kernel
def _label(codes, start, end):  # type: ignore[no-untyped-def]
    """A label as a number, large letters as small ones; -1 for what is longer or not of ASCII, -2 if a small letter of
    ASCII may be meant by it."""
    number = np.int64(0)
    if end - start > _LONGEST_LABEL:
        return np.int64(-1)
    for at in range(start, end):
        code = np.int64(codes[at])
        if code == 0x212A:  # the sign for kelvin; no other goes to ASCII
            return np.int64(-2)
        if code == 0 or code >= 128:
            number = np.int64(-1)
        if number >= 0:
            number = number << 7 | (code + 32 if 65 <= code <= 90 else code)
    return number


@kernel
def _is_number(codes, start, end):  # type: ignore[no-untyped-def]
    digits = end > start
    for at in range(start, end):
        digits &= 48 <= codes[at] <= 57
    return digits


@kernel
def _stands(codes, at, word):  # type: ignore[no-untyped-def]
    """Whether a word, 0 behind its end, stands at a place."""
    size = 0
    while word[size] and at + size < len(codes) and codes[at + size] == word[size]:
        size += 1
    return not word[size]


@kernel
def _brackets_end(codes, at):  # type: ignore[no-untyped-def]
    """Where the next square bracket stands, or the line ends."""
    while at < len(codes) and codes[at] != 91 and codes[at] != 93 and codes[at] != 10:
        at += 1
    return at


@kernel
def _line_end(codes, at):  # type: ignore[no-untyped-def]
    while at < len(codes) and codes[at] != 10:
        at += 1
    return at


@kernel
def _blanks_end(codes, at):  # type: ignore[no-untyped-def]
    while at < len(codes) and (codes[at] == 32 or codes[at] == 9):
        at += 1
    return at
