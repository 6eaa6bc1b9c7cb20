"""Folders that transformers reads: bitsandbytes' layers taken over as they are; the rest refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch

from jielong.errors import MissingExtraError, ModelError
from jielong.model.hf import load_folder
from jielong.model.hf_config import read_config
from jielong.model.quantized import foreign
from jielong.model.quantized.foreign import Foreign, silently
from tests.model.quantized.folders import dense


def made(folder: Path, out: Path, held: str) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = (
        BitsAndBytesConfig(load_in_8bit=True)
        if held == "int8"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    )
    with silently():
        AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32).save_pretrained(
            out
        )


@pytest.mark.parametrize(("held", "layer"), [("int8", "Linear8bitLt"), ("nf4", "Linear4bit")])
def test_bitsandbytes_layers_are_taken_over(tmp_path: Path, held: str, layer: str) -> None:
    from transformers import AutoModelForCausalLM

    pytest.importorskip("bitsandbytes", reason="the extra bitsandbytes is not installed")
    dense(tmp_path / "full")
    made(tmp_path / "full", tmp_path / "small", held)
    found = load_folder(tmp_path / "small", quantized=True).eval()
    assert type(found.get_submodule("model.layers.0.mlp.up_proj")).__name__ == layer
    ids = torch.randint(0, 64, (2, 20))
    with torch.no_grad(), silently():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
        expected = theirs(ids).logits
        assert float((found(ids) - expected).norm() / expected.norm()) < 1e-2


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense(tmp_path)
    monkeypatch.setattr(foreign, "EXTRAS", {"torchao": "no_such_package"})
    table = read_config(tmp_path) | {"quantization_config": {"quant_method": "torchao"}}
    with pytest.raises(MissingExtraError, match="to open a model quantized as torchao"):
        Foreign(tmp_path, table)


def test_what_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    dense(tmp_path)
    table = read_config(tmp_path) | {"quantization_config": {"quant_method": "quanto", "weights": "int3"}}
    (tmp_path / "config.json").write_bytes(orjson.dumps(table))
    with pytest.raises(ModelError, match="transformers cannot open this quanto model"):
        load_folder(tmp_path, quantized=True)
