"""Whitespace and repeated punctuation: what goes, and all the shapes that must stay."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.scan import ROOM
from jielong.data.cleaning.whitespace import RepeatsCleaner, WhitespaceCleaner, line_end_blanks
from tests.data.cleaning.triggers import check_contract

WHITESPACE = WhitespaceCleaner(steps.Whitespace(step="whitespace"))
STRIP = WhitespaceCleaner(steps.Whitespace(step="whitespace", indent="strip", max_blank_lines=0))
REPEATS = RepeatsCleaner(steps.Repeats(step="repeats"))


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("一\u3000\n二 \t\n三", "一\n二\n三"),
        ("\n\n \n一\n\n\n\n\n\n二\n \n", "一\n\n\n二"),
        ("  \u3000\n\t", ""),
        ("一" + " \t\u3000" * 50 + "\n" + " " * 99 + "\n二\n\n\n \n\n\n三", "一\n\n二\n\n\n三"),
        ("一\n", "一"),
    ],
)
def test_whitespace(dirty: str, clean: str) -> None:
    assert check_contract(WHITESPACE, dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "\u3000\u3000段落一。\n\u3000\u3000段落二。",
        "def f():\n    return 1\n\n\ndef g():\n\treturn 2",
        "姓名    年龄\n张三    18",
        "大江东去\u3000\u3000浪淘尽",
        "",
    ],
)
def test_whitespace_that_stays(text: str) -> None:
    assert WHITESPACE(text, Counter()) is text


def test_indent_and_blank_lines_by_option() -> None:
    edits: Counter[str] = Counter()
    assert STRIP("\u3000\u3000一\n \u3000 二\n    code\n\n三", edits) == "一\n二\n    code\n三"
    assert edits == {"indent": 2, "blank_line": 1}


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("好！！！！！！真的？？？？？", "好！！！真的？？？"),
        ("我………想……", "我……想……"),
        ("世界———乐园", "世界——乐园"),
        ("wow!!!!!! 好~~~~~~~", "wow!!! 好~~~"),
        ("嗯,,,,,,,好吧", "嗯,,,好吧"),
    ],
)
def test_repeats(dirty: str, clean: str) -> None:
    assert check_contract(REPEATS, dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "他说——好的……",
        "----------\n==========\n**********\n| --- | --- |",
        "~~~~~python\nprint()\n~~~~~",
        "——————————",
        "第一章…………………………12\n第二章。。。。。。。。。。34",
        "a = b ????c; !!!!flag",
        "张三,,,,北京,男\n,,,,,",
        "啊啊啊啊啊 哈哈哈哈",
        "标题\n~~~~~~~~",
    ],
)
def test_repeats_that_stay(text: str) -> None:
    assert REPEATS(text, Counter()) is text


def test_max_run() -> None:
    cleaner = RepeatsCleaner(steps.Repeats(step="repeats", max_run=1))
    edits: Counter[str] = Counter()
    assert cleaner("好！！真的？？？。", edits) == "好！真的？。"
    assert edits == {"punctuation_run": 2}


@given(st.text(alphabet="一a1 \t\n\u3000。！？,!?~…—", max_size=60))
def test_contracts(text: str) -> None:
    for cleaner in (WHITESPACE, STRIP, REPEATS):
        check_contract(cleaner, text)


def slow_line_end_blanks(text: str) -> tuple[list[int], int]:
    """The twin: by patterns."""
    found = [match.span() for match in re.finditer(r"(?<![ \t\u3000])[ \t\u3000]+(?=\n|\Z)", text)]
    bare = re.sub(r"[ \t\u3000]+(?=\n|\Z)", "", text)
    return [place for span in found for place in span], max(map(len, re.findall(r"\n+", bare)), default=0)


@given(st.text(alphabet="一a \t\n\u3000😀", max_size=30))
def test_line_ends_and_blank_lines_are_found(text: str) -> None:
    assert line_end_blanks(text) == slow_line_end_blanks(text)


def test_more_line_end_blanks_than_there_is_room_for() -> None:
    text = "一 \n\n" * ROOM
    assert line_end_blanks(text) == slow_line_end_blanks(text)


@given(st.text(alphabet="一a \n。！？,!?~…—😀", max_size=30), st.integers(1, 5))
def test_texts_without_a_run_are_told_apart(text: str, max_run: int) -> None:
    cleaner = RepeatsCleaner(steps.Repeats(step="repeats", max_run=max_run))
    least = min(max_run + 1, 3)
    assert cleaner.has_run(text) == bool(re.search(rf"([。！？,!?~…—])\1{{{least - 1}}}", text))
