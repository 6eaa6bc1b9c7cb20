"""Rejects on disk: readable as the data stage's, in row groups, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet
import pytest

from jielong.data.documents import REJECT_SCHEMA, iter_rows
from jielong.tune import rejects
from jielong.tune.rejects import Rejects


def write(path: Path, count: int) -> None:
    with Rejects(path) as file:
        for number in range(count):
            file.add("甲", "bad_json", "unexpected end", "/数据/甲.jsonl", number + 1, f"坏{number}" * 50)


def test_what_is_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "ROW_GROUP_BYTES", 1000)
    for name in ("a", "b"):
        write(tmp_path / name / "rejects-00000.parquet", 25)
    path = tmp_path / "a" / "rejects-00000.parquet"
    assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    rows = [row for batch in iter_rows(path) for row in batch]
    assert list(rows[0]) == REJECT_SCHEMA.names and len({row["id"] for row in rows}) == 25
    assert rows[24] | {"id": ""} == {
        "id": "", "text": "坏24" * 50, "source": "甲", "meta": '{"file":"/数据/甲.jsonl","line":25}', "stage": "tune",
        "rule": "bad_json", "detail": "unexpected end", "file": "/数据/甲.jsonl", "line": 25,
    }  # fmt: skip
    assert pyarrow.parquet.ParquetFile(path).metadata.num_row_groups > 3


def test_none_is_a_file_without_rows(tmp_path: Path) -> None:
    write(tmp_path / "r.parquet", 0)
    assert [row for batch in iter_rows(tmp_path / "r.parquet") for row in batch] == []
