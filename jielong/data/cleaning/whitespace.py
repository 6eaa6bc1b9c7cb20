"""Line ends, blank lines, and punctuation that repeats itself.

Both steps are careful about shape, because in a text shape carries meaning: indentation is code or a paragraph, runs of
inner blanks are the columns of a table or the pause in a verse, rows of - = * # _ are rules and headings. So whitespace
touches only what no reader can see (blanks at line ends, blank lines at the start, at the end and in long rows), and
repeats shortens only sentence punctuation that stands in a sentence:

- full-width marks and … and — wherever they are, but not leader dots before a page number nor a line of nothing else;
- the ASCII marks ! ? ~ not at the start of a line (a fence, an underline) nor before a letter, digit or bracket (operators);
- the ASCII comma only between Chinese characters and where the line holds no other comma: empty cells of a CSV row stay.

Both run at some hundred MB/s: one compiled pass finds the lines that end in blanks and the longest row of blank lines, and
the marks are searched for as substrings; then only the places found are looked at (not every line).
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from jielong.data import steps
from jielong.data.cleaning.cleaner import Triggers
from jielong.data.cleaning.scan import ROOM, codes_of
from jielong.data.compiled import kernel

_BLANKS = " \t\u3000"  # U+3000 ideographic space
_INDENT = re.compile(r"^[ \t]*+\u3000[ \t\u3000]*+", re.MULTILINE)

_FULL = "。！？，、；："
_ASCII = "!?~"
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_BEFORE_OPERAND = re.compile(r"[A-Za-z0-9_(\[{$@<]")
_PAGE_NUMBER = re.compile(r"[ \t\u3000]*[(（]?[0-9IVXivx]{1,5}[)）]?[ \t]*(?:\n|\Z)")


class WhitespaceCleaner:
    """The step `whitespace`. `edits` kinds: line_end_blank, blank_line, indent (lines of each)."""

    def __init__(self, step: steps.Whitespace) -> None:
        self._strip_indent = step.indent == "strip"
        self._most = "\n" * (step.max_blank_lines + 1)
        self._too_many = self._most + "\n"
        pairs = {*(blank + "\n" for blank in _BLANKS), "\n\n"}
        if self._strip_indent:
            pairs |= {before + "\u3000" for before in "\n\t "}
        self.triggers = Triggers(pairs=frozenset(pairs))

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text with what nobody sees at line ends gone; the same object if there was nothing."""
        before = text
        if self._strip_indent and "\u3000" in text:
            text, count = _INDENT.subn("", text)
            if count:
                edits["indent"] += count
        blanks, row = line_end_blanks(text)
        if blanks:
            edits["line_end_blank"] += len(blanks) // 2
            text = _without(text, blanks)
        if row > len(self._most) or text.startswith("\n") or text.endswith("\n"):
            length = len(text)
            text = text.strip("\n")
            if row > len(self._most):
                text = self._closed_up(text)
            edits["blank_line"] += length - len(text)
        return before if text == before else text

    def _closed_up(self, text: str) -> str:
        """The text with no more line feeds in a row than allowed."""
        parts: list[str] = []
        position = 0
        at = text.find(self._too_many)
        while at >= 0:
            parts += (text[position:at], self._most)
            position = at + len(self._too_many)
            while text.startswith("\n", position):
                position += 1
            at = text.find(self._too_many, position)
        return "".join([*parts, text[position:]]) if parts else text


def line_end_blanks(text: str) -> tuple[list[int], int]:
    """Where blanks stand before a line feed or at the end (start, end, start, ...), and the most line feeds in a row when
    they have gone."""
    codes = codes_of(text)
    places = np.empty(ROOM, np.int32)
    used, row = _line_end_blanks(codes, places)
    if used > ROOM:
        places = np.empty(used, np.int32)
        _line_end_blanks(codes, places)
    return places[:used].tolist(), row


@kernel
def _line_end_blanks(codes, places):  # type: ignore[no-untyped-def]
    used = row = longest = 0
    # Unsigned numbers: no look whether an index counts from the end.
    line, size, one = np.uint64(0), np.uint64(len(codes)), np.uint64(1)
    for at in range(size + one):
        if at < size and codes[at] != 10:
            continue
        start = np.uint64(at)
        while start > line and (codes[start - one] == 32 or codes[start - one] == 9 or codes[start - one] == 0x3000):
            start -= one
        if start < at:
            if used + 1 < len(places):
                places[used], places[used + 1] = start, at
            used += 2
        if at < size:
            row = row + 1 if start == line else 1
            longest = max(longest, row)
        line = at + one
    return used, longest


def _without(text: str, places: list[int]) -> str:
    """The text without what is between each start and end."""
    borders = [0, *places, len(text)]
    return "".join([text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)])


class RepeatsCleaner:
    """The step `repeats`. `edits` kinds: punctuation_run, ellipsis_run, dash_run."""

    def __init__(self, step: steps.Repeats) -> None:
        self._most = step.max_run
        over = step.max_run + 1
        self._runs = {mark: re.compile(f"{re.escape(mark)}{{{over},}}") for mark in _FULL + _ASCII + ",～"}
        self._long = [(mark * over, mark) for mark in self._runs]
        self._marks = codes_of("".join(self._runs) + "…—")
        self._lines = {"…": re.compile("…{3,}"), "—": re.compile("—{3,}")}
        pairs = {mark * 2 for mark in [*self._runs, *self._lines]}
        self.triggers = Triggers(pairs=frozenset(pairs))

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text with each run of a mark no longer than allowed; the same object if none was."""
        before = text
        if not self.has_run(text):
            return text
        for run, mark in self._long:
            if run in text:
                text = self._shortened(text, mark, self._runs[mark], self._most, "punctuation_run", edits)
        for mark, pattern in self._lines.items():
            if mark * 3 in text:
                text = self._shortened(text, mark, pattern, 2, "ellipsis_run" if mark == "…" else "dash_run", edits)
        return before if text == before else text

    def has_run(self, text: str) -> bool:
        """Whether a mark repeats itself often enough to be looked at: in the texts of which the triggers tell few do."""
        found: bool = _has_run(codes_of(text), self._marks, min(self._most + 1, 3))
        return found

    def _shortened(
        self, text: str, mark: str, pattern: re.Pattern[str], most: int, kind: str, edits: Counter[str]
    ) -> str:
        def shorten(match: re.Match[str]) -> str:
            if _stays(match.string, match.start(), match.end(), mark):
                return match[0]
            edits[kind] += 1
            return mark * most

        return pattern.sub(shorten, text)


@kernel
def _has_run(codes, marks, least):  # type: ignore[no-untyped-def]
    """Whether one of the marks stands `least` times in a row."""
    run, before = 0, np.uint32(0)
    for at in range(np.uint64(len(codes))):
        code = codes[at]
        run = run + 1 if code == before else 1
        before = code
        if run == least:
            for mark in marks:
                if code == mark:
                    return True
    return False


def _stays(text: str, start: int, end: int, mark: str) -> bool:
    """Whether a run of a mark is not sentence punctuation: a rule, leader dots, an operator, empty cells."""
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    last = len(text) if last < 0 else last
    before, after = text[first:start].strip(_BLANKS), text[end:last].strip(_BLANKS)
    if not before and (not after or mark in _ASCII):
        return True
    if mark in "…。":
        return _PAGE_NUMBER.match(text, end) is not None
    if mark in _ASCII:
        return _BEFORE_OPERAND.match(text, end) is not None
    if mark == ",":
        return (
            "," in before
            or "," in after
            or not (_HAN.match(text, start - 1) and start > first and _HAN.match(text, end))
        )
    return False
