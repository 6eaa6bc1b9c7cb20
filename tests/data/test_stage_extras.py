"""The stage with the steps that users add: decontamination, augmentation, balance, a validation share for each source."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.errors import DataError
from tests.data.mining import planted
from tests.data.test_stage import check_reconciled, poem, rows, small_chunks, stage, write

QUESTIONS = [
    {
        "question": f"下列关于第{n}号实验装置的叙述中，最符合其设计原理的是哪一项？",
        "choices": ["甲", "乙", "丙", "丁"],
        "answer": "B",
    }
    for n in (3, 5)
]


def test_documents_that_hold_evaluation_items_leave(tmp_path: Path) -> None:
    (tmp_path / "eval.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in QUESTIONS) + b"\n")
    texts = [poem(n) for n in range(40)]
    texts[7] = f"{poem(7)}练习：{QUESTIONS[1]['question']} A. 甲 B. 乙 C. 丙 D. 丁 答案：B。{poem(8)}"
    steps = [{"step": "decontaminate", "against": [str(tmp_path / "eval.jsonl")]}]
    counts, out = stage(tmp_path, write(tmp_path / "a.jsonl", texts), steps=steps)
    check_reconciled(counts, out)
    [reject] = rows(out, "rejects")
    assert (reject["stage"], reject["rule"], reject["line"]) == ("decontaminate", "eval.jsonl", 8)
    assert reject["detail"].startswith("item 2:")
    report = json.loads((out / "report.json").read_bytes())
    assert report["evaluation"] == [
        {"step": "decontaminate", "file": "eval.jsonl", "items": 2, "joined": 0, "too_short": 0, "documents": 1}
    ]
    assert 'id="evaluation"' in (out / "report.html").read_text(encoding="utf-8")


def test_mined_adverts_leave_and_what_recurs_for_good_reason_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An advert with varied numbers, glued into unrelated documents, and a statute that many documents quote."""
    small_chunks(monkeypatch, 200_000)
    texts, _ = planted.corpus(7, 4000, 0.1)
    path = write(tmp_path / "a.jsonl", texts)
    steps: list[dict[str, Any]] = [{"step": "fragments", "min_documents": 20}]
    counts, out = stage(tmp_path, path, steps=steps)
    check_reconciled(counts, out)
    listed = [line.split("\t") for line in (out / "fragments.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    actions = Counter(row[0] for row in listed)
    assert actions["remove"] and actions["keep"]
    report = json.loads((out / "report.json").read_bytes())
    assert report["fragments"][0]["listed"] == len(listed) and report["fragments"][0]["marked"] == actions["remove"]
    # struck out by a person: nothing is removed any more, and nothing is measured again
    edited = tmp_path / "edited.tsv"
    lines = (out / "fragments.tsv").read_text(encoding="utf-8").splitlines()
    edited.write_text(
        "\n".join([lines[0], *(line.replace("remove\t", "keep\t", 1) for line in lines[1:])]), encoding="utf-8"
    )
    steps[0]["listing"] = str(edited)
    kept, second = stage(tmp_path, path, steps=steps, out="second")
    check_reconciled(kept, second)
    assert next(step for step in kept["steps"] if step["step"] == "fragments")["edited"] == 0
    assert {row["text"] for row in rows(second, "train") + rows(second, "validation")} == set(texts)
    two, third = stage(tmp_path, path, steps=[steps[0] | {"listing": None}], out="third", processes=2)
    assert (
        two["steps"] == counts["steps"]
        and (third / "fragments.tsv").read_bytes() == (out / "fragments.tsv").read_bytes()
    )


def test_copies_are_marked_counted_and_for_training_only(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("春眠 春睡\n风雨 雨风\n", encoding="utf-8")
    path, other = (
        write(tmp_path / "a.jsonl", [f"{poem(n)}我爱读诗。大家都爱。" for n in range(200)]),
        write(tmp_path / "b.jsonl", ["甲" * 30, "乙" * 30]),
    )
    steps = [
        {"step": "measure"},
        {"step": "augment", "method": "synonyms", "file": str(tmp_path / "words.txt"), "share": 1.0, "sources": ["a"]},
        {"step": "augment", "method": "shuffle", "copies": 2, "fraction": 0.5, "name": "again"},
    ]
    counts, out = stage(tmp_path, path, other, steps=steps, validation_fraction=0.2)
    check_reconciled(counts, out)
    train, validation = rows(out, "train"), rows(out, "validation")
    copies = [row for row in train if "augmented" in row["meta"]]
    assert counts["added"] == len(copies) > 150 and not any("augmented" in row["meta"] for row in validation)
    metas = [json.loads(row["meta"]) for row in copies]
    kinds = Counter((meta["augmented"], meta["copy"]) for meta in metas)
    originals = len(train) - len(copies)
    assert kinds["synonyms", 1] == originals - sum(row["source"] == "b" and row not in copies for row in train)
    assert 0 < kinds["shuffle", 2] <= kinds["shuffle", 1] < originals
    held_out = {json.loads(row["meta"])["line"] for row in validation if row["source"] == "a"}
    assert held_out and not held_out & {
        meta["line"] for meta, row in zip(metas, copies, strict=True) if row["source"] == "a"
    }
    assert all(row["text_len"] is None for row in copies) and all(row["text_len"] for row in validation)
    assert [step["added"] for step in counts["steps"][-2:]] == [
        kinds["synonyms", 1],
        kinds["shuffle", 1] + kinds["shuffle", 2],
    ]
    again, second = stage(tmp_path, path, other, steps=steps, validation_fraction=0.2, out="second")
    assert again == counts and rows(second, "train") == train
    report = json.loads((out / "report.json").read_bytes())
    samples = next(step for step in report["steps"] if step["name"] == "augment")["samples"]
    assert samples and "春睡" in samples[0]["after"] and "春眠" in samples[0]["before"]


def test_a_corpus_too_small_for_copies(tmp_path: Path) -> None:
    """Nothing fell to validation: the document that would be moved there has copies in train."""
    steps = [{"step": "augment", "method": "shuffle"}]
    with pytest.raises(DataError, match=r"data.validation_fraction: too small for 5 documents with copies, got 0.01"):
        stage(tmp_path, write(tmp_path / "a.jsonl", [poem(n) for n in range(5)]), steps=steps)


def test_each_source_may_hold_out_its_own_share(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", [f"{name}{poem(n)}" for n in range(300)]) for name in "abc"]
    sources = [
        {"name": path.stem, "path": str(path)} | ({} if share is None else {"validation_fraction": share})
        for path, share in zip(paths, (None, 0.0, 0.4), strict=True)
    ]
    counts, out = stage(tmp_path, sources=sources, validation_fraction=0.1)
    check_reconciled(counts, out)
    held = Counter(row["source"] for row in rows(out, "validation"))
    assert 15 < held["a"] < 50 and held["b"] == 0 and 90 < held["c"] < 150


def test_folders_of_txt_as_training_and_validation_set(tmp_path: Path) -> None:
    """A folder each, as they are: the whole of the second is held out, nothing of the first."""
    for folder, first, count in (("train", 0, 40), ("validation", 100, 7)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"{number}.txt").write_text(poem(first + number), encoding="utf-8")
    sources = [
        {"name": "train", "path": str(tmp_path / "train"), "validation_fraction": 0.0},
        {"name": "validation", "path": str(tmp_path / "validation"), "validation_fraction": 1.0},
    ]
    counts, out = stage(tmp_path, sources=sources, steps=[])
    check_reconciled(counts, out)
    assert {row["source"] for row in rows(out, "train")} == {"train"} and counts["train"] == 40
    assert {row["source"] for row in rows(out, "validation")} == {"validation"} and counts["validation"] == 7


def test_the_balance_of_terms_is_in_the_report(tmp_path: Path) -> None:
    texts = [f"{'她' if n % 4 else '他'}在第{n}个早晨去工厂上班，其他人还在睡觉。" for n in range(80)]
    groups = [{"name": "sexes", "terms": {"女": ["女", "她"], "男": ["男", "他"]}}]
    counts, out = stage(tmp_path, write(tmp_path / "a.jsonl", texts), steps=[], balance=groups)
    check_reconciled(counts, out)
    [group] = json.loads((out / "report.json").read_bytes())["balance"]["groups"]
    assert {row["name"]: row["mentions"] for row in group["members"]} == {"女": {"a": 60}, "男": {"a": 20}}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="balance"' in page and "sexes" in page
