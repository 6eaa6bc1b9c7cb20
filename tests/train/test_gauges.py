"""MFU by hand, a peak that is measured, and memory that grows."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from jielong.train.gauges import measured_peak, memory_bytes, mfu, peak_of

CPU = torch.device("cpu")


def test_mfu_by_hand() -> None:
    """1,000 FLOPs a token at 50 tokens a second are a quarter of what two devices of 100,000 can."""
    assert mfu(50.0, 1e3, 1e5, 2) == 0.25
    assert mfu(50.0, 1e3, None, 2) is None


def test_the_peak_of_a_processor_is_measured_once_and_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    peak = peak_of(CPU, "float32")
    assert peak is not None and 1e8 < peak < 1e15 and measured_peak("float32") == peak
    assert torch.equal(torch.get_rng_state(), before)


def test_an_apple_gpu_s_peak_is_not_known() -> None:
    assert peak_of(torch.device("mps"), "float32") is None


def test_memory_is_that_of_this_process() -> None:
    """In a new one: an old one may have memory left that it was given before."""
    code = (
        "import torch; from jielong.train.gauges import memory_bytes; cpu = torch.device('cpu'); before = memory_bytes(cpu); "
        "held = torch.ones(50_000_000); assert memory_bytes(cpu) > before + 100_000_000 and held.sum() > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    held = torch.ones(1_000_000, device=device)
    assert memory_bytes(device) >= held.nbytes
    peak = peak_of(device, "float32")
    assert peak is not None and peak > 1e12
