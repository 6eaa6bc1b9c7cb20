"""Our quantizers write what gguf reads, with less error than the kinds of the same size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from jielong.quantize.gguf.kquants import quantize_q4_k, quantize_q6_k

gguf = pytest.importorskip("gguf", reason="the quant extra")
quants, types = gguf.quants, gguf.GGMLQuantizationType
Floats = NDArray[np.float32]


def weights(seed: int, tails: float = 0.0) -> Floats:
    """(8, 1024): normal, with some large numbers."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((8, 1024)) * 0.02
    values += tails * generator.standard_normal(values.shape) * (generator.random(values.shape) < 0.01)
    return values.astype(np.float32)


def error(values: Floats, kind: str) -> float:
    """Root mean square of what is lost."""
    kinds = {"q4_k": quantize_q4_k, "q6_k": quantize_q6_k}
    data = kinds[kind](values) if kind in kinds else quants.quantize(values, types[kind.upper()])
    back = quants.dequantize(data, types[kind.upper()])
    assert back.shape == values.shape and np.isfinite(back).all()
    return float(np.sqrt(((back - values) ** 2).mean()))


@pytest.mark.parametrize("tails", [0.0, 0.2])
def test_the_error_is_between_those_of_the_older_kinds(tails: float) -> None:
    """q4_k has as many bits as q4_0 and fewer than q4_1, q6_k fewer than q8_0 and one more than q5_0."""
    values = weights(1, tails)
    assert error(values, "q5_0") < error(values, "q4_k") < 0.95 * error(values, "q4_0")
    assert error(values, "q4_k") < error(values, "q4_1")
    assert error(values, "q8_0") < error(values, "q6_k") < 0.5 * error(values, "q5_0")


def test_no_number_is_far_off() -> None:
    """Half a step of the group's grid, and a step for the rounding of scales: q4_k at most 15 steps between extremes, q6_k 63."""
    values = weights(2)
    spread = np.ptp(np.minimum(values, 0).reshape(-1, 32), axis=1).max() + values.max()
    back = quants.dequantize(quantize_q4_k(values), types.Q4_K)
    assert np.abs(back - values).max() < 1.5 * spread / 15
    back = quants.dequantize(quantize_q6_k(values), types.Q6_K)
    assert np.abs(back - values).max() < 1.5 * 2 * np.abs(values).max() / 63


def test_numbers_on_the_grid_come_back_as_they_are() -> None:
    """Every code stands where it is read: low bits, high bits, scales of all groups."""
    generator = np.random.default_rng(3)
    codes = generator.integers(-32, 32, (4, 16, 16)).astype(np.float32)
    codes[:, :, 0] = -32
    scales = generator.integers(-128, 128, (4, 16, 1)).astype(np.float32)
    scales[:, 5] = -128
    values = (codes * scales * 2.0**-12).reshape(4, 256).astype(np.float32)
    assert np.array_equal(quants.dequantize(quantize_q6_k(values), types.Q6_K), values)
    codes = generator.integers(0, 16, (4, 8, 32)).astype(np.float32)
    codes[:, :, :2] = 0, 15
    steps, least = generator.integers(1, 64, (2, 4, 8, 1)).astype(np.float32)
    steps[:, 2], least[:, 7] = 63, 63
    values = (codes * steps * 2.0**-8 - least * 2.0**-6).reshape(4, 256).astype(np.float32)
    values = np.where((values.reshape(4, 8, 32).max(axis=2) > 0).repeat(32, axis=1), values, 0).astype(np.float32)
    assert (
        np.abs(quants.dequantize(quantize_q4_k(values), types.Q4_K) - values).max() < 1e-6 * np.abs(values).max() + 0.01
    )


@pytest.mark.parametrize("quantizer", [quantize_q4_k, quantize_q6_k])
def test_flat_and_zero_rows(quantizer: object) -> None:
    kind = types.Q4_K if quantizer is quantize_q4_k else types.Q6_K
    assert callable(quantizer)
    values = np.zeros((3, 256), np.float32)
    values[1], values[2] = 0.5, -0.5
    back = quants.dequantize(quantizer(values), kind)
    assert not back[0].any() and np.abs(back - values).max() < 2e-3


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = weights(4)
    whole = quantize_q4_k(values)
    monkeypatch.setattr("jielong.quantize.gguf.kquants.BLOCKS_AT_ONCE", 3)
    assert np.array_equal(quantize_q4_k(values), whole) and whole.shape == (8, 4 * 144)
