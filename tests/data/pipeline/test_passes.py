from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jielong.data.config import Config
from jielong.data.pipeline.chunks import array, read_counts, read_documents, read_parquet
from jielong.data.pipeline.decisions import Deciding
from jielong.data.pipeline.docs import Raw
from jielong.data.pipeline.passes import Setting, Task, Worker, find_row, units_of
from jielong.data.pipeline.plan import make_plan

WIDE = "".join(chr(ord(digit) + 0xFEE0) for digit in "13812345678")  # full-width digits


def setting(folder: Path, *steps: dict[str, Any]) -> Setting:
    sources = [{"name": "甲", "path": "a"}, {"name": "乙", "path": "b"}]
    plan = make_plan(Config.model_validate({"sources": sources, "steps": steps}).steps)
    folders = tuple(str(folder / str(n)) for n in range(len(plan.passes)))
    files = ((0, "a.txt", "a.txt"), (1, "b.txt", "b.txt"))
    return Setting(plan, folders, ("甲", "乙"), files, (), 1, (0.2, 0.2))


def raw(*texts: str) -> Raw:
    return Raw(0, (2, 0), list(texts), [(n % 2, n % 2, n + 1, 0) for n in range(len(texts))])


def final(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for name in ("train", "validation")
        for row in read_parquet(folder / "00000" / f"{name}.parquet").to_pylist()
    ]


def every_flag(self: object, data: object, offsets: Any) -> Any:
    return np.full(len(offsets) - 1, 0xFFFFFFFF, np.uint32)


