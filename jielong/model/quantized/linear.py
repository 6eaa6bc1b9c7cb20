"""A linear layer whose matrix is integers of few bits: W = (codes - zeros) x scales, a scale and a zero for each group of columns of a row.

GPTQ, AWQ and rounding to nearest come to this form (files.py), and so do matrices of signs and of -1, 0, 1 (signs.py), which besides
multiply each column of the input by a number of its own, or round the input to 8 bits. In memory a code takes half a byte, or one where it has
8 bits. Three ways of the same product:

- decoding token by token on the CPU has kernels of its own, in float32, that read this memory (infer/compiled/);
- few rows in bfloat16 on the CPU: torch's packed products (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`), which read the integers. They
  are private to torch, so each is tried once, and where it is gone or refuses the shape the next way is taken. Not in float32, where
  they are slower than what follows (3.5 ms beside 0.2 for one row of 2,048 x 2,048);
- everything else: the matrix is made again, in the type of the activations, and thrown away after the product.

Shapes: O outputs, C columns (inputs), N groups of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.model.quantized.packing import halve, whole

FEW_ROWS = 16  # of activations in bfloat16, up to which reading integers is faster than making the matrix again
PACKED_GROUPS = (32, 64, 128, 256)  # that torch's product of 4 bits knows
_private = torch.ops.aten


class Integers(NamedTuple):
    """A matrix as integers: what a method made, and what a file holds."""

    codes_OC: Tensor  # uint8, each below 2^bits
    scales_ON: Tensor  # float32
    zeros_ON: Tensor  # uint8: the code that means 0
    bits: int
    order_C: Tensor | None = (
        None  # act order: column c of the codes belongs to column order[c] of the matrix; None: to column c
    )

    @property
    def group(self) -> int:
        """Columns that share a scale."""
        return self.codes_OC.shape[1] // self.scales_ON.shape[1]

    def matrix(self) -> Tensor:
        """W, (O, C) float32."""
        rows, columns = self.codes_OC.shape
        grouped = self.codes_OC.view(rows, -1, self.group).float()
        out = ((grouped - self.zeros_ON[..., None].float()) * self.scales_ON[..., None]).view(rows, columns)
        if self.order_C is None:
            return out
        back = torch.empty_like(out)
        back[:, self.order_C] = out
        return back


class QuantizedLinear(nn.Module):
    """y = x W^T + b with W as Integers. Nothing of it asks for a gradient; gradients to x go through."""

    codes: Tensor
    scales: Tensor
    zeros: Tensor
    order: Tensor | None
    bias: Tensor | None

    factors: Tensor | None

    def __init__(
        self, integers: Integers, bias: Tensor | None = None, factors_C: Tensor | None = None, rounded: bool = False
    ) -> None:
        """factors_C: the input is multiplied by these first. rounded: the input is rounded to 8 bits, each token by its largest number."""
        super().__init__()
        self.rounded = rounded
        codes = integers.codes_OC
        self.out_features, self.in_features = codes.shape
        self.bits, self.group = integers.bits, integers.group
        self.halved = integers.bits <= 4 and self.group % 32 == 0
        self.register_buffer("codes", halve(codes) if self.halved else codes.contiguous(), persistent=False)
        self.register_buffer("scales", integers.scales_ON.float().contiguous(), persistent=False)
        self.register_buffer("zeros", integers.zeros_ON.contiguous(), persistent=False)
        self.register_buffer("order", integers.order_C, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("factors", factors_C, persistent=False)
        self._packed: tuple[Tensor, ...] | None = None
        self._tried = False

    def _apply(self, fn: Any, recurse: bool = True) -> QuantizedLinear:
        """Moves the layer; scales stay float32 whatever type is asked for."""
        scales = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        self.scales = scales.to(self.codes.device)
        self._packed, self._tried = None, False
        return self

    @property
    def integers(self) -> Integers:
        """The matrix as integers."""
        codes = whole(self.codes) if self.halved else self.codes
        return Integers(codes, self.scales, self.zeros, self.bits, self.order)

    @property
    def weight(self) -> Tensor:
        """W made again, (O, C) float32; with the factors of the input, where there are some."""
        matrix = self.integers.matrix()
        return matrix if self.factors is None else matrix * self.factors

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O), in x's type, or autocast's."""
        if self.factors is not None:
            x = x * self.factors.to(x.dtype)
        if self.rounded:
            x = rounded_inputs(x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        few = x.numel() <= FEW_ROWS * self.in_features and x.device.type == "cpu" and x.dtype == torch.bfloat16
        if few and not (torch.is_grad_enabled() and x.requires_grad) and (packed := self._pack()) is not None:
            return self._product(x, packed)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.integers.matrix().to(x.dtype), bias)

    def _product(self, x: Tensor, packed: tuple[Tensor, ...]) -> Tensor:
        flat = x.reshape(-1, self.in_features)
        flat = (flat if self.order is None else flat[:, self.order]).contiguous()
        if self.bits == 8:
            out: Tensor = _private._weight_int8pack_mm(flat, *packed)
        else:
            out = _private._weight_int4pack_mm_for_cpu(flat, packed[0], self.group, packed[1])
        if self.bias is not None:
            out = out + self.bias.to(out.dtype)
        return out.view(*x.shape[:-1], self.out_features)

    def _pack(self) -> tuple[Tensor, ...] | None:
        """What torch's packed product takes, made once; None where there is none for this matrix."""
        if not self._tried:
            self._tried = True
            try:
                self._packed = packed_for(self.integers)
                if self._packed is not None:
                    self._product(torch.zeros(1, self.in_features, dtype=torch.bfloat16), self._packed)
            except (AttributeError, NotImplementedError, RuntimeError):  # gone, or refuses
                self._packed = None
        return self._packed

    def extra_repr(self) -> str:
        """What print shows of the layer."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, group={self.group}"


def rounded_inputs(x: Tensor) -> Tensor:
    """Each token's numbers as 8-bit integers times its own scale, as BitNet b1.58 has them (arXiv:2402.17764); gradients go through."""
    wide = x.float()
    scale = 127 / wide.detach().abs().amax(dim=-1, keepdim=True).clamp_min(1e-5)
    return (wide + ((wide * scale).round().clamp(-128, 127) / scale - wide).detach()).to(x.dtype)


def packed_for(integers: Integers) -> tuple[Tensor, ...] | None:
    """Arguments of torch's packed product of bfloat16 behind the activations; None for a form that it does not know."""
    codes, scales, zeros, bits, _ = integers
    if bits == 8:
        if integers.group != codes.shape[1] or not bool((zeros == 128).all()):
            return None
        return (codes.to(torch.int16) - 128).to(torch.int8).contiguous(), scales[:, 0].bfloat16().contiguous()
    if integers.group not in PACKED_GROUPS or len(codes) % 16:
        return None
    shift = (8.0 - zeros.float()) * scales  # it means (code - 8) x scale + shift
    packed: Tensor = _private._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    return packed, torch.stack([scales, shift], dim=-1).transpose(0, 1).bfloat16().contiguous()
