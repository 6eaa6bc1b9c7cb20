"""Each kernel against float64 arithmetic of numpy, on the numbers that it reads.

FLOAT32: some rounding errors of 6e-8 and sums of up to 300 numbers. BFLOAT16: one rounding at the end, to 8 bits, 2^-9 of a number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jielong.model import fused_kernels as kernels

FLOAT32, BFLOAT16 = 2e-6, 2.0**-8
SIZES = (1, 7, 33, 300)
NAN, INFINITE = np.float32(np.nan), np.float32(np.inf)


def random(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bits(numbers: Any) -> Any:
    """Float32 to bfloat16's bits."""
    found = np.empty(numbers.shape, np.uint16)
    for row, into in zip(numbers.reshape(-1, numbers.shape[-1]), found.reshape(-1, numbers.shape[-1]), strict=True):
        narrow(row.copy(), into)
    return found


def numbers(array: Any) -> Any:
    """Float64 of what a kernel reads or wrote."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


@kernels._fused
def narrow(row: Any, into: Any) -> None:
    kernels.write(row, into)


@kernels._fused
def widen(row: Any, into: Any) -> None:
    kernels.read(row, into)


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    assert np.abs(numbers(ours) - theirs).max() <= tolerance * (1 + np.abs(theirs).max())


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def kind(request: pytest.FixtureRequest) -> tuple[Any, float]:
    """How numbers are given to a kernel, and how near its results are."""
    return (bits, BFLOAT16) if request.param else (np.copy, FLOAT32)


def test_bfloat16_is_rounded_to_even_and_keeps_what_is_no_number() -> None:
    """1 + 2^-8 is halfway and goes down to the even one; 1 + 3 x 2^-8 up to it; the largest float becomes infinite."""
    given = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -2, 0, np.finfo(np.float32).max, np.inf, -np.inf], np.float32)
    assert numbers(bits(given)).tolist() == [1, 1, 1 + 2**-6, -2, 0, np.inf, np.inf, -np.inf]
    for pattern in (0x7F800001, 0xFFFFFFFF, 0x7FC00000):  # cutting the first would make it infinite
        assert np.isnan(numbers(bits(np.array([pattern], np.uint32).view(np.float32)))).all()
    back = np.empty(4, np.float32)
    widen(bits(given[:4]), back)
    assert back.tolist() == [1, 1, 1 + 2**-6, -2]


def test_exponentials() -> None:
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    ours, powers = x.copy(), np.empty(len(x), np.int32)
    kernels.exponentials(ours, powers)
    true = np.exp(x.astype(np.float64))
    assert (np.abs(ours - true) / true <= 3e-7 + 8e-8 * np.abs(x)).all()  # the polynomial; the rounding of x log2(e)
    edges = np.array([-1e30, -INFINITE, 1e30, INFINITE, 0], np.float32)
    kernels.exponentials(edges, powers)
    assert edges == pytest.approx([np.exp(-87.0)] * 2 + [np.exp(88.0)] * 2 + [1], rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 33, 100])
def test_the_largest_and_what_is_not_finite_at_every_place(size: int) -> None:
    most = np.finfo(np.float32).max
    for x in (np.full(size, most), np.full(size, -most), random(size), -np.abs(random(size)), np.zeros(size) * -1.0):
        x = x.astype(np.float32)
        found, nothing = kernels.largest(x)
        assert found == x.max() and nothing == 0
    for bad in (NAN, -NAN, INFINITE, -INFINITE):
        for place in range(size):
            x = random(size)
            x[place] = bad
            assert np.isnan(kernels.largest(x)).all()


@pytest.mark.parametrize("size", SIZES)
def test_norm(size: int, kind: tuple[Any, float]) -> None:
    make, tolerance = kind
    x, given, weight = make(random(5, size)), make(random(5, size, seed=1)), random(size, seed=2)
    out, scale, dx, dweight = make(x * 0.0), np.empty(5, np.float32), make(x * 0.0), np.zeros(size, np.float32)
    epsilon = np.float32(1e-5)
    kernels.norm_forward(x, weight, epsilon, out, scale, 0, 5)
    kernels.norm_backward(x, weight, scale, given, dx, dweight, 0, 5)
    wide, outer = numbers(x), numbers(given)
    scales = 1 / np.sqrt((wide**2).mean(axis=1, keepdims=True) + epsilon)
    normed = wide * scales
    close(out, normed * weight, tolerance)
    close(dweight, (outer * normed).sum(axis=0), FLOAT32)
    inner = outer * weight
    close(dx, scales * (inner - normed * (inner * normed).mean(axis=1, keepdims=True)), tolerance)


@pytest.mark.parametrize(
    ("rows", "length", "heads", "size", "angles"), [(1, 1, 1, 2, 1), (2, 7, 3, 6, 2), (2, 3, 2, 66, 1)]
)
def test_rotation(rows: int, length: int, heads: int, size: int, angles: int, kind: tuple[Any, float]) -> None:
    """Angles of each row or of all; the way back is that of the transposed matrix, for any cos and sin."""
    make, tolerance = kind
    x, given = make(random(rows, length, heads, size)), make(random(rows, heads, length, size, seed=1))
    cos, sin = random(angles, length, size, seed=2), random(angles, length, size, seed=3)
    out, dx = given.copy(), x.copy()
    kernels.rotate_forward(x, cos, sin, out, 0, rows * length)
    kernels.rotate_backward(given, cos, sin, dx, 0, rows * length)
    half = size // 2
    wide, outer = numbers(x).transpose(0, 2, 1, 3), numbers(given)
    turned = np.concatenate([-wide[..., half:], wide[..., :half]], axis=-1)
    close(out, wide * cos[:, None] + turned * sin[:, None], tolerance)
    by_sin = outer * sin[:, None]
    back = np.concatenate([by_sin[..., half:], -by_sin[..., :half]], axis=-1)
    close(dx, (outer * cos[:, None] + back).transpose(0, 2, 1, 3), tolerance)


@pytest.mark.parametrize("size", SIZES)
def test_gate(size: int, kind: tuple[Any, float]) -> None:
    make, tolerance = kind
    gate, up, given = (make(3 * random(4, size, seed=seed)) for seed in range(3))
    gate[0, 0] = make(np.array([-200], np.float32))[0]  # beyond where the exponential is exact
    out, dgate, dup = gate.copy(), gate.copy(), gate.copy()
    kernels.gate_forward(gate, up, out, 0, 4)
    kernels.gate_backward(gate, up, given, dgate, dup, 0, 4)
    g, u, o = (numbers(x) for x in (gate, up, given))
    share = 1 / (1 + np.exp(-g))
    close(out, g * share * u, tolerance)
    close(dup, o * g * share, tolerance)
    close(dgate, o * u * share * (1 + g * (1 - share)), tolerance)


@pytest.mark.parametrize(("keys", "length", "heads"), [(1, 1, 1), (7, 7, 2), (33, 5, 3), (300, 2, 1)])
def test_softmax_of_what_is_seen(keys: int, length: int, heads: int, kind: tuple[Any, float]) -> None:
    """Two rows of two groups; what is not seen is not a number, and does not matter."""
    make, tolerance = kind
    scores, given = (3 * random(4, heads * length, keys, seed=seed) for seed in range(2))
    first = np.random.default_rng(5).integers(0, keys - length + 1, (2, length))
    seen = np.zeros(scores.shape, bool)
    for r, q in np.ndindex(scores.shape[:2]):
        t = q % length
        seen[r, q, first[r // 2, t] : keys - length + t + 1] = True
    scores[~seen], given[~seen] = np.nan, np.nan
    weights, outer = make(scores), make(given)
    factor = np.float32(0.3)
    x = np.where(seen, numbers(weights), -np.inf) * np.float64(factor)
    o = np.where(seen, numbers(outer), 0)
    kernels.soften(weights, first, 2, factor, 0, 4)
    true = np.exp(x - x.max(axis=-1, keepdims=True))
    true /= true.sum(axis=-1, keepdims=True)
    close(weights, true, tolerance)
    assert not numbers(weights)[~seen].any()
    kernels.soften_backward(weights, outer, first, 2, factor, 0, 4)
    w = numbers(weights)
    close(outer, factor * w * (o - (w * o).sum(axis=-1, keepdims=True)), tolerance)
    assert not numbers(outer)[~seen].any()


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("size", SIZES)
def test_cross_entropy(size: int, z_loss: float, kind: tuple[Any, float]) -> None:
    make, tolerance = kind
    logits = make(5 * random(6, size) + 20)
    labels = np.array([0, size - 1, size // 2, -100, 0, size // 3])
    found, untouched = np.empty((6, 2), np.float32), logits.copy()
    x = numbers(logits)
    kernels.cross_entropies(untouched, labels, np.float32(z_loss), False, found, 0, 6)
    assert (untouched == logits).all()
    kernels.cross_entropies(logits, labels, np.float32(z_loss), True, found, 0, 6)
    normaliser = np.log(np.exp(x).sum(axis=1))
    counted = labels >= 0
    one = np.eye(size)[labels.clip(0)]
    close(
        found,
        np.stack([normaliser - (x * one).sum(axis=1), z_loss * normaliser**2], axis=1) * counted[:, None],
        FLOAT32,
    )
    shares = np.exp(x - normaliser[:, None])
    close(logits, (shares * (1 + 2 * z_loss * normaliser[:, None]) - one) * counted[:, None], tolerance)


@pytest.mark.parametrize("bad", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("place", [0, 3, 15, 32])  # in whole vectors and behind them
def test_one_bad_number_spoils_its_row_and_no_other(bad: Any, place: int, kind: tuple[Any, float]) -> None:
    make, _ = kind
    x = random(3, 33)
    x[1, place] = bad
    x = make(x)
    rows = np.arange(3)

    found, logits = np.empty((3, 2), np.float32), x.copy()
    kernels.cross_entropies(logits, rows, np.float32(0.1), True, found, 0, 3)
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, True]
    assert np.isfinite(numbers(logits)).any(axis=1).tolist() == [True, False, True]

    scores = x[None].copy()
    kernels.soften(scores, np.zeros((1, 1), np.int64), 1, np.float32(0.3), 0, 1)
    assert np.isfinite(numbers(scores[0])).any(axis=1).tolist() == [True, False, True]

    out, ones = x.copy(), make(np.ones((3, 33), np.float32))
    kernels.gate_forward(x, ones, out, 0, 3)
    assert np.isfinite(numbers(out)).all(axis=1).tolist() == [True, False, True]
    dgate, dup = x.copy(), x.copy()
    kernels.gate_backward(x, ones, ones, dgate, dup, 0, 3)
    assert not np.isfinite(numbers(dgate[1, place : place + 1])).any() or not np.isfinite(numbers(dup[1])).all()

    scale, weight = np.empty(3, np.float32), np.ones(33, np.float32)
    kernels.norm_forward(x, weight, np.float32(1e-5), out, scale, 0, 3)
    assert np.isfinite(numbers(out)).all(axis=1).tolist() == [True, False, True]


def test_a_kernel_leaves_the_rows_of_others_alone() -> None:
    x, out = random(4, 7), np.full((4, 7), 5, np.float32)
    kernels.gate_forward(x, x, out, 1, 3)
    assert (out[[0, 3]] == 5).all() and (out[1:3] != 5).all()
