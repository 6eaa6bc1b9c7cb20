"""Muon: momentum, made orthogonal, for the matrices of the blocks (Keller Jordan; arXiv:2502.16982).

    buffer <- lerp(buffer, gradient, 1 - momentum)
    update  = orthogonal(lerp(gradient, buffer, momentum))               Nesterov's
    weight <- weight (1 - rate x decay) - rate x 0.2 sqrt(max(A, B)) x update

The last factor gives an update the root mean square that AdamW's have in practice, so learning rate and weight decay are shared
with AdamW (arXiv:2502.16982, section 2.2). One buffer is kept a weight, 4 bytes against AdamW's 8. torch.optim.Muon is the same
rule, one matrix at a time, and the twin it is tested against; it takes neither experts' stacks nor divides the work among ranks.

Ranks never repeat each other's work (exchange.py). With DDP every rank keeps all momentum and makes its share of the updates
orthogonal. With FSDP2 a rank keeps its rows; they go to the matrix's owner and come back; experts' stacks are cut between
experts, so each rank has whole matrices there and nothing travels. What travels is what torch's Muon computes with (bfloat16),
so nothing is lost by it, and all ranks apply the same bits.

Cost: 5 (4 m^2 n + 2 m^3) operations for an m x n matrix and a step, divided by the ranks; beside 6 m n for each token of the
step that is 10 m / 3 tokens' worth for m = n: 1,700 tokens at 512 wide, about a tenth of a step of 16,384 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jielong.train.optimizers.exchange import Ranks, Shape, brought, buckets, gathered, owners, sent_back
from jielong.train.optimizers.orthogonal import laid, newton_schulz, orthogonal, runs, upright

SCALE = 0.2  # root mean square of AdamW's updates


class Part(NamedTuple):
    """A matrix, or this rank's rows of it."""

    weight: Tensor
    gradient: Tensor
    buffer: Tensor
    shape: Shape  # of the whole


class Muon(torch.optim.Optimizer):
    """See the module's text. State: `momentum_buffer`, like the parameter."""

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, int]],
        weight_decay: float,
        momentum: float,
        rate: float = 1.0,
        dtype: torch.dtype = torch.bfloat16,
        ranks: Ranks | None = None,
    ) -> None:
        """parameters: each with the number of matrices that stand one above the other in its last two dimensions.

        rate: what the learning rate is multiplied by (by who sets `lr`). dtype: of Newton-Schulz. ranks: those that all have all
        of the parameters, and share the work; sharded parameters know theirs.
        """
        self._halves: Mapping[Tensor, int] = dict(parameters)
        group = {"params": list(self._halves), "weight_decay": weight_decay, "rate": rate, "decayed": True}
        super().__init__([group], {"lr": 0.0, "momentum": momentum})
        self._dtype, self._ranks = dtype, ranks or Ranks()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nobody here gives or wants a loss
        """One step of all matrices that have a gradient. With several ranks all of them call it."""
        for group in self.param_groups:
            whole, rows, mesh = self._parts(group["params"])
            parts = [part for part in whole + rows if part.weight.numel()]
            if parts:
                torch._foreach_lerp_([p.buffer for p in parts], [p.gradient for p in parts], 1 - group["momentum"])
                torch._foreach_mul_([p.weight for p in parts], 1 - group["lr"] * group["weight_decay"])
            if mesh is None and self._ranks.size > 1:
                self._together(whole, group)
            else:
                self._alone([part for part in whole if part.weight.numel()], group)
            if rows:
                self._by_rows(rows, group, _ranks_of(mesh))

    def _parts(self, parameters: Sequence[Tensor]) -> tuple[list[Part], list[Part], Any]:
        """Matrices that are whole here, those of which each rank has rows, and the mesh of ranks that parameters lie on, if any."""
        whole, rows, mesh = list[Part](), list[Part](), None
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            mesh = getattr(parameter, "device_mesh", mesh)
            weight, gradient, buffer = (local_part(t) for t in (parameter, parameter.grad, state["momentum_buffer"]))
            if parameter.ndim == 2:
                part = Part(weight, gradient, buffer, (parameter.shape[0], parameter.shape[1]))
                (whole if weight is parameter else rows).append(part)
                continue
            shape = (parameter.shape[-2] // self._halves[parameter], parameter.shape[-1])
            count = weight.numel() // (shape[0] * shape[1])
            stacks = (tensor.reshape(count, *shape).unbind(0) for tensor in (weight, gradient, buffer))
            whole += [Part(one, two, three, shape) for one, two, three in zip(*stacks, strict=True)]
        return whole, rows, mesh

    def _made(self, updates: Sequence[Tensor]) -> list[Tensor]:
        """Whole updates, made orthogonal; in the same order."""
        found = list(updates)
        for numbers in runs([(u.shape[0], u.shape[1]) for u in updates]):
            made = orthogonal([updates[n] for n in numbers], self._dtype)
            for number, matrix in zip(numbers, made, strict=True):
                found[number] = matrix
        return found

    def _alone(self, parts: Sequence[Part], group: dict[str, Any]) -> None:
        for numbers in runs([part.shape for part in parts]):
            run = [parts[number] for number in numbers]
            x_NMK = laid(_nesterov(run, group["momentum"]), self._dtype)  # and the updates in float32 are gone
            _apply(run, upright(newton_schulz(x_NMK), run[0].shape), group["lr"])

    def _together(self, parts: Sequence[Part], group: dict[str, Any]) -> None:
        """All ranks have all of it: each makes its share, and all get all."""
        like = torch.empty(0, dtype=self._dtype, device=parts[0].weight.device) if parts else None
        for numbers in buckets([part.shape for part in parts], self._ranks.size):
            assert like is not None
            run = [parts[number] for number in numbers]
            shapes = [part.shape for part in run]
            owned = owners(shapes, self._ranks.size)
            mine = [part for part, owner in zip(run, owned, strict=True) if owner == self._ranks.rank]
            made = self._made(_nesterov(mine, group["momentum"]))
            _apply(run, gathered(made, shapes, owned, self._ranks, like), group["lr"])

    def _by_rows(self, parts: Sequence[Part], group: dict[str, Any], ranks: Ranks) -> None:
        """Each rank has rows: they go to a matrix's owner, and come back."""
        like = torch.empty(0, dtype=self._dtype, device=parts[0].weight.device)
        for numbers in buckets([part.shape for part in parts], ranks.size):
            run = [parts[number] for number in numbers]
            shapes = [part.shape for part in run]
            owned = owners(shapes, ranks.size)
            updates = [update.to(self._dtype) for update in _nesterov(run, group["momentum"])]
            made = self._made(brought(updates, shapes, owned, ranks, like))
            _apply(run, sent_back(made, shapes, owned, ranks, like), group["lr"])


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: itself, or its shard of a DTensor."""
    shard = getattr(tensor, "to_local", None)
    found: Tensor = tensor if shard is None else shard()
    return found


def _ranks_of(mesh: Any) -> Ranks:
    return Ranks(mesh.get_local_rank(), mesh.size(), mesh.get_group())


def _nesterov(parts: Sequence[Part], momentum: float) -> Sequence[Tensor]:
    if not parts:
        return []
    return torch._foreach_lerp([part.gradient for part in parts], [part.buffer for part in parts], momentum)


def _apply(parts: Sequence[Part], updates: Sequence[Tensor], learning_rate: float) -> None:
    for part, update in zip(parts, updates, strict=True):
        part.weight.add_(update, alpha=-learning_rate * SCALE * math.sqrt(max(part.shape)))
