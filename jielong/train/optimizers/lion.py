"""Lion: the sign of an interpolated momentum (arXiv:2302.06675, algorithm 2).

    update  = sign(lerp(moment, gradient, 1 - beta1))
    weight <- weight (1 - rate x decay) - rate x update
    moment <- lerp(moment, gradient, 1 - beta2)

Every weight moves by the whole learning rate in every step, so it wants a rate 3 to 10 times smaller than AdamW's, weight decay as
many times larger, and beta2 = 0.99 (section 5 there). One moment is kept, 4 bytes a weight against AdamW's 8.

Element by element, so it works on shards of any kind, and on the flat ones of ZeRO. Parameters go through in runs of `RUN`
elements, larger ones in pieces: an update takes 16 MB, not as much as the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from jielong.train.optimizers.muon import local_part
from jielong.train.optimizers.orthogonal import RUN

Triple = tuple[Tensor, Tensor, Tensor]  # weight, gradient, moment


class Lion(torch.optim.Optimizer):
    """See the module's text. State: `exp_avg`, like the parameter."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nobody here gives or wants a loss
        """One step of all parameters that have a gradient."""
        for group in self.param_groups:
            first, second = group["betas"]
            for run in _runs([self._flat(p) for p in group["params"] if p.grad is not None]):
                weights, gradients, moments = (list(tensors) for tensors in zip(*run, strict=True))
                updates = torch._foreach_lerp(moments, gradients, 1 - first)
                torch._foreach_sign_(updates)
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, updates, alpha=-group["lr"])
                torch._foreach_lerp_(moments, gradients, 1 - second)

    def _flat(self, parameter: Tensor) -> Triple:
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        weight, gradient, moment = (local_part(t) for t in (parameter, parameter.grad, state["exp_avg"]))
        return weight.view(-1), gradient.reshape(-1), moment.view(-1)


def _pieces(tensor: Tensor) -> list[Tensor]:
    return [tensor[start : start + RUN] for start in range(0, len(tensor), RUN)]


def _runs(tensors: Sequence[Triple]) -> Iterator[list[Triple]]:
    """Pieces of tensors, in lists of at most `RUN` elements."""
    found, filled = list[Triple](), 0
    for triple in tensors:
        for weight, gradient, moment in zip(*(_pieces(tensor) for tensor in triple), strict=True):
            if found and filled + len(weight) > RUN:
                yield found
                found, filled = [], 0
            found.append((weight, gradient, moment))
            filled += len(weight)
    if found:
        yield found
