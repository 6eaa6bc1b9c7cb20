"""Each element-wise kernel by itself, against numpy."""

import numpy as np
import pytest

from jielong.infer.compiled import elements


def test_exponential() -> None:
    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    found = np.array([elements.exponential(value) for value in x])
    exact = np.exp(x.astype(np.float64))
    assert np.abs(found / exact - 1).max() < 3e-7
    assert elements.exponential(np.float32(-1000)) < 1.7e-38 and elements.exponential(np.float32(0)) == 1


def test_norm_and_rotation_in_place_too() -> None:
    chance = np.random.default_rng(0)
    x, weight = chance.standard_normal((2, 34)).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5) * weight
    out = np.empty_like(x)
    elements.normalise(x, weight.ctypes.data, np.float32(1e-5), out)
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    elements.normalise(x, weight.ctypes.data, np.float32(1e-5), x)
    assert (x == out).all()
    angles = chance.standard_normal(17)
    turned = (out[:17] + 1j * out[17:]) * np.exp(1j * angles)
    elements.rotate(out, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    np.testing.assert_allclose(out, np.concatenate([turned.real, turned.imag]), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_softmax_and_mixing(count: int) -> None:
    chance = np.random.default_rng(count)
    scores, v = chance.standard_normal(count).astype(np.float32), chance.standard_normal((count, 6)).astype(np.float32)
    biased = scores - 0.5 * np.arange(count)[::-1]
    expected = np.exp(biased) / np.exp(biased).sum()
    elements.soften(scores, np.float32(0.5))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    out = np.full(6, 9, np.float32)
    elements.mix(scores, v, 0, count, out)
    np.testing.assert_allclose(out, expected @ v, atol=1e-6)
    elements.mix(scores, v, count - 1, count, out)
    np.testing.assert_allclose(out, expected[-1] * v[-1], atol=1e-6)
