"""The page and the table of a comparison: what stands in them, and that nothing from outside is markup."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from jielong.evaluate.models_compared_page import NARROW, WIDE, compose, notes, picture, table_rows, write_page


def found(count: int = 3) -> dict[str, Any]:
    rows = [
        {"name": name, "method": None, "bits_per_byte": 2.0 + n / 100, "loss": 3.0, "divergence": n / 10, "same_first": 1 - n / 10,
         "greedy_agreement": None if n == 2 else 1 - n / 4, "bytes_on_disk": 4_000_000 - n * 1_000_000, "bytes_in_memory": 10**6,
         "tokens_per_second": 100.0 * (n + 1), "speed_range": [1.0, 2.0], "samples": ["<b>文</b>"]}
        for n, name in enumerate(["full", "int8", "<script>alert(1)</script>"][:count])
    ]  # fmt: skip
    text = {"documents": 9, "tokens": 1000, "bytes": 4000, "rows": 4, "row_tokens": 64, "continuations": 9}
    return {"models": rows, "prompts": ["<i>问"], "text": text, "device": "cpu", "threads": 2}


def test_the_table_says_what_changes() -> None:
    head, rows = table_rows(found())
    assert head[0] == "model" and len(head) == len(rows[0])
    assert rows[0][2] == "-" and rows[1][2] == "+0.50%" and rows[2][5] == "-"
    assert "9 held-out documents" in next(iter(notes(found())))


def test_every_model_is_a_point() -> None:
    for size in (WIDE, NARROW):
        root = ElementTree.fromstring(picture(found(), size))
        assert len(root.findall(".//{*}circle")) == 3


def test_nothing_from_outside_is_markup(tmp_path: Path) -> None:
    body = compose(found())
    assert "<script>alert" not in body and "<b>文" not in body and "<i>问" not in body
    assert "+0.50%" in body and "75%" in body
    write_page(found(), tmp_path / "a.html", "<u>name")
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<u>name" not in html and "量化模型" in html


def test_a_full_model_alone_has_a_page() -> None:
    assert "<h1>" in compose(found(1))
