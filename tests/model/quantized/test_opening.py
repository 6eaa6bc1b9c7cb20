"""Who reads what."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import ModelError
from jielong.model.hf_config import read_config
from jielong.model.quantized.files import Packed
from jielong.model.quantized.opening import opening
from jielong.model.quantized.signs import Signs
from tests.model.quantized.folders import dense


def test_each_form_has_its_reader(tmp_path: Path) -> None:
    dense(tmp_path)
    table = read_config(tmp_path)
    assert opening(tmp_path, table) is None
    assert isinstance(opening(tmp_path, table | {"quantization_config": {"quant_method": "gptq"}}), Packed)
    assert isinstance(opening(tmp_path, table | {"quantization_config": {"quant_method": "awq"}}), Packed)
    assert isinstance(opening(tmp_path, table | {"quantization_config": {"quant_method": "jielong-onebit"}}), Signs)
    offline = {"quant_method": "bitnet", "linear_class": "autobitlinear"}
    assert isinstance(opening(tmp_path, table | {"quantization_config": offline}), Signs)


def test_what_nobody_reads_is_refused(tmp_path: Path) -> None:
    dense(tmp_path)
    table = read_config(tmp_path) | {"model_type": "jielong", "quantization_config": {"quant_method": "quanto"}}
    with pytest.raises(
        ModelError, match="quantized as quanto, which is read for dense models of transformers' classes only"
    ):
        opening(tmp_path, table)
