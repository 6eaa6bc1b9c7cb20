"""The section on balance: shares, words side by side, samples, licences; safe, bilingual, whole when parts are missing."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from jielong.charts import Words
from jielong.data.reporting.balance import COLOURED, COLUMNS, section
from jielong.pieces import page
from tests.data.reporting.report_dictionary import EVIL
from tests.test_report import Page


def member(name: str, mentions: dict[str, int]) -> dict[str, Any]:
    return {
        "name": name,
        "terms": ["她", EVIL],
        "mentions": mentions,
        "documents": {key: n // 2 for key, n in mentions.items()},
        "neighbours": [{"word": f"妈妈{EVIL}", "count": 155, "documents": 79, "times": 11.49, "score": 499.0}],
        "distinct": [
            {"word": "漂亮", "count": 48, "others": 8, "times": 9.07, "z": 5.71},
            {"word": "怀孕", "count": 37, "others": 0, "times": None, "z": 2.5},
        ],
        "samples": [{"before": f"前{EVIL}", "mention": "她", "after": "后", "source": EVIL}],
    }


def report(members: int = 2) -> dict[str, Any]:
    names = ["女", f"男{EVIL}", *(f"员{n}" for n in range(members - 2))]
    rows = [member(name, {"新闻": 30 - n // 2, EVIL: 10}) for n, name in enumerate(names)]
    group = {"name": f"组{EVIL}", "documents": {"新闻": 20}, "no_mentions": ["其他", EVIL], "members": rows}
    return {
        "balance": {
            "reach": 12,
            "documents": {"新闻": 100, EVIL: 50},
            "chars": {"新闻": 10_000, EVIL: 20_000},
            "groups": [group],
        },
        "sources": [
            {"name": "新闻", "licence": "CC BY", "weight": 1.0, "chars": 10_000},
            {"name": EVIL, "licence": None, "weight": 3.0, "chars": 20_000},
        ],
    }


def whole(value: dict[str, Any]) -> Page:
    return Page(page("x", section(value), Words("about", "关于")))


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_what_it_shows() -> None:
    text = text_of(section(report()))
    assert "40 (50.2%)" not in text and "40 (50.0%)" in text, "the shares of the mentions"
    assert "1,333" in text, "40 mentions in 30,000 characters"
    assert "3,000" in text and "500" in text, "by source"
    assert "13.3%" in text, "20 of 150 documents"
    assert "48 : 8" in text and "× 9.07" in text and "37 : 0 —" in text and "× 11.5" in text
    assert "CC BY" in text and "not stated" in text
    assert "25.0% 33.3% × 1.3" in text, "wished and actual share of the first source"
    assert "Words that are no mention" in text and "其他" in text


def test_text_from_outside_is_never_markup() -> None:
    found = whole(report())
    tags = [tag for tag, _ in found.tags]
    assert tags.count("script") == 1 and not {"img", "iframe", "link"} & set(tags)
    assert "".join(found.data).count("alert(1)") > 8
    assert "\u202e" not in section(report()) and "http" not in section(report())


def test_own_words_are_in_both_languages() -> None:
    spoken = [(language, text) for language, text in whole(report()).own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2) and len(spoken) > 50
    for _, en in spoken[::2]:
        assert not re.search(r"[一-鿿]", en), en


@pytest.mark.parametrize("members", [COLOURED, COLOURED + 1, 40])
def test_many_members(members: int) -> None:
    html = section(report(members))
    assert ('class="parts"' in html) == (members <= COLOURED)
    by_source = html.partition("By source")[2].partition("</table>")[0]
    assert by_source.count("<th") <= COLUMNS + 3
    assert html.count("×") >= members


def test_colours_stay_with_their_member() -> None:
    value = report()
    value["balance"]["groups"][0]["members"][0]["mentions"] = {"新闻": 1}
    stacks = re.findall(r'class="stack"[^>]*>(.*?)</div>', section(value))
    assert [re.findall(r'class="(\w+)"', stack) for stack in stacks] == [["keep", "out1"], ["out1"], ["keep", "out1"]]


@pytest.mark.parametrize("missing", [None, [], {}, "x", 3])
def test_whatever_is_missing(missing: Any) -> None:
    assert section({"sources": []}) == section({"balance": missing}) == section({"balance": {"groups": missing}}) == ""
    for key in report()["balance"]:
        value = report()
        value["balance"][key] = missing
        section(value)
    for key in report()["balance"]["groups"][0]:
        value = report()
        value["balance"]["groups"][0][key] = missing
        section(value)
    for key in member("女", {}):
        value = copy.deepcopy(report())
        value["balance"]["groups"][0]["members"][0][key] = missing
        section(value)
    value = report()
    value["sources"] = missing
    assert "CC BY" not in section(value)
    for key in report()["sources"][0]:
        value = report()
        value["sources"][0][key] = missing
        section(value)


def test_nothing_found() -> None:
    value = report()
    for row in value["balance"]["groups"][0]["members"]:
        row.update(mentions={}, documents={}, neighbours=[], distinct=[], samples=[])
    text = text_of(section(value))
    assert "None of its terms occurs." in text and "By source" not in text
