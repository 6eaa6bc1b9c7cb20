"""The processes of a run: who we are among them, and the few words that they exchange.

`torchrun`, the `deepspeed` launcher, Slurm with the variables below and our own `--devices` (launch.py) all say it in the
same way: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT in the environment. Without them a run is one process, and
every function here is a no-op that costs nothing.

What ranks tell each other is tensors and JSON: torch's own broadcast of objects goes through pickle, this does not. The
backend is NCCL for tensors on GPUs, gloo for all others; one group serves both. The timeout is an hour: rank 0 validates and
writes samples while the others wait for it.
"""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError

if TYPE_CHECKING:
    import torch

TIMEOUT = datetime.timedelta(hours=1)
SETTLE_SECONDS = 0.1  # after the last words of a group
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class World:
    """This process among the processes of a run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # among those of this machine: the number of its GPU

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0


def this_world() -> World:
    """What the environment says. Raises InputError for variables that are no numbers or do not fit together."""
    given = {name: os.environ.get(name, "") for name in VARIABLES}
    if not given["WORLD_SIZE"]:
        return World()
    try:
        rank, size, local_rank = (int(given[name] or 0) for name in VARIABLES)
    except ValueError:
        rank, size, local_rank = -1, 0, 0
    if not 0 <= rank < size:
        raise InputError(
            f"environment: RANK, WORLD_SIZE and LOCAL_RANK do not fit together, got {given}; start with torchrun, or unset them"
        )
    return World(rank, size, local_rank)


def own_device(world: World, device: torch.device) -> torch.device:
    """The device of this process: of several GPUs, the one with its number. Raises InputError where there are too few."""
    import torch

    if world.size == 1 or device.type != "cuda":
        return device
    there = torch.cuda.device_count()
    if world.local_rank >= there:
        raise InputError(
            f"--devices: too many processes for this machine, got one with local rank {world.local_rank}; it has {there} GPU(s); "
            f"use --devices {there}"
        )
    torch.cuda.set_device(world.local_rank)
    return torch.device("cuda", world.local_rank)


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """Take part in the group of all processes of a run; nothing for a world of one, or where the group is there already.

    Raises InputError where the environment does not say where they meet, or they do not.
    """
    import torch.distributed as dist

    if world.size == 1 or dist.is_initialized():
        yield
        return
    place, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not (place and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(
            f"environment: MASTER_ADDR and MASTER_PORT say where the {world.size} processes meet, got {place!r} and {port!r}; "
            "start with torchrun, or set them"
        )
    try:
        if device.type == "cuda":
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    except (dist.DistError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise InputError(
            f"environment: the {world.size} processes did not meet at {place}:{port} ({said}); check the address"
        ) from None
    try:
        yield
    finally:
        # a thread of gloo's lets go of what the last words were in when their sender has gone on, and takes Python's lock for it;
        # DDP and FSDP2 keep those threads beyond the group, and one that does so while Python ends aborts the process
        time.sleep(SETTLE_SECONDS)
        dist.destroy_process_group()


def add_up(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, in place."""
    if world.size > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor)
    return tensor


def largest(world: World, tensor: torch.Tensor) -> torch.Tensor:
    """The maximum of a tensor over all ranks, element by element, in place."""
    if world.size > 1:
        import torch.distributed as dist

        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def told(world: World, value: Any) -> Any:
    """What rank 0 has to say, as JSON would give it back; the `value` of the others is not looked at."""
    if world.size == 1:
        return value
    import torch
    import torch.distributed as dist

    text = bytearray(json.dumps(value).encode()) if world.first else bytearray()  # json keeps what is not finite
    size = torch.tensor([len(text)])
    dist.broadcast(size, 0)
    data = torch.frombuffer(text, dtype=torch.uint8) if world.first else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(data, 0)
    return json.loads(data.numpy().tobytes())


def collected(world: World, tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor of the CPU, of the same shape on all ranks, from each of them; on rank 0 only, empty elsewhere."""
    if world.size == 1:
        return [tensor]
    import torch
    import torch.distributed as dist

    parts = [torch.empty_like(tensor) for _ in range(world.size)] if world.first else None
    dist.gather(tensor.contiguous(), parts, 0)
    return parts or []


def wait(world: World) -> None:
    """Until all ranks are here."""
    if world.size > 1:
        import torch
        import torch.distributed as dist

        dist.all_reduce(torch.zeros(1))  # not dist.barrier: on GPUs it guesses a device
