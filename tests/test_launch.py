"""The launcher with processes that are one line of Python; what it says of them; the printed commands."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong import launch
from jielong.errors import InputError, RecipeError, Stopped, TrainingError
from jielong.launch import End, check_devices, environments, start, texts, train, why
from jielong.metrics import read_jsonl
from jielong.runs import Run
from tests.corpus import write_recipe

REPOSITORY = Path(__file__).parents[1]
DEADLINE = 60.0  # seconds, for processes to come or go


def until(condition: Callable[[], Any]) -> None:
    """Wait for it."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has fetched yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_script(script: str, processes: int = 2) -> End:
    """Start a script in which `rank` is known."""
    return start([sys.executable, "-c", "import os, sys, time\nrank = int(os.environ['RANK'])\n" + script], processes)


# ----------------------------------------------------------------------------------------------- how they are ended


def test_all_know_each_other_and_the_first_is_heard() -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    end = run_script(f"print(rank, *(os.environ[name] for name in {names}))", 3)
    assert end == End(0, None, None, "0 0 0 3 3 127.0.0.1\n")


def test_threads_are_divided_unless_somebody_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [one["OMP_NUM_THREADS"] for one in environments(3)] == ["2"] * 3
    assert environments(8)[0]["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    both = environments(2)
    assert [one["OMP_NUM_THREADS"] for one in both] == ["5", "5"]
    assert both[0]["MASTER_PORT"] == both[1]["MASTER_PORT"]


def test_one_dies_and_those_that_hang_are_ended(tmp_path: Path) -> None:
    script = f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\n" + (
        "if rank == 1:\n"
        f"    while not all(os.path.exists(r'{tmp_path}/' + str(n)) for n in (0, 2)): time.sleep(0.01)\n"
        "    sys.exit(3)\n"
        "time.sleep(600)"
    )
    end = run_script(script, 3)
    assert (end.status, end.rank, end.asked) == (3, 1, None)
    assert all(gone(int((tmp_path / str(rank)).read_text() or 0)) for rank in (0, 2))


def test_who_does_not_end_when_told_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(launch, "GRACE_SECONDS", 0.2)
    script = (
        f"import signal\nready = r'{tmp_path}/ready'\n"
        "if rank == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print(os.getpid(), flush=True)\n"
        "    open(ready, 'w').close()\n"
        "    time.sleep(600)\n"
        "while not os.path.exists(ready): time.sleep(0.01)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    end = run_script(script)
    assert (end.status, end.rank) == (137, 1)
    assert gone(int(end.output))


def test_of_two_that_died_together_the_killed_one_was_first() -> None:
    class Ended:
        def __init__(self, code: int) -> None:
            self.poll = lambda: code

    watch: Any = launch._watch
    assert watch([Ended(1), Ended(-9), Ended(0)], []) == 1
    assert watch([Ended(0), Ended(130)], []) == 1
    assert watch([Ended(0), Ended(0)], []) is None


PARENT = """
import sys
from jielong.launch import start
end = start([sys.executable, "-c", sys.argv[1]], 2)
print(end.status, end.asked, end.output.strip(), sep="|")
"""
COUNTING = """
import os, signal, sys, time
rank, folder = int(os.environ["RANK"]), {folder!r}
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
open(folder + "/" + str(rank), "w").close()
while not asked: time.sleep(0.01)
time.sleep({save})
print(*asked)
sys.exit(0 if signal.SIGTERM in asked else 130)
"""


@pytest.mark.parametrize(
    ("signals", "save", "expected"),
    [
        ([signal.SIGTERM], "0.3", "0|15|15"),  # once, although the launcher looks twenty times a second
        (
            [signal.SIGINT],
            "0.5 if rank == 0 else 0",
            "130|2|2",
        ),  # who ends with 130 has not failed: the other still saves
        ([signal.SIGTERM, signal.SIGINT], "600", "130|2|"),  # the second kills
    ],
)
def test_signals_are_passed_on_once(tmp_path: Path, signals: list[int], save: str, expected: str) -> None:
    script = COUNTING.format(folder=str(tmp_path), save=save)
    with subprocess.Popen([sys.executable, "-c", PARENT, script], cwd=REPOSITORY, stdout=subprocess.PIPE) as parent:
        until(lambda: len(list(tmp_path.iterdir())) == 2)
        for number in signals:
            parent.send_signal(number)
            time.sleep(0.3)
        out, _ = parent.communicate(timeout=DEADLINE)
    assert out.decode().strip() == expected


HOLDING = """
import sys
from pathlib import Path
from jielong.launch import start
from jielong.runs import Run
with Run(Path(sys.argv[1])).lock() as lock:
    start([sys.executable, "-c", sys.argv[2]], 2, (lock,))
"""
FOLLOWING = """
import os, time
from pathlib import Path
from jielong.launch import follow, launched
from jielong.runs import Run
follow()
with Run(Path({folder!r})).lock() as lock:  # theirs already
    Path({folder!r}, os.environ["RANK"]).write_text(f"{{os.getpid()}} {{launched()}} {{lock}}")
    time.sleep(600)
"""


def test_processes_hold_the_lock_and_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = FOLLOWING.format(folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path), script], cwd=REPOSITORY) as parent:
        until(lambda: all((tmp_path / rank).is_file() and (tmp_path / rank).read_text() for rank in "01"))
        parent.kill()
    found = [(tmp_path / rank).read_text().split() for rank in "01"]
    assert [row[1:] for row in found] == [["True", "None"]] * 2
    with Run(tmp_path).lock() as lock:  # waits for them, although the process that it is said to belong to is gone
        assert lock is not None
        assert all(gone(int(row[0])) for row in found)


