"""The page of `jielong judge`: complete, safe, in two languages, the most decisive prompts first."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from jielong.infer.judging_page import OPEN, SECTIONS, SHOWN, compose, write_page
from jielong.pieces import visible
from tests.test_report import EVIL, Page


def found(
    rows: int = 3, biased: bool = False, rate: float = 0.5, low: float = 0.2, high: float = 0.8
) -> dict[str, Any]:
    """What judge_models gives."""
    listed = []
    for n in range(rows):
        winner, margin = (("a", 1.25), ("b", -3.5), ("tie", 0.0))[n % 3]
        listed.append({
            "line": n + 1, "messages": [{"role": "user", "content": f"第{n}问"}], "a": f"甲答{n}。", "b": f"乙答{n}。", "winner": winner,
            "margin": margin + (n / 100 if margin > 0 else 0), "changed": winner == "tie" if biased else None,
            "stopped": {"a": "end_of_text", "b": "length"},
        })  # fmt: skip
    wins = {key: sum(row["winner"] == key for row in listed) for key in ("a", "b", "tie")}
    return {
        "a": {"name": "新模型", "model": "/a", "turns": True}, "b": {"name": "旧模型", "model": "/b", "turns": False}, "by": "better",
        "prompts": rows, "prompts_file": "题.jsonl", "wins": wins, "win_rate": rate, "interval": {"low": low, "high": high},
        "changed": wins["tie"] if biased else None, "position_bias": wins["tie"] / rows if biased else None, "rows": listed,
        "sampling": {"max_new_tokens": 128, "temperature": 0.0, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 1},
    }  # fmt: skip


def evil() -> dict[str, Any]:
    report = found()
    report["a"]["name"] = report["b"]["name"] = report["by"] = report["prompts_file"] = EVIL
    report["rows"][0] |= {
        "a": EVIL,
        "b": EVIL,
        "messages": [{"role": "system", "content": EVIL}, {"role": "user", "content": EVIL}],
    }
    return report


@pytest.mark.parametrize("case", ["plain", "biased", "many", "evil", "one", "edges"])
def test_the_page(tmp_path: Path, case: str) -> None:
    report = {
        "plain": found(), "biased": found(biased=True), "many": found(OPEN * 3), "evil": evil(), "one": found(1),
        "edges": found(rate=1.0, low=0.44, high=1.0),
    }[case]  # fmt: skip
    write_page(report, tmp_path / "judge.html")
    html = (tmp_path / "judge.html").read_text(encoding="utf-8")
    page = Page(html)
    assert re.findall(r'<section id="(\w+)">', html) == list(SECTIONS)
    assert [tag for tag, _ in page.tags].count("script") == 1 and not {"img", "iframe", "link"} & {
        tag for tag, _ in page.tags
    }
    assert not [key for _, values in page.tags for key in values if key.startswith("on")]
    assert "\u202e" not in html and "\x00" not in html and "default-src 'none'" in html and "url(" not in html
    assert set(re.findall(r"https?://[^\"'\s<]*", html)) <= {"http://www.w3.org/2000/svg"}
    for picture in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(picture)
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    spoken = [(language, text) for language, text in page.own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2) and len(spoken) > 30
    for (_, en), (_, zh) in zip(spoken[::2], spoken[1::2], strict=True):
        assert en.strip() and zh.strip() and not re.search(r"[一-鿿]", en), en
    assert not re.search(r"(?<![A-Za-z])(nan|inf|NaN|None)(?![A-Za-z])", html)
    if case == "evil":
        assert page.data.count(visible(EVIL)) == 6  # both names, judge, file, both answers
        assert page.data.count(visible(f"system: {EVIL}")) == page.data.count(visible(f"user: {EVIL}")) == 1


def test_every_figure_is_on_the_page() -> None:
    html = compose(found(30, biased=True, rate=0.4321, low=0.2468, high=0.6421))
    for figure in ("43.2%", "24.7% to 64.2%", "24.7% 至 64.2%", "33.3%", "No difference is shown", "未见差别", "better", "题.jsonl", "新模型", "旧模型",
                   "(takes turns)", "（续写）", "of the ties, because the verdict changed with the order", "cut off at its longest"):  # fmt: skip
        assert figure in html, figure
    assert "changed with the order" not in compose(found(30))
    assert "A is better." in compose(found(rate=0.8, low=0.6, high=0.9)) and "B 较好。" in compose(
        found(rate=0.2, low=0.1, high=0.3)
    )


def test_the_most_decisive_come_first_and_none_is_missing() -> None:
    report = found(OPEN + 10)
    html = compose(report)
    places = {row["line"]: html.index(f"甲答{row['line'] - 1}。") for row in report["rows"]}
    margins = {row["line"]: abs(row["margin"]) for row in report["rows"]}
    shown = sorted(places, key=places.__getitem__)
    assert [margins[line] for line in shown] == sorted(margins.values(), reverse=True)
    assert html.index("<details") > places[shown[OPEN - 1]] and html.index("<details") < places[shown[OPEN]]
    assert ">10 more<" in html and html.count('<div class="duel">') == OPEN + 10
    assert "<details" not in compose(found(OPEN))


def test_the_winner_is_marked() -> None:
    report = found(3)
    for row, won in zip(report["rows"], ("甲答0。", "乙答1。", None), strict=True):
        html = compose(report | {"rows": [row]})
        marked = re.findall(r'<div class="won">.*?</div>', html, flags=re.DOTALL)
        assert len(marked) == (won is not None) and all(won in one for one in marked if won)


def test_the_picture() -> None:
    """On a line of 732 units from 14 on: 25 % at 197, 50 % at 380, 75 % at 563."""
    html = compose(found(rate=0.5, low=0.25, high=0.75))
    [svg] = re.findall(r'<figure class="wide">(<svg.*?</svg>)', html, flags=re.DOTALL)
    assert (
        'd="M197.0 68.0v12M197.0 74.0H563.0M563.0 68.0v12"' in svg and '<circle class="d0" cx="380.0" cy="74.0"' in svg
    )
    assert "50.0%, from 25.0% to 75.0%" in svg


def test_long_texts_are_cut_and_empty_ones_said() -> None:
    report = found(1)
    report["rows"][0] |= {"a": "长" * (SHOWN + 5), "b": " "}
    html = compose(report)
    assert "长" * SHOWN + "…" in html and "长" * (SHOWN + 1) not in html and "(nothing)" in html
