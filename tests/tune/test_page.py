"""The page of the conversations: complete, safe, in two languages, and the colours where the mask is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jielong.tokenizer.folder import TokenizerFolder
from jielong.tune.checking import REASONS
from jielong.tune.page import REASON_WORDS, SECTIONS, write_page
from jielong.tune.preparing import prepare
from tests.test_report import Page
from tests.tune.talks import BAD, WITH_TOOLS, asked, config_of, turns, write

EVIL = "<script>alert(1)</script>\u202e\x07\"'&<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory, tokenizer: TokenizerFolder) -> str:
    folder = tmp_path_factory.mktemp("page")
    records = [WITH_TOOLS, *map(asked, range(30)), turns(EVIL, EVIL), *(bad for bad, _ in BAD), {EVIL: EVIL}]
    path, few = write(folder / f"{'<b>'}.jsonl", records), write(folder / "b.jsonl", [turns(EVIL + "2", EVIL)])
    sources = [{"name": EVIL, "path": str(path)}, {"name": "b", "path": str(few)}]
    prepare(config_of(sources=sources), tokenizer, 1024, folder / "out", 1)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_every_reason_has_words_in_both_languages() -> None:
    assert set(REASON_WORDS) == set(REASONS)
    assert all(re.search("[一-鿿]", words.zh) and not re.search("[一-鿿]", words.en) for words in REASON_WORDS.values())


def test_every_section_is_there(html: str) -> None:
    assert re.findall(r'<section id="(\w+)">', html) == list(SECTIONS)
    assert "jielong 对话数据报告" in html and html.count('<svg class="chart"') == 2
    for _, reason in BAD:
        assert f"<code>{reason}</code>" in html


def test_text_from_files_is_shown_and_never_markup(html: str) -> None:
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in page.tags}
    assert not [key for _, values in page.tags for key in values if key.startswith("on")]
    assert "\u202e" not in html and "\x07" not in html and "\x00" not in html
    assert set(re.findall(r"https?://[^\"'\s<]*", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html and "default-src 'none'" in html
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    targets = [values["href"][1:] for _, values in page.tags if "href" in values]
    assert targets and set(targets) <= set(ids)


def test_own_words_are_in_both_languages(html: str) -> None:
    spoken = [(language, text) for language, text in Page(html).own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2) and len(spoken) > 100
    for (_, en), (_, zh) in zip(spoken[::2], spoken[1::2], strict=True):
        assert en.strip() and zh.strip()
        assert not re.search(r"[一-鿿]", en), en


def test_what_is_learned_is_coloured(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    """Of each conversation shown, the coloured tokens are its answers with their ends, and nothing else."""
    path = write(tmp_path / "a.jsonl", [turns(f"第{n}问", "好的", "再问", "谢谢") for n in range(8)])
    report = prepare(config_of(path), tokenizer, 1024, tmp_path / "out", 1)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    shown = re.findall(r'<p class="tokens data">(.*?)</p>', html, flags=re.DOTALL)
    assert len(shown) == 8 == len(report["examples"])
    for spans in shown:
        learned = "".join(re.findall(r'<span class="l[^"]*" title="\d+">(.*?)</span>', spans, flags=re.DOTALL))
        assert learned == "好的&lt;|im_end|&gt;谢谢&lt;|im_end|&gt;"


def test_nothing_set_aside_and_nothing_to_show(tmp_path: Path) -> None:
    bins = {"edges": [1, 2, 3], "train": [1, 0], "validation": [0, 1]}
    report: dict[str, Any] = {
        "read": 2, "train": 1, "validation": 1, "rejected": {}, "shortened": 0, "exchanges_left_out": 0, "tokens": 0,
        "learned_tokens": 0, "by_source": {}, "lengths": bins, "turns": bins, "examples": [], "rejects": {}, "length": 8,
    }  # fmt: skip
    write_page(report, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing was set aside" in html and 'id="examples"' not in html
