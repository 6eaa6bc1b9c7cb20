"""Products with matrices of integers against the matrix that they mean, and inputs in the form that a matrix asks for."""

import numpy as np
import pytest
import torch

from jielong.infer.compiled.matrices import ADDRESS, FACTORS, FIELDS, GROUP, KIND, ORDER, ROUNDED, SCALES, ZEROS
from jielong.infer.compiled.quantized import multiply_quantized, prepare
from jielong.infer.compiled.vectors import INT4, INT8, OUTPUTS
from jielong.model.quantized.linear import Integers, QuantizedLinear, rounded_inputs


def make(bits: int, outputs: int, columns: int, group: int) -> QuantizedLinear:
    generator = torch.Generator().manual_seed(columns + bits)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(0, 1 << bits, shape, dtype=torch.uint8, generator=generator)

    scales = torch.rand(outputs, columns // group, generator=generator) / (1 << bits)
    return QuantizedLinear(Integers(draw(outputs, columns), scales, draw(outputs, columns // group), bits))


def describe(layer: QuantizedLinear) -> np.ndarray:
    matrix = np.zeros(FIELDS, np.int64)
    matrix[KIND], matrix[GROUP] = INT4 if layer.halved else INT8, layer.group
    matrix[ADDRESS], matrix[SCALES] = layer.codes.data_ptr(), layer.scales.data_ptr()
    matrix[ZEROS] = layer.zeros.data_ptr()
    return matrix


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize(
    ("bits", "columns", "group"),
    [
        (8, 128, 128), (8, 200, 200), (8, 384, 128), (8, 70, 7), (8, 96, 24), (8, 5, 1),
        (4, 64, 32), (4, 192, 64), (4, 384, 128), (4, 256, 256), (4, 352, 352), (4, 60, 20), (3, 64, 32), (2, 96, 96),
    ],
)  # fmt: skip
def test_products_are_those_of_the_matrix_that_is_meant(bits: int, columns: int, group: int, rows: int) -> None:
    outputs = 2 * OUTPUTS + 3
    layer = make(bits, outputs, columns, group)
    assert layer.halved == (bits <= 4 and group % 32 == 0)
    x = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
    out, whole = np.zeros((rows, outputs + 1), np.float32), np.empty(OUTPUTS * columns, np.float32)
    multiply_quantized(
        describe(layer), 1, outputs, columns, x.ctypes.data, rows, out.ctypes.data, outputs + 1, whole.ctypes.data
    )
    expected = x.astype(np.float64) @ layer.weight.double().numpy().T
    np.testing.assert_allclose(out[:, 1:outputs], expected[:, 1:], atol=1e-5 * columns**0.5)
    assert (out[:, [0, outputs]] == 0).all()  # what was not asked for


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_inputs_in_the_form_that_a_matrix_asks_for(ordered: bool, scaled: bool, rounded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, order = torch.randn(3, 50, generator=generator), torch.randperm(50, generator=generator)
    x[2] = 0
    factors = torch.rand(50, generator=generator)
    matrix, spare = np.zeros(FIELDS, np.int64), np.full((3, 50), 9, np.float32)
    matrix[ORDER], matrix[FACTORS] = order.data_ptr() if ordered else 0, factors.data_ptr() if scaled else 0
    matrix[ROUNDED] = rounded
    found = prepare(matrix, x.numpy(), spare.ctypes.data)
    if not (ordered or scaled or rounded):
        assert found == x.data_ptr() and (spare == 9).all()
        return
    expected = x * factors if scaled else x
    expected = rounded_inputs(expected) if rounded else expected
    expected = expected[:, order] if ordered else expected
    assert found == spare.ctypes.data
    np.testing.assert_allclose(spare, expected.numpy(), rtol=1e-6, atol=1e-7)
