"""Layers of signs while they are trained: full weights below, of which only the signs go through the product.

Both are linear layers with the weight that they had, so optimizers, checkpoints and engines see the model they know. Rounding has no slope; the
gradient of what comes out is taken for that of what went in (straight through, arXiv:1308.3432).

    onebit   y = ((x * g) sign(W)^T) * h, with g and h trained too. They begin as the best rank-1 form of |W| (sign-value decomposition,
             arXiv:2402.11295), so that the first student is the full model with its magnitudes smoothed. The paper's norm behind each layer is left
             out: with g and h in float32 nothing overflows, and without it the network stays the one that others know
    bitnet   y = Q(x) (s T)^T, T = W / s rounded to -1, 0, 1, s the mean of |W| (b1.58, arXiv:2402.17764), Q rounding each token to 8 bits
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.model.quantized.linear import rounded_inputs
from jielong.model.quantized.signs import bitnet_tensors, onebit_tensors
from jielong.model.transformer import CausalLM

ROUNDS = 30  # of the power method: |W| has one large singular value, and the second is far below
SMALLEST = 1e-8


def decompose(matrix_OC: Tensor) -> tuple[Tensor, Tensor]:
    """The columns' and the rows' scales, g (C,) and h (O,), whose product h g^T is nearest to |W| (in squares)."""
    sizes = matrix_OC.abs().float()
    columns = torch.ones(sizes.shape[1], device=sizes.device)
    for _ in range(ROUNDS):
        rows = sizes @ columns
        rows = rows / rows.norm().clamp_min(SMALLEST)
        columns = sizes.T @ rows
        columns = columns / columns.norm().clamp_min(SMALLEST)
    size = (rows @ sizes @ columns).clamp_min(SMALLEST).sqrt()
    return columns * size, rows * size


class OneBitLinear(nn.Linear):
    """See the module's text."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        columns, rows = decompose(layer.weight.detach())
        self.in_scale, self.out_scale = nn.Parameter(columns), nn.Parameter(rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O)."""
        signs = torch.where(self.weight >= 0, 1.0, -1.0)
        signs = self.weight + (signs - self.weight).detach()
        out = F.linear(x * self.in_scale.to(x.dtype), signs) * self.out_scale
        return out if self.bias is None else out + self.bias

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What is saved of it."""
        scales = self.in_scale.detach().cpu(), self.out_scale.detach().cpu()
        return onebit_tensors(name, self.weight.detach().cpu() >= 0, *scales)


class BitNetLinear(nn.Linear):
    """See the module's text."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias

    def _ternary(self) -> tuple[Tensor, Tensor]:
        scale = self.weight.detach().float().abs().mean().clamp_min(SMALLEST)
        return (self.weight.detach() / scale).round().clamp(-1, 1), scale

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O)."""
        ternary, scale = self._ternary()
        weight = self.weight + (ternary * scale - self.weight).detach()
        return F.linear(rounded_inputs(x), weight, self.bias)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What is saved of it."""
        ternary, scale = self._ternary()
        return bitnet_tensors(name, ternary.cpu(), float(scale))


Student = OneBitLinear | BitNetLinear
KINDS: dict[str, Callable[[nn.Linear], Student]] = {"onebit": OneBitLinear, "bitnet": BitNetLinear}


def put_students(model: CausalLM, method: str, layers: Iterable[str]) -> None:
    """Put layers of signs in place of these linear layers of a model, in place."""
    for name in layers:
        layer = model.get_submodule(name)
        assert type(layer) is nn.Linear, name
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, KINDS[method](layer))
