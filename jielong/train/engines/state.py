"""What all engines do to state in the same way: names of optimizer tensors, random generators, copies on the host.

Optimizer state is kept as tensors with the parameter's name in the key (`exp_avg.model.norm.weight`), so it is readable by
anybody, needs no pickle, and does not depend on how an engine groups or shards parameters. A parameter of which there is none yet,
while there is of others (a phase began with another optimizer), has an empty tensor of the kind `fresh` in its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
import xxhash
from torch import Tensor, nn

from jielong.errors import CheckpointError
from jielong.model.adapters import trained
from jielong.model.transformer import CausalLM
from jielong.runtime import random_state, restore_random_state
from jielong.world import World, collected

FRESH = "fresh"  # the kind of state of a parameter that has none yet


def kept(model: CausalLM) -> Iterable[tuple[str, Tensor]]:
    """The tensors that make a model what it is: its state_dict; of an adapted one what is trained, for the rest is the base's."""
    return (trained(model) if model.adapted else model.state_dict()).items()


class HostCopies:
    """Copies of tensors in host memory that is taken once and used again: page-locked for a GPU, so that copies are fast.

    The copies of one call are good until the next one.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Copies by name. Every tensor is done when this returns."""
        found, cuda = {}, False
        for name, tensor in tensors:
            held = self._held.get(name)
            if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
                held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._held[name] = held
            held.copy_(tensor.detach(), non_blocking=True)
            found[name], cuda = held, cuda or tensor.is_cuda
        if cuda:
            torch.cuda.synchronize()
        return found

    def forget(self, prefix: str) -> None:
        """Let go of the copies whose names begin so: what they were of is gone."""
        self._held = {name: held for name, held in self._held.items() if not name.startswith(prefix)}


def by_parameter(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    """Optimizer state of each parameter, by kind, from tensors named `kind.parameter`.

    Empty for one that is fresh. Raises CheckpointError for a parameter that the tensors do not name.
    """
    found: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        if name in found:
            found[name][kind] = tensor
    missing = [name for name, state in found.items() if not state]
    if missing and tensors:
        raise CheckpointError(f"checkpoint: no optimizer state for {missing[0]}; delete that checkpoint")
    fresh = {name: {} if FRESH in state else state for name, state in found.items()}
    return fresh if tensors else {}


def random_of_all(world: World, device: torch.device) -> dict[str, Tensor]:
    """The generators' states of all ranks, on rank 0: "cpu.0", "cuda.0", "cpu.1", ..."""
    return {
        f"{kind}.{rank}": tensor
        for kind, state in random_state(device).items()
        for rank, tensor in enumerate(collected(world, state))
    }


def restore_random(world: World, device: torch.device, saved: Mapping[str, Tensor]) -> None:
    """Put this rank's generators back. A rank that was not there gets one of its own, made from rank 0's."""
    mine = {kind: saved[f"{kind}.{world.rank}"] for kind in ("cpu", "cuda") if f"{kind}.{world.rank}" in saved}
    if "cpu" in mine:
        restore_random_state(mine, device)
    elif "cpu.0" in saved:
        torch.manual_seed(xxhash.xxh3_64_intdigest(saved["cpu.0"].numpy().tobytes(), world.rank) >> 1)


def state_tensors(
    model: nn.Module, state_of: Mapping[Tensor, Mapping[str, object]], among: Collection[Tensor] | None = None
) -> Iterable[tuple[str, Tensor]]:
    """The tensors of an optimizer's state by name, `kind.parameter`; none before the first step.

    among: the parameters that the optimizer has (None: all).
    """
    names = model.named_parameters()
    states = {name: state_of.get(one, {}) for name, one in names if among is None or one in among}
    begun = any(states.values())
    for name, state in states.items():
        for kind, value in state.items():
            yield f"{kind}.{name}", torch.as_tensor(value)
        if begun and not state:
            yield f"{FRESH}.{name}", torch.empty(0)
