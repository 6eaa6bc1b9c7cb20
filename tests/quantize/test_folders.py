"""Folders that appear whole or not at all, and what is refused as a source."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import InputError, ModelError
from jielong.model.hf import load_folder, verify_checksums
from jielong.quantize.folders import publishing, shape_of, source_tensors
from tests.model.quantized.folders import dense, rewrite


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), publishing(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []
    with publishing(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
    assert verify_checksums(tmp_path / "a").keys() == {"x"}
    with pytest.raises(InputError, match="--out: is there already"), publishing(tmp_path / "a"):
        pass


def test_a_quantized_model_is_no_source(tmp_path: Path) -> None:
    dense(tmp_path)
    assert shape_of(tmp_path).hidden_size == 64
    rewrite(tmp_path, {}, [], {"quant_method": "awq"})
    with pytest.raises(ModelError, match=r"is quantized already \(awq\); quantize the full model"):
        shape_of(tmp_path)


def test_tensors_are_those_of_the_files(tmp_path: Path) -> None:
    dense(tmp_path)
    found, expected = dict(source_tensors(tmp_path)), load_folder(tmp_path).state_dict()
    assert found.keys() == expected.keys() - {"lm_head.weight"}
