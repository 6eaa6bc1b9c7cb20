"""The optimizer that a recipe names, over a model's parameters, and what passes from one optimizer to the next.

    adamw        torch's, in its fused form where the device has one: step, exp_avg, exp_avg_sq
    muon         the blocks' matrices by Muon (momentum_buffer), the rest by AdamW
    lion         Lion: exp_avg
    adamw8bit    large matrices by bitsandbytes, the rest by AdamW

Two rules in one model are two optimizers under one (`Composed`): their groups are one list, their state is one mapping, so that whoever
sets learning rates, or saves and loads state, sees an ordinary optimizer.

Not here: GaLore. The one library that has it (galore-torch) was last released in March 2024.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jielong.errors import CheckpointError
from jielong.runtime import has_fast_bfloat16
from jielong.train.config import Config
from jielong.train.optimizers import eightbit
from jielong.train.optimizers.exchange import Ranks
from jielong.train.optimizers.groups import block_matrices, large_matrices, parameter_groups
from jielong.train.optimizers.lion import Lion
from jielong.train.optimizers.muon import Muon
from jielong.world import World

ADAMW = frozenset({"step", "exp_avg", "exp_avg_sq"})


def open_optimizer(
    model: nn.Module, config: Config, device: torch.device, world: World | None = None
) -> torch.optim.Optimizer:
    """A new optimizer, with no state. Each group has `rate`: what the learning rate is multiplied by to be its `lr`.

    model: its parameters in place, sharded already where they are to be. world: all processes of the run.
    """
    if config.optimizer == "lion":
        return Lion(parameter_groups(model, config.weight_decay, b_rate=_b_rate(config)), (config.beta1, config.beta2))
    if config.optimizer == "muon":
        matrices = block_matrices(model)
        dtype = torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
        ranks = Ranks(world.rank, world.size) if world else None
        parameters = matrices.values()
        muon = Muon(parameters, config.weight_decay, config.muon_momentum, config.muon_rate, dtype, ranks)
        return Composed([muon, adamw(model, config, device, matrices)])
    if config.optimizer == "adamw8bit":
        large = large_matrices(model) if _b_rate(config) == 1 else {}  # a rate of their own is AdamW's
        rest = adamw(model, config, device, large)
        if not large:  # a toy
            return rest
        betas = (config.beta1, config.beta2)
        eight = eightbit.eight_bit_adamw(list(large.values()), config.weight_decay, betas, config.adam_epsilon)
        return Composed([eight, rest])
    return adamw(model, config, device)


def adamw(
    model: nn.Module, config: Config, device: torch.device, apart: Mapping[str, Any] | None = None
) -> torch.optim.AdamW:
    """torch's AdamW, in its fused form where the device has one. apart: names of parameters that it does not have."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay, apart or {}, _b_rate(config)),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def _b_rate(config: Config) -> float:
    return config.adapter.b_rate if config.adapter is not None else 1.0


class Composed(torch.optim.Optimizer):
    """Several optimizers, over parameters of their own, as one."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        super().__init__([{"params": list(group["params"])} for part in parts for group in part.param_groups], {})
        self.parts = tuple(parts)
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state = defaultdict(dict)
        for part in parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nobody here gives or wants a loss
        """One step of each."""
        for part in self.parts:
            part.step()


# ------------------------------------------------------------------------------------------------------- state


def kinds_of(optimizer: torch.optim.Optimizer) -> dict[Tensor, frozenset[str]]:
    """What the optimizer keeps of each of its parameters."""
    return {
        parameter: _kinds(part)
        for part in (optimizer.parts if isinstance(optimizer, Composed) else (optimizer,))
        for group in part.param_groups
        for parameter in group["params"]
    }


def _kinds(optimizer: torch.optim.Optimizer) -> frozenset[str]:
    if isinstance(optimizer, Muon):
        return frozenset({"momentum_buffer"})
    if isinstance(optimizer, Lion):
        return frozenset({"exp_avg"})
    return ADAMW if isinstance(optimizer, torch.optim.AdamW) else eightbit.KINDS


def check_kinds(name: str, found: Mapping[str, Tensor], wanted: frozenset[str]) -> None:
    """State that was read must be this optimizer's. Raises CheckpointError."""
    if found and found.keys() != wanted:
        raise CheckpointError(
            f"checkpoint: the optimizer's state of {name} is another optimizer's, got {', '.join(sorted(found))}; it must be "
            f"{', '.join(sorted(wanted))}; delete that checkpoint"
        )


def carry(old: torch.optim.Optimizer, new: torch.optim.Optimizer) -> None:
    """Give a new optimizer what it can use of the state of an old one over the same parameters.

    A parameter whose state has all kinds that the new one keeps takes those: exp_avg, exp_avg_sq and step together or not at
    all. A first moment is one everywhere: AdamW's or Lion's exp_avg becomes Muon's momentum_buffer, and Muon's becomes Lion's
    exp_avg. From Muon or Lion to AdamW there is no second moment: those parameters begin anew, with the count of their steps.
    8-bit state is taken by 8-bit AdamW only.
    """
    for parameter, wanted in kinds_of(new).items():
        found = dict(old.state.get(parameter, {}))
        for one, other in (("exp_avg", "momentum_buffer"), ("momentum_buffer", "exp_avg")):
            if one in found and other not in found:
                found[other] = found[one]
        if wanted <= found.keys():
            new.state[parameter] = {kind: found[kind] for kind in sorted(wanted)}
