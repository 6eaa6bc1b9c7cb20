"""Calibration text: which documents, and that none of them is measured on."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import DataError, InputError
from jielong.quantize.running import tokenizer_of
from jielong.quantize.text import divided, held_out, run_of, text_of_files
from jielong.runs import Run
from jielong.tokenizer.shards.reading import Shards
from tests.corpus import texts, write_jsonl


def test_the_run_of_a_checkpoint_is_found(finished: Run, source: Path, tmp_path: Path) -> None:
    assert run_of(source) == finished.root.resolve() == run_of(finished.stage("model"))
    assert run_of(tmp_path) is None
    shards = held_out(finished.root, 10**6)
    assert shards is not None and shards.split == "validation"
    assert held_out(finished.root, 10) is None  # of another vocabulary


def test_what_is_calibrated_on_is_not_measured_on(finished: Run) -> None:
    shards = Shards(finished.stage("tokenizer") / "shards", "validation")
    calibration, measured = divided(shards, 10**9)
    assert not set(calibration.documents) & set(measured.documents)
    assert len(calibration.documents) + len(measured.documents) == shards.documents
    assert len(calibration.documents) == shards.documents // 2  # never more than half
    few, _ = divided(shards, 1)
    assert len(few.documents) == 1
    assert divided(shards, 10**9)[0].documents == calibration.documents


def test_rows_are_full_and_end_to_end(finished: Run) -> None:
    shards = Shards(finished.stage("tokenizer") / "shards", "validation")
    text, _ = divided(shards, 10**9)
    rows = text.rows(16, 160)
    assert rows.shape[1] == 16 and rows.size <= 160
    joined = [token for number in text.documents for token in shards.targets(number).tolist()]
    assert rows.flatten().tolist() == joined[: rows.size]
    with pytest.raises(InputError, match="calibration: too little text, got 160 tokens; a row of 1000 is needed"):
        text.rows(1000, 160)


def test_files_are_text_too(source: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", texts(5))
    with text_of_files([str(file)], tokenizer_of(source)) as text:
        assert len(text.documents) == 5 and text.tokens > 50
    (tmp_path / "b.txt").write_text("")
    tokenizer, nothing = tokenizer_of(source), [str(tmp_path / "b.txt")]
    with pytest.raises(DataError, match="--calibration: no readable document"), text_of_files(nothing, tokenizer):
        pass
