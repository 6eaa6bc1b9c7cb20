"""Several processes for one training: started and watched on this machine, and as texts to copy for several machines.

`jielong train RECIPE --devices 4` starts itself four times with the variables that torchrun sets (world.py reads them), and
waits. It is a launcher of our own because there is so little to do on one machine, and because of what torchrun says when
a process fails: a traceback of its own behind every one of ours. What is promised here:

- the exit status is that of the first process that failed, and one sentence says which it was and what it died of;
- when one has died the others are ended, by SIGTERM and after 10 seconds by SIGKILL: they hang in a collective;
- SIGINT and SIGTERM are passed on once, so that training saves; asking a second time kills. Each process has a session of its
  own, because a terminal's Ctrl-C reaches a whole process group, and would come twice;
- processes do not outlive the one that started them, even where that is killed: they look for it twice a second;
- the lock of the run is inherited: nobody else gets it while one of them lives;
- standard error of all goes through (only rank 0 speaks); what rank 0 prints is kept, the others print nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jielong.errors import InputError, Stopped, TrainingError
from jielong.progress import say
from jielong.world import this_world

LAUNCHER = "JIELONG_LOCKED_BY"  # in the environment of what we start: our process id; we hold the lock of the run
INTERRUPTED = 130  # the exit status of a process that was stopped by Ctrl-C
POLL_SECONDS, GRACE_SECONDS, FOLLOW_SECONDS = 0.05, 10.0, 0.5
MOST = 64  # processes on one machine
PORT = 29500  # of the printed commands; torchrun's and deepspeed's own default


@dataclass(frozen=True)
class End:
    """How a number of processes ended."""

    status: int  # as a shell says it: 0, the exit status of the first that failed, or 128 and the signal it died of
    rank: int | None = None  # the first that failed
    asked: int | None = None  # the signal that we were asked to stop by
    output: str = ""  # what rank 0 printed


# ------------------------------------------------------------------------------------------ on the side of the parent


def start(command: Sequence[str], processes: int, keep: Sequence[int] = ()) -> End:
    """Run a command in `processes` processes that know of each other, until all have ended. keep: file descriptors they inherit."""
    with tempfile.TemporaryFile() as output, _asked_to_stop() as asked:
        children: list[subprocess.Popen[bytes]] = []
        try:
            for rank, environment in enumerate(environments(processes)):
                children.append(subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=output if rank == 0 else subprocess.DEVNULL,
                    start_new_session=True, pass_fds=tuple(keep),
                ))  # fmt: skip
            failed = _watch(children, asked)
            codes = [child.poll() for child in children]
        finally:
            _end(children, asked)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if len(asked) > 1:
        return End(128 + asked[1], None, asked[1], text)
    code = 0 if failed is None else codes[failed]
    assert code is not None
    return End(code if code >= 0 else 128 - code, failed, asked[0] if asked else None, text)


def environments(processes: int) -> list[dict[str, str]]:
    """The environment of each process: ours, and who it is among them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // processes))
    shared = os.environ | {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": str(port), "OMP_NUM_THREADS": threads, LAUNCHER: str(os.getpid())}  # fmt: skip
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _watch(children: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> int | None:
    """Until all have ended, one has failed, or somebody asked twice; the rank that failed, or that was interrupted."""
    passed_on = False
    while True:
        codes = [child.poll() for child in children]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0, INTERRUPTED)]
        if failed:  # of several at once the one that a signal killed: the others noticed
            return min(failed, key=lambda rank: codes[rank] or 0)
        if len(asked) > 1:
            return None
        if None not in codes:
            return codes.index(INTERRUPTED) if INTERRUPTED in codes else None
        if asked and not passed_on:
            passed_on = True
            for child in children:
                child.send_signal(asked[0])
        time.sleep(POLL_SECONDS)


