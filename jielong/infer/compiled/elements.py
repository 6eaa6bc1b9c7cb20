"""What is done number by number: norms, rotations, softmax, the mixing of values. Loops that the compiler vectorises by itself.

Sums that are long have their order fixed by `products`; the others are short. Nothing here allows the compiler to reorder.
"""

from __future__ import annotations

import numpy as np
from numba import carray  # type: ignore[attr-defined]  # numba names no exports

from jielong.data.compiled import kernel
from jielong.data.emitters import address
from jielong.infer.compiled.vectors import float_of_bits, pointer, products


@kernel
def exponential(x: np.float32) -> np.float32:
    """e^x, float32, without branches, so that loops of it are vectorised; relative error below 3e-7 (test), x >= -87."""
    bounded = min(max(x, np.float32(-87.0)), np.float32(88.0))
    whole = np.floor(bounded * np.float32(1.4426950408889634) + np.float32(0.5))
    # ln 2 in two parts (Cody and Waite), the first one exact in few bits
    rest = bounded - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    value = np.float32(1 / 5040)
    value = value * rest + np.float32(1 / 720)
    value = value * rest + np.float32(1 / 120)
    value = value * rest + np.float32(1 / 24)
    value = value * rest + np.float32(1 / 6)
    value = value * rest + np.float32(0.5)
    value = value * rest + np.float32(1.0)
    value = value * rest + np.float32(1.0)
    power: np.float32 = float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
    result: np.float32 = value * power
    return result


@kernel
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """out = x. (numba's own assignment of arrays takes seconds to compile, for the message of an error that cannot be.)"""
    for c in range(x.shape[0]):
        out[c] = x[c]


@kernel
def normalise(x: np.ndarray, weight: int, eps: np.float32, out: np.ndarray) -> None:
    """RMSNorm of one row: x / sqrt(mean(x^2) + eps) * weight."""
    size = x.shape[0]
    weights = carray(pointer(weight), (size,), np.float32)
    first = x[0]
    products(
        0, 1, 1, 4, address(x), 0, address(x), 0, size, address(out), 0
    )  # the sum of squares, in out[0] for a moment
    scale = np.float32(1.0) / np.sqrt(out[0] / np.float32(size) + eps)
    if address(out) == address(x):
        out[0] = first
    for c in range(size):
        out[c] = x[c] * scale * weights[c]


@kernel
def normalise_rows(x_BC: np.ndarray, weight: int, eps: np.float32, out_BC: np.ndarray) -> None:
    """RMSNorm of each row. Every thread does it for itself: cheaper than to wait for one another."""
    for b in range(x_BC.shape[0]):
        normalise(x_BC[b], weight, eps, out_BC[b])


@kernel
def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    """Turn each pair (x[d], x[d + D/2]) by its angle, in place."""
    half = cos.shape[0]
    for d in range(half):
        left, right = x[d], x[d + half]
        x[d] = left * cos[d] - right * sin[d]
        x[d + half] = right * cos[d] + left * sin[d]


@kernel
def soften(scores: np.ndarray, slope: np.float32) -> None:
    """Softmax in place, after ALiBi's slope x distance is taken off. The last key is the query's own."""
    count = scores.shape[0]
    if slope != 0:
        for s in range(count):
            scores[s] -= slope * np.float32(count - 1 - s)
    highest = scores[0]
    for s in range(count):
        highest = max(highest, scores[s])
    total = np.float32(0.0)
    for s in range(count):
        scores[s] = exponential(scores[s] - highest)
    for s in range(count):
        total += scores[s]
    scale = np.float32(1.0) / total
    for s in range(count):
        scores[s] *= scale


@kernel
def mix(weights: np.ndarray, v_SD: np.ndarray, first: int, last: int, out: np.ndarray) -> None:
    """out = sum of weights[s] v[s] over s in [first, last); four keys in each pass over out."""
    size, s = out.shape[0], first
    for d in range(size):
        out[d] = np.float32(0.0)
    while s + 4 <= last:
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for d in range(size):
            out[d] += (w0 * v_SD[s, d] + w1 * v_SD[s + 1, d]) + (w2 * v_SD[s + 2, d] + w3 * v_SD[s + 3, d])
        s += 4
    while s < last:
        for d in range(size):
            out[d] += weights[s] * v_SD[s, d]
        s += 1
