"""What the loop needs of an engine: a few methods, the same for one process and for hundreds.

An engine owns device, precision, weights, optimizer and the loss scale of float16; the loop owns everything else: rows, the
sum of losses, the schedule, the decision to step, records and checkpoints. All ranks call the same methods in the same order.

Gradients are sums: the loop gives `backward` the rank's loss divided by the labels of *all* ranks and all micro-batches of
the step, and what an engine steps with is the sum over micro-batches and ranks. Libraries that average over ranks are given the
loss times their number.

The decision comes before the step. `step` reduces the gradients, measures their norm over all ranks and asks `take(norm)`,
which is the same on all ranks; when the answer is no, gradients are dropped and neither weights nor the optimizer's state
change. An overflow of float16 is the engine's own matter: `take` is not asked.

With `ema_decay` an engine also keeps an average of the weights (optimizers/averaging.py): `whole` shows it, and a checkpoint holds
it in model.safetensors, beside the weights that training goes on with.

State leaves an engine as a `Snapshot`, whole tensors on the CPU under the parameters' names, whatever the sharding, so that every
engine can go on from every other's checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from jielong.model.transformer import CausalLM, Losses
from jielong.train.config import Config
from jielong.train.loader import Batch
from jielong.world import World


class Stepped(NamedTuple):
    """What became of a step."""

    norm: float  # of the gradients over all ranks, before clipping and without the loss scale
    taken: bool
    overflow: bool = False  # of float16: not taken, and the loss scale is halved


class Snapshot(NamedTuple):
    """All that an engine needs to go on, on the CPU and its own: nothing of it changes when training goes on.

    On rank 0; empty on the others.
    """

    weights: dict[str, Tensor]  # the model's state_dict
    optimizer: dict[str, Tensor]  # "exp_avg.model.norm.weight": kind of state and parameter
    random: dict[str, Tensor]  # "cpu.0", "cuda.0": the generators of each rank
    scale: dict[str, Any]  # of the loss, JSON
    averaged: Mapping[str, Tensor] = MappingProxyType({})  # of the weights, and of how many steps (averaging.STEPS)


class Engine(Protocol):
    """See the module's text."""

    world: World
    device: torch.device
    precision: str
    attention: tuple[str, str]  # the kernel, and why

    def describe(self) -> str:
        """One line for a person: 'float32 on cpu, 2 processes (ddp)'."""
        ...

    def forward(self, batch: Batch, last: bool = True) -> Losses:
        """Sums over this rank's labels: the cross-entropy in nats, what is added to it, the experts' use.

        last: of the step's micro-batches, the only one whose backward pass ranks exchange gradients in. DDP must know before it.
        """
        ...

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add the gradients of the micro-batch that `forward` saw, with the same `last`."""
        ...

    def step(self, learning_rate: float, take: Callable[[float], bool], finite: bool = True) -> Stepped:
        """Clip and step at this learning rate if `take(norm)` agrees; gradients are gone afterwards.

        finite: whether the loss is. Where it is not, the loss scale of float16 has no part in it, and is left alone.
        """
        ...

    def optimize(self, config: Config, carried: bool) -> None:
        """From now on step with the optimizer that this config names: at the beginning of a phase, on all ranks.

        carried: with as much of the state as the new optimizer can use (optimizers.opening.carry says what that is); else with none.
        The average of the weights goes on.
        """
        ...

    def let_work(self, blocks: Iterable[int]) -> None:
        """From now on train these blocks, by number, and no other (`[train] lisa`)."""
        ...

    def balance(self, expert_use_LE: Tensor) -> None:
        """After a step: move the experts' biases towards an even load, where the model balances in that way."""
        ...

    def whole(self) -> AbstractContextManager[CausalLM | None]:
        """The model with all its weights, on the device, to look at: on rank 0; None on the others. All ranks enter.

        Its weights are the average where one is kept.
        """
        ...

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of a forward pass."""
        ...

    def snapshot(self) -> Snapshot:
        """Copy the state. All ranks call it."""
        ...

    def load(self, snapshot: Snapshot, weights: bool = True) -> None:
        """Go back to a state that every rank has read whole; weights: False leaves those as they are.

        An average that is kept, and that the state has none of, begins at the weights.
        Raises CheckpointError for a state that does not go with the model or the optimizer.
        """
        ...

    def close(self) -> None:
        """Let go of what the engine took from the process (global switches, groups)."""
        ...
