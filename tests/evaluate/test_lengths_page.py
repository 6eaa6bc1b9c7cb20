"""The page and the tables: every figure shown, nothing from outside obeyed, both languages."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from jielong.evaluate.lengths_page import compose, notes, tables, write_page
from tests.test_report import EVIL, Page


def report(schemes: int = 2, bits: bool = True, passkey: bool = True) -> dict[str, Any]:
    """What evaluate_lengths gives."""
    listed = []
    for number in range(schemes):
        rows = []
        for place, length in enumerate((256, 1024)):
            shares = {"greedy": 0.25, "likelihood": 0.75 - number / 10, "mean_rank": 2.5}
            key = {**shares, "prompts": 6, "tokens": length - 9, "by_depth": {str(d): shares for d in (10, 50, 90)}}
            figures = {
                "bits_per_byte": 1.2345 - place / 8,
                "loss": 3.0,
                "change": 0.0 - place / 8,
                "change_error": 0.0123,
            }
            row = {"length": length, "beyond": bool(place), **(figures if bits else dict.fromkeys(figures))}
            rows.append(row | {"passkey": key if passkey and place else None})
        listed.append({"name": f"yarn:{number}", "position": "rope", "rope_scaling": None, "rows": rows})
    text = {"windows": 8 * bits, "target_tokens": 1024 * bits, "bytes": 3000 * bits, "documents": 12, "long_documents": 3 * bits,
            "longest_document": 999}  # fmt: skip
    return {
        "lengths": [256, 1024], "trained_length": 512, "seed": 1, "text": text, "schemes": listed,
        "passkey": {"trials": 2, "depths": [10, 50, 90], "candidates": 10, "chance": 0.1},
    }  # fmt: skip


@pytest.mark.parametrize("case", [{}, {"schemes": 6}, {"bits": False}, {"passkey": False}])
def test_the_page(tmp_path: Path, case: dict[str, Any]) -> None:
    write_page(report(**case), tmp_path / "l.html", EVIL)
    html = (tmp_path / "l.html").read_text(encoding="utf-8")
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1 and "<script>alert" not in html and "\u202e" not in html
    assert "default-src 'none'" in html and "url(" not in html
    assert set(re.findall(r"https?://[^\"'\s<]*", html)) <= {"http://www.w3.org/2000/svg"}
    for picture in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(picture)
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))
    spoken = [(language, text) for language, text in page.own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2) and len(spoken) > 20
    assert not any(re.search(r"[一-鿿]", text) for language, text in spoken if language == "en")
    assert not re.search(r"(?<![A-Za-z])(nan|inf|NaN|None)(?![A-Za-z])", html)
    pictures = 2 * (case.get("bits", True) + 2 * case.get("passkey", True))
    assert html.count("<svg") == pictures and ("The curves are those of the first 4" in html) == ("schemes" in case)


def test_every_figure_is_on_the_page() -> None:
    html = compose(report(), "m")
    for figure in (
        "1.2345",
        "1.1095",
        "-0.1250 ± 0.0123",
        "75%",
        "65%",
        "25%",
        "2.5",
        "trained length",
        "1,024",
        "beyond",
    ):
        assert figure in html, figure
    assert "No bits per byte" in compose(report(bits=False), "m")


def test_the_tables_of_the_terminal() -> None:
    (head, rows), _ = tables(report())
    assert head[0] == "yarn:0" and len(head) == len(rows[0]) == 7
    assert rows[0] == ["256", "1.2345", "-", "-", "-", "-", "-"]
    assert rows[1] == ["1024 beyond", "1.1095", "-0.1250", "0.0123", "75%", "25%", "2.5"]
    assert "the same 1,024 tokens (8 stretches, from 3 documents" in "\n".join(notes(report()))
    assert "the longest of 12 documents has 999 tokens" in "\n".join(notes(report(bits=False)))
    nothing = report(bits=False)
    nothing["text"]["documents"] = 0
    assert "give some with --data" in "\n".join(notes(nothing))
    assert "no documents were given" in compose(nothing, "m") and "no document has" in compose(report(bits=False), "m")
