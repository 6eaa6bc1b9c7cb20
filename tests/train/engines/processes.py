"""Tests with several processes: the same function in each of them, and what each returns.

    def scenario(folder: str, steps: int) -> list[float]:      # a function at the top of a module; its arguments are JSON
        with joined(this_world(), torch.device("cpu")):
            ...
            return losses                                      # JSON, too

    def test_scenario(tmp_path: Path) -> None:
        first, second = run_processes("tests.train.engines.test_x:scenario", 2, str(tmp_path), 3)

A process is a plain `python -m tests.train.engines.processes` with the variables that torchrun sets, one thread, and the
repository as its working folder. Starting one costs 3 to 5 seconds with torch and 10 with deepspeed, so let a function do several things in
one start. Processes that hang are killed after `TIMEOUT` seconds, the others as soon as one has failed; then the test fails with what
they printed.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).parents[3]
TIMEOUT = 120.0  # seconds
SHOWN = 6000  # characters of each process's output, at a failure


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number: int = taken.getsockname()[1]
    return number


def rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """The environment of one process of several on this machine, as torchrun would make it."""
    return os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count),
                         "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                         "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}  # fmt: skip


def run_processes(function_path: str, count: int, *arguments: Any, timeout: float = TIMEOUT) -> list[Any]:
    """Call "package.module:function" with the arguments in `count` processes; returns their results by rank.

    Arguments and results are what JSON can say. Raises AssertionError with the output of all processes when one fails.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [Path(scratch) / f"output-{rank}" for rank in range(count)]
        results = [Path(scratch) / f"result-{rank}.json" for rank in range(count)]
        files: list[IO[bytes]] = [path.open("wb") for path in outputs]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", __name__, function_path, json.dumps(arguments), str(results[rank])],
                cwd=REPOSITORY,
                env=rank_environment(rank, count, port),
                stdout=files[rank],
                stderr=subprocess.STDOUT,
            )
            for rank in range(count)
        ]
        try:
            codes = _ended(started, timeout)
        finally:
            for process, file in zip(started, files, strict=True):
                process.kill()
                process.wait()
                file.close()
        if codes != [0] * count:
            said = (f"--- rank {rank}, exit {codes[rank]}\n{outputs[rank].read_text(errors='replace')[-SHOWN:]}"
                    for rank in range(count))  # fmt: skip
            raise AssertionError(f"{function_path} in {count} processes (exit None: killed)\n" + "\n".join(said))
        return [json.loads(path.read_text()) for path in results]


def _ended(processes: list[subprocess.Popen[bytes]], timeout: float) -> list[int | None]:
    """The exit codes, once all have ended well, one has failed (the others then get two seconds), or the time is over."""
    until = time.monotonic() + timeout
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or time.monotonic() > until:
            return codes
        if any(code for code in codes):
            until = min(until, time.monotonic() + 2)
        time.sleep(0.05)


def main(function_path: str, arguments: str, result: str) -> None:
    """What a process does."""
    module, _, name = function_path.partition(":")
    found = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