# --------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("end", "message", "status"),
    [
        (End(0, None, None, '{"ok": true, "stopped": "saved"}'), "saved", 0),
        (End(0, None, 15, '{"ok": true, "stopped": "saved"}'), "saved", 0),
        (End(130, 0, 2, 'text\n{"ok": false, "error": "saved"}'), "saved", 130),
        (End(0, None, 2, '{"ok": true}'), "train: done, stopped before what comes next", 130),
        (End(0, None, 15, '{"ok": true}'), "train: done, stopped before what comes next", 0),
        (End(143, 1, 15, ""), "train: stopped; the same command goes on from there", 143),
    ],
)
def test_a_stop_is_a_stop(monkeypatch: pytest.MonkeyPatch, end: End, message: str, status: int) -> None:
    monkeypatch.setattr(launch, "start", lambda *given: end)
    with pytest.raises(Stopped, match=message) as found:
        train(["train", "mini"], 2)
    assert found.value.exit_code == status


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (End(2, 0, None, '{"ok": false, "error": "train: too long"}'), "train: too long"),
        (
            End(2, 1, None, '{"ok": false, "error": "what the first said later"}'),
            "rank 1 of 2 ended with exit status 2",
        ),
        (End(1, 0, None, "no JSON"), "rank 0 of 2 ended with exit status 1, and said why above; the others were ended"),
        (End(137, 1, 15, ""), "rank 1 of 2 was killed by SIGKILL .the system does that when"),
        (End(139, 0, None, "[1]"), "rank 0 of 2 was killed by SIGSEGV; the others were ended"),
    ],
)
def test_a_failure_is_one_sentence(monkeypatch: pytest.MonkeyPatch, end: End, message: str) -> None:
    monkeypatch.setattr(launch, "start", lambda *given: end)
    with pytest.raises(TrainingError, match=message) as found:
        train(["train", "mini"], 2)
    assert found.value.exit_code == end.status
    assert "\n" not in why(end, 2)


def test_an_ordinary_end_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(launch, "start", lambda *all: given.extend(all) or End(0, None, None, '{"ok": true}'))
    train(["train", "mini"], 2, 7)
    assert given == [[sys.executable, "-m", "jielong", "train", "mini", "--json"], 2, (7,)]


def test_as_many_devices_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "cores", lambda: 2)
    check_devices(1, "nothing is asked of it")
    check_devices(8, "cpu")
    for devices in (0, 65):
        with pytest.raises(InputError, match=f"out of bounds, got {devices}; must be 1 to 64"):
            check_devices(devices, "cpu")
    with pytest.raises(InputError, match="got 9; it has room for 8 processes on its cores; use --devices 8"):
        check_devices(9, "cpu")
    with pytest.raises(RecipeError, match="not available on this machine"):
        check_devices(2, "mps")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    check_devices(4, "auto")
    with pytest.raises(InputError, match=r"got 5; it has room for 4 GPU\(s\); use --devices 4"):
        check_devices(5, "auto")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(InputError, match="one of 2 processes that somebody else started"):
        check_devices(2, "cpu")


# ---------------------------------------------------------------------------------------------- several machines


