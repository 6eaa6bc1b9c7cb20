"""Attention of packed rows in bfloat16 on a CPU that multiplies pairs of it (AVX512_BF16): `flash_kernels.py` as a torch function.

Kept for the way back are queries, keys, values, the result and a number a query and head. The result lies token by token, as the output
projection reads it, so that it is the same memory that the projection keeps. The slow twin is `tiles.py`'s other way.

Shapes: B rows, T tokens, H query heads, G key-value heads, D size of a head.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jielong.model import flash_kernels as kernels
from jielong.model import fused
from jielong.model.flash_products import SUPPORTED


def usable(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor) -> bool:
    """Whether this way is there: values in bfloat16, heads of a multiple of 32, a processor that has the instruction."""
    fits = SUPPORTED and v_BGTD.dtype == torch.bfloat16 and v_BGTD.shape[-1] % 32 == 0
    return fits and fused.usable_in_kernels(q_BHTD, k_BGTD, v_BGTD)


def flash_attention(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, earliest_BT: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys from `earliest` (int32; it does not fall along a row) to each query: (B, H, T, D)."""
    out: Tensor = _Flash.apply(q_BHTD, k_BGTD, v_BGTD, earliest_BT)  # type: ignore[no-untyped-call]  # torch's
    return out


class _Flash(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, earliest_BT: Tensor) -> Tensor:
        rows, heads, length, size = q_BHTD.shape
        q, k, v = (_readable(x) for x in (q_BHTD, k_BGTD, v_BGTD))
        out = torch.empty_strided(q.shape, (length * heads * size, size, heads * size, 1), dtype=v.dtype)
        logs = torch.empty(rows, heads, length)
        _in_threads(kernels.forward, [q, k, v, out], k.shape[1], earliest_BT, logs)
        ctx.save_for_backward(q, k, v, out, logs, earliest_BT)
        ctx.types = q_BHTD.dtype, k_BGTD.dtype, v_BGTD.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, logs, earliest_BT = ctx.saved_tensors
        gradients = [torch.empty_like(x) for x in (q, k, v)]
        _in_threads(kernels.backward, [q, k, v, out, _readable(outer[0]), *gradients], k.shape[1], earliest_BT, logs)
        return *(x.to(kind) for x, kind in zip(gradients, ctx.types, strict=True)), None


def _readable(x: Tensor) -> Tensor:
    """In bfloat16, numbers of a head next to each other."""
    x = x.detach().to(torch.bfloat16)
    return x if x.stride(-1) == 1 else x.contiguous()


def _in_threads(kernel: Any, tensors: list[Tensor], groups: int, earliest_BT: Tensor, logs: Tensor) -> None:
    rows, heads, length, size = tensors[0].shape
    places = np.array([[x.data_ptr(), *(2 * stride for stride in x.stride()[:3])] for x in tensors], np.int64)
    sizes = np.array([heads, groups, length, size], np.int64)
    given = places, sizes, fused.array(earliest_BT), np.float32(1 / math.sqrt(size)), fused.array(logs)
    fused.in_threads(lambda begin, end: kernel(*given, begin, end), rows * groups, rows * heads * length * size)
