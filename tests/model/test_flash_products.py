"""Layouts of words, and each product and softmax in registers, against numpy on the numbers that they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jielong.data.compiled import kernel
from jielong.data.emitters import address
from jielong.model import flash_products as products
from jielong.model.flash_products import BLOCK, PART, SUPPORTED, UNSEEN

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="no AVX512_BF16 here")

SIZES = (32, 64, 96)


def aligned(shape: Any, kind: Any = np.float32) -> Any:
    """Memory that begins at 64 bytes, of sevens."""
    count = int(np.prod(shape)) * np.dtype(kind).itemsize
    memory = np.zeros(count + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + count].view(kind).reshape(shape)
    found[:] = 7
    return found


def halves(*shape: int, seed: int = 0) -> tuple[Any, Any]:
    """Bits of bfloat16 numbers, and the numbers."""
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    bits = (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def widened(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def turned(bits: Any) -> Any:
    """(rows, D) -> (D / 2, rows) words, in numpy."""
    return np.ascontiguousarray(np.ascontiguousarray(bits).view(np.uint32).T)


def paired(bits: Any) -> Any:
    """(rows, 32) -> (rows / 2, 32) words, in numpy."""
    return bits[0::2].astype(np.uint32) | bits[1::2].astype(np.uint32) << 16


keep = kernel(lambda a, step, rows, chunks, out: products.keep(address(a), step, rows, chunks, address(out)))
interleave = kernel(lambda a, step, out: products.interleave(address(a), step, address(out)))
turn = kernel(lambda a, step, out, far: products.turn(address(a), step, address(out), far))
round_rows = kernel(
    lambda a, rows, chunks, f, out, step: products.round_rows(address(a), rows, chunks, address(f), address(out), step)
)
dots = kernel(lambda a, b, step, rows, chunks, out: products.dots(address(a), step, address(b), step, rows, chunks, address(out)))  # fmt: skip


def test_rows_are_kept_and_the_others_are_zero() -> None:
    bits, _ = halves(5, 200)
    out = aligned((BLOCK, 64), np.uint16)
    keep(bits, 400, 5, 2, out)
    assert np.array_equal(out[:5], bits[:, :64]) and not out[5:].any()


def test_layouts_are_those_of_numpy() -> None:
    bits, _ = halves(BLOCK, 40)
    pairs, words = aligned((BLOCK // 2, 32), np.uint32), aligned((16, 16), np.uint32)
    interleave(bits, 80, pairs)
    assert np.array_equal(pairs, paired(bits[:, :32]))
    turn(bits, 80, words, 64)
    assert np.array_equal(words, turned(bits[:16, :32]))


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_rounded_and_multiplied(size: int) -> None:
    numbers = aligned((BLOCK, size))
    numbers[:] = np.random.default_rng(size).standard_normal(numbers.shape)
    factors, out = np.linspace(-2, 2, BLOCK, dtype=np.float32), np.full((BLOCK, size + 1), 7, np.uint16)
    round_rows(numbers, BLOCK - 1, size // 32, factors, out, 2 * size + 2)
    exact = numbers[:-1] * factors[:-1, None]
    assert np.abs(widened(out[:-1, :size]) - exact).max() <= np.abs(exact).max() * 2.0**-8
    assert (out[:, size] == 7).all() and (out[-1] == 7).all()
    (a, a_numbers), (b, b_numbers), sums = halves(9, size), halves(9, size, seed=1), np.zeros(9, np.float32)
    dots(a, b, 2 * size, 9, size // 32, sums)
    np.testing.assert_allclose(sums, (a_numbers.astype(np.float64) * b_numbers).sum(axis=1), atol=1e-5)


@kernel
def _add(a, b, steps, out, row, left, rows, scaled):  # type: ignore[no-untyped-def]
    if scaled:
        products.add_products(4, 128, address(a), address(b), steps, address(out), row, address(left))
    elif rows:
        products.add_products(64, 4, address(a), address(b), steps, address(out), row, None)
    else:
        products.add_products(4, 128, address(a), address(b), steps, address(out), row, None)


@pytest.mark.parametrize(("rows", "scaled"), [(False, False), (False, True), (True, False)])
def test_products_are_added(rows: bool, scaled: bool) -> None:
    (a, a_numbers), (b, b_numbers) = halves(PART, 2 * 16), halves(2 * 16, 32, seed=1)
    if rows:
        left_side = aligned((PART, 32), np.uint16)  # words of a row behind each other
        left_side[:] = a
    else:
        left_side = aligned((16, 32), np.uint32)
        left_side[:, :PART] = turned(a)
    right, out, factors = aligned((16, 32), np.uint32), aligned((PART, 48)), np.linspace(0, 2, PART, dtype=np.float32)
    right[:] = paired(b)
    _add(left_side, right, 16, out, 192, factors, rows, scaled)
    before = 7 * (factors[:, None] if scaled else 1)
    np.testing.assert_allclose(out[:, :32], before + a_numbers.astype(np.float64) @ b_numbers, atol=1e-4)
    assert (out[:, 32:] == 7).all()


@kernel
def _forward(keys, queries, masked, key, query, firsts, scores, state, factor, weights):  # type: ignore[no-untyped-def]
    steps = keys.shape[0]
    products.make_scores(
        address(keys), address(queries), steps, np.int64(masked), key, query, address(firsts), address(scores), address(state)
    )  # fmt: skip
    products.soften(address(scores), PART // 2, factor, address(state), address(weights))


@kernel
def _backward(keys, values, queries, given, factor, masked, key, query, firsts, state, weights, rows, words):  # type: ignore[no-untyped-def]
    steps = keys.shape[0]
    products.make_gradients(
        address(keys), address(values), address(queries), address(given), steps, factor, np.int64(masked), key, query,
        address(firsts), address(state), address(weights), address(rows), address(words),
    )  # fmt: skip


class Part:
    """PART keys (a panel's second half) and BLOCK queries, as numbers and laid out."""

    def __init__(self, size: int) -> None:
        self.layouts, self.numbers = [], []
        for seed, rows in enumerate((16, 16, BLOCK, BLOCK)):  # keys, values, queries, gradients
            bits, numbers = halves(rows, size, seed=seed)
            layout = aligned((size // 2, rows), np.uint32)
            layout[:] = turned(bits)
            self.layouts.append(layout[:, PART:] if rows == 16 else layout)
            self.numbers.append((numbers[PART:] if rows == 16 else numbers).astype(np.float64))
        self.firsts = aligned(BLOCK, np.int32)
        self.firsts[:] = np.minimum(np.arange(BLOCK) // 5 * 3, 12)


def seen(part: Part, key: int, query: int) -> Any:
    places = key + np.arange(PART)[:, None]
    return (places <= query + np.arange(BLOCK)) & (places >= part.firsts)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_weights_of_a_part(masked: bool, size: int) -> None:
    part, factor = Part(size), np.float32(0.3)
    scores, state, weights = aligned((PART, BLOCK)), aligned((4, BLOCK)), aligned((PART // 2, BLOCK), np.uint32)
    state[:2], state[2:] = 0.5, 1.5
    keys, _, queries, _ = part.layouts
    _forward(keys, queries, masked, 8, 4, part.firsts, scores, state, factor, weights)
    shown = seen(part, 8, 4) if masked else np.ones((PART, BLOCK), bool)
    exact = np.where(shown, part.numbers[0] @ part.numbers[2].T, UNSEEN)
    np.testing.assert_allclose(scores, exact, atol=1e-4)
    most = np.maximum(0.5, exact.max(axis=0))
    shares, left = 2 ** (0.3 * (exact - most)), 2 ** (0.3 * (0.5 - most))
    np.testing.assert_allclose(state, [most, most, 1.5 * left + shares.sum(axis=0), left], rtol=1e-4)
    found = np.empty((PART, BLOCK), np.float32)
    found[0::2], found[1::2] = widened(weights & 0xFFFF), widened(weights >> 16)
    np.testing.assert_allclose(found, shares, rtol=2.0**-8, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_of_a_part(masked: bool, size: int) -> None:
    part, factor = Part(size), np.float32(0.1)
    state = aligned((3, BLOCK))
    state[0], state[1] = 1.5, 0.25
    weights, rows = aligned((PART, BLOCK), np.uint16), aligned((PART, BLOCK), np.uint16)
    words = aligned((PART // 2, BLOCK), np.uint32)
    _backward(*part.layouts, factor, masked, 8, 4, part.firsts, state, weights, rows, words)
    keys, values, queries, given = part.numbers
    shown = seen(part, 8, 4) if masked else np.ones((PART, BLOCK), bool)
    shares = np.where(shown, 2 ** (0.1 * (keys @ queries.T) - 1.5), 0)
    np.testing.assert_allclose(widened(weights), shares, rtol=2.0**-8)
    exact = shares * (values @ given.T - state[1])
    np.testing.assert_allclose(widened(rows), exact, rtol=2.0**-8, atol=1e-4)
    assert np.array_equal(words, paired(rows))


def test_what_is_no_number_stays_none_and_exponentials_are_exact() -> None:
    """Scores from -200 to 0 of one key each; then a number that is none."""
    state, weights = aligned((4, BLOCK)), aligned((PART // 2, BLOCK), np.uint32)
    scores = aligned((PART, BLOCK))
    scores[:] = np.linspace(-200, 0, PART * BLOCK, dtype=np.float32).reshape(PART, BLOCK)
    state[:2], state[2:] = 0, 0
    _soften(scores, np.float32(1), state, weights)
    np.testing.assert_allclose(state[2], 2.0 ** scores.astype(np.float64)[-1], rtol=1e-6)  # the others are much smaller
    scores[3, 5] = np.nan
    _soften(scores, np.float32(1), state, weights)
    assert np.isnan(state[2, 5]) and np.isfinite(np.delete(state[2], 5)).all()


@kernel
def _soften(scores, factor, state, weights):  # type: ignore[no-untyped-def]
    products.soften(address(scores), PART // 2, factor, address(state), address(weights))
