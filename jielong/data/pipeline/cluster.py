"""The same chunks on a Ray cluster: `jielong data RECIPE --engine ray`.

What a local process does with a chunk, an actor does on whichever node Ray puts it, with the same code (passes.Worker). So the
documents, rejects and counts are the same to the byte; near-duplicates, exact ones and repeated lines are decided by the driver
from the keys that the actors wrote, as they are locally. Records are read by the driver and travel to the actors through
Ray's object store, a few chunks ahead of the work and no more, so memory stays flat.

The run folder has to lie on a file system that all nodes share (NFS, Lustre, CephFS, ...): chunks are files there. This is
found out with the first chunk, not with the last.

Plain actors rather than Ray Data: a Ray dataset is made from a list or from files, while chunks here come from a generator whose
bounds must be the same on every engine, and each is written by the actor itself. What Ray Data would add, blocks handed from
operator to operator, is not needed.

A worker that dies is started again by Ray and gets its chunk again; a chunk is published by a rename, so one that was made twice
is there once. Attach to a cluster with RAY_ADDRESS (`ray://head:10001`, or `auto` on a node of it); without that a local
one is started with as many workers as `data.processes` says, which is what the tests do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from jielong.data.pipeline.chunks import is_done
from jielong.data.pipeline.passes import Setting, Task, Worker
from jielong.data.pipeline.workers import AHEAD, ATTEMPTS, died_too_often
from jielong.errors import DataError, MissingExtraError
from jielong.progress import say


class RayCrew:
    """Actors on a cluster, from the first pass of a run to its last. The interface of workers.Crew."""

    def __init__(self, setting: Setting, processes: int) -> None:
        """processes: actors, a core each. Raises MissingExtraError without the package, DataError without a cluster."""
        self.setting, self.processes = setting, processes
        self._actors: list[Any] = []
        self._ours = False

    def __enter__(self) -> Self:
        ray = _ray()
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            local = (
                {}
                if address
                else {"num_cpus": self.processes, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            )
            try:
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
            except (ConnectionError, OSError, RuntimeError, ValueError) as error:
                raise DataError(
                    f"data.engine: no Ray cluster, got RAY_ADDRESS={address or 'none'} ({error}); start one with: ray start --head"
                ) from None
            self._ours = True
        remote = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=ATTEMPTS - 1)(Worker)
        self._actors = [remote.remote(self.setting) for _ in range(self.processes)]
        nodes = len({node["NodeID"] for node in ray.nodes() if node["Alive"]})
        say(f"data: {self.processes} workers on a Ray cluster of {nodes} node{'s' if nodes > 1 else ''}")
        return self

    def __exit__(self, *_: object) -> None:
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        if self._ours:
            ray.shutdown()

    def do(self, tasks: Iterable[Task]) -> Iterator[int]:
        """Do every task; yields the numbers of chunks as they are done, in any order.

        Raises DataError for a chunk whose worker died ATTEMPTS times, and what a task raises.
        """
        ray, source = _ray(), iter(tasks)
        idle, running = list(self._actors) * 2, dict[Any, tuple[Any, Task]]()  # two chunks an actor: one waits
        assert AHEAD >= 1
        more = True
        while more or running:
            while more and idle:
                task = next(source, None)
                if task is None:
                    more = False
                    break
                actor = idle.pop(0)
                running[actor.do.remote(task)] = (actor, task)
            if not running:
                return
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            actor, task = running.pop(done)
            try:
                number = int(ray.get(done))
            except ray.exceptions.RayTaskError as error:  # what the task raised, as it is locally
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except ray.exceptions.RayActorError:
                raise died_too_often(task.number) from None
            self._must_be_here(number, task.at)
            idle.append(actor)
            yield number

    def _must_be_here(self, number: int, at: int) -> None:
        work = Path(self.setting.folders[at])
        if not is_done(work, number):
            raise DataError(
                f"data.engine: a worker made chunk {number} in {work}, and it is not there on this node; the run folder must lie "
                "on a file system that all nodes share; give one with --runs-dir"
            )


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its future default; silences a warning
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray", "for data.engine = ray") from None
    return ray
