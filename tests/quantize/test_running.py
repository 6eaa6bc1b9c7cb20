"""From a source to a folder with its comparison: which text is used, and what is said where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from jielong.quantize.config import with_options
from jielong.quantize.running import quantize, texts_for, tokenizer_of
from jielong.runs import Run
from tests.corpus import texts, write_jsonl


def test_text_of_the_run_and_of_files(finished: Run, source: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(source)
    with texts_for(with_options({}), source, tokenizer) as found:
        assert found.calibration is not None and found.measured is not None and found.training is not None
        assert found.training.split == "train"
        assert not set(found.calibration.documents) & set(found.measured.documents)
    file = str(write_jsonl(tmp_path / "a.jsonl", texts(9)))
    with texts_for(with_options({"calibration": [file]}), source, tokenizer) as found:
        assert found.calibration is not None and found.measured is not None
        assert len(found.calibration.documents) == 9  # all of them: what is measured on is the run's
        assert len(found.measured.documents) == found.measured.shards.documents
    shutil.copytree(source, tmp_path / "alone")
    with texts_for(with_options({"calibration": [file]}), tmp_path / "alone", tokenizer) as found:
        assert found.calibration is not None and found.measured is not None and found.training is not None
        assert len(found.calibration.documents) + len(found.measured.documents) == 9
    with texts_for(with_options({}), tmp_path / "alone", tokenizer) as found:
        assert found.calibration is found.measured is found.training is None


def test_the_work_is_gone_at_the_end_and_the_comparison_is_there(source: Path, tmp_path: Path) -> None:
    asked: list[Any] = []

    def compare(models: dict[str, Path], text: Any, folder: Path, tokens: int) -> dict[str, Any]:
        asked.append((list(models), folder, tokens))
        return {"models": []}

    (tmp_path / "work").mkdir()
    counts = quantize(with_options({}), source, tmp_path / "out", tmp_path / "work", 1, compare)
    assert asked == [(["full", "int8"], tmp_path / "compare", 100_000)]
    assert counts["compared"] == {"models": []} and not (tmp_path / "work").exists()


def test_without_text_nothing_is_measured(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(source, tmp_path / "alone")
    counts = quantize(with_options({}), tmp_path / "alone", tmp_path / "out", tmp_path / "work", 1, lambda *given: {})
    assert "compared" not in counts
    assert "nothing is measured, the model lies in no run that held text out" in capsys.readouterr().err
