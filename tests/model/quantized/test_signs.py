"""Folders of signs and of -1, 0, 1: packed by hand, read as the same matrices; transformers opens the second kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jielong.errors import ModelError
from jielong.model.hf import load_folder
from jielong.model.quantized.foreign import silently
from jielong.model.quantized.linear import QuantizedLinear, rounded_inputs
from jielong.model.quantized.signs import bitnet_tensors, from_bitnet, from_onebit, onebit_tensors
from jielong.model.transformer import CausalLM
from tests.model.quantized.folders import dense, rewrite


def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}


def test_signs_there_and_back() -> None:
    signs, columns, rows = torch.rand(12, 40) > 0.5, torch.rand(40), torch.rand(12)
    tensors = onebit_tensors("layer", signs, columns, rows)
    assert tensors["layer.signs"].shape == (12, 5)
    assert int(tensors["layer.signs"][0, 0]) == sum(int(signs[0, place]) << place for place in range(8))
    integers, factors = from_onebit(bare(tensors))
    assert torch.equal(factors, columns)
    assert torch.allclose(integers.matrix(), torch.where(signs, 1.0, -1.0) * rows[:, None])


def test_ternary_there_and_back() -> None:
    ternary = torch.randint(-1, 2, (12, 40))
    tensors = bitnet_tensors("layer", ternary, 0.25)
    assert tensors["layer.weight"].shape == (3, 40)
    byte = int(tensors["layer.weight"][1, 2])
    assert [(byte >> shift & 3) - 1 for shift in (0, 2, 4, 6)] == ternary[[1, 4, 7, 10], 2].tolist()
    assert torch.equal(from_bitnet(bare(tensors)).matrix(), ternary * 0.25)


def folder_of(folder: Path, method: str) -> CausalLM:
    twin = dense(folder)
    tensors: dict[str, Tensor] = {}
    layers = [name for name, module in twin.named_modules() if type(module) is nn.Linear]
    for name in layers:
        shape = twin.get_submodule(name).weight.shape  # type: ignore[union-attr]
        draw = torch.Generator().manual_seed(len(name))
        if method == "bitnet":
            tensors |= bitnet_tensors(name, torch.randint(-1, 2, tuple(shape), generator=draw), 0.05)  # type: ignore[arg-type]
        else:
            tensors |= onebit_tensors(
                name, torch.rand(tuple(shape), generator=draw) > 0.5, torch.rand(shape[1]), torch.rand(shape[0]) * 0.1
            )  # type: ignore[arg-type,index]
    described = {"quant_method": "jielong-onebit"}
    if method == "bitnet":
        described = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
    rewrite(folder, tensors, [f"{name}.weight" for name in layers], described)
    return load_folder(folder, quantized=True).eval()


def test_a_layer_of_signs_is_what_the_paper_says(tmp_path: Path) -> None:
    model = folder_of(tmp_path, "onebit")
    layer = model.get_submodule("model.layers.1.mlp.down_proj")
    assert isinstance(layer, QuantizedLinear) and layer.factors is not None
    x = torch.randn(3, 128)
    signs = torch.sign(layer.integers.matrix())
    rows = layer.scales[:, 0]
    with torch.no_grad():
        assert torch.allclose(layer(x), ((x * layer.factors) @ signs.T) * rows, atol=1e-5)


def test_transformers_gives_the_same_logits_for_bitnet(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = folder_of(tmp_path, "bitnet")
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(2, 64)
    with torch.no_grad():
        assert torch.allclose(layer(x), rounded_inputs(x) @ layer.weight.T, atol=1e-5)  # type: ignore[union-attr,operator]
        ids = torch.randint(0, 64, (2, 20))
        with silently():
            theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
            expected = theirs(ids).logits
        assert type(theirs.model.layers[0].self_attn.q_proj).__name__ == "AutoBitLinear"
        # an input that lies between two of its 255 values may be rounded to either
        assert float((model(ids) - expected).norm() / expected.norm()) < 1e-2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "onebit")
    name = "model.layers.0.mlp.up_proj"
    rewrite(tmp_path, {f"{name}.signs": torch.zeros(3, 8, dtype=torch.uint8)}, [], {"quant_method": "jielong-onebit"})
    with pytest.raises(ModelError, match=f"{name} .* does not fit config.json"):
        load_folder(tmp_path, quantized=True)
    rewrite(tmp_path, {"model.layers.9.mlp.up_proj.out_scale": torch.zeros(3)}, [], {"quant_method": "jielong-onebit"})
    with pytest.raises(ModelError, match="is no linear layer of a block"):
        load_folder(tmp_path, quantized=True)
