"""The page of the preferences: complete, safe, in two languages, and what it says of length."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jielong.align.checking import REASONS
from jielong.align.config import Kind
from jielong.align.page import REASON_WORDS, SECTIONS, write_page
from jielong.align.preparing import prepare
from jielong.tokenizer.chat.templates import ChatTemplate
from tests.align.preferences import BAD, answer, config_of, marked, pair, system, user
from tests.test_report import Page
from tests.tune.talks import write

EVIL = "<script>alert(1)</script>\u202e\x07\"'&<img src=x onerror=alert(1)>"
KINDS: tuple[Kind, ...] = ("pairs", "unpaired", "prompts")


@pytest.fixture(scope="module", params=KINDS)
def html(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, template: ChatTemplate) -> str:
    folder = tmp_path_factory.mktemp("page")
    kind: Kind = request.param
    talk = [system("简短。"), user(EVIL), answer(EVIL), user(EVIL)]
    evil = pair(1, prompt=talk, chosen=EVIL, rejected=EVIL + "2", margin=1, **{EVIL: EVIL})
    records = [
        evil,
        *(pair(n) for n in range(30)),
        *(marked(n + 50, n % 2) for n in range(9)),
        *(bad for bad, _ in BAD),
        {EVIL: EVIL},
    ]
    path, few = write(folder / "<b>.jsonl", records), write(folder / "b.jsonl", [evil | {"prompt": EVIL}, pair(40)])
    sources = [{"name": EVIL, "path": str(path)}, {"name": "b", "path": str(few)}]
    prepare(config_of(kind=kind, sources=sources), kind, template, 512, folder / "out", 1)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_every_reason_has_words_in_both_languages() -> None:
    assert set(REASON_WORDS) == set(REASONS)
    assert all(re.search("[一-鿿]", words.zh) and not re.search("[一-鿿]", words.en) for words in REASON_WORDS.values())


def test_every_section_is_there(html: str) -> None:
    assert re.findall(r'<section id="(\w+)">', html) == list(SECTIONS)
    assert "jielong 偏好数据报告" in html and html.count('<svg class="chart"') in (1, 2)
    assert all(f"<code>{reason}</code>" in html for reason in ("bad_json", "unknown_form", "collision", "role_order"))


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


def page_of(folder: Path, template: ChatTemplate, kind: Kind, records: list[Any]) -> str:
    prepare(config_of(write(folder / "a.jsonl", records), kind=kind), kind, template, 512, folder / "out", 1)
    return (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_length_bias_is_said_where_there_is_one(tmp_path: Path, template: ChatTemplate) -> None:
    longer = page_of(tmp_path, template, "pairs", [pair(n, chosen="很长的回答。", rejected="短") for n in range(8)])
    assert "In 100.0% of the pairs the chosen answer is the longer one" in longer and "选中的回答更长" in longer
    shorter = page_of(tmp_path, template, "pairs", [pair(n, chosen="短") for n in range(8)])
    assert "the chosen answer is the shorter one" in shorter and "选中的回答更短" in shorter
    even = page_of(tmp_path, template, "pairs", [pair(n, chosen="好的呢嘛。") for n in range(8)])
    assert 'class="warn"' not in even


def test_answers_stand_side_by_side(tmp_path: Path, template: ChatTemplate) -> None:
    html = page_of(tmp_path, template, "pairs", [pair(n, margin=n) for n in range(8)])
    blocks = html.split('<div class="pair">')[1:]
    assert len(blocks) == 8
    for block in blocks:
        shown = re.findall(r'<p class="sample"><span class="data">(.*?)</span>', block)
        number = int(shown[0].split()[0])
        assert shown == [f"{number} 加一等于几？", f"等于{number + 1}。", "不知道呢。"]
        assert block.index("side-head stay") < block.index("side-head lost") and f"margin {number}" in block
    one = page_of(tmp_path, template, "unpaired", [marked(n, n % 2) for n in range(8)])
    assert 'class="two"' not in one and "side-head stay" in one and "side-head lost" in one
    prompts = page_of(tmp_path, template, "prompts", [{"prompt": f"{n}？", "answer": n} for n in range(8)])
    assert "{&quot;answer&quot;:3}" in prompts and "side-head" not in prompts.split("</style>")[1]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_set_aside_and_nothing_to_show(tmp_path: Path, kind: Kind) -> None:
    bins = {"edges": [1, 2, 3], "train": [1, 0], "validation": [0, 1]}
    statistics = dict.fromkeys(
        ("prompt_tokens", "chosen_characters", "rejected_characters", "chosen_longer", "rejected_longer", "equal_length", "margin",
         "good", "good_characters", "bad_characters")
    )  # fmt: skip
    report: dict[str, Any] = {
        "kind": kind, "records": 2, "read": 2, "train": 1, "validation": 1, "rejected": {}, "by_source": {}, "lengths": bins,
        "statistics": {**statistics, "margins": 0, "columns": {}}, "examples": [], "rejects": {}, "length": 8,
    }  # fmt: skip
    write_page(report, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Nothing was set aside" in html and 'id="examples"' not in html


def test_the_lengths_of_answers_are_lines(tmp_path: Path, template: ChatTemplate) -> None:
    """One for each side that there is; of prompts none."""
    pairs = page_of(tmp_path, template, "pairs", [pair(n) for n in range(8)])
    assert "Answers by length, % of each side" in pairs and pairs.count('<path class="s2"') == 1
    alone = page_of(tmp_path, template, "unpaired", [marked(n) for n in range(8)])
    assert alone.count('<path class="s2"') == 1 and alone.count('<path class="s1"') == 0
    prompts = page_of(tmp_path, template, "prompts", [{"prompt": f"{n}？"} for n in range(8)])
    assert "Answers by length" not in prompts
