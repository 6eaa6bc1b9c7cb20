from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jielong.data.pipeline.chunks import finished
from jielong.data.pipeline.docs import Raw
from jielong.data.pipeline.passes import Setting, Task
from jielong.data.pipeline.plan import make_plan
from jielong.data.pipeline.workers import Crew
from jielong.errors import DataError


def setting(folder: Path) -> Setting:
    return Setting(make_plan(()), (str(folder),), ("甲",), ((0, "a.txt", "a.txt"),), (), 1, (0.1,))


def tasks(count: int, handed: list[int] | None = None) -> Iterator[Task]:
    for number in range(count):
        if handed is not None:
            handed.append(number)
        yield Task(number, 0, Raw(number, (1, 0), [f"第{number}篇文章。"], [(0, 0, 1, 0)]))


@pytest.mark.parametrize("processes", [1, 2])
def test_every_task_is_done_once(tmp_path: Path, processes: int) -> None:
    with Crew(setting(tmp_path), processes) as crew:
        assert sorted(crew.do(tasks(5))) == finished(tmp_path) == [0, 1, 2, 3, 4]
        assert list(crew.do(iter([]))) == []
        assert sorted(crew.do(tasks(2))) == [0, 1], "the same crew does the next pass"


class Killer(threading.Thread):
    """Kills every worker that it sees, as often as it is told."""

    def __init__(self, times: int) -> None:
        super().__init__(daemon=True)
        self.times, self.ended = times, threading.Event()

    def run(self) -> None:
        while self.times > 0 and not self.ended.wait(0.3):
            for pid in children(os.getpid()):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    self.times -= 1

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def test_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    handed: list[int] = []

    def slow() -> Iterator[Task]:
        for task in tasks(8, handed):
            time.sleep(0.1)
            yield task

    with Killer(1) as killer, Crew(setting(tmp_path), 2) as crew:
        assert sorted(crew.do(slow())) == list(range(8))
    assert killer.times <= 0 and handed == list(range(8)) == finished(tmp_path)


def test_workers_that_always_die_stop_the_run(tmp_path: Path) -> None:
    died = pytest.raises(DataError, match=r"a worker process died 3 times.*lower data\.processes")
    with Killer(10_000), Crew(setting(tmp_path), 2) as crew, died:
        list(crew.do(tasks(6)))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.data.pipeline.test_workers import setting, tasks; "
        "from jielong.data.pipeline.workers import Crew\n"
        "def slow():\n"
        "    yield from tasks(2)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    with Crew(setting(Path(sys.argv[1])), 2) as crew:\n"
        "        for n in crew.do(slow()): print(n, flush=True)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    (tmp_path / "work").mkdir()
    command = [sys.executable, script, tmp_path / "work"]
    parent = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not children(parent.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        mine = children(parent.pid)
        assert mine
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in mine if Path(f"/proc/{pid}").exists()]


def children(pid: int) -> list[int]:
    """Processes whose parent this is."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
