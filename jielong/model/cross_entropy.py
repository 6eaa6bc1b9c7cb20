"""The output layer and its cross-entropy together, a piece of the tokens at a time.

Logits are the largest tensor of a small model: 8,192 tokens of a vocabulary of 65,536 are 2 GB in float32, and the usual way
holds them three or four times (in half precision, in float32, as log-probabilities, as gradients). Here a piece of them is made,
turned into its losses and into its gradient at once, and gone before the next: the way forward leaves the gradients of hidden
states and weight behind, and the way back only multiplies them. So the peak falls by nearly all of that, and less memory is written and
read: 0.4 of the time of the plain way on two CPU cores (4,096 tokens, vocabulary 6,400, bfloat16; benchmarks/train.py has the
whole step). The idea is that of "Cut your losses" (arXiv:2411.09009) and of Liger's fused kernel (arXiv:2410.10989), in plain torch.

torch 2.13 has `F.linear_cross_entropy` with a chunk size. It is not used: torch 2.11 does not have it, it has no z loss, and under
autocast it gives the loss itself in bfloat16. This is one way for all of them, on every device.

Inside a piece logits are in the type of autocast, everything after them (softmax, logarithm, sums) is float32, as in the plain
way; the weight's gradient is added up in float32 over the pieces. `plain_losses` is the slow twin.

Shapes: N tokens, C hidden_size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jielong.model import fused
from jielong.model import fused_kernels as kernels

IGNORE = -100  # a label that is not counted, as in torch and transformers
TYPES = (torch.float32, torch.bfloat16, torch.float16)  # of logits
ENLARGED = 1024.0  # times this, gradients of logits do not vanish in float16, whose smallest number is 6e-8
LOGITS = {"cpu": 1 << 23, "cuda": 1 << 26}  # of a piece, at most: 32 and 256 MB in float32


class OutputLayer(nn.Linear):
    """Hidden states to logits; with labels, straight to losses.

    A module of its own, so that what gathers or watches weights module by module (FSDP, ZeRO, adapters) sees it called.
    """

    def __init__(self, hidden_size: int, vocabulary: int) -> None:
        super().__init__(hidden_size, vocabulary, bias=False)

    def forward(self, x: Tensor, labels_N: Tensor | None = None, z_loss: float = 0.0) -> Any:
        """Logits (..., V) of hidden states (..., C). With labels of hidden states (N, C): sums over those that are not IGNORE of the
        cross-entropy in nats and of z_loss x logsumexp(logits)^2, float32.

        The two sums are for adding: the gradient of their sum is right, and is attached to the first.
        """
        if labels_N is None:
            return super().forward(x)
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if kind not in LOGITS or dtype not in TYPES or torch.compiler.is_compiling():
            return plain_losses(super().forward(x), labels_N, z_loss)
        both: Tensor
        wanted = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        size = piece(kind, len(self.weight))
        learned = wanted and self.weight.requires_grad  # a frozen one costs no product
        both, of_z = _LossesInPieces.apply(x, self.weight, labels_N, z_loss, dtype, size, wanted, learned)  # type: ignore[no-untyped-call]  # torch's
        return both - of_z, of_z


def piece(device: str, vocabulary: int) -> int:
    """How many tokens are taken at a time, at least 64."""
    return max(64, LOGITS[device] // vocabulary // 64 * 64)


def plain_losses(logits_NV: Tensor, labels_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """The slow twin: the same two sums, from logits."""
    if z_loss:
        return with_z_loss(logits_NV, labels_N, z_loss)
    cross_entropy = F.cross_entropy(logits_NV.float(), labels_N, ignore_index=IGNORE, reduction="sum")
    return cross_entropy, torch.zeros_like(cross_entropy)


def with_z_loss(logits_NV: Tensor, labels_N: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The cross-entropy and weight x logsumexp(logits)^2, both summed over the labels that count, in float32.

    The second keeps the softmax's normaliser near 1, so that logits do not drift to where half precision cannot tell them
    apart (PaLM, arXiv:2204.02311, section 5, with a weight of 1e-4). logsumexp is taken from the cross-entropy, which is
    logsumexp - logit of the label: computed by itself it keeps the float32 logits for the way back, 4 bytes a logit more
    (8.0 against 4.0), and all takes 1.6 to 1.9 times as long (1,024 x 16,384, one CPU core). Indexed, because gather keeps
    its source.
    """
    each_N = F.cross_entropy(logits_NV.float(), labels_N, ignore_index=IGNORE, reduction="none")
    counted_N = labels_N != IGNORE
    of_label_N = logits_NV[torch.arange(len(labels_N), device=labels_N.device), labels_N.clamp(min=0)].float()
    normaliser_N = torch.where(counted_N, each_N + of_label_N, 0.0)
    return each_N.sum(), weight * normaliser_N.square().sum()


