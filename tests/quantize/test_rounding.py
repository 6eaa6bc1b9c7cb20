"""Rounding to nearest, number by number."""

from __future__ import annotations

import pytest
import torch

from jielong.quantize.rounding import grid, round_to_nearest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_weight_is_further_than_half_a_step(bits: int, symmetric: bool) -> None:
    matrix = torch.randn(16, 64, generator=torch.Generator().manual_seed(bits))
    integers = round_to_nearest(matrix, bits, 32, symmetric)
    assert int(integers.codes_OC.max()) < 2**bits
    steps = integers.scales_ON.repeat_interleave(32, dim=1)
    # half a step; a whole one at the upper end, which the grid around the middle does not reach, and what a rounded zero moves
    room = 1.0 if symmetric else 1.01
    assert bool(((integers.matrix() - matrix).abs() <= steps * room + 1e-6).all())
    inner = (integers.codes_OC > 0) & (integers.codes_OC < 2**bits - 1)
    assert bool(((integers.matrix() - matrix).abs()[inner] <= steps[inner] * 0.5 + 1e-6).all())


def test_by_hand() -> None:
    row = torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 0.26, 0.24, -0.9]])
    integers = round_to_nearest(row, 2, 8)  # four values, scale 2/3, zero 2
    scale = float(torch.tensor(2 / 3).half())
    assert integers.codes_OC.tolist() == [[0, 1, 2, 3, 3, 2, 2, 1]]
    assert float(integers.scales_ON) == scale and int(integers.zeros_ON) == 2


def test_scales_are_of_16_bits_and_never_zero() -> None:
    scales, zeros = grid(torch.zeros(2, 8), 4, 8, True)
    assert bool((scales > 0).all()) and torch.equal(scales, scales.half().float())
    assert round_to_nearest(torch.zeros(2, 8), 4, 8).matrix().abs().sum() == 0
    assert zeros.tolist() == [[8], [8]]


def test_a_row_all_on_one_side_keeps_zero_in_its_range() -> None:
    integers = round_to_nearest(torch.full((1, 8), 5.0), 4, 8, symmetric=False)
    assert int(integers.zeros_ON) == 0
    assert torch.allclose(integers.matrix(), torch.full((1, 8), 5.0), atol=1e-2)
