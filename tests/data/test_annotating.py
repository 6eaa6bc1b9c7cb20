"""Annotation: the words are the text, tags are one for each, the user's words stay whole, and the columns reach the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jielong.data import annotating, steps
from jielong.data.annotating import WORDS, Annotator, read_dictionary
from jielong.data.documents import iter_sourced
from jielong.errors import InputError, MissingExtraError
from tests.data.test_stage import check_reconciled, poem, rows, small_chunks, stage, write

SENTENCE = "韦小宝去了北京大学的图书馆，read 3.14 books。\n 很好😀！"
LIST = "# 人名与术语\n哈利·波特 nr\n云计算创新中心\n\n人工智能训练师 100 nz\r\n图书馆 zz\n"


def make(**options: Any) -> Annotator:
    return Annotator(steps.Annotate.model_validate({"step": "annotate"} | options))


@pytest.fixture(scope="module")
def plain() -> Annotator:
    return make()


@pytest.fixture
def terms(tmp_path: Path) -> Path:
    path = tmp_path / "terms.txt"
    path.write_text(LIST, encoding="utf-8", newline="")
    return path


def test_a_sentence(plain: Annotator) -> None:
    assert plain(SENTENCE) == [
        ("韦小宝", "nr"), ("去", "v"), ("了", "ul"), ("北京大学", "nt"), ("的", "uj"), ("图书馆", "n"), ("，", "x"),
        ("read", "eng"), (" ", "x"), ("3.14", "m"), (" ", "x"), ("books", "eng"), ("。", "x"), ("\n", "x"), (" ", "x"),
        ("很", "zg"), ("好", "a"), ("😀", "x"), ("！", "x"),
    ]  # fmt: skip
    assert plain("") == []


PIECES = ["A1", "b-c", "3.5%", "\r\n", "👍🏽", "中国", "银行", *"的。， \n\t\u3000😀é\0𠮷"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=30))
def test_the_words_joined_are_the_text(plain: Annotator, pieces: list[str]) -> None:
    text = "".join(pieces)
    found = plain(text)
    assert "".join(word for word, _ in found) == text
    assert all(word and tag for word, tag in found) and plain(text) == found


def test_words_of_the_user_stay_whole(plain: Annotator, terms: Path) -> None:
    text = "哈利·波特在云计算创新中心的图书馆当人工智能训练师，哈利·波特。"
    before = dict(plain(text))
    assert "图书馆" in before and not {"哈利·波特", "云计算创新中心", "人工智能训练师"} & set(before)
    found = make(dictionary=str(terms))(text)
    assert "".join(word for word, _ in found) == text
    assert found[:2] == [("哈利·波特", "nr"), ("在", "p")] and found[-2:] == [("哈利·波特", "nr"), ("。", "x")]
    tags = dict(found)
    assert tags["云计算创新中心"] == "x" and tags["人工智能训练师"] == "nz" and tags["图书馆"] == "zz"
    assert dict(plain(text)) == before, "a list is one annotator's own"


def test_a_list_is_read_line_by_line(terms: Path) -> None:
    assert read_dictionary(terms) == {
        "哈利·波特": (None, "nr"), "云计算创新中心": (None, None), "人工智能训练师": (100, "nz"), "图书馆": (None, "zz"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("好\n苹果 手机\n".encode(), "no word, got '苹果 手机' in line 2"),
        ("苹果 -1 n\n".encode(), "no word, got '苹果 -1 n' in line 1"),
        (b"# a\n\n", "no words, got"),
        (b"\xff\xff", "not UTF-8"),
    ],
)
def test_lists_that_cannot_be_used(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        make(dictionary=str(tmp_path / "a.txt"))


def test_a_step_with_nothing_to_do_is_refused() -> None:
    with pytest.raises(ValidationError, match="both columns are off"):
        make(words=False, pos=False)


def test_without_rjieba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(MissingExtraError, match=r"rjieba: not installed, .*jielong\[data\]"):
        make()


def test_columns_in_batches_are_those_of_one(plain: Annotator, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [None, SENTENCE, "", None, poem(1), poem(2), None]
    whole = plain.columns(texts)
    assert list(whole) == ["words", "pos"] and all(column.type == WORDS for column in whole.values())
    assert whole["words"].to_pylist() == [text if text is None else [w for w, _ in plain(text)] for text in texts]
    assert whole["pos"].to_pylist() == [text if text is None else [tag for _, tag in plain(text)] for text in texts]
    monkeypatch.setattr(annotating, "BATCH_CHARS", 10)
    small = plain.columns(texts)
    assert small["words"].num_chunks > 1
    assert {name: column.to_pylist() for name, column in small.items()} == {
        name: column.to_pylist() for name, column in whole.items()
    }
    for nothing in ([], [None, None]):
        found = plain.columns(nothing)["pos"]
        assert found.type == WORDS and found.to_pylist() == nothing


# ------------------------------------------------------------------------------------------------------- the stage


def whole_list(terms: Path) -> list[dict[str, Any]]:
    return [
        {"step": "measure"},
        {"step": "filter", "preset": "none", "rules": [{"column": "text_len", "min": 20.0}]},
        {"step": "lines", "min_documents": 20, "min_han": 6},
        {"step": "annotate", "dictionary": str(terms), "except_sources": ["b"]},
        {"step": "augment", "method": "shuffle", "fraction": 0.3},
    ]


def corpus(folder: Path) -> tuple[Path, Path]:
    advert = "\n本站所有内容均来自网友上传分享"
    first = [f"{poem(n)}哈利·波特读了{n}遍。大家都爱。{advert if n % 3 else ''}" for n in range(300)]
    second = [f"{poem(n)}这是另一处来的文字，编号{n}。" for n in range(300, 360)]  # whole chunks of it alone
    return write(folder / "a.jsonl", [*first, "短"]), write(folder / "b.jsonl", second)


def test_columns_of_finished_documents(tmp_path: Path, terms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch, 8_000)
    paths = corpus(tmp_path)
    options: dict[str, Any] = {"steps": whole_list(terms), "validation_fraction": 0.2, "chunk_megabytes": 1}
    counts, out = stage(tmp_path, *paths, **options)
    check_reconciled(counts, out)
    train, validation = rows(out, "train"), rows(out, "validation")
    copies = [row for row in train if "augmented" in row["meta"]]
    own = [row for row in train + validation if "augmented" not in row["meta"]]
    assert copies and all(row["words"] is row["pos"] is None for row in copies)
    annotate = make(dictionary=str(terms))
    for row in own:
        if row["source"] == "b":
            assert row["words"] is row["pos"] is None
            continue
        assert "".join(row["words"]) == row["text"] and "网友" not in row["text"], "the text as the steps left it"
        assert list(zip(row["words"], row["pos"], strict=True)) == annotate(row["text"])
        assert row["pos"][row["words"].index("哈利·波特")] == "nr"
    step = next(step for step in counts["steps"] if step["step"] == "annotate")
    assert step["in"] == step["kept"] == len(own) and step["added"] == step["edited"] == step["rejected"] == 0
    files = sorted((out / "documents").iterdir())
    schemas = [pyarrow.parquet.read_schema(path) for path in files]
    assert len(files) > 6 and all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    assert any(
        pyarrow.parquet.read_table(path)["words"].null_count == len(pyarrow.parquet.read_table(path)) for path in files
    )
    assert pyarrow.parquet.read_table(out / "documents").num_rows == counts["kept"]
    given = [pair for batch in iter_sourced(out / "documents", "train") for pair in batch]
    assert given == [(row["text"], row["source"]) for row in train]
    report = json.loads((out / "report.json").read_bytes())
    [shown] = [step for step in report["steps"] if step["kind"] == "annotate"]
    assert shown["options"]["words"] and "dictionary" not in shown["options"]
    assert "标注" in (out / "report.html").read_text(encoding="utf-8")
    again, second = stage(tmp_path, *paths, **options, processes=2, out="second")
    assert again == counts
    assert {path.name: path.read_bytes() for path in files} == {
        path.name: path.read_bytes() for path in (second / "documents").iterdir()
    }


def test_one_column_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [poem(n) for n in range(5)])
    counts, out = stage(tmp_path, path, steps=[{"step": "annotate", "words": False, "name": "tags"}])
    check_reconciled(counts, out)
    [moved] = rows(out, "validation")
    assert moved["pos"] and "words" not in moved, "also of the document that was moved to the empty split"
    assert [step["step"] for step in counts["steps"]] == ["read", "tags", "hold_out"]


def test_a_changed_list_makes_the_last_pass_again_and_no_other(tmp_path: Path, terms: Path) -> None:
    """The passes before it are found by their names, which are hashes of what made them."""
    path, other = corpus(tmp_path)

    def passes() -> dict[str, int]:
        work = tmp_path / "same" / "run" / "data.work"
        return {path.name: path.stat().st_mtime_ns for path in work.glob("[0-9]-*/00000")} | {
            path.parent.name: path.stat().st_mtime_ns for path in work.glob("[0-9]-*/00000/counts.json")
        }

    def words(out: str, annotate: dict[str, Any]) -> set[str]:
        chosen = [*whole_list(terms)[:3], annotate]
        _, folder = stage(tmp_path, path, other, steps=chosen, work="same", out=out)
        return {word for row in rows(folder, "train") for word in row.get("words") or ()}

    assert "哈利·波特" not in words("one", {"step": "annotate"})
    before = passes()
    assert before
    assert "哈利·波特" in words("two", {"step": "annotate", "dictionary": str(terms)})
    assert "大家都爱" not in words("three", {"step": "annotate", "pos": False})
    terms.write_text("大家都爱\n", encoding="utf-8")
    found = words("four", {"step": "annotate", "dictionary": str(terms)})
    assert "大家都爱" in found and "哈利·波特" not in found and passes() == before
