"""The products of every kind and shape against numpy in float64; counters; numbers of 16 bits."""

import numpy as np
import pytest

from jielong.data.compiled import kernel
from jielong.data.emitters import address
from jielong.infer.compiled.vectors import fetch, fetch_add, float_of_bits, give_way, products, widened


@kernel
def _one(kind, w, x, out):
    row, columns = w.shape[1] * (4 if kind == 0 else 2), w.shape[1]
    if kind == 0:
        products(0, 1, 1, 4, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])
    elif kind == 1:
        products(1, 1, 1, 4, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])
    else:
        products(2, 1, 1, 4, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])


@kernel
def _block(kind, w, x, out):
    row, columns = w.shape[1] * (4 if kind == 0 else 2), w.shape[1]
    if kind == 0:
        products(0, 2, 3, 2, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])
    elif kind == 1:
        products(1, 2, 3, 2, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])
    else:
        products(2, 2, 3, 2, address(w), row, address(x), 4 * columns, columns, address(out), 4 * out.shape[1])


def stored(values: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers as a kind stores them, and what they are then in float32."""
    if kind == 0:
        return values, values
    if kind == 1:
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        return bits, (bits.astype(np.uint32) << 16).view(np.float32)
    half = values.astype(np.float16)
    return half.view(np.uint16), half.astype(np.float32)


@pytest.mark.parametrize("columns", [1, 7, 8, 16, 33, 63, 64, 100, 200])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_products_are_the_sums_of_products(kind: int, columns: int) -> None:
    chance = np.random.default_rng(columns)
    for function, outputs, rows in ((_one, 1, 1), (_block, 2, 3)):
        w, plain = stored(chance.standard_normal((outputs, columns)).astype(np.float32), kind)
        x = chance.standard_normal((rows, columns)).astype(np.float32)
        out = np.full((rows, outputs + 1), 7, np.float32)
        function(kind, w, x, out)
        exact = x.astype(np.float64) @ plain.astype(np.float64).T
        np.testing.assert_allclose(out[:, :outputs], exact, atol=1e-5)
        assert (out[:, outputs] == 7).all()  # nothing is written beside


@kernel
def _widen(bits, bfloat16, float16):
    for place in range(len(bits)):
        bfloat16[place] = widened(1, address(bits) + 2 * place)
        float16[place] = widened(2, address(bits) + 2 * place)


def test_every_finite_number_of_16_bits_is_widened_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    bfloat16, float16 = np.empty(1 << 16, np.float32), np.empty(1 << 16, np.float32)
    _widen(bits, bfloat16, float16)
    assert (bfloat16.view(np.uint32) == bits.astype(np.uint32) << 16).all()
    expected = bits.view(np.float16).astype(np.float32)
    finite = np.isfinite(expected)
    assert finite.sum() == 2 * 31 * 1024
    assert (float16[finite].view(np.uint32) == expected[finite].view(np.uint32)).all()


@kernel
def _count(counters, amount):
    before = fetch_add(address(counters), amount)
    give_way()
    return before, fetch(address(counters))


@kernel
def _float(bits):
    return float_of_bits(bits)


def test_counters_and_bits() -> None:
    counters = np.array([5, 1])
    assert _count(counters, 3) == (5, 8) and counters.tolist() == [8, 1]
    assert _float(np.int32(0x40490FDB)) == np.float32(np.pi)
