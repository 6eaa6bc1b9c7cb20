"""Linear layers in fp8: the three matrix products of each, forward and backward, on 8-bit tensor cores (Ada, Hopper and later).

Formats follow arXiv:2209.05433: e4m3 for activations and weights (3 bits of mantissa, up to 448), e5m2 for gradients (2 bits,
up to 57344). Each tensor gets one scale, the largest absolute value over the format's largest number, computed anew every time:
nothing to carry over from step to step or into a checkpoint, at the price of reading each operand once more. Products
accumulate and come out in bfloat16 (under autocast) or float32; the weights that the optimizer sees stay float32.

The hardware multiplies A by B transposed, both with their rows in memory one after another. So the forward product is as it lies
there, y = X W^T, and the others need a transposed copy of 1 byte a number each: dX = G (W^T)^T and dW = G^T (X^T)^T. Both
sizes must be multiples of 16; of tokens, which are a size in dW, zero rows are added up to that.

For the backward pass a layer keeps X in fp8 (1 byte a number, but a copy of its own where others keep one of 2 bytes together)
and the weight itself, which is there anyway, and is quantised again rather than kept (FSDP2 frees it in between). Fast accumulation, which drops some low bits of
partial sums on Hopper, in the forward product alone.

`to_fp8` changes the class of layers that are there, so that names, state_dict and optimizer do not notice. Only of the
blocks: embeddings, output layer, norms and router stay as they are, they are what is sensitive; so do mixtures of experts,
whose weights are stacked and not nn.Linear. A model in evaluation mode computes as without fp8, as it will be used.

`product` runs on a CPU too (slowly, for tests); `plain_product` is its twin. Not measured here: speed, for want of a GPU.
torch._scaled_mm is private but what every fp8 library calls.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.errors import RecipeError
from jielong.model.transformer import CausalLM

FORWARD, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # of both sizes of an operand
TINY = 1e-30  # a tensor of zeros has this largest value; with it a scale is still a normal float32


def quantise(x: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """x in fp8 and its scale (float32, no dimension), x = fp8 x scale. All is NaN as soon as a number is not finite."""
    scale = x.abs().amax().float().clamp(min=TINY) / torch.finfo(kind).max
    return (x.float() / scale).to(kind), scale


def product(a_MK: Tensor, a_scale: Tensor, b_NK: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool) -> Tensor:
    """a b^T of fp8 operands, both contiguous, times their scales: (M, N). K and N are multiples of 16."""
    return torch._scaled_mm(a_MK, b_NK.t(), a_scale, b_scale, out_dtype=dtype, use_fast_accum=fast)


def plain_product(
    a_MK: Tensor, a_scale: Tensor, b_NK: Tensor, b_scale: Tensor, dtype: torch.dtype, fast: bool
) -> Tensor:
    """The slow twin of `product`: back to float32, then multiply."""
    return ((a_MK.float() * a_scale) @ (b_NK.float() * b_scale).t()).to(dtype)


class _Linear(torch.autograd.Function):
    """x W^T and its gradients in fp8. x: (N, C), N a multiple of 16; W: (O, C)."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight_OC: Tensor, dtype: torch.dtype) -> Tensor:
        x8_NC, x_scale = quantise(x_NC, FORWARD)
        weight8_OC, weight_scale = quantise(weight_OC, FORWARD)
        ctx.save_for_backward(x8_NC, x_scale, weight_OC)
        ctx.dtype = x_NC.dtype
        return product(x8_NC, x_scale, weight8_OC, weight_scale, dtype, True)

    @staticmethod
    def backward(ctx: Any, grad_NO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x8_NC, x_scale, weight_OC = ctx.saved_tensors
        for_x, for_weight, _ = ctx.needs_input_grad
        grad8_NO, grad_scale = quantise(grad_NO.contiguous(), GRADIENT)
        grad_NC = grad_OC = None
        if for_x:
            weight8_OC, weight_scale = quantise(weight_OC, FORWARD)
            weight8_CO = weight8_OC.t().contiguous()
            grad_NC = product(grad8_NO, grad_scale, weight8_CO, weight_scale, ctx.dtype, False)
        if for_weight:
            grad8_ON, x8_CN = grad8_NO.t().contiguous(), x8_NC.t().contiguous()
            grad_OC = product(grad8_ON, grad_scale, x8_CN, x_scale, weight_OC.dtype, False)
        return grad_NC, grad_OC, None


class Float8Linear(nn.Linear):
    """nn.Linear that computes in fp8 while it is in training mode. Made by `to_fp8`, never by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O), in autocast's type, without it in the type of x."""
        if not self.training:
            return super().forward(x)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x_NC = x.reshape(-1, self.in_features)
        count = len(x_NC)
        if count % MULTIPLE:
            x_NC = F.pad(x_NC, (0, 0, 0, -count % MULTIPLE))
        out_NO: Tensor = _Linear.apply(x_NC, self.weight, dtype)[:count]  # type: ignore[no-untyped-call]  # torch's
        if self.bias is not None:
            out_NO = out_NO + self.bias.to(dtype)
        return out_NO.view(*x.shape[:-1], self.out_features)


def to_fp8(model: CausalLM) -> int:
    """Turn the linear layers of the decoder blocks into fp8 ones, in place; returns how many.

    Layers with a size that is no multiple of 16 stay. Raises RecipeError if that leaves none.
    """
    found = 0
    for module in model.model.layers.modules():
        if type(module) is nn.Linear and module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0:
            module.__class__ = Float8Linear
            found += 1
    if not found:
        raise RecipeError(
            f"train.precision: no layer of the model fits, got 'fp8' with hidden_size {model.config.hidden_size}; both sizes of a "
            f"matrix must be multiples of {MULTIPLE}; use bfloat16"
        )
    return found
