"""Files of every kind, healthy and not: what comes out, with which reason, at which line."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from jielong.data.config import Source
from jielong.data.reading import streams
from jielong.data.reading.readers import BadRecord, Item, Record, expand, kind_of, read_file
from jielong.data.reading.records import absent, find_field, judge, reject
from jielong.errors import InputError

POEM = "春眠不觉晓，处处闻啼鸟。"
NIGHT = "床前明月光，疑是地上霜。"


def read(path: Path, **options: Any) -> list[Item]:
    """All items; the reported bytes must add up to the file, and every item must name the file."""
    done: list[int] = []
    items = list(read_file(path, Source(name="s", path=str(path), **options), done.append))
    assert sum(done) == path.stat().st_size
    assert all(item.file == str(path) for item in items)
    return items


def brief(items: list[Item]) -> list[tuple[int, str]]:
    return [(item.line, item.text if isinstance(item, Record) else item.reason) for item in items]


def write(path: Path, data: bytes | str) -> Path:
    raw = data if isinstance(data, bytes) else data.encode()
    if path.suffix == ".gz":
        raw = gzip.compress(raw)
    elif path.suffix == ".zst":
        raw = zstandard.compress(raw)
    path.write_bytes(raw)
    return path


def row(text: object, **fields: object) -> str:
    return json.dumps({"text": text, **fields}, ensure_ascii=False)


# ------------------------------------------------------------------------------------------------------- jsonl


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL", "a.jsonl.gz", "a.jsonl.zst"])
def test_jsonl_of_every_name(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, f"\ufeff{row(POEM)}\r\n\n  \n{row(NIGHT)}")
    assert brief(read(path)) == [(1, POEM), (4, NIGHT)]


def test_every_bad_line_has_its_reason_and_costs_only_itself(tmp_path: Path) -> None:
    bad = {
        b'{"text": "\xb4\xba\xc3\xdf"}': "bad_utf8",
        b'{"text": "\xe6\x98': "bad_utf8",
        '{"text": "春眠"'.encode(): "bad_json",
        "床前明月光".encode(): "bad_json",
        b'{"text": NaN}': "bad_json",
        b'{"text": "\\ud83d"}': "bad_json",
        b"[1, 2]": "bad_json",
        b'"text"': "bad_json",
        b"[" * 100_000: "bad_json",
        '{"标题": "无题"}'.encode(): "missing_text",
        b"{}": "missing_text",
        b'{"text": null}': "missing_text",
        b'{"text": 3}': "text_not_string",
        '{"text": ["春", "眠"]}'.encode(): "text_not_string",
        b'{"text": ""}': "empty_text",
        '{"text": " \u3000\\n"}'.encode(): "empty_text",
        b'{"text": "a\\u0000b"}': "binary",
    }
    lines = [line for one in bad for line in (one, row(POEM).encode())]
    items = read(write(tmp_path / "a.jsonl", b"\n".join(lines) + b"\n"))
    expected = [answer for reason in bad.values() for answer in (reason, POEM)]
    assert brief(items) == [(number, answer) for number, answer in enumerate(expected, 1)]
    first, missing = items[0], items[18]
    assert isinstance(first, BadRecord) and "byte 10" in first.detail and first.raw.startswith('{"text": "\\xb4')
    assert isinstance(missing, BadRecord) and "标题" in missing.detail


def test_the_text_field_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(POEM, 译文=NIGHT) + "\n" + row(POEM))
    assert brief(read(path, text_field="译文")) == [(1, NIGHT), (2, "missing_text")]


@pytest.mark.parametrize("encoding", ["gbk", "gb18030", "big5", "utf-16", "utf-8-sig"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    text = "床前明月光"
    path = write(tmp_path / "a.jsonl", f"{row(text)}\n{row(text)}\n".encode(encoding))
    assert brief(read(path, encoding=encoding)) == [(1, text), (2, text)]
    for name in ("a.txt", "a.csv"):
        path = write(tmp_path / name, f"text\n{text}\n".encode(encoding))
        assert brief(read(path, encoding=encoding, document="line"))[-1] == (2, text)


def test_bytes_outside_the_named_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(POEM).encode("gbk") + b'\n{"text": "\xff\xff"}\n')
    assert brief(read(path, encoding="gbk")) == [(1, POEM), (2, "bad_encoding")]


@pytest.mark.parametrize("encoding", ["gbkk", "rot13", "hex"])
def test_an_unknown_encoding_is_the_users_mistake(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(InputError, match=encoding):
        read(write(tmp_path / "a.txt", POEM), encoding=encoding)


def test_a_json_array_is_read_element_by_element(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", f"\ufeff \n[{row(POEM)},\n3, {row('明月')}]")
    first, bad, last = read(path)
    assert isinstance(first, Record) and (first.text, first.line) == (POEM, 2)
    assert isinstance(bad, BadRecord) and (bad.reason, bad.line) == ("bad_json", 3)
    assert isinstance(last, Record) and (last.text, last.line) == ("明月", 3)


def test_a_huge_line_and_one_past_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl.zst", "\n".join(row(text) for text in ("海" * 5_000_000, POEM)))
    assert [item.line for item in read(path) if isinstance(item, Record)] == [1, 2]
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 100_000)
    items = read(path)
    assert brief(items) == [(1, "too_big"), (2, POEM)]
    assert isinstance(items[0], BadRecord) and len(items[0].raw) < 100_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.tsv", "b.jsonl.zst"])
def test_an_empty_file_has_no_records(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert read(path) == []


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "txt", "csv"])
def test_a_truncated_file_keeps_what_is_whole(tmp_path: Path, suffix: str, kind: str) -> None:
    noise = "".join(random.Random(1).choices([chr(code) for code in range(0x4E00, 0x9FA6)], k=200_000))
    rows = [noise[n : n + 100] for n in range(0, 200_000, 100)]
    lines = [row(text) for text in rows] if kind == "jsonl" else ["text", *rows] if kind == "csv" else rows
    path = write(tmp_path / f"a.{kind}{suffix}", "\n".join(lines))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    *good, last = read(path, document="line")
    assert len(good) > 100 and [item.text for item in good if isinstance(item, Record)] == rows[: len(good)]
    assert isinstance(last, BadRecord) and last.reason == "broken_file" and "truncated" in last.detail
    assert last.line == good[-1].line + 1


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "a.jsonl")


# --------------------------------------------------------------------------------------------------------- txt


def test_txt_as_file_paragraphs_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", f"\ufeff\n{POEM}\r\n　　{NIGHT}\r\n\u3000\r\n{NIGHT}\n")
    assert brief(read(path, document="file")) == [(1, f"{POEM}\n　　{NIGHT}\n\u3000\n{NIGHT}")]
    assert brief(read(path, document="paragraph")) == [(2, f"{POEM}\n　　{NIGHT}"), (5, NIGHT)]
    assert brief(read(path, document="line")) == [(2, POEM), (3, f"　　{NIGHT}"), (5, NIGHT)]
    assert brief(read(path)) == brief(read(path, document="file"))


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_auto_looks_for_blank_lines_in_a_large_txt(tmp_path: Path, suffix: str) -> None:
    lines = [f"第{n}章 {POEM}" for n in range(40_000)]
    path = write(tmp_path / f"a.txt{suffix}", "\n".join(lines))
    assert len(read(path)) == 40_000
    lines[30_000] = ""
    path = write(tmp_path / f"a.txt{suffix}", "\n".join(lines))
    assert [item.line for item in read(path)] == [1, 30_002]


def test_broken_bytes_in_txt_cost_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", POEM.encode() + b"\n\n\xb4\xba\n\n" + NIGHT.encode())
    assert brief(read(path, document="paragraph")) == [(1, POEM), (3, "bad_utf8"), (5, NIGHT)]
    assert brief(read(path, document="line")) == [(1, POEM), (3, "bad_utf8"), (5, NIGHT)]
    assert brief(read(path, document="file")) == [(1, "bad_utf8")]


def test_an_empty_txt_is_an_empty_document(tmp_path: Path) -> None:
    assert brief(read(write(tmp_path / "a.txt", "\n \n"))) == [(1, "empty_text")]
    assert read(write(tmp_path / "a.txt", "\n \n"), document="line") == []


def test_a_paragraph_past_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 100)
    path = write(tmp_path / "a.txt", f"{POEM}\n" * 50 + f"\n{NIGHT}\n")
    assert brief(read(path, document="paragraph")) == [(1, "too_big"), (52, NIGHT)]


# ------------------------------------------------------------------------------------------------------ finding


def test_kinds_are_known_by_their_suffixes() -> None:
    assert kind_of(Path("新闻.v2.JSONL.GZ")) == ("jsonl", ".gz")
    assert kind_of(Path("a.parquet")) == ("parquet", "")
    for name in ("a.parquet.gz", "a.pdf", "a", "a.gz", "jsonl"):
        assert kind_of(Path(name)) is None


def test_files_folders_and_globs(tmp_path: Path) -> None:
    names = [
        "b.jsonl",
        "a.txt",
        "子目录/c.csv.gz",
        "子目录/深/d.parquet",
        ".hidden.txt",
        ".git/e.txt",
        "notes.pdf",
        "[x]/f.txt",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(path: str, folder: Path = tmp_path) -> list[str]:
        files = expand(path, folder)
        assert all(file.is_absolute() for file in files)
        return [str(file.relative_to(tmp_path)) for file in files]

    everything = ["[x]/f.txt", "a.txt", "b.jsonl", "子目录/c.csv.gz", "子目录/深/d.parquet"]
    assert found("a.txt") == ["a.txt"] and found("子目录/../a.txt") == ["a.txt"]
    assert found(".") == everything and found(str(tmp_path)) == everything
    assert found("**") == everything and found("*") == everything
    assert found("**/*.t*t") == ["[x]/f.txt", "a.txt"]
    assert found(f"{tmp_path}/*.jsonl") == ["b.jsonl"]
    assert found("*.txt", tmp_path / "[x]") == ["[x]/f.txt"]
    assert found("[x]") == ["[x]/f.txt"]
    for path, words in {
        "没有.txt": f"nothing found at {tmp_path}/没有.txt",
        "*.doc": "nothing found at",
        "notes.pdf": "unknown kind of file",
        "*.pdf": r"\.jsonl",
        "builtin:people": "did you mean builtin:people-daily-1998",
        "builtin:arithmetic": "known: people-daily-1998, reviews, arithmetic-zh, arithmetic-zh-easy; did you mean builtin:arithmetic-zh",
    }.items():
        with pytest.raises(InputError, match=words):
            expand(path, tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(PermissionError):
        expand(".", tmp_path)


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xb4\xba.txt"))
    path.write_text(POEM, encoding="utf-8")
    (item,) = read_file(expand(".", tmp_path)[0], Source(name="s", path="."))
    assert item.file.endswith("\\udcb4\\udcba.txt")


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("", encoding="utf-8")
    assert [file.name for file in expand(str(tmp_path), tmp_path)] == ["b.jsonl"]


def test_a_run_folder_is_not_a_corpus(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mini"
    run.mkdir(parents=True)
    for file in (run / "recipe.toml", run / ".lock", run / "metrics.jsonl", tmp_path / "b.jsonl"):
        file.touch()
    assert [file.name for file in expand(str(tmp_path), tmp_path)] == ["b.jsonl"]
    assert [file.name for file in expand("**/*.jsonl", tmp_path)] == ["b.jsonl"]


VALUES = (POEM, "", " \u3000\n", "a\x00b", "\\u0000", "\\", "\U00020000", None, 5, ["a"])  # U+3000 ideographic space


@pytest.mark.parametrize("text_field", [None, "text", "正文", "other"])
def test_the_short_way_of_good_lines_gives_what_the_judge_gives(tmp_path: Path, text_field: str | None) -> None:
    rows: list[Any] = [{name: value} for name in ("text", "正文", "", "other") for value in VALUES]
    rows += [{"other": "\x00", "text": POEM}, {"正文": NIGHT, "text": POEM}, {"正文": NIGHT, "text": None}, [POEM]]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path = write(tmp_path / "a.jsonl", "\n".join(lines) + "\n")
    source = Source(name="s", path=str(path), text_field=text_field, encoding="utf-8")
    expected: list[Item] = []
    for number, (row, line) in enumerate(zip(rows, lines, strict=True), 1):
        raw = line.encode() + b"\n"
        field = find_field(row, source) if isinstance(row, dict) else None
        if field is not None:
            expected.append(judge(row[field], field, raw, path, number))
        elif isinstance(row, dict):
            expected.append(reject("missing_text", absent(list(row), source), raw, path, number))
        else:
            expected.append(reject("bad_json", "not an object but a list", raw, path, number))
    assert list(read_file(path, source)) == expected
