"""Quantizers to q4_k and q6_k in NumPy. The gguf package reads both and writes neither.

A row is cut into superblocks of 256 numbers. What is small in a superblock is a scale of its own for every few numbers, itself
an integer of 6 or 8 bits; what is large is one or two half-precision numbers for all of them:

    q4_k   8 groups of 32:   x = d s q - m t q in 0..15;   s, t in 0..63, d and m float16      4.5 bits a number
    q6_k  16 groups of 16:   x = d s (q - 32),  q in 0..63; s in -128..127, d float16          6.5625 bits a number

Rounding to the grid between a group's extremes is not best: for the sum of squared errors an outlier may be worth less than a
finer grid for the rest. So for each group some grids around that one are tried; for each, the integers are rounded, and the scale (and
minimum) that fit them best are the solution of a line of best fit in closed form; the grid with the least error is taken. The
error counts more where a number is large: it is weighted by |x| plus the root mean square of the superblock, since large weights
move outputs most.

Bytes are laid out as gguf.quants' dequantize_blocks reads them, which the tests decode with. Cost: about TRIES times a plain
rounding, some millions of numbers a second.

Shapes, as suffixes: N superblocks, G groups of one, n numbers of a group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SUPERBLOCK = 256
TRIES = 16  # grids that are tried for each group
BLOCKS_AT_ONCE = 4096  # superblocks: 1 M numbers, some 50 MB while they are tried

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def quantize_q4_k(rows: Floats) -> Bytes:
    """Rows (..., C) as q4_k, (..., C / 256 x 144) bytes. C must be a multiple of 256."""
    return _in_parts(rows, _q4_k, 144)


def quantize_q6_k(rows: Floats) -> Bytes:
    """Rows (..., C) as q6_k, (..., C / 256 x 210) bytes. C must be a multiple of 256."""
    return _in_parts(rows, _q6_k, 210)


def _in_parts(rows: Floats, quantizer: Any, size: int) -> Bytes:
    columns = rows.shape[-1]
    assert columns % SUPERBLOCK == 0, "the caller falls back to another kind"
    blocks = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, SUPERBLOCK)
    out = np.empty((len(blocks), size), np.uint8)
    for at in range(0, len(blocks), BLOCKS_AT_ONCE):
        out[at : at + BLOCKS_AT_ONCE] = quantizer(blocks[at : at + BLOCKS_AT_ONCE])
    return out.reshape(*rows.shape[:-1], columns // SUPERBLOCK * size)


def _weights(blocks: Floats, groups_NGn: Floats) -> Floats:
    """How much the error of each number counts, (N, G, n)."""
    mean = np.sqrt((blocks * blocks).mean(axis=1))[:, None, None]
    weights: Floats = np.abs(groups_NGn) + mean + np.float32(1e-30)
    return weights


def _divided(first: Floats, second: Floats) -> Floats:
    """first / second, 0 where second is 0."""
    quotient: Floats = np.divide(first, second, out=np.zeros_like(first), where=second != 0)
    return quotient


# --------------------------------------------------------------------------------------------------------- q4_k


def _q4_k(blocks: Floats) -> Bytes:
    """(N, 256) -> (N, 144): d, m, 12 bytes of scales and minima, 128 of integers."""
    groups = blocks.reshape(-1, 8, 32)
    scale, least = _fit_with_minimum(groups, _weights(blocks, groups), 15)
    d = (scale.max(axis=1, keepdims=True) / 63).astype(np.float16)
    m = (least.max(axis=1, keepdims=True) / 63).astype(np.float16)
    wide_d, wide_m = d.astype(np.float32), m.astype(np.float32)
    s = np.rint(_divided(scale, np.broadcast_to(wide_d, scale.shape))).clip(0, 63).astype(np.uint8)
    t = np.rint(_divided(least, np.broadcast_to(wide_m, least.shape))).clip(0, 63).astype(np.uint8)
    step, offset = (wide_d * s)[..., None], (wide_m * t)[..., None]
    q = np.rint(_divided(groups + offset, np.broadcast_to(step, groups.shape))).clip(0, 15).astype(np.uint8)
    packed = np.concatenate(
        [s[:, :4] | s[:, 4:] >> 4 << 6, t[:, :4] | t[:, 4:] >> 4 << 6, s[:, 4:] & 15 | (t[:, 4:] & 15) << 4], axis=1
    )
    pairs = q.reshape(-1, 4, 2, 32)  # the integers of two groups side by side: one in the low bits, one in the high
    integers = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(blocks), -1)
    return np.concatenate([d.view(np.uint8), m.view(np.uint8), packed, integers], axis=1)


def _fit_with_minimum(x: Floats, weights: Floats, top: int) -> tuple[Floats, Floats]:
    """Scale and minus the minimum of each group, (N, G) both, not negative, for x = scale q - minimum with q in 0..top."""
    low, high = np.minimum(x.min(axis=-1), 0), x.max(axis=-1)
    best_scale, best_least = (np.maximum(high - low, 0) / top).astype(np.float32), (-low).astype(np.float32)
    best = np.full(best_scale.shape, np.inf, np.float32)
    sum_w, sum_x = weights.sum(axis=-1), (weights * x).sum(axis=-1)
    for steps in (None, *np.linspace(top - 1.0, top + 1.2, TRIES)):
        if steps is None:
            scale, least = best_scale, best_least
        else:
            inverse = _divided(np.full_like(low, steps), high - low)[..., None]
            q = np.rint((x - low[..., None]) * inverse).clip(0, top)
            sum_q, sum_qq = (weights * q).sum(axis=-1), (weights * q * q).sum(axis=-1)
            sum_qx = (weights * q * x).sum(axis=-1)
            scale = _divided(sum_w * sum_qx - sum_x * sum_q, sum_w * sum_qq - sum_q * sum_q)
            least = -_divided(sum_qq * sum_x - sum_q * sum_qx, sum_w * sum_qq - sum_q * sum_q)
            alone = least < 0  # a minimum cannot be above 0: then the line goes through 0
            scale, least = np.where(alone, _divided(sum_qx, sum_qq), scale), np.where(alone, 0, least)
            scale = np.maximum(scale, 0)
        spread = np.broadcast_to(scale[..., None], x.shape)
        q = np.rint(_divided(x + least[..., None], spread)).clip(0, top)
        error = (weights * (spread * q - least[..., None] - x) ** 2).sum(axis=-1)
        better = error < best
        best = np.where(better, error, best)
        best_scale, best_least = np.where(better, scale, best_scale), np.where(better, least, best_least)
    return best_scale, best_least


# --------------------------------------------------------------------------------------------------------- q6_k


def _q6_k(blocks: Floats) -> Bytes:
    """(N, 256) -> (N, 210): 128 bytes of low bits, 64 of high ones, 16 scales, d."""
    groups = blocks.reshape(-1, 16, 16)
    scale = _fit_symmetric(groups, _weights(blocks, groups), 32)
    widest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    d = (widest / -128).astype(np.float16)  # the widest scale is -128, so that its sign costs nothing
    wide = d.astype(np.float32)
    s = np.rint(_divided(scale, np.broadcast_to(wide, scale.shape))).clip(-128, 127).astype(np.int8)
    step = np.broadcast_to((wide * s)[..., None], groups.shape)
    q = (np.rint(_divided(groups, step)).clip(-32, 31) + 32).astype(np.uint8)
    halves = q.reshape(-1, 2, 4, 32)  # two halves of 128 numbers: four runs of 32
    low = np.concatenate([halves[:, :, 0] & 15 | (halves[:, :, 2] & 15) << 4,
                          halves[:, :, 1] & 15 | (halves[:, :, 3] & 15) << 4], axis=2)  # fmt: skip
    high = halves[:, :, 0] >> 4 | halves[:, :, 1] >> 4 << 2 | halves[:, :, 2] >> 4 << 4 | halves[:, :, 3] >> 4 << 6
    count = len(blocks)
    return np.concatenate([low.reshape(count, -1), high.reshape(count, -1), s.view(np.uint8), d.view(np.uint8)], axis=1)


def _fit_symmetric(x: Floats, weights: Floats, half: int) -> Floats:
    """Scale of each group, (N, G), of either sign, for x = scale q with q in -half..half - 1."""
    widest = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best_scale, best = (widest / -half).astype(np.float32), np.full(widest.shape, np.inf, np.float32)
    for steps in (None, *np.linspace(half - 1.0, half + 1.0, TRIES)):
        if steps is None:
            scale = best_scale
        else:
            q = np.rint(x * _divided(np.full_like(widest, -steps), widest)[..., None]).clip(-half, half - 1)
            scale = _divided((weights * q * x).sum(axis=-1), (weights * q * q).sum(axis=-1))
        spread = np.broadcast_to(scale[..., None], x.shape)
        q = np.rint(_divided(x, spread)).clip(-half, half - 1)
        error = (weights * (spread * q - x) ** 2).sum(axis=-1)
        better = error < best
        best, best_scale = np.where(better, error, best), np.where(better, scale, best_scale)
    return best_scale
