from __future__ import annotations

from pathlib import Path

from jielong.runs import Run
from jielong.show import check_report, key_figure, number, status_rows, status_table, steps_table, summary, table, width
from jielong.workflow import Outcome


def test_columns_line_up_with_chinese_in_them() -> None:
    assert width("中文ab") == 6 and width("e\u0301") == 1
    lines = table(["名", "n"], [["中文", "1"], ["abc", "22"]]).splitlines()
    assert len({width(line) for line in lines}) == 1
    assert lines[2].endswith(" 1")  # numbers to the right


def test_numbers() -> None:
    assert [number(v) for v in (None, 12345, 0.123456, "x")] == ["-", "12,345", "0.1235", "x"]


def test_summary_says_when_nothing_was_done() -> None:
    counts = {"prompts": 5}
    done = [Outcome("infer", "done", 2.0, counts, Path("x"))]
    skipped = [Outcome("infer", "up to date", 0.0, counts, Path("x"))]
    texts = [{"prompt": "中国", "text": "人民"}]
    assert "nothing was done" not in summary(Run(Path("runs/a")), done, {"report": "r"}, texts)
    text = summary(Run(Path("runs/a")), skipped, {"report": "r"}, texts)
    assert "nothing was done" in text and "【中国】人民" in text


def test_status_without_runs(tmp_path: Path) -> None:
    assert status_rows(tmp_path, "") == []
    assert "jielong run tiny" in status_table([], tmp_path)


def test_check_report_lists_bad_lines() -> None:
    bad = [{"file": "a.jsonl", "line": 3, "reason": "bad_json", "detail": "unexpected end"}]
    result = {
        "files": [{"path": "x/a.jsonl", "records": 4, "good": 1, "bad": 3, "bytes": 100}],
        "read": 4, "kept": 1, "rejected": {"bad_json": 3}, "preview": ["中国"], "bad": bad,
    }  # fmt: skip
    text = check_report(result, Path("checked"))
    assert "a.jsonl:3: bad_json: unexpected end" in text and "and 2 more" in text
    assert "read 4 = kept 1 + rejected 3 (bad_json 3)" in text


def test_the_steps_of_the_data_stage() -> None:
    rows = [
        {"step": "read", "in": 9, "kept": 8, "rejected": 1, "added": 0, "edited": 0, "rules": {"bad_json": 1}},
        {"step": "split", "in": 8, "kept": 8, "rejected": 0, "added": 1200, "edited": 3, "rules": {}},
    ]
    lines = steps_table({"steps": rows}).splitlines()
    assert lines[2].split() == ["read", "9", "1", "bad_json", "1"] and lines[3].split() == ["split", "8", "3", "1,200"]
    counts = {"read": 9, "added": 1200, "kept": 1208, "rejected": {"bad_json": 1}, "chars": 5000}
    assert key_figure("data", counts).startswith("9 read + 1,200 by splitting = 1,208 kept + 1 rejected")


def test_status_says_that_a_training_goes_on(tmp_path: Path) -> None:
    from jielong.recipe import load, to_toml
    from jielong.train.control.mailbox import Mailbox
    from tests.train.control.test_telling import STATUS

    (tmp_path / "small" / "train").mkdir(parents=True)
    (tmp_path / "small" / "recipe.toml").write_text(to_toml(load("tiny")), encoding="utf-8")
    box = Mailbox(tmp_path / "small" / "train")
    box.say(STATUS)
    (row,) = status_rows(tmp_path, "")
    assert row["stages"]["train"]["state"] == "going on" and row["stages"]["train"]["live"]["step"] == 1200
    text = status_table([row], tmp_path)
    assert "going on" in text and "running, step 1,200 of 5,000" in text and "1 h 02 min left" in text
    box.say(STATUS | {"state": "stopped"})
    assert status_rows(tmp_path, "")[0]["stages"]["train"]["state"] != "going on"


def test_a_quantized_model_says_what_it_costs() -> None:
    counts = {"method": "int4", "bytes_before": 4_000_000, "bytes": 1_500_000}
    assert key_figure("quantize", counts) == "int4, 4 MB to 1.5 MB"
    counts["compared"] = {"models": [{"bits_per_byte": 2.0}, {"bits_per_byte": 2.01234}]}
    assert key_figure("quantize", counts) == "int4, 4 MB to 1.5 MB, bits per byte 2.0000 to 2.0123"
