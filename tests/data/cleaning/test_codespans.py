"""The compiled passes beside the regular expressions that say the same."""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections import Counter
from html.entities import html5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.cleaning import markup
from jielong.data.cleaning.codespans import (
    AND,
    COLON,
    DECLARED,
    LESS,
    LINK,
    SECRET,
    WHITESPACE,
    code_spans,
    find_code,
    name_number,
)

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
FENCE = re.compile(r"(`{3,}+|~{3,}+)([^\n]*)")
INLINE_CODE = re.compile(r"(``*+)(?:[^\n]*?[^`\n]\1(?!`))?")  # or marks that nothing answers
INDENTED = re.compile(rf"\n(?:    |\t)[ \t]*+[^\s{HAN}\u3000]")


def code_spans_plain(text: str, inline: bool = True) -> list[tuple[int, int]]:
    """The twin: what find_code finds, by regular expressions."""
    spans = with_indented(text, fences(text))
    if not inline:
        return spans
    found = [match.span() for match in INLINE_CODE.finditer(text) if match.end() > match.end(1)]
    both: list[tuple[int, int]] = []
    position = 0
    for start, end in spans:  # a block is whole lines, so a code span is inside or outside
        first = bisect_left(found, (start, 0), position)
        both += found[position:first]
        both.append((start, end))
        position = bisect_left(found, (end, 0), first)
    return both + found[position:]


def fences(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    end = 0
    while match := re.compile("```|~~~").search(text, end):
        at = match.start()
        match = FENCE.match(text, at)
        assert match is not None
        marks, end = match[1], match.end()
        start = text.rfind("\n", 0, at) + 1
        if not text[start:at].strip(" \t") and (marks[0] == "~" or "`" not in match[2]):
            closing = re.compile(rf"\n[ \t]*+{marks[0]}{{{len(marks)},}}+[^\S\n]*+(?=\n|\Z)").search(text, end)
            end = closing.end() if closing else len(text)
            spans.append((start, end))
    return spans


def with_indented(text: str, fences: list[tuple[int, int]]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    last = -1  # where the indented block before ends
    first = INDENTED.match("\n" + text[:256])
    for start in ([0] if first else []) + [match.start() + 1 for match in INDENTED.finditer(text)]:
        if any(fence <= start < end for fence, end in fences):
            continue
        before = text.rfind("\n", 0, max(start - 1, 0)) + 1
        if start and start != last and text[before : start - 1].strip():
            continue  # goes on with a paragraph
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        spans.append((start, end))
        last = end + 1
    return sorted(fences + spans)


def beginnings_plain(text: str) -> int:
    """The twin: the beginnings of markup outside code."""
    for start, end in reversed(code_spans_plain(text)):
        text = text[:start] + "\x00" + text[end:]
    patterns = {
        LESS: r"<[A-Za-z/!?]",
        AND: r"&[A-Za-z#]",
        LINK: r"\]\(",
        COLON: r"\]:",
        SECRET: "<[sS!]",
        DECLARED: "<[!?]",
    }
    return sum(bit for bit, pattern in patterns.items() if re.search(pattern, text))


CODE_PARTS = [
    *("`", "``", "```", "````", "~~~", "~~~~", "\n", "\n\n", "\n```\n", "```\n", "    ", "\t", " ", "\u3000", "\x0b", "\r"),
    *("\u2028", "中", "㐀", "𠀀", "\ud800", "a", "x y", "<b", "<", "s", "S", "!", "?", "/", "&a", "&#", "&", "](", "]", ":", " " * 252, " " * 255),
]  # fmt: skip


@given(st.lists(st.sampled_from(CODE_PARTS), max_size=14).map("".join))
def test_code_and_beginnings_are_those_of_the_twin(text: str) -> None:
    assert code_spans(text) == code_spans_plain(text)
    assert code_spans(text, inline=False) == code_spans_plain(text, inline=False)
    assert find_code(text)[1] == beginnings_plain(text)


@pytest.mark.parametrize("blanks", [255, 256])
def test_indented_code_that_begins_a_text(blanks: int) -> None:
    text = " " * blanks + "x\n"
    assert code_spans(text) == code_spans_plain(text) == ([(0, 256)] if blanks == 255 else [])


def test_the_blanks_are_those_of_python() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert "".join(re.findall(r"\s", every)) == WHITESPACE == "".join(filter(str.isspace, every))


def test_numbers_of_names() -> None:
    names = [*markup._INSTEAD, *(name.lower() for name in html5 if name.isalnum() and len(name) < 13), "b1", "h", "h0"]
    assert len({name_number(name) for name in names}) == len(set(names))
    assert name_number("z" * 12) < 1 << 63


TAG_PARTS = [
    *("<b>", "</b>", "<br>", "<BR/>", "<p>", "</p>", "<P>", "<td>", "</td>", "<th>", "<S>", "<source>", "</source>"),
    *("<option>", "<table>", "</table>", "</TABLE>", "<Div>", "<unknown>", "<blockquotexxxx>", "<h1>", "</H1>"),
    *("<div class=x>", "<a href='x'>", '<a href="', "<a b = c d=e disabled>", "<input checked", "<input hiddenx>"),
    *("<a @x=1 :y='2'>", "<a x==1>", "<a b中=1>", "<", "</", "<a ", ">", "/", "/>", " ", "  ", "\n", "|", "\n| ", "中"),
    *("x", "Box", "标签", "的标签", "之类的元素", "tag", "tags", "elements", " 占位符", "这个", "“", "”", '"', "'", "（", "）"),
    *("=", "a=", "=1", "\u3000", "\u2028", "\x0b", "`", "𠀀", "disabled", "_", "-", "]", ")", ".", ":", "@", "1", "&"),
]  # fmt: skip


@given(st.lists(st.sampled_from(TAG_PARTS), max_size=12).map("".join))
def test_tags_are_those_of_the_twin(text: str) -> None:
    for tried in (text, "<b>" + text, "<a " + text):
        edits: Counter[str] = Counter()
        plain: Counter[str] = Counter()
        assert markup._without_tags(tried, edits) == markup._without_tags_plain(tried, plain)
        assert edits == plain


def test_ordinary_tags_are_decided_without_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(markup, "_without_tags_plain")
    text = "<div class='中 文'>一<br/>二</div>，<input disabled>、<b>粗</b> tag_s 与<i>斜</i>标签、Map<K>、<source>"
    assert markup._without_tags(text, Counter()) == "一\n二\n，、粗 tag_s 与斜</i>标签、Map<K>、<source>"
    with pytest.raises(NameError):
        markup._without_tags("<b a中=1>", Counter())
