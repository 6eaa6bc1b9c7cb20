from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest
import torch

from jielong import runtime
from jielong.errors import RecipeError
from jielong.runtime import choose_device, choose_precision, keep_freed_memory, random_state, restore_random_state

CPU = torch.device("cpu")


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="got 'cuda'; available: "):
            choose_device("cuda")


@pytest.mark.parametrize(("fast", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_asks_the_device(monkeypatch: pytest.MonkeyPatch, fast: bool, expected: str) -> None:
    monkeypatch.setattr(runtime, "has_fast_bfloat16", lambda device: fast)
    assert choose_precision("auto", CPU) == expected
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 6), "bfloat16")]
)
def test_auto_precision_on_each_generation(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: str
) -> None:
    """A V100 (7.0) has fast float16 and no bfloat16; a P40 (6.1) has neither."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("wanted", "too_old", "enough"), [("tf32", (7, 5), (8, 0)), ("fp8", (8, 6), (8, 9)), ("fp8", (8, 0), (9, 0))]
)
def test_a_precision_that_the_device_has_not(
    monkeypatch: pytest.MonkeyPatch, wanted: str, too_old: tuple[int, int], enough: tuple[int, int]
) -> None:
    with pytest.raises(
        RecipeError, match=rf"train\.precision: .*, got '{wanted}' on cpu; .* capability 8\.\d; use auto"
    ):
        choose_precision(wanted, CPU)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: too_old)
    with pytest.raises(RecipeError, match=rf"on cuda of compute capability {too_old[0]}\.{too_old[1]}; it needs"):
        choose_precision(wanted, gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: enough)
    assert choose_precision(wanted, gpu) == wanted
    monkeypatch.setattr(torch.version, "hip", "6.2")  # an AMD GPU's number of that name says nothing about it
    with pytest.raises(RecipeError, match="got"):
        choose_precision(wanted, gpu)


@pytest.mark.parametrize("wanted", ["float16", "bfloat16", "float32"])
def test_half_precision_is_allowed_where_it_is_slow(wanted: str) -> None:
    assert choose_precision(wanted, CPU) == wanted


def test_random_state_comes_back() -> None:
    state = random_state(CPU)
    first = torch.rand(5)
    restore_random_state(state, CPU)
    assert torch.equal(torch.rand(5), first)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept() -> None:
    """32 MB more or less in memory after they were freed."""
    code = """
from pathlib import Path
from jielong.runtime import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

def left():
    before = resident()
    block = bytearray(b"x") * (32 << 20)
    held = resident() - before
    del block
    return held, resident() - before

print(*left())
keep_freed_memory()
print(*left())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    (usual_held, usual_left), (held, kept) = ([int(x) for x in line.split()] for line in out.splitlines())
    assert usual_held >= 30 and usual_left < 10
    assert held >= 30 and kept >= 30


@pytest.mark.parametrize("error", [OSError, AttributeError])
def test_another_c_library_keeps_its_habits(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def refuse(name: None) -> None:
        raise error("no mallopt")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    keep_freed_memory()
