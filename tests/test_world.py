"""Who we are among the processes of a run, and what they tell each other."""

from __future__ import annotations

import datetime
import math
import time
from typing import Any

import pytest
import torch

from jielong import world
from jielong.errors import InputError
from jielong.world import World, add_up, collected, joined, largest, own_device, this_world, told, wait
from tests.train.engines.processes import free_port, run_processes

CPU = torch.device("cpu")
SAID = {"name": "接龙", "numbers": [1, 2.5, None], "limit": math.inf}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, World(0, 1, 0)),
        ({"RANK": "3"}, World(0, 1, 0)),  # a rank of nothing
        ({"WORLD_SIZE": ""}, World(0, 1, 0)),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, World(0, 1, 0)),
        ({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}, World(5, 8, 1)),
        ({"WORLD_SIZE": "2", "RANK": "1"}, World(1, 2, 0)),
    ],
)
def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: World) -> None:
    set_environment(monkeypatch, given)
    assert this_world() == expected
    assert this_world().first == (expected.rank == 0)


@pytest.mark.parametrize(
    "given",
    [
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "x"},
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": "-1"},
        {"WORLD_SIZE": "0"},
    ],
)
def test_variables_that_do_not_fit_together(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    set_environment(monkeypatch, given)
    with pytest.raises(InputError, match="RANK, WORLD_SIZE and LOCAL_RANK do not fit together, got"):
        this_world()


def set_environment(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    for name in world.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"} | given).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "given", [{"MASTER_ADDR": ""}, {"MASTER_PORT": ""}, {"MASTER_PORT": "x"}, {"MASTER_PORT": "99999"}]
)
def test_processes_must_know_where_they_meet(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    set_environment(monkeypatch, {"WORLD_SIZE": "2", "RANK": "1", **given})
    said = "MASTER_ADDR and MASTER_PORT say where the 2 processes meet, got"
    with pytest.raises(InputError, match=said), joined(this_world(), CPU):
        pass


def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "TIMEOUT", datetime.timedelta(seconds=1))
    set_environment(monkeypatch, {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": str(free_port())})
    with (
        pytest.raises(InputError, match=r"the 2 processes did not meet at 127\.0\.0\.1:\d+"),
        joined(this_world(), CPU),
    ):
        pass


def test_alone_nothing_happens() -> None:
    alone, numbers = World(), torch.tensor([1.0, 2.0])
    with joined(alone, CPU):
        assert not torch.distributed.is_initialized()
        assert add_up(alone, numbers) is numbers and largest(alone, numbers) is numbers
        assert told(alone, SAID) is SAID and collected(alone, numbers) == [numbers]
        wait(alone)


def test_each_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cuda = torch.device("cuda")
    assert own_device(World(1, 2, 1), CPU) == CPU
    assert own_device(World(), cuda) == cuda and chosen == []
    assert own_device(World(3, 4, 1), cuda) == torch.device("cuda", 1) and chosen == [1]
    with pytest.raises(InputError, match=r"local rank 2; it has 2 GPU\(s\); use --devices 2"):
        own_device(World(2, 3, 2), cuda)


def conversation() -> dict[str, Any]:
    """All that two processes can tell each other; and what is waited for at the end, while the group is there."""
    ours, waited = this_world(), list[tuple[float, bool]]()
    sleep = time.sleep
    time.sleep = lambda seconds: waited.append((seconds, torch.distributed.is_initialized()))  # type: ignore[assignment]
    with joined(ours, CPU), joined(ours, CPU):  # the second finds the group there
        mine = torch.tensor([1.0, 10.0]) * (ours.rank + 1)
        long = "字" * 100_000
        found = {
            "sum": add_up(ours, mine.clone()).tolist(),
            "largest": largest(ours, mine * torch.tensor([1.0, -1.0])).tolist(),
            "told": told(ours, SAID if ours.first else "not looked at"),
            "nothing": told(ours, None),
            "long": told(ours, long) == long,
            "collected": [part.tolist() for part in collected(ours, mine)],
            "not contiguous": [part.tolist() for part in collected(ours, torch.arange(6).reshape(2, 3).T)],
        }
        wait(ours)
        assert torch.distributed.is_initialized()
    time.sleep = sleep
    assert not torch.distributed.is_initialized() and waited == [(world.SETTLE_SECONDS, True)]
    return found


def test_what_two_processes_tell_each_other() -> None:
    first, second = run_processes("tests.test_world:conversation", 2)
    for found in (first, second):
        assert found["sum"] == [3.0, 30.0] and found["largest"] == [2.0, -10.0]
        assert found["told"] == SAID and found["nothing"] is None and found["long"]
    assert first["collected"] == [[1.0, 10.0], [2.0, 20.0]] and second["collected"] == []
    assert first["not contiguous"] == [[[0, 3], [1, 4], [2, 5]]] * 2
