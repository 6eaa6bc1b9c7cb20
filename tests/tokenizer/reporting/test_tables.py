"""The report as text."""

from __future__ import annotations

from pathlib import Path

from jielong import show
from jielong.tokenizer.reporting.examples import KINDS
from jielong.tokenizer.reporting.tables import NOISY, figure, notes, tables
from tests.tokenizer.reporting.folders import report


def test_tables_have_a_column_a_tokenizer(tmp_path: Path) -> None:
    found = report(tmp_path)
    made = list(tables(found))
    assert [table.title for table in made][:2] == ["All texts", "Characters a token, by text"]
    assert [row[0] for row in made[0].rows] == ["bytes", "pieces"]
    for table in made:
        assert all(len(row) == len(table.head) for row in table.rows) and table.rows
        assert table.title and show.table(table.head, table.rows)
    assert all(table.head[1:] == ["bytes", "pieces"] for table in made[1:])
    assert len(made[-1].rows) == len(KINDS)
    one = found["tokenizers"][0]
    assert made[0].rows[0][1:3] == [str(one["vocab_size"]), f"{one['total']['chars_per_token']:.3f}"]


def test_notes_name_what_differs_and_what_is_odd(tmp_path: Path) -> None:
    found = report(tmp_path)
    text = "\n".join(notes(found))
    assert "pieces: 1 of" in text and "do not come back" in text and "' 中国' became '中国' at character 0" in text
    assert "2 entries worth a look, such as" in text and "点击免费下载" in text
    assert "Too little text" in text and NOISY not in text
    found["tokenizers"][0]["speed"] = {"megabytes_per_second": 12.34, "ratio": 1.0}
    found["texts"][0]["bad"] = 7
    text = "\n".join(notes(found))
    assert NOISY in text and "7 records were not usable" in text
    assert next(iter(tables(found))).rows[0][-2:] == ["12.3", "1.00"]


def test_figures() -> None:
    assert [figure(None), figure(float("nan")), figure(1.23456), figure(1234, ",.0f")] == ["-", "-", "1.235", "1,234"]
