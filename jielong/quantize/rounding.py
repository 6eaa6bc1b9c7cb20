"""Rounding to nearest: every group of a row by itself, without looking at any text. What the other methods have to be better than.

The grid is GPTQ's, so that both can be compared at the same size and are written in the same form: 2^bits values; symmetric around
the middle one, as wide as the largest weight; or from the smallest to the largest weight, with a zero of its own. Scales
are rounded to 16 bits first, as files hold them, so that what is measured is what is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.model.quantized.linear import Integers

SMALLEST = 2.0**-24  # above 0 in float16


def grid(matrix_OC: Tensor, bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Scales (O, N) float32, of 16 bits, and zeros (O, N) uint8 of a matrix; group: columns of each."""
    most = 2**bits - 1
    grouped = matrix_OC.float().view(len(matrix_OC), -1, group)
    low, high = grouped.amin(dim=-1).clamp_max(0), grouped.amax(dim=-1).clamp_min(0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scales = ((high - low) / most).half().float().clamp_min(SMALLEST)
    middle = torch.full_like(scales, (most + 1) / 2)
    zeros = middle if symmetric else (-low / scales).round().clamp(0, most)
    return scales, zeros.to(torch.uint8)


def round_to_nearest(matrix_OC: Tensor, bits: int, group: int, symmetric: bool = True) -> Integers:
    """A matrix as integers. group: columns that share a scale; it divides the columns."""
    scales, zeros = grid(matrix_OC, bits, group, symmetric)
    grouped = matrix_OC.float().view(len(matrix_OC), -1, group)
    codes = (grouped / scales[..., None]).round() + zeros[..., None].float()
    codes = codes.clamp(0, 2**bits - 1).to(torch.uint8).view(matrix_OC.shape)
    return Integers(codes, scales, zeros, bits)
