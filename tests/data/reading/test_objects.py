"""Records as they stand, whatever kind of file they are in; and the text by which one is shown."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from jielong.data.config import Source
from jielong.data.reading import streams
from jielong.data.reading.objects import Object, json_objects
from jielong.data.reading.readers import BadRecord, read_objects

pa: Any = pyarrow
ROWS: list[dict[str, Any]] = [{"问": "天？", "答": "蓝。\n因为散射。"}, {"问": "海，呢", "答": ""}]


def read(path: Path, **options: Any) -> list[Object | BadRecord]:
    """All items; the reported bytes must add up to the file, and every item must name the file."""
    done: list[int] = []
    items = list(read_objects(path, Source(name="s", path=str(path), **options), done.append))
    assert sum(done) == path.stat().st_size and all(item.file == str(path) for item in items)
    return items


def brief(items: list[Object | BadRecord]) -> list[tuple[int, Any]]:
    return [(item.line, item.record if isinstance(item, Object) else item.reason) for item in items]


def test_every_kind_of_file(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1, ensure_ascii=False), encoding="utf-8")
    for name, delimiter, encoding in (("a.csv", ",", "gb18030"), ("a.tsv", "\t", "utf-16")):
        text = io.StringIO()
        writer = csv.DictWriter(text, ["问", "答"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
        (tmp_path / name).write_bytes(text.getvalue().encode(encoding))
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name, places in {
        "a.jsonl": (1, 2),
        "a.ndjson.gz": (1, 2),
        "a.json": (2, 6),
        "a.csv": (2, 4),
        "a.tsv": (2, 4),
        "a.parquet": (1, 2),
    }.items():
        encoding = "utf-16" if name == "a.tsv" else "gb18030" if name == "a.csv" else "auto"
        assert brief(read(tmp_path / name, encoding=encoding)) == list(zip(places, ROWS, strict=True)), name


def test_what_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 1000)
    lines = [
        b'{"a": 1}',
        b"",
        b"[1]",
        b'{"a": "\xb4"}',
        b'{"a": NaN}',
        b'{"a": "' + b"x" * 2000 + b'"}',
        b'{"a": null}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    assert brief(read(path)) == [
        (1, {"a": 1}),
        (3, "bad_json"),
        (4, "bad_utf8"),
        (5, "bad_json"),
        (6, "too_big"),
        (7, {"a": None}),
    ]


def test_rows_with_fewer_and_more_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('问,答,多\n一,二\n一,二,三,四\n\n五,"六\n七",八\n', encoding="utf-8")
    assert brief(read(path)) == [
        (2, {"问": "一", "答": "二"}),
        (3, "bad_csv"),
        (5, {"问": "五", "答": "六\n七", "多": "八"}),
    ]


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(b'{"n": %d}\n' % n for n in range(20_000)))[:-2000])
    items = read(path)
    assert isinstance(items[-1], BadRecord) and items[-1].reason == "broken_file" and len(items) > 1000
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no more")
    assert brief(read(tmp_path / "a.parquet")) == [(1, "broken_file")]


def test_a_parquet_string_that_is_no_text_costs_its_row_alone(tmp_path: Path) -> None:
    column = pa.array([b"ok", b"\xff\xfe", b"ok"]).cast(pa.binary())
    broken = pa.StringArray.from_buffers(3, column.buffers()[1], column.buffers()[2])
    pa.parquet.write_table(pa.table({"a": broken, "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert brief(read(tmp_path / "a.parquet")) == [(1, {"a": "ok", "n": 1}), (2, "bad_utf8"), (3, {"a": "ok", "n": 3})]


def test_a_cell_with_half_a_character(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("问,答\n一,".encode("utf-7") + b"+2AA-" + "\n二,三\n".encode("utf-7"))
    assert brief(read(path, encoding="utf-7")) == [(2, "bad_encoding"), (3, {"问": "二", "答": "三"})]


def test_the_text_of_a_record() -> None:
    def of(record: dict[str, Any], raw: bytes, encoding: str = "utf-8") -> str:
        return Object(record, "a", 1, raw, encoding).excerpt(8)

    assert of({}, '{"甲":"乙丙丁戊"}\n'.encode()) == '{"甲":"乙丙'
    assert of({}, "春眠不觉晓".encode("gb18030"), "gb18030") == "春眠不觉晓"
    assert of({"n": b"\xff", "d": 1}, b"") == """{"n":"b'"""
    assert list(json_objects(iter([(1, b" \n", False)]), "utf-8", Path("a"))) == []
