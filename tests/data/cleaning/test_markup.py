"""HTML out of the text, text about HTML left alone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.markup import MarkupCleaner
from tests.data.cleaning.triggers import check_contract

CLEANER = MarkupCleaner(steps.Markup(step="markup"))
ALL = MarkupCleaner(steps.Markup(step="markup", markdown="all"))
HTML = MarkupCleaner(steps.Markup(step="markup", markdown="keep"))
MARKDOWN = MarkupCleaner(steps.Markup(step="markup", html="keep"))


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("<p>第一段</p><p class='a'>第二段</p>", "第一段\n第二段\n"),
        ("<div>\n<P>一</P>\n<p>二</p>\n</div>", "一\n二\n"),
        ("一<br>二<br/><br />三", "一\n二\n\n三"),
        ('<b>粗</b>和<font color=red size="2">红</font>，H<sub>2</sub>O', "粗和红，H2O"),
        ("<table><tr><td>甲</td><td>乙</td></tr></table>", "甲\t乙\t\n"),
        ("前<script type='text/javascript'>var a = '<b>';</script>后<STYLE>p {}</STYLE>", "前后"),
        ("前<!-- 注\n释 -->后<!DOCTYPE html>", "前后"),
        ('<a href="a.html"target="_blank">链接</a><img src="x.png" alt="图 > 片">', "链接"),
        ("&ldquo;好&rdquo;&nbsp;&#20013;&#x56fd;&amp;&#128522;", "“好” 中国&😊"),
        ("a &lt; b &amp;&amp; c &gt; d", "a < b && c > d"),
        ("| a<br>b | c |", "| a b | c |"),
        ("<<b>b>双层</b>", "双层"),
        ("<b>x</b", "x</b"),
        ("&amp;nbsp;&amp;amp;", " &"),
    ],
)
def test_html(dirty: str, clean: str) -> None:
    assert check_contract(CLEANER, dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "a < b, c > d, a <b and b> c, x<y>z",
        "List<String>, Map<K, V>, Box<S>, vector<T>, #include <stdio.h>, <用户>, Dictionary<Object>",
        "cp <source> <target>，git log <option>",
        "使用<div>标签和 <span> 元素，“<p>”与（<br>）",
        "行内 `<b>x</b> &lt; [a](http://b.cn)` 代码",
        "```html\n<p>一</p> &nbsp;\n[链接](http://a.cn)\n```",
        "~~~\n<b>\n~~~",
        "段落\n\n    <b>indented</b>\n    &amp;\n\n\t<i>tab</i>",
        "AT&T, a&b;, &unknown; &nbsp &#xD800; &#0; R&D;",
        "```\n<b>从不关闭",
        "\ufdd0<b>noncharacter</b>",
        "<b中><\u017fcript>x",
        "",
    ],
)
def test_what_is_not_html(text: str) -> None:
    assert CLEANER(text, Counter()) is text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("在&lt;head&gt;里", "在`<head>`里"),
        ("写成 &lt;p&gt;text&lt;/p&gt; 即可", "写成 `<p>text</p>` 即可"),
        ("孤立的 ` 和 &lt;p&gt;", "孤立的 ` 和 &lt;p>"),
        ("&#60;stdio.h&#62;", "<stdio.h>"),
        ("&amp;lt;div&amp;gt;", "`<div>`"),
        ("&lt;div\nclass=x&gt;", "&lt;div\nclass=x>"),
    ],
)
def test_escaped_tags_survive_a_second_time(dirty: str, clean: str) -> None:
    cleaned = check_contract(CLEANER, dirty)
    assert cleaned is not None and cleaned.replace("&gt;", ">") == clean


def test_paragraphs_indented_by_four_blanks_are_no_code() -> None:
    assert CLEANER("标题\n\n    近日，<b>记者</b>获悉", Counter()) == "标题\n\n    近日，记者获悉"


def test_options_and_kinds() -> None:
    text = "<b>x</b> [甲](http://a.cn)"
    assert HTML(text, Counter()) == "x [甲](http://a.cn)"
    assert MARKDOWN(text, Counter()) == "<b>x</b> 甲"
    edits: Counter[str] = Counter()
    assert (
        ALL("# 标题 #\n\n**粗**、*斜*、__重__和~~删~~ snake_case_name 2*3*4\n", edits)
        == "标题\n\n粗、斜、重和删 snake_case_name 2*3*4\n"
    )
    assert edits == {"heading": 2, "emphasis": 4}


PARTS = st.sampled_from(
    [
        "<b>",
        "</b>",
        "<br>",
        "<p>",
        "</p>",
        "<",
        ">",
        "&lt;",
        "&gt;",
        "&amp;",
        "&nbsp;",
        "&#60;",
        "<!--",
        "-->",
        "`",
        "```",
        "\n",
        "<script>",
        "</script>",
        "<!",
        "[",
        "](",
        ")",
        "![",
        "](http://a.cn)",
        "[1]: http://a.cn\n",
        "---\n",
        "a: b\n",
        "    ",
        "中",
        "div",
        " ",
        "x",
        "“",
        "”",
        "~~~",
        "**",
        "*",
        "_",
        "# ",
        "<div class=x>",
        "b",
        "/",
        "]",
        "标签",
        "\t",
    ]
)


@given(st.lists(PARTS, max_size=14).map("".join))
def test_contracts(text: str) -> None:
    for cleaner in (CLEANER, ALL, HTML, MARKDOWN):
        check_contract(cleaner, text)


@given(st.text(alphabet="<>/b&lt;#60![]():`~\n -*_", max_size=40))
def test_contracts_on_noise(text: str) -> None:
    for cleaner in (CLEANER, ALL):
        check_contract(cleaner, text)


def test_linear_time() -> None:
    """A search that starts again for every mark would take minutes here."""
    for part in (
        "<script>",
        "<!--",
        "<b",
        "[",
        "![",
        "&lt;",
        "`",
        "<a x=",
        "```\n",
        "[a](",
        "    x\n\n",
        "< b",
        "**",
        "``",
        "_a",
        "[a]: http://a.cn\n[a]",
        "x<br>",
        "<a b='c'",
    ):
        CLEANER(part * 30_000, Counter())
        ALL(part * 3_000, Counter())