def test_the_prefilter_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way (cleaners see only documents with a trigger) and the slow way (they see all) give the same files."""
    steps = [{"step": name} for name in ("markup", "characters", "whitespace", "repeats", "adverts", "personal_data")]
    texts = ["干净的一段话，没有什么可做的。" * 3, "<p>有标签</p>&nbsp;的一段话", "全角" + WIDE[:3] + "与\u200b零宽  \n\n\n\n\n下一段", "太好了！！！！！！",
             "正文。\n关注微信公众号“科技资讯”，获取更多精彩内容！", "电话13812345678，邮箱a@163.com", "&lt;p&gt;" + WIDE]  # fmt: skip
    found = []
    for name in ("fast", "slow"):
        if name == "slow":
            monkeypatch.setattr("jielong.data.cleaning.scan.Scanner.flags", every_flag)
        made = setting(tmp_path / name, *steps)
        Worker(made).do(Task(0, 0, raw(*texts)))
        found.append(
            (sorted(row["text"] for row in final(tmp_path / name / "0")), read_counts(tmp_path / name / "0", 0))
        )
    assert found[0] == found[1]
    assert found[0][1]["steps"]["personal_data"]["edited"] == 2 and len(found[0][0]) == len(texts)


def test_a_step_is_kept_from_a_source(tmp_path: Path) -> None:
    made = setting(tmp_path, {"step": "markup", "sources": ["乙"]})
    Worker(made).do(Task(0, 0, raw("<b>甲</b>的文字", "<b>乙</b>的文字")))
    assert sorted(row["text"] for row in final(tmp_path / "0")) == ["<b>甲</b>的文字", "乙的文字"]


def test_a_document_of_which_nothing_is_left_is_a_reject(tmp_path: Path) -> None:
    made = setting(tmp_path, {"step": "markup"}, {"step": "personal_data", "mobile": "drop"})
    Worker(made).do(Task(0, 0, raw("<br>", "电话13812345678", "正文")))
    rejects = read_parquet(tmp_path / "0" / "00000" / "rejects.parquet").to_pylist()
    assert [(row["stage"], row["rule"], row["text"]) for row in rejects] == [
        ("markup", "empty", "<br>"), ("personal_data", "mobile", "电话13812345678"),
    ]  # fmt: skip
    assert "5678" not in rejects[1]["detail"] or "13812345678" not in rejects[1]["detail"]
    assert rejects[0]["file"] == "a.txt" and rejects[0]["line"] == 1


def test_long_documents_are_cut_and_nothing_is_lost(tmp_path: Path) -> None:
    made = setting(tmp_path, {"step": "split", "max_chars": 100})
    text = "".join(f"这是第{n}句话，它讲了一件事情。" for n in range(30))
    Worker(made).do(Task(0, 0, raw(text, "短文一篇")))
    rows = sorted((row for row in final(tmp_path / "0") if row["source"] == "甲"), key=lambda row: row["meta"])
    rows = sorted(rows, key=lambda row: int(row["meta"].rpartition(":")[2].rstrip("}")))
    assert "".join(row["text"] for row in rows) == text and all(len(row["text"]) <= 100 for row in rows)
    assert all(row["text"].endswith("。") for row in rows)
    counts = read_counts(tmp_path / "0", 0)["steps"]["split"]
    assert (counts["in"], counts["added"], counts["out"]) == (2, len(rows) - 1, len(rows) + 1)


def test_decisions_are_carried_out(tmp_path: Path) -> None:
    made = setting(
        tmp_path,
        {"step": "filter", "preset": "none", "rules": [{"column": "text_len", "min": 4.0}]},
        {"step": "exact"},
        {"step": "lines", "min_documents": 2, "min_han": 5},
    )
    boiler = "本页面由网络公司提供"
    texts = [
        "短",
        "同一篇文章。",
        "",
        "同一篇文章",
        f"{boiler}\n第一篇的正文",
        "第二篇在乙里",
        f"第三篇的正文\n{boiler}！",
    ]
    worker = Worker(made)
    worker.do(Task(0, 0, raw(*[text or "另外一篇" for text in texts])))
    work = tmp_path / "0"
    deciding = Deciding(made.plan, work, [7], ["甲", "乙"])
    decided = deciding.run((0, 1, 2))
    (work / "decided").mkdir()
    np.save(work / "decided" / "00000.npy", decided.chunks[0])
    np.save(work / "decided" / "starts.npy", deciding.starts)
    np.save(work / "decided" / "lines-2.npy", decided.lines[2])
    np.save(work / "decided" / "places.npy", np.asarray(array(work, 0, "places")))
    worker.do(Task(0, 1))
    kept = {row["text"] for row in final(tmp_path / "1")}
    assert kept == {"同一篇文章。", "另外一篇", "第一篇的正文", "第二篇在乙里", "第三篇的正文"}
    rejects = {row["rule"]: row for row in read_parquet(tmp_path / "1" / "00000" / "rejects.parquet").to_pylist()}
    assert (
        rejects["text_len"]["detail"] == "1; min is 4"
        and rejects["duplicate"]["detail"] == "the same text is at b.txt:2"
    )
    assert find_row(work, 3) == (0, 3)
    steps = read_counts(tmp_path / "1", 0)["steps"]
    steps = {name: steps[name] for name in ("filter", "exact", "lines", "hold_out")}
    assert steps["lines"]["edits"] == {"line": 2}
    for before, after in pairwise(steps.values()):
        assert before["out"] == after["in"]


def test_what_the_next_pass_needs_is_written(tmp_path: Path) -> None:
    made = setting(
        tmp_path, {"step": "measure"}, {"step": "exact"}, {"step": "near", "permutations": 64}, {"step": "lines"}
    )
    Worker(made).do(Task(0, 0, raw("今天天气很好，我们去公园。", "明天有雨。")))
    docs = read_documents(tmp_path / "0", 0)
    assert (
        len(docs) == 2
        and docs.columns["han_ratio"].dtype == np.float32
        and docs.columns["text_len"].tolist() == [13, 5]
    )
    assert array(tmp_path / "0", 0, "1.digest").shape == (2, 2)
    assert array(tmp_path / "0", 0, "2.signature").shape == (2, 64)
    assert array(tmp_path / "0", 0, "3.offsets").tolist() == [0, 0, 0]


def test_units_are_the_text() -> None:
    text = "第一句。第二句！\n\n第三句\n"
    for unit in ("line", "sentence"):
        assert "".join(units_of(text, unit)) == text
    assert units_of(text, "line") == ["第一句。第二句！\n", "\n", "第三句\n", ""]
