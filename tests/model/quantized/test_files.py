"""GPTQ's and AWQ's files: written by hand, read as the same matrices, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from jielong.errors import ModelError
from jielong.model.hf import load_folder
from jielong.model.quantized.files import awq_tensors, described, from_awq, from_gptq, gptq_tensors
from jielong.model.quantized.linear import Integers, QuantizedLinear
from jielong.model.transformer import CausalLM
from tests.model.quantized.folders import dense, rewrite
from tests.model.quantized.test_linear import some


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("order", [True, False])
def test_gptq_there_and_back(bits: int, old: bool, order: bool) -> None:
    integers = some(bits, 32, outputs=64, symmetric=old, order=order)
    integers = integers._replace(scales_ON=integers.scales_ON.half().float())
    tensors = gptq_tensors("layer", integers, old)
    assert tensors["layer.qweight"].shape == (128 * bits // 32, 64)
    assert tensors["layer.qzeros"].shape == (4, 64 * bits // 32)
    found = from_gptq({name.removeprefix("layer."): tensor for name, tensor in tensors.items()}, old)
    assert found.bits == bits
    assert torch.equal(found.matrix(), integers.matrix())


def test_a_group_of_each_column_by_hand() -> None:
    """Column 2 belongs to group 0, column 1 to group 1: act order."""
    codes = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8] * 4] * 32, dtype=torch.uint8)
    order = torch.arange(32)
    order[[1, 20]] = order[[20, 1]]
    integers = Integers(codes, torch.tensor([[1.0, 10.0]] * 32), torch.full((32, 2), 8, dtype=torch.uint8), 4, order)
    tensors = gptq_tensors("x", integers)
    assert tensors["x.g_idx"][[0, 1, 16, 20]].tolist() == [0, 1, 1, 0]
    found = from_gptq({name.removeprefix("x."): tensor for name, tensor in tensors.items()}, True)
    assert found.order_C is not None
    assert torch.equal(found.matrix(), integers.matrix())


def test_awq_there_and_back() -> None:
    integers = some(4, 32, symmetric=False)
    integers = integers._replace(scales_ON=integers.scales_ON.half().float())
    tensors = awq_tensors("layer", integers)
    found = from_awq({name.removeprefix("layer."): tensor for name, tensor in tensors.items()})
    assert torch.equal(found.matrix(), integers.matrix())


def test_a_zero_of_zero_needs_the_second_form() -> None:
    integers = some(4, 32)._replace(zeros_ON=torch.zeros(48, 4, dtype=torch.uint8))
    with pytest.raises(AssertionError):
        gptq_tensors("layer", integers)
    gptq_tensors("layer", integers, old_zeros=False)


def quantized(folder: Path, method: str, **shape: Any) -> tuple[CausalLM, CausalLM]:
    """A model whose q and down projections are integers: the folder's, and the twin with the same numbers, dense."""
    twin = dense(folder, **shape)
    tensors, gone = {}, []
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(("q_proj", "down_proj")):
            integers = some(4, 32, *module.weight.shape)
            integers = integers._replace(scales_ON=integers.scales_ON.half().float())
            module.weight.data = integers.matrix()
            tensors |= gptq_tensors(name, integers) if method == "gptq" else awq_tensors(name, integers)
            gone.append(f"{name}.weight")
    rewrite(folder, tensors, gone, {"quant_method": method, "bits": 4, "group_size": 32})
    return load_folder(folder, quantized=True).eval(), twin


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("shape", [{}, {"attention_bias": True}, {"tie_word_embeddings": False}])
def test_a_folder_gives_the_logits_of_its_dense_twin(tmp_path: Path, method: str, shape: dict[str, Any]) -> None:
    found, twin = quantized(tmp_path, method, **shape)
    layers = [module for module in found.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 4
    assert not any(parameter.requires_grad for parameter in found.parameters())
    ids = torch.randint(0, 64, (2, 40))
    with torch.no_grad():
        assert torch.allclose(found(ids), twin(ids), atol=1e-4)


def test_experts_are_made_whole(tmp_path: Path) -> None:
    shape = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "qk_norm": True}
    twin = dense(tmp_path, **shape)
    stored = load_file(tmp_path / "model.safetensors")
    tensors, gone = {}, []
    for name, tensor in stored.items():
        if ".experts." in name:
            integers = some(8, tensor.shape[1], *tensor.shape)
            integers = integers._replace(scales_ON=integers.scales_ON.half().float())
            tensors |= gptq_tensors(name.removesuffix(".weight"), integers)
            gone.append(name)
            stored[name] = integers.matrix()
    assert gone
    save_file(stored, tmp_path / "model.safetensors")
    twin = load_folder(tmp_path).eval()
    rewrite(tmp_path, tensors, gone, {"quant_method": "gptq", "bits": 8})
    found = load_folder(tmp_path, quantized=True).eval()
    ids = torch.randint(0, 64, (1, 20))
    with torch.no_grad():
        assert torch.allclose(found(ids), twin(ids), atol=1e-5)


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    quantized(tmp_path, "gptq")
    with pytest.raises(ModelError, match=r"quantized \(gptq\), which is to be used, not trained"):
        load_folder(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    save_file({key: tensor for key, tensor in state.items() if key != f"{name}.scales"}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"{name} has only g_idx, qweight, qzeros"):
        load_folder(tmp_path, quantized=True)
    save_file(state | {f"{name}.qweight": state[f"{name}.qweight"][:2]}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=f"{name}: qweight of .* is of no known form"):
        load_folder(tmp_path, quantized=True)
    other = some(4, 32, 64, 128)
    save_file(state | gptq_tensors(name, other), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"is a matrix of \(64, 128\), config.json says \(64, 64\)"):
        load_folder(tmp_path, quantized=True)


def test_other_kinds_of_awq_are_refused(tmp_path: Path) -> None:
    quantized(tmp_path, "awq")
    table = orjson.loads((tmp_path / "config.json").read_bytes())
    table["quantization_config"]["version"] = "gemv"
    (tmp_path / "config.json").write_bytes(orjson.dumps(table))
    with pytest.raises(ModelError, match="only gemm with 4 bits is read"):
        load_folder(tmp_path, quantized=True)


def test_what_a_config_says() -> None:
    assert described({}) is None and described({"quantization_config": None}) is None
    assert described({"quantization_config": {"quant_method": "gptq"}}) == {"quant_method": "gptq"}
