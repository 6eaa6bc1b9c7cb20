"""Norms, rotations and gates of training on a CPU by compiled kernels, with their gradients; and when they are used.

Beside its matrix products a step of a small model is bound by memory. torch makes an RMSNorm of six operations, each of which writes a new
tensor, and on a CPU memory that was just taken costs more than what is done with it (4 MB: 0.12 ms to write, 0.52 ms with the page
faults). A kernel of one pass does the norm of 2,048 x 512 numbers in 0.2 ms where torch takes 4.9. docs/LOG.md has the whole step.

`usable` says when: tensors of the CPU, float32 or bfloat16, in eager mode; everything else goes the plain way, which is the slow
twin. Results equal the plain way's to rounding, and do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jielong.model import fused_kernels as kernels
from jielong.threads import share

LEAST = 1 << 17  # numbers; below, another thread costs more than it brings
PARTS = 8  # of a sum over rows, whatever the number of threads
KINDS = (torch.float32, torch.bfloat16)


def usable(*tensors: Tensor) -> bool:
    """Whether to go this way: where gradients are wanted, and kernels take these."""
    return torch.is_grad_enabled() and usable_in_kernels(*tensors)


def usable_in_kernels(*tensors: Tensor) -> bool:
    """Whether kernels take these."""
    return not torch.compiler.is_compiling() and all(
        tensor.device.type == "cpu" and tensor.dtype in KINDS and tensor.numel() and not _wrapped(tensor)
        for tensor in tensors
    )


def _wrapped(tensor: Tensor) -> bool:
    """Whether a tensor is not plain memory (sharded, fake, ...)."""
    return type(tensor) not in (Tensor, nn.Parameter)


def array(tensor: Tensor) -> Any:
    """A tensor's memory for a kernel: float32, or the bits of bfloat16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _copied(weight: Tensor) -> Any:
    """A vector of weights for a kernel: a copy, since FSDP frees the memory of gathered ones, which torch forbids once numpy saw it."""
    return weight.detach().float().clone().numpy()


def in_threads(work: Callable[[int, int], Any], rows: int, numbers: int) -> None:
    """work(begin, end) over all rows, in torch's number of threads where there is enough to do."""
    share(work, rows, torch.get_num_threads() if numbers >= LEAST else 1)


def norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """RMSNorm over the last dimension, in `dtype`."""
    out: Tensor = _Norm.apply(x, weight, epsilon, dtype)  # type: ignore[no-untyped-call]  # torch's
    return out


def rotated(x_BTHD: Tensor, cos_B1TD: Tensor, sin_B1TD: Tensor) -> Tensor:
    """`positions.rotate` of heads that are still behind their tokens: (B, H, T, D), in x's type.

    Angles get no gradients: where they are learned (CLEX) it is not for them.
    """
    assert not cos_B1TD.requires_grad and not sin_B1TD.requires_grad
    out: Tensor = _Rotation.apply(x_BTHD, cos_B1TD, sin_B1TD)  # type: ignore[no-untyped-call]  # torch's
    return out


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    out: Tensor = _Gate.apply(gate, up)  # type: ignore[no-untyped-call]  # torch's
    return out


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        x_RN = x.detach().contiguous().view(-1, x.shape[-1])
        out, scale_R = torch.empty(x_RN.shape, dtype=dtype), torch.empty(len(x_RN))
        given = (array(x_RN), _copied(weight), np.float32(epsilon), array(out), array(scale_R))
        in_threads(lambda begin, end: kernels.norm_forward(*given, begin, end), len(x_RN), x_RN.numel())
        ctx.save_for_backward(x_RN, weight, scale_R)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x_RN, weight, scale_R = ctx.saved_tensors
        shape, given = outer[0].shape, outer[0].contiguous().view(x_RN.shape)
        dx, sums = torch.empty_like(x_RN), torch.zeros(PARTS, x_RN.shape[-1])
        arrays = (array(x_RN), _copied(weight), array(scale_R), array(given), array(dx))
        parts, rows = array(sums), len(x_RN)

        def work(first: int, last: int) -> None:
            for part in range(first, last):
                kernels.norm_backward(*arrays, parts[part], rows * part // PARTS, rows * (part + 1) // PARTS)

        in_threads(work, PARTS, x_RN.numel())
        return dx.view(shape), sums.sum(dim=0).to(weight.dtype), None, None


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHD: Tensor, cos_B1TD: Tensor, sin_B1TD: Tensor) -> Tensor:
        x = x_BTHD.detach().contiguous()
        rows, length, heads, size = x.shape
        out = torch.empty(rows, heads, length, size, dtype=x.dtype)
        ctx.angles = array(cos_B1TD[:, 0].contiguous()), array(sin_B1TD[:, 0].contiguous())
        arrays = (array(x), *ctx.angles, array(out))
        in_threads(lambda begin, end: kernels.rotate_forward(*arrays, begin, end), rows * length, x.numel())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        given = outer[0].contiguous()
        rows, heads, length, size = given.shape
        dx = torch.empty(rows, length, heads, size, dtype=given.dtype)
        arrays = (array(given), *ctx.angles, array(dx))
        in_threads(lambda begin, end: kernels.rotate_backward(*arrays, begin, end), rows * length, given.numel())
        return dx, None, None


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.detach().contiguous(), up.detach().contiguous()
        out = torch.empty_like(gate)
        arrays = [array(x.view(-1, x.shape[-1])) for x in (gate, up, out)]
        in_threads(lambda begin, end: kernels.gate_forward(*arrays, begin, end), len(arrays[0]), gate.numel())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        given = outer[0].contiguous()
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        arrays = [array(x.view(-1, x.shape[-1])) for x in (gate, up, given, dgate, dup)]
        in_threads(lambda begin, end: kernels.gate_backward(*arrays, begin, end), len(arrays[0]), gate.numel())
        return dgate, dup
