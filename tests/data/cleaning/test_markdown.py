"""Markdown: what points elsewhere goes, structure stays; where code stands."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning import markdown
from jielong.data.cleaning.markdown import code_spans
from jielong.data.cleaning.markup import MarkupCleaner
from tests.data.cleaning.triggers import check_contract

CLEANER = MarkupCleaner(steps.Markup(step="markup"))


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ('见[文档](https://a.cn/x "题")和[本地](./b/图片.md)、[锚](#top)', "见文档和本地、锚"),
        ("图：![说明](a.png)。[![x](b.png)](http://c.cn)", "图：。"),
        ("[`code`](http://a.cn)与[带[括号]的](http://b.cn/x_(y))", "`code`与带[括号]的"),
        (
            "见[甲][1]、[乙][]和[丙]，注[1]\n\n[1]: http://a.cn\n[乙]: <http://b.cn> '题'\n[丙]:/c.html",
            "见甲、乙和丙，注[1]\n\n",
        ),
        ("![图][2]正文\n\n[2]: http://a.cn/b.png\n", "正文\n\n"),
        ("[#]: subject: (题目)\n[//]: # (注释)\n正文", "正文"),
        ("---\ntitle: 题\ntags:\n  - a\n- b\n# 注\n---\n\n正文", "正文"),
    ],
)
def test_what_goes(dirty: str, clean: str) -> None:
    assert check_contract(CLEANER, dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "[注1](见下文)，脚注[1]和[^1]\n\n[^1]: 说明 http://a.cn",
        "handlers[key](arguments.x) 与 a[i](b)，[他](and/or)",
        "# 标题\n\n- 列表\n- **粗**和*斜*\n\n| 甲 | 乙 |\n| --- | --- |\n| 1 | 2 |\n\n> 引用\n\n---\n\n完",
        "---\n不是元数据\n---\n正文",
        "[ ] 待办\n[x] 完成\n[1]: 不是地址",
        "见[甲][9]。\n\n```\n[9]: http://a.cn\n```",
    ],
)
def test_what_stays(text: str) -> None:
    assert CLEANER(text, Counter()) is text


def test_where_code_stands() -> None:
    text = "`a` b\n```py\nc `d`\n```\ne ``f ` g`` h\n\n    i\n\n    j\n\n    汉字\nk"
    assert [text[start:end] for start, end in code_spans(text)] == [
        "`a`",
        "```py\nc `d`\n```",
        "``f ` g``",
        "    i",
        "    j",
    ]
    assert next(text[start:end] for start, end in code_spans(text, inline=False)) == "```py\nc `d`\n```"
    assert code_spans("没有代码") == []


def test_where_fences_end() -> None:
    """At a line of as many marks of the same kind or more and nothing else; the other kind is code; else at the end."""
    first = "  ````\na\n```\n~~~~\n```` b\nx ````\n \t`````\u3000"
    second = "~~~ `c`\n```\nd\n~~~ "
    text = f"``` `no fence`\n{first}\n中 ``` 文\n{second}\ne\n```\nf"
    assert [text[start:end] for start, end in code_spans(text, inline=False)] == [first, second, "```\nf"]


LINK_PARTS = [
    *("[", "]", "](", "]:", "![", "(", ")", "[a](http://a.cn)", "[1]: http://a.cn\n", "[b]: /x", "[b]", "[1]", "[a][1]"),
    *("[b]: https://b.cn", "\n", " ", "  ", "    ", "\t", "<", ">", "http://a.cn", "a.html", '"t"', "'t'", "(t)", ' "t u"'),
    *("中", "x", "!", "^", "[#]:", "[//]:", "[comment]:", "\ufdd11\ufdd2", "\u3000", "\r", "𠀀", "//", "[B]", "[][1]", ":"),
    *("\u212a", "[k]: http://k.cn\n", "[K][]", "\x00", "[" + "y" * 9 + "]", "[" + "y" * 9 + "]: http://y.cn\n"),
]  # fmt: skip


@given(st.lists(st.sampled_from(LINK_PARTS), max_size=14).map("".join))
def test_definitions_are_those_of_the_twin(text: str) -> None:
    edits: Counter[str] = Counter()
    plain: Counter[str] = Counter()
    assert markdown._without_definitions(text, edits) == markdown._without_definitions_plain(text, plain)
    assert edits == plain


def test_ordinary_definitions_are_decided_without_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(markdown, "_without_definitions_plain")
    text = "[#]: 注\n见[甲][1]、![图][B]和[b]\n\n[1]: http://a.cn (题)\n[b]: <https://b.cn>\n[//]: #"
    edits: Counter[str] = Counter()
    assert markdown._without_definitions(text, edits) == "见甲、和b\n\n"
    assert edits == {"comment_marker": 2, "definition": 2, "link": 2, "image": 1}
    for undecided in ("[1]: a.html", "[甲]: http://a.cn", "[k]: http://a.cn\n[\u212a]"):
        with pytest.raises(NameError):
            markdown._without_definitions(undecided, Counter())


def test_only_the_kelvin_sign_becomes_a_letter_of_ascii() -> None:
    """What the compiled pass takes for granted where it compares labels."""
    beyond = map(chr, range(128, sys.maxunicode + 1))
    assert [char for char in beyond if any(small.isascii() for small in char.lower())] == ["\u0130", "\u212a"]
    assert "\u0130".lower() == "i\u0307"  # longer than one character, and not of ASCII as a whole
