"""Layers of signs in training: what they compute, what they start from, and that what is saved computes the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jielong.model.quantized.linear import QuantizedLinear
from jielong.model.quantized.signs import from_bitnet, from_onebit
from jielong.model.transformer import CausalLM
from jielong.quantize.students import KINDS, OneBitLinear, decompose, put_students
from tests.model.quantized.folders import SHAPE


def test_scales_are_the_best_of_rank_one() -> None:
    matrix = torch.randn(24, 40, generator=torch.Generator().manual_seed(1))
    columns, rows = decompose(matrix)
    u, s, v = torch.linalg.svd(matrix.abs())
    best = s[0] * torch.outer(u[:, 0], v[0])
    assert torch.allclose(torch.outer(rows, columns), best, atol=1e-4)
    assert bool((columns > 0).all()) and bool((rows > 0).all())


def test_a_matrix_of_one_size_loses_nothing() -> None:
    layer = nn.Linear(16, 8)
    layer.weight.data = torch.sign(layer.weight.data) * 0.3
    x = torch.randn(5, 16)
    with torch.no_grad():
        assert torch.allclose(OneBitLinear(layer)(x), layer(x), atol=1e-5)


@pytest.mark.parametrize("method", ["onebit", "bitnet"])
def test_what_is_saved_computes_the_same(method: str) -> None:
    layer = nn.Linear(64, 32)
    student = KINDS[method](layer)
    parts = {name.rpartition(".")[2]: tensor for name, tensor in student.tensors("layer").items()}
    integers, factors = from_onebit(parts) if method == "onebit" else (from_bitnet(parts), None)
    saved = QuantizedLinear(integers, layer.bias.detach(), factors, method == "bitnet")
    x = torch.randn(5, 64)
    with torch.no_grad():
        assert torch.allclose(student(x), saved(x), atol=1e-5)


@pytest.mark.parametrize("method", ["onebit", "bitnet"])
def test_gradients_reach_weights_and_scales(method: str) -> None:
    model = CausalLM(SHAPE)
    names = [name for name, module in model.named_modules() if type(module) is nn.Linear and ".layers." in name]
    put_students(model, method, names)
    model(torch.randint(0, 64, (1, 8))).square().mean().backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is not None and bool(grad.abs().sum() > 0) for name, grad in grads.items() if "proj" in name)
    assert any(name.endswith("in_scale") for name in grads) == (method == "onebit")
