"""Both kernels on addresses and strides of numpy's memory, against plain arithmetic in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jielong.model import flash_kernels as kernels
from jielong.model.flash_products import SUPPORTED

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="no AVX512_BF16 here")


def halves(shape: tuple[int, ...], seed: int) -> tuple[Any, Any]:
    """Bits of bfloat16 numbers, and the numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return bits, widened(bits).astype(np.float64)


def widened(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def places(arrays: list[Any]) -> Any:
    return np.array([[x.ctypes.data, *x.strides[:3]] for x in arrays], np.int64)


@pytest.mark.parametrize("length", [1, 31, 32, 40, 150])
def test_pieces_write_what_is_theirs(length: int) -> None:
    """Row 1, group 1 of two and two; the rest of the memory stays as it is."""
    heads, groups, size = 4, 2, 32
    shapes = [(2, heads, length, size), (2, groups, length, size), (2, groups, length, size)]
    (q, q_n), (k, k_n), (v, v_n) = (halves(shape, seed) for seed, shape in enumerate(shapes))
    given, given_n = halves(shapes[0], 3)
    out, logs = np.full(shapes[0], 7, np.uint16), np.full(shapes[0][:3], 7, np.float32)
    earliest = np.maximum(np.arange(length, dtype=np.int32) - 49, 0)[None].repeat(2, axis=0)
    sizes, factor = np.array([heads, groups, length, size], np.int64), np.float32(1 / math.sqrt(size))
    kernels.forward(places([q, k, v, out]), sizes, earliest, factor, logs, 3, 4)
    assert (out[0] == 7).all() and (out[1, :2] == 7).all() and (logs[0] == 7).all() and (logs[1, :2] == 7).all()
    token = np.arange(length)
    seen = (token <= token[:, None]) & (token >= earliest[0][:, None])
    gradients = [np.full(shape, 7, np.uint16) for shape in shapes]
    kernels.backward(places([q, k, v, out, given, *gradients]), sizes, earliest, factor, logs, 3, 4)
    assert all((x[0] == 7).all() and (x[1, : x.shape[1] // 2] == 7).all() for x in gradients)
    dk, dv = np.zeros((length, size)), np.zeros((length, size))
    for head in (2, 3):
        scores = np.where(seen, q_n[1, head] @ k_n[1, 1].T * factor, -np.inf)
        total = np.exp(scores).sum(axis=1)
        np.testing.assert_allclose(logs[1, head], np.log2(total), atol=1e-4)
        weights = np.exp(scores) / total[:, None]
        result = weights @ v_n[1, 1]
        near(widened(out[1, head]), result)
        slopes = weights * (given_n[1, head] @ v_n[1, 1].T - (given_n[1, head] * result).sum(axis=1)[:, None]) * factor
        near(widened(gradients[0][1, head]), slopes @ k_n[1, 1])
        dk += slopes.T @ q_n[1, head]
        dv += weights.T @ given_n[1, head]
    near(widened(gradients[1][1, 1]), dk)
    near(widened(gradients[2][1, 1]), dv)


def near(found: Any, exact: Any) -> None:
    assert np.abs(found - exact).max() <= 0.02 * (1 + np.abs(exact).max())
