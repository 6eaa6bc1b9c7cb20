"""Each kernel of the step by itself, against numpy."""

import numpy as np
import pytest

from jielong.infer.compiled import kernels
from jielong.infer.compiled.vectors import OUTPUTS


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("outputs", [1, OUTPUTS, 2 * OUTPUTS + 1])
def test_multiply(rows: int, outputs: int) -> None:
    chance = np.random.default_rng(rows)
    w, x = (chance.standard_normal((n, 70)).astype(np.float32) for n in (outputs + 2, rows))
    out = np.zeros((rows, outputs + 2), np.float32)
    kernels.multiply(0, w.ctypes.data, 1, outputs + 1, 70, x.ctypes.data, 70, rows, out.ctypes.data, outputs + 2)
    expected = x @ w.T
    expected[:, [0, -1]] = 0  # rows of the matrix that were not asked for
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 8), (5, 8), (1000, 512), (17, 40_000)])
def test_pieces_cover_a_matrix_once(outputs: int, columns: int, kind: int) -> None:
    size, pieces = kernels.rows_of_piece(columns, kind), kernels.pieces_of(outputs, columns, kind)
    assert size % OUTPUTS == 0 and (pieces - 1) * size < outputs <= pieces * size
    assert size == OUTPUTS or size * columns * (2 if kind else 4) <= kernels.PIECE_BYTES


def test_exponential() -> None:
    x = np.linspace(-87, 88, 20_001).astype(np.float32)
    found = np.array([kernels.exponential(value) for value in x])
    exact = np.exp(x.astype(np.float64))
    assert np.abs(found / exact - 1).max() < 3e-7
    assert kernels.exponential(np.float32(-1000)) < 1.7e-38 and kernels.exponential(np.float32(0)) == 1


def test_norm_and_rotation_in_place_too() -> None:
    chance = np.random.default_rng(0)
    x, weight = chance.standard_normal((2, 34)).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean() + 1e-5) * weight
    out = np.empty_like(x)
    kernels.normalise(x, weight.ctypes.data, np.float32(1e-5), out)
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    kernels.normalise(x, weight.ctypes.data, np.float32(1e-5), x)
    assert (x == out).all()
    angles = chance.standard_normal(17)
    turned = (out[:17] + 1j * out[17:]) * np.exp(1j * angles)
    kernels.rotate(out, np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))
    np.testing.assert_allclose(out, np.concatenate([turned.real, turned.imag]), atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_softmax_and_mixing(count: int) -> None:
    chance = np.random.default_rng(count)
    scores, v = chance.standard_normal(count).astype(np.float32), chance.standard_normal((count, 6)).astype(np.float32)
    biased = scores - 0.5 * np.arange(count)[::-1]
    expected = np.exp(biased) / np.exp(biased).sum()
    kernels.soften(scores, np.float32(0.5))
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    out = np.full(6, 9, np.float32)
    kernels.mix(scores, v, 0, count, out)
    np.testing.assert_allclose(out, expected @ v, atol=1e-6)
    kernels.mix(scores, v, count - 1, count, out)
    np.testing.assert_allclose(out, expected[-1] * v[-1], atol=1e-6)


def test_counters_have_lines_of_their_own() -> None:
    state = np.zeros(kernels.state_size(3), np.int64)
    last = kernels.count_phases(3) - 1
    assert [int(kernels.claim(state, phase)) for phase in (0, 0, last, last)] == [0, 1, 0, 1]
    kernels.complete(state, last)
    assert kernels.complete_and_claim(state, last) == 2
    kernels.wait_for(state, last, 2)
    kernels.complete(state, last + 1)
    kernels.wait_until_left(state, 3, 1)
    assert sorted(np.flatnonzero(state) % kernels.COUNTER) == [0] * 4 and state.sum() == 2 + 3 + 2 + 1
