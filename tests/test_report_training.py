"""Sections of the report on stages that train, and on a model beside what it was before."""

from __future__ import annotations

from pathlib import Path

import orjson

from jielong.report import read
from jielong.report_training import compared_section, training_section
from jielong.runs import Run

COMPARED = {
    "before": "/base", "after": "/after",
    "rows": [{"text": "held-out documents", "before": 2.0, "after": 1.5}, {"text": "general: <b>.txt", "before": 1.0, "after": 1.1}],
    "prompts": [{"prompt": "感冒了", "before": "<script>", "after": "多喝水。"}],
}  # fmt: skip


def test_what_was_gained_and_what_was_forgotten() -> None:
    found = compared_section(COMPARED)
    for text in (found.html, found.markdown):
        assert "-25.0%" in text and "+10.0%" in text and "多喝水。" in text
    assert "<script>" not in found.html and "<b>.txt" not in found.html
    assert compared_section({}).html == ""


def test_both_stages_that_train_have_a_section_of_their_own(tmp_path: Path) -> None:
    for stage, loss in (("train", 3.0), ("tune", 1.0)):
        folder = tmp_path / "run" / stage
        folder.mkdir(parents=True)
        rows = [{"step": n, "tokens": n * 10, "loss": loss / n, "learning_rate": 0.1} for n in range(1, 30)]
        (folder / "metrics.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        (folder / "samples.jsonl").write_bytes(orjson.dumps({"step": 3, "prompt": f"问{stage}", "text": "答"}) + b"\n")
    found = read(Run(tmp_path / "run"))
    sections = {stage: training_section(found, stage) for stage in ("train", "tune")}
    assert "问train" in sections["train"].html and "问tune" in sections["tune"].html
    assert "问tune" not in sections["train"].html
    assert "loss-tune" in sections["tune"].html and "loss-tune" not in sections["train"].html
