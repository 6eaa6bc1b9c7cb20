"""The page: whole, safe, in two languages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from jielong.tokenizer.importing.specials import FIELDS
from jielong.tokenizer.reporting.examples import KINDS
from jielong.tokenizer.reporting.page import (
    KIND_WORDS,
    ROLES,
    SECTIONS,
    WHY,
    bars,
    compose,
    cuts,
    head,
    seen,
    write_page,
)
from jielong.tokenizer.reporting.vocabulary import KINDS as ENTRY_KINDS
from tests.test_report import EVIL, Page
from tests.tokenizer.reporting.folders import report


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report in which everything from outside is hostile, and every section has something to show."""
    value = report(tmp_path_factory.mktemp("page"))
    for one in value["tokenizers"]:
        one["name"] += EVIL
        one["speed"] = {"megabytes_per_second": 12.34, "low": 10.0, "high": 13.0, "ratio": 0.5, "batches": 5}
        one["differences"].append({"domain": EVIL, "at": 1234, "before": EVIL, "text": EVIL, "back": ""})
        one["junk"] = [{"id": 5, "text": EVIL, "why": why, "count": 3} for why in WHY]
        one["longest"] = one["common"] = [{"id": 5, "text": EVIL, "share": 0.5}]
        one["special"]["tokens"][0]["text"] = EVIL
        one["special"]["roles"]["end"]["text"] = EVIL
        one["texts"] = {EVIL: next(iter(one["texts"].values()))}
    value["texts"][0] |= {"name": EVIL, "bad": 2, "more": True}
    for tokens in value["examples"][0]["cuts"]:
        tokens.append({"id": 1, "text": EVIL, "broken": True})
    return value


def html_of(value: dict[str, Any], folder: Path) -> str:
    write_page(value, folder / "t.html")
    return (folder / "t.html").read_text(encoding="utf-8")


def test_every_section_is_there_in_order(found: dict[str, Any], tmp_path: Path) -> None:
    html = html_of(found, tmp_path)
    assert re.findall(r'<section id="(\w+)">', html) == list(SECTIONS)
    assert html == html_of(found, tmp_path) and "jielong 分词器报告" in html
    assert all(words.zh in html and words.en in html for words in KINDS.values())
    assert set(KIND_WORDS) == set(ENTRY_KINDS) and set(ROLES) == set(FIELDS)


def test_text_from_outside_is_shown_and_never_markup(found: dict[str, Any], tmp_path: Path) -> None:
    html = html_of(found, tmp_path)
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1 and [tag for tag, _ in page.tags].count("style") == 1
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in page.tags}
    assert not [key for _, values in page.tags for key in values if key.startswith("on")]
    assert "\u202e" not in html and "\x00" not in html and "<script>alert" not in html
    assert "".join(page.data).count("alert('x')") > 20
    assert set(re.findall(r"https?://[^\"'\s<]*", html.replace("https://example.com/a?b=1", ""))) <= {
        "http://www.w3.org/2000/svg"
    }
    assert "url(" not in html and "default-src 'none'" in html


def test_own_words_are_in_both_languages(found: dict[str, Any], tmp_path: Path) -> None:
    page = Page(html_of(found, tmp_path))
    spoken = [(language, text) for language, text in page.own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2) and len(spoken) > 100
    for (_, en), (_, zh) in zip(spoken[::2], spoken[1::2], strict=True):
        assert en.strip() and zh.strip() and not re.search(r"[一-鿿]", en), en


def test_pictures_are_xml_and_ids_are_unique(found: dict[str, Any], tmp_path: Path) -> None:
    html = html_of(found, tmp_path)
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        ET.fromstring(picture)
    ids = [values["id"] for _, values in Page(html).tags if "id" in values]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#(\w+)"', html)) <= set(ids)


def test_cuts_alternate_and_show_ids() -> None:
    html = cuts(
        [
            {"id": 7, "text": "中", "broken": False},
            {"id": 8, "text": "<E4>", "broken": True},
            {"id": 9, "text": "\n\t", "broken": False},
        ]
    )
    assert html == (
        '<p class="cuts data"><span class="cut0" title="7">中</span><span class="cut1 byte" title="8">&lt;E4&gt;</span>'
        '<span class="cut2" title="9">↵→</span></p>'
    )


def test_bars_are_in_proportion(found: dict[str, Any]) -> None:
    value = found | {
        "texts": [{"name": "a"}],
        "tokenizers": [{"texts": {"a": {"k": 2.0}}}, {"texts": {"a": {"k": 1.0}}}],
    }
    html = bars(value, "k")
    assert "width:85.0%" in html and "width:42.5%" in html and ">2.00<" in html
    assert "width:0.0%" in bars(value, "missing")


def test_the_sentence(found: dict[str, Any]) -> None:
    assert "2 tokenizers on" in head(found) and "每词元承载文本最多的是" in head(found)
    assert "Most text" not in head(found | {"tokenizers": found["tokenizers"][:1]})


def test_more_tokenizers_than_curves(found: dict[str, Any], tmp_path: Path) -> None:
    many = [found["tokenizers"][0] | {"name": str(n)} for n in range(10)]
    cuts_of_many = [{**example, "cuts": example["cuts"][:1] * 10} for example in found["examples"]]
    html = html_of(found | {"tokenizers": many, "examples": cuts_of_many}, tmp_path)
    Page(html)
    assert "The curves are those of the first 4" in html and 'class="t7"' in html and 'class="t8"' not in html


def test_white_space_is_made_visible() -> None:
    assert [seen(" "), seen("\n"), seen(" a"), seen("\x00")] == ["␣", "↵", " a", "<U+0000>"]


def test_an_honest_report_without_extras(tmp_path: Path) -> None:
    value = report(tmp_path, hidden="512")
    html = compose(value)
    assert 'id="speed"' not in html and "every document comes back" in html
    assert not re.search(r"(?<![A-Za-z])(nan|inf|NaN|None)(?![A-Za-z])", html)
