"""The quantized layer: its matrix by hand, torch's packed products against it, and what else it does to its input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.model.quantized import linear
from jielong.model.quantized.linear import FEW_ROWS, Integers, QuantizedLinear, packed_for, rounded_inputs


def some(
    bits: int, group: int, outputs: int = 48, columns: int = 128, symmetric: bool = True, order: bool = False
) -> Integers:
    draw = torch.Generator().manual_seed(bits * 1000 + group)
    codes = torch.randint(0, 2**bits, (outputs, columns), generator=draw).to(torch.uint8)
    groups = columns // group
    scales = torch.rand(outputs, groups, generator=draw) * 0.01 + 0.001
    zeros = (
        torch.full((outputs, groups), 2 ** (bits - 1))
        if symmetric
        else torch.randint(0, 2**bits, (outputs, groups), generator=draw)
    )
    moved = torch.randperm(columns, generator=draw) if order else None
    return Integers(codes, scales, zeros.to(torch.uint8), bits, moved)


def matrix(integers: Integers) -> Tensor:
    """Number by number."""
    out = torch.zeros(integers.codes_OC.shape)
    for column in range(out.shape[1]):
        group = column // integers.group
        value = (integers.codes_OC[:, column].float() - integers.zeros_ON[:, group].float()) * integers.scales_ON[
            :, group
        ]
        out[:, column if integers.order_C is None else int(integers.order_C[column])] = value
    return out


FORMS = [(8, 128, True, False), (8, 32, True, False), (8, 128, False, False), (4, 32, True, False), (4, 64, False, False),
         (4, 128, True, True), (3, 32, False, False), (2, 128, True, False), (4, 16, True, False), (8, 128, True, True)]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "symmetric", "order"), FORMS)
@pytest.mark.parametrize("rows", [1, 3, FEW_ROWS + 1])
def test_every_way_gives_the_same_product(bits: int, group: int, symmetric: bool, order: bool, rows: int) -> None:
    integers = some(bits, group, symmetric=symmetric, order=order)
    bias = torch.randn(48)
    layer = QuantizedLinear(integers, bias)
    expected = matrix(integers)
    assert torch.allclose(layer.weight, expected, atol=1e-7)
    x = torch.randn(2, rows, 128)
    with torch.no_grad():
        assert torch.allclose(layer(x), x @ expected.T + bias, atol=2e-5)


@pytest.mark.parametrize(("bits", "group"), [(8, 128), (4, 32), (4, 64), (4, 128), (2, 32)])
def test_torch_has_its_packed_products(bits: int, group: int) -> None:
    """They are private: where this fails on a new torch, everything still works, more slowly (the next test)."""
    layer = QuantizedLinear(some(bits, group))
    assert layer._pack() is not None


@pytest.mark.parametrize(("bits", "group", "symmetric", "order"), FORMS)
def test_few_rows_in_bfloat16_agree_with_float32(bits: int, group: int, symmetric: bool, order: bool) -> None:
    layer = QuantizedLinear(some(bits, group, symmetric=symmetric, order=order), torch.randn(48))
    x = torch.randn(2, 3, 128)
    with torch.no_grad():
        expected = layer(x)
        plain = layer(x.bfloat16()).float()
        with torch.autocast("cpu", torch.bfloat16):
            under = layer(x)
    assert under.dtype == torch.bfloat16
    for found in (plain, under.float()):
        assert float((found - expected).norm() / expected.norm()) < 1e-2


def test_without_the_packed_products_all_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def __getattr__(self, name: str) -> None:
            raise AttributeError(name)

    integers, x = some(4, 32), torch.randn(1, 128).bfloat16()
    with torch.no_grad():
        expected = QuantizedLinear(integers)(x).float()
        monkeypatch.setattr(linear, "_private", Gone())
        layer = QuantizedLinear(integers)
        found = layer(x).float()
    assert layer._pack() is None
    assert float((found - expected).norm() / expected.norm()) < 1e-2


def test_forms_that_torch_does_not_know_have_no_packed_product() -> None:
    assert packed_for(some(8, 32)) is None
    assert packed_for(some(8, 128, symmetric=False)) is None
    assert packed_for(some(4, 16)) is None
    assert packed_for(some(4, 32, outputs=40)) is None


def test_inputs_are_multiplied_and_rounded() -> None:
    integers, factors = some(2, 32), torch.rand(128)
    x = torch.randn(3, 128)
    with torch.no_grad():
        assert torch.allclose(
            QuantizedLinear(integers, None, factors)(x), (x * factors) @ matrix(integers).T, atol=1e-5
        )
        scale = 127 / x.abs().amax(dim=1, keepdim=True)
        rounded = (x * scale).round() / scale
        assert torch.allclose(rounded_inputs(x), rounded, atol=1e-7)
        assert torch.allclose(QuantizedLinear(integers, rounded=True)(x), rounded @ matrix(integers).T, atol=1e-5)


def test_gradients_go_through_to_the_input() -> None:
    layer = QuantizedLinear(some(4, 32))
    x = torch.randn(2, 128, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, layer.weight.sum(dim=0).expand(2, -1), atol=1e-5)


def test_scales_stay_float32_in_half_precision() -> None:
    layer = QuantizedLinear(some(4, 32)).to(torch.bfloat16)
    assert layer.scales.dtype == torch.float32 and layer.codes.dtype == torch.uint8
    x = torch.randn(2, 128)
    with torch.no_grad():
        assert torch.allclose(layer(x.bfloat16()).float(), x @ layer.weight.T, atol=2e-2)


def test_memory_is_half_a_byte_a_weight() -> None:
    layer = QuantizedLinear(some(4, 32))
    assert layer.codes.numel() == 48 * 128 // 2
    assert QuantizedLinear(some(8, 128)).codes.numel() == 48 * 128