class _LossesInPieces(torch.autograd.Function):
    """(cross-entropy + z loss, z loss); only the first has a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NC: Tensor,
        weight_VC: Tensor,
        labels_N: Tensor,
        z_loss: float,
        dtype: torch.dtype,
        size: int,
        wanted: bool,  # told, because in here nothing knows of no_grad
        learned: bool,  # whether the weight's gradient is wanted, too
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x_NC.device.type, enabled=False):
            labels_N = labels_N.contiguous()
            used_VC = weight_VC.to(dtype)
            sums = torch.zeros(2, device=x_NC.device)
            dx_NC = torch.empty(x_NC.shape, dtype=dtype, device=x_NC.device) if wanted else None
            dw_VC = torch.zeros(weight_VC.shape, device=x_NC.device) if learned else None
            half_VC = torch.empty_like(used_VC) if learned and dtype != torch.float32 else None
            wide_VC = (
                torch.empty_like(weight_VC, dtype=torch.float32) if half_VC is not None else None
            )  # memory that is new costs more than the sum
            for begin in range(0, len(x_NC), size):
                part = slice(begin, begin + size)
                x_nC = x_NC[part].to(dtype)
                found, d_nV = _piece(x_nC @ used_VC.T, labels_N[part], z_loss, wanted)
                sums += found
                if dx_NC is not None:
                    torch.mm(d_nV, used_VC, out=dx_NC[part])
                if dw_VC is not None:
                    if dtype == torch.float16:
                        x_nC = x_nC / ENLARGED  # before the sum over tokens, which would not fit
                    if half_VC is None or wide_VC is None:
                        dw_VC.addmm_(d_nV.T, x_nC)
                    else:
                        dw_VC += wide_VC.copy_(torch.mm(d_nV.T, x_nC, out=half_VC))
        ctx.gradients = dx_NC, dw_VC
        ctx.types = x_NC.dtype, weight_VC.dtype
        of_z = sums[1]
        ctx.mark_non_differentiable(of_z)
        return sums[0], of_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "Trying to backward through the output layer a second time, but its gradients are used up"
            )
        (dx_NC, dw_VC), (of_x, of_weight) = ctx.gradients, ctx.types
        ctx.gradients = None  # they are changed in place
        times = outer[0] / ENLARGED if dx_NC.dtype == torch.float16 else outer[0]
        of_dw = None if dw_VC is None else dw_VC.mul_(outer[0]).to(of_weight)
        return (dx_NC * times).to(of_x), of_dw, None, None, None, None, None, None


def _piece(logits_nV: Tensor, labels_n: Tensor, z_loss: float, wanted: bool) -> tuple[Tensor, Tensor]:
    """Of some tokens: the two sums, (2,), the first with the second in it; and the gradient of the first, in the logits' type."""
    if fused.usable_in_kernels(logits_nV):
        vocabulary = logits_nV.shape[1]
        wrong_n = (labels_n >= vocabulary) | ((labels_n < 0) & (labels_n != IGNORE))
        if wrong_n.any():  # a kernel would write there
            raise IndexError(f"Target {int(labels_n[wrong_n][0])} is out of bounds, of {vocabulary}")
        found_n2 = torch.empty(len(logits_nV), 2)
        arrays = fused.array(logits_nV), fused.array(labels_n), np.float32(z_loss), wanted, fused.array(found_n2)
        fused.in_threads(lambda a, b: kernels.cross_entropies(*arrays, a, b), len(logits_nV), logits_nV.numel())
        sums = found_n2.sum(dim=0)
        sums[0] += sums[1]
        return sums, logits_nV
    counted_n = labels_n != IGNORE
    at_n1 = labels_n.clamp(min=0)[:, None]
    most_n1, where_n1 = logits_nV.max(dim=-1, keepdim=True)
    of_label_n1 = logits_nV.gather(1, at_n1).float()
    shares_nV = torch.softmax(logits_nV, dim=-1, dtype=torch.float32)
    normaliser_n1 = (
        most_n1.float() - shares_nV.gather(1, where_n1).log()
    )  # the largest share is never too small for a float
    each_n, squares_n = (normaliser_n1 - of_label_n1)[:, 0], z_loss * normaliser_n1.square()[:, 0]
    of_z = torch.where(counted_n, squares_n, 0.0).sum()
    sums = torch.stack([torch.where(counted_n, each_n, 0.0).sum() + of_z, of_z])
    if not wanted:
        return sums, logits_nV
    if z_loss:
        shares_nV *= 1 + 2 * z_loss * normaliser_n1
    shares_nV.scatter_add_(1, at_n1, torch.full_like(of_label_n1, -1.0))
    shares_nV.masked_fill_(~counted_n[:, None], 0.0)
    if logits_nV.dtype == torch.float16:
        shares_nV *= ENLARGED
    return sums, logits_nV.copy_(shares_nV)