def _end(children: Sequence[subprocess.Popen[bytes]], asked: Sequence[int]) -> None:
    """End those that still live: politely, unless somebody asked twice, then for good."""
    alive = [child for child in children if child.poll() is None]
    until = time.monotonic() + GRACE_SECONDS
    for child in alive:
        child.terminate()
    while len(asked) < 2 and time.monotonic() < until and any(child.poll() is None for child in alive):
        time.sleep(POLL_SECONDS)
    for child in alive:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending by them."""
    asked: list[int] = []
    previous: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals stay as they are
        for kind in (signal.SIGINT, signal.SIGTERM):
            previous[kind] = signal.signal(kind, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(arguments: Sequence[str], processes: int, lock: int | None = None) -> None:
    """Run `jielong ARGUMENTS --json` in processes of their own, which inherit the lock's descriptor, and end as they do.

    Raises Stopped with their exit status when they were asked to stop (before a stage behind is begun), and TrainingError with
    the exit status of the first that failed.
    """
    say(f"train: {processes} processes")
    end = start([sys.executable, "-m", "jielong", *arguments, "--json"], processes, () if lock is None else (lock,))
    told = _last_object(end.output)
    if end.status == 0 and end.asked is None and "stopped" not in told:
        return
    if end.status in (0, INTERRUPTED) or (end.asked is not None and end.status == 128 + end.asked):
        before = "train: done, stopped before what comes next" if told.get("ok") else "train: stopped"
        stopped = Stopped(told.get("stopped") or told.get("error") or f"{before}; the same command goes on from there")
        stopped.exit_code = INTERRUPTED if end.asked == signal.SIGINT else int(end.status)
        raise stopped
    error = TrainingError((told.get("error") if end.rank == 0 else None) or why(end, processes))
    error.exit_code = end.status
    raise error


def why(end: End, processes: int) -> str:
    """One sentence on the process that failed first."""
    if end.status > 128:
        hint = (
            " (the system does that when the machine's memory is used up)" if end.status == 128 + signal.SIGKILL else ""
        )
        found = f"was killed by {signal.Signals(end.status - 128).name}{hint}"
    else:
        found = f"ended with exit status {end.status}, and said why above"
    return (
        f"train: rank {end.rank} of {processes} {found}; the others were ended; the same command goes on from the newest "
        "checkpoint"
    )


def _last_object(text: str) -> dict[str, Any]:
    """The JSON object in the last line of an output; empty where there is none."""
    with contextlib.suppress(IndexError, ValueError):
        found = json.loads(text.splitlines()[-1])
        if isinstance(found, dict):
            return found
    return {}


def check_devices(devices: int, wanted: str) -> None:
    """Raises InputError when this machine cannot hold so many processes; wanted: `train.device`."""
    if not 1 <= devices <= MOST:
        raise InputError(f"--devices: out of bounds, got {devices}; must be 1 to {MOST}; change it")
    if devices == 1:
        return
    if (size := this_world().size) > 1:
        raise InputError(f"--devices: this is one of {size} processes that somebody else started; leave it out")
    from jielong.runtime import choose_device

    kind = choose_device(wanted).type
    if kind == "cpu":
        there, what = 4 * cores(), "processes on its cores"
    elif kind == "cuda":
        import torch

        there, what = torch.cuda.device_count(), "GPU(s)"
    else:
        there, what = 1, f"device of the kind {kind}"
    if devices > there:
        raise InputError(f"--devices: too many for this machine, got {devices}; it has room for {there} {what}; "
                         f"use --devices {there}")  # fmt: skip


# ------------------------------------------------------------------------------------------- on the side of a child


def launched() -> bool:
    """Whether `start` of a parent that lives started this process."""
    return os.environ.get(LAUNCHER) == str(os.getppid())


def follow() -> None:
    """Let this process end when the one that started it is gone, in whatever way; nothing where nobody of ours did."""
    parent = os.environ.get(LAUNCHER)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(FOLLOW_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="launcher").start()


# -------------------------------------------------------------------------------------------------- several machines


def texts(name: str, options: Sequence[str], nodes: int, devices: int) -> dict[str, str]:
    """Commands and files that train on `nodes` machines with `devices` each, ready to copy but for the machines' names.

    name: of the run; options: the arguments behind `jielong train`.
    """
    hosts = [f"node{number}" for number in range(nodes)]
    ours, first = shlex.join(options), f"jielong model {shlex.join(options)}"
    through = f"--nnodes {nodes} --nproc-per-node {devices} --rdzv-endpoint {hosts[0]}:{PORT}"
    torchrun = [f"{first}  # once, on one machine: the stages before"]
    torchrun += [f"torchrun {through} --node-rank {number} -m jielong train {ours}  # on {host}"
                 for number, host in enumerate(hosts)]  # fmt: skip
    hostfile = shlex.quote(f"{name}.hostfile")
    slots = "".join(f"{host} slots={devices}\n" for host in hosts)
    deepspeed = f"""\
{first}  # once, on one machine: the stages before
cat > {hostfile} <<END
{slots}END
deepspeed --hostfile {hostfile} --master_addr {hosts[0]} --master_port {PORT} --no_local_rank --module jielong train {ours} --set train.engine=deepspeed"""
    return {"torchrun": "\n".join(torchrun), "deepspeed": deepspeed, "slurm": _sbatch(name, ours, nodes, devices)}


def _sbatch(name: str, ours: str, nodes: int, devices: int) -> str:
    """A batch script that goes back into the queue until training is done.

    Slurm sends SIGTERM to the batch shell (B:) two minutes before the time is over; the shell passes it on to srun, srun to the
    tasks, which save and exit with 0.
    """
    task = "RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec jielong train " + ours
    return f"""\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
#SBATCH --gpus-per-node={devices}
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log

jielong model {ours} || exit  # the stages before, on the first machine

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

again() {{  # asked to stop: training saves, exits with 0, and the job is queued again
  kill -TERM "$training"
  wait "$training" || [ $? -eq 143 ] || exit  # 143: it had not begun yet
  scontrol requeue "$SLURM_JOB_ID"
  exit
}}
trap again TERM
srun --kill-on-bad-exit=1 --gpu-bind=none bash -c {shlex.quote(task)} &
training=$!
wait "$training\""""