def test_printed_commands_hold_names_and_numbers(tmp_path: Path) -> None:
    found = texts("mini", ["my recipe.toml", "--set=train.tokens=9", "--name=mini"], 3, 8)
    words = {kind: shlex.split(text, comments=True) for kind, text in found.items()}
    options = ["my recipe.toml", "--set=train.tokens=9", "--name=mini"]

    lines = [shlex.split(line, comments=True) for line in found["torchrun"].splitlines()]
    assert lines[0] == ["jielong", "model", *options]
    for number, line in enumerate(lines[1:]):
        assert line == ["torchrun", "--nnodes", "3", "--nproc-per-node", "8", "--rdzv-endpoint", "node0:29500", "--node-rank",
                        str(number), "-m", "jielong", "train", *options]  # fmt: skip
    assert len(lines) == 4

    assert "node0 slots=8\nnode1 slots=8\nnode2 slots=8\n" in found["deepspeed"]
    at = words["deepspeed"].index("deepspeed")
    assert words["deepspeed"][at : at + 9] == ["deepspeed", "--hostfile", "mini.hostfile", "--master_addr", "node0",
                                               "--master_port", "29500", "--no_local_rank", "--module"]  # fmt: skip
    assert words["deepspeed"][at + 9 :] == ["jielong", "train", *options, "--set", "train.engine=deepspeed"]

    for line in ("--job-name=mini", "--nodes=3", "--ntasks-per-node=8", "--gpus-per-node=8", "--signal=B:TERM@120", "--requeue",
                 "--output=mini-%j.log"):  # fmt: skip
        assert f"#SBATCH {line}\n" in found["slurm"]
    task = words["slurm"][words["slurm"].index("-c") + 1]
    assert task == (
        "RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID exec jielong train "
        + shlex.join(options)
    )
    for name in ("deepspeed", "slurm"):
        subprocess.run(["bash", "-n"], input=found[name], text=True, check=True)


def test_the_batch_script_saves_and_is_queued_again(tmp_path: Path) -> None:
    """Slurm's own commands are stand-ins here: srun passes SIGTERM on, as the real one does."""
    tools = {
        "jielong": 'echo "jielong $*" >> calls; [ "$1" = model ] || { trap "echo saved $RANK/$WORLD_SIZE >> calls; exit 0" TERM;'
        " touch started; while :; do sleep 0.05; done; }",
        "srun": 'shift 2; SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_LOCALID=0 "$@" & task=$!; trap "kill -TERM $task" TERM;'
        " wait $task; wait $task",
        "scontrol": 'if [ "$1" = requeue ]; then echo "requeue $2" >> calls; else echo node7; fi',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(texts("mini", ["mini.toml"], 2, 1)["slurm"])
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "n",
                                "SLURM_CPUS_PER_TASK": "8"}  # fmt: skip
    with subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment) as job:
        until((tmp_path / "started").exists)
        job.terminate()
        assert job.wait(timeout=DEADLINE) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["jielong model mini.toml", "jielong train mini.toml", "saved 0/2", "requeue 77"]


# -------------------------------------------------------------------------------------------------- the whole line


def losses(folder: Path, name: str) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "runs" / name / "train" / "metrics.jsonl")]


@pytest.mark.slow
def test_two_devices_end_as_one_does_even_when_stopped_on_the_way(tmp_path: Path) -> None:
    """`run --devices 2` with the losses of `run`; SIGTERM saves and exits with 0, and the same command goes on to the end."""
    write_recipe(tmp_path)

    def begin(name: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "jielong", "run", "mini.toml", "--name", name, "--json", *more],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def end(process: subprocess.Popen[bytes]) -> tuple[dict[str, Any], str]:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and b"Traceback" not in err, err.decode()
        found: dict[str, Any] = orjson.loads(out)
        return found, err.decode()

    longer = ("--set", "train.tokens=30720", "--set", "infer.max_new_tokens=2")
    one, _ = end(begin("one", *longer))
    process = begin("two", "--devices", "2", *longer)
    until(lambda: (tmp_path / "runs/two/train/metrics.jsonl").is_file() and len(losses(tmp_path, "two")) > 5)
    process.send_signal(signal.SIGTERM)
    stopped, err = end(process)
    assert "saved; the same command goes on from there" in stopped["stopped"] and "infer:" not in err
    assert 5 < len(losses(tmp_path, "two")) < 120

    two, err = end(begin("two", "--devices", "2", *longer))
    assert "going on from step" in err and len(losses(tmp_path, "two")) == 120
    assert losses(tmp_path, "two") == pytest.approx(losses(tmp_path, "one"), rel=1e-4)
    assert (one["stages"]["train"]["counts"]["processes"], two["stages"]["train"]["counts"]["processes"]) == (1, 2)
    assert two["stages"]["evaluate"]["state"] == "done" and len(two["continuations"]) == 5
    again, err = end(begin("two", *longer))  # on one device now: nothing of the result has changed
    assert again["up_to_date"] and "processes" not in err
