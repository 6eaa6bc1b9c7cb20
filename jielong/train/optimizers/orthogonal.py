"""The nearest orthogonal matrix, roughly: Newton-Schulz in a few matrix products, for many matrices at once.

A polynomial that takes every singular value towards 1 and leaves the singular vectors alone: X <- a X + b (X X^T) X +
c (X X^T)^2 X, five times, with the coefficients of Keller Jordan (https://kellerjordan.github.io/posts/muon), which trade
exactness (values end between 0.7 and 1.2) for speed at the small ones. A matrix is divided by its Frobenius norm first. It is
laid on its side where it is higher than wide: the products are then min(A, B) wide, 4 m^2 n + 2 m^3 operations an iteration. It
is copied so, not seen so: on the CPU a product in bfloat16 with a transposed result takes 700 times as long (4 of 512 x 192: 7.3 s
against 10 ms).

bfloat16 is enough (torch.optim.Muon has no other), float32 where a device is slow at it. Matrices of one shape go through
together, in runs of at most `RUN` elements, with results written into places that are taken once: a run of 4 M elements
takes 32 MB at most. Measured on a CPU (2 threads, AVX-512 bfloat16, torch 2.13, 32 matrices of 512 x 512, best of 3): 364 ms one by
one, 363 ms in runs; in float32 706 and 801 ms. On a GPU a small matrix alone leaves most of the card idle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

A, B, C = 3.4445, -4.7750, 2.0315
STEPS = 5
TINY = 1e-7  # the least norm that is divided by
RUN = 1 << 22  # elements that go through together


def orthogonal(matrices: Sequence[Tensor], dtype: torch.dtype) -> Sequence[Tensor]:
    """Matrices of one shape, each made roughly orthogonal, in this type. The given ones stay as they are."""
    high, wide = matrices[0].shape
    return upright(newton_schulz(laid(matrices, dtype)), (high, wide))


def laid(matrices: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """Copies of matrices of one shape in this type, on their side where they are higher than wide: (N, min, max)."""
    high, wide = matrices[0].shape
    x_NMK = torch.empty(len(matrices), min(high, wide), max(high, wide), dtype=dtype, device=matrices[0].device)
    torch._foreach_copy_((x_NMK.mT if high > wide else x_NMK).unbind(0), list(matrices))
    return x_NMK


def upright(x_NMK: Tensor, shape: tuple[int, int]) -> Sequence[Tensor]:
    """What `laid` made of matrices of this shape, as they stood."""
    return (x_NMK.mT if shape[0] > shape[1] else x_NMK).unbind(0)


def newton_schulz(x_NMK: Tensor) -> Tensor:
    """Each of N matrices that are at least as wide as high made roughly orthogonal. The argument is used up."""
    x_NMK.div_(torch.linalg.vector_norm(x_NMK, dim=(-2, -1), keepdim=True).clamp(min=TINY))
    other_NMK = torch.empty_like(x_NMK)
    gram_NMM = x_NMK.new_empty(len(x_NMK), x_NMK.shape[1], x_NMK.shape[1])
    both_NMM = torch.empty_like(gram_NMM)
    for _ in range(STEPS):
        torch.bmm(x_NMK, x_NMK.mT, out=gram_NMM)
        torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=B, alpha=C, out=both_NMM)
        torch.baddbmm(x_NMK, both_NMM, x_NMK, beta=A, out=other_NMK)
        x_NMK, other_NMK = other_NMK, x_NMK
    return x_NMK


def runs(shapes: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """The numbers of matrices of these shapes, in runs of one shape and at most `RUN` elements (or one matrix)."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        by_shape.setdefault(shape, []).append(number)
    for (high, wide), numbers in by_shape.items():
        most = max(1, RUN // (high * wide))
        for start in range(0, len(numbers), most):
            yield numbers[start : start + most]
