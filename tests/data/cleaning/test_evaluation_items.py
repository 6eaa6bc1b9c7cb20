"""Evaluation files of every form: which files, which items, which strings have which role, what is looked for."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from jielong.data.cleaning.decontaminate import fold
from jielong.data.cleaning.evaluation_items import (
    JOINED,
    Item,
    Way,
    evaluation_files,
    labels_of,
    read_items,
    ways_of_file,
)
from jielong.errors import InputError

REAL = Path(__file__).parents[4] / "shared" / "data" / "eval"
QUESTION, CHOICES = "桂花树一般在哪个季节开花结果最多", ["春天来临之际", "夏天", "秋天", "冬天"]
FIELD = r"data\.steps\.decontaminate\.against: "


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def items_of(path: Path) -> tuple[Item, ...]:
    return read_items(path, path.name).items


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_files_folders_and_globs(tmp_path: Path) -> None:
    a = write(tmp_path / "x" / "a.jsonl", "{}")
    b = write(tmp_path / "x" / "deep" / "b.csv.gz", "")
    write(tmp_path / "x" / "README.md", "")
    write(tmp_path / "x" / ".hidden.json", "")
    assert evaluation_files([tmp_path / "x"]) == [a, b]
    assert evaluation_files([str(tmp_path / "**" / "*.gz"), b, tmp_path / "x" / "deep" / ".." / "a.jsonl"]) == [a, b]
    assert labels_of([a, b]) == ["a.jsonl", "deep/b.csv.gz"]
    assert labels_of([b]) == ["b.csv.gz"] and labels_of([]) == []


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=FIELD + "does not exist, got .*nowhere"):
        evaluation_files([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=FIELD + r"no evaluation file found, got .*\*\.json"):
        evaluation_files([tmp_path / "*.json"])
    with pytest.raises(InputError, match=FIELD + "unknown kind of file, got "):
        evaluation_files([write(tmp_path / "a.txt", "x")])


def test_exam_questions_as_json_lines(tmp_path: Path) -> None:
    record = {
        "id": 7,
        "subject": "biology",
        "question": QUESTION,
        "choices": CHOICES,
        "answer": "C",
        "explanation": "因",
    }
    text = lines(record, record)
    expected = (QUESTION,), (), (*CHOICES, "C")
    for packing, pack in (
        ("", bytes), (".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)
    ):  # fmt: skip
        path = tmp_path / f"a.jsonl{packing}"
        path.write_bytes(pack(b"\xef\xbb\xbf" + text.encode()))
        assert items_of(path) == (Item(1, *expected), Item(2, *expected))
    fields = read_items(path, "a").fields
    assert fields["asked"] == ("question",) and fields["left out"] == ("explanation", "subject")


def test_arrays_in_arrays_like_c3(tmp_path: Path) -> None:
    asked = [
        {"question": "他去哪儿？", "choice": ["家", "学校"], "answer": "家"},
        {"question": "为什么？", "choice": []},
    ]
    path = write(tmp_path / "c3.json", json.dumps([[["男：走了。", "女：再见。"], asked, "47-275"]] * 2))
    told = ("男：走了。", "女：再见。")
    assert items_of(path)[:2] == (
        Item(1, ("他去哪儿？",), told, ("家", "学校", "家")), Item(2, ("为什么？",), told, ())
    )  # fmt: skip
    assert len(items_of(path)) == 4


def test_nested_objects_like_cmrc_and_squad(tmp_path: Path) -> None:
    cloze = {"data": [{"context": "一天[BLANK1]。", "choices": ["下雨"], "answers": [0], "context_id": "D"}] * 2}
    assert items_of(write(tmp_path / "a.json", json.dumps(cloze)))[1] == Item(2, (), ("一天[BLANK1]。",), ("下雨",))
    asked = [{"question": f"谁来了{n}", "id": f"Q{n}", "answers": [{"text": "他", "answer_start": 3}]} for n in "一二"]
    nested = {"version": "1", "data": [{"title": "题", "paragraphs": [{"context": "他来了。", "qas": asked}]}]}
    assert items_of(write(tmp_path / "b.json", json.dumps(nested))) == tuple(
        Item(n, (f"谁来了{c}",), ("他来了。",), ("他",)) for n, c in ((1, "一"), (2, "二"))
    )
    stem = {"question": {"stem": "问什么", "choices": [{"label": "A", "text": "甲"}, {"label": "B", "text": "乙"}]}}
    found = items_of(write(tmp_path / "c.jsonl", lines(stem, stem)))[0]
    assert found.asked == ("问什么",) and set(found.answers) >= {"甲", "乙"}
    mapping = {"Q1": {"question": "问一", "answer": "甲"}, "Q2": {"question": "问二", "answer": "乙"}}
    assert [item.asked for item in items_of(write(tmp_path / "d.json", json.dumps(mapping)))] == [("问一",), ("问二",)]


def test_tables_with_and_without_header(tmp_path: Path) -> None:
    rows = [["", "Question", "A", "B", "Answer"], ["0", QUESTION, "春天", "秋天", "B"]]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    expected = Item(1, (QUESTION,), (), ("春天", "秋天", "B"))
    assert items_of(write(tmp_path / "a.csv", out.getvalue())) == (expected,)
    gbk = tmp_path / "b.csv"
    gbk.write_bytes((out.getvalue() + "".join(f"1,{n}{QUESTION},春天,秋天,B\n" for n in range(20))).encode("gb18030"))
    assert items_of(gbk)[0] == expected
    bare = items_of(write(tmp_path / "c.tsv", f"{QUESTION}\t春天开花\n再问一次的问题\t秋天\n"))
    assert bare[0].context == (QUESTION, "春天开花") and len(bare) == 2


def test_unknown_fields(tmp_path: Path) -> None:
    records = [{"alpha": f"第{n}个完全不同的句子很长很长", "beta": f"类{n % 2}", "ask": 3} for n in range(20)]
    file = read_items(write(tmp_path / "a.jsonl", lines(*records)), "a")
    assert file.fields["context"] == ("alpha",) and file.fields["left out"] == ("beta",)
    known = [{"instruction": "请回答下面的问题。", "input": f"问题{n}", "keyword_list": f"词{n}"} for n in range(20)]
    file = read_items(write(tmp_path / "b.jsonl", lines(*known)), "b")
    assert file.fields["asked"] == ("input",)
    assert file.fields["left out"] == ("instruction", "keyword_list")


def test_files_that_can_not_be_used(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.json", b"{", "not JSON"),
        ("b.jsonl", b'{"question": "x"}\n{\n', "not JSON, got .*line 2"),
        ("c.json.gz", gzip.compress(b"[]")[:-6], "cannot be unpacked"),
        ("d.json.xz", lzma.compress(b"[]")[:-6], "cannot be unpacked"),
        ("e.json.zst", b"no", "cannot be unpacked"),
        ("f.json", b'"\xff\xfe"', "not utf-8"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=FIELD + message):
            read_items(path, name)
    assert items_of(write(tmp_path / "empty.json", "")) == ()


def ways(tmp_path: Path, *records: object) -> list[list[Way]]:
    path = write(tmp_path / "w.jsonl", lines(*records))
    return ways_of_file(0, read_items(path, "w"), 13, fold)


def test_what_is_looked_for(tmp_path: Path) -> None:
    story = "从前有一座山，山上有一座庙，庙里有一个老和尚在讲故事。"
    found = ways(
        tmp_path,
        {"question": QUESTION, "choices": CHOICES},
        {"question": "谁讲故事？", "context": story, "choices": ["老和尚"]},
        {"question": "下列说法正确的是", "choices": ["桂花树在每一年的秋天都会开花", "没有"]},
        {"question": "花几时开？", "choices": ["A. 春天来临", "B. 秋天来临"]},
        {"question": "花？", "choices": ["春", "秋"]},
        {"sentence1": "今天的天气真是好得不得了啊", "sentence2": "天气好"},
        {"question": "读完上面的文章你认为哪一项是对的", "choices": ["甲对", "乙对"]},
        {"question": "读完上面的文章你认为哪一项是对的", "choices": ["丙对", "丁对"]},
    )
    halves = [[way.half for way in item] for item in found]
    assert halves[:4] == [["question"], ["question"], ["question and answer"], [JOINED]]
    assert halves[4:6] == [[], ["question"]]
    assert halves[6:] == [["question and answer"]] * 2  # which item it is, only the answers tell
    assert [need.parts[0] for need in found[1][0].needs] == ["谁讲故事", fold([story])[0]]
    assert found[3][0].key.parts == ("花几时开a春天来临b秋天来临",)
    assert len(found[5][0].needs) == 2
    cloze = ways(
        tmp_path, {"content": "他每天都要在院子里#idiom#一番才肯回到屋里吃饭睡觉休息", "candidates": ["闲庭信步"]}
    )
    assert cloze[0][0].key.parts == ("他每天都要在院子里", "一番才肯回到屋里吃饭睡觉休息")
    assert cloze[0][0].key.cuts == (1, 2)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_real_files() -> None:
    files = evaluation_files([REAL])
    read = {file.label: file for file in (read_items(*pair) for pair in zip(files, labels_of(files), strict=True))}
    assert len(read["ceval/val.jsonl.zst"].items) == 1346
    assert len(read["cmmlu/test.jsonl.zst"].items) == 11582
    assert read["c3/c3-m-dev.json.zst"].items[0].context and read["c3/c3-m-dev.json.zst"].items[0].asked
    assert read["fewclue/chid/test_public.json.zst"].fields["context"] == ("content",)
    assert read["cmrc2019/cmrc2019_dev.json.zst"].fields["answer"] == ("choices",)
