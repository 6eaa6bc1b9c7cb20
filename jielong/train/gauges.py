"""How much of the device a run uses: MFU, and memory.

MFU is model FLOPs utilisation (PaLM, arXiv:2204.02311, appendix B): the FLOPs of the model's arithmetic (cost.py, nothing recomputed
counted twice) a second, by the peak of the device. The peak of a GPU is that of its data sheet (model/devices.py), of the run's
precision; an unknown card's is that of one like it. A processor's data sheet says little (clocks change with load and
with the width of the units), so its peak is measured: products of two square matrices for some 0.3 s, once a process, the best of them. A
small model reaches a smaller share on either, because its matrices are small.

Memory is the most that torch had on the GPU, or the resident bytes of the process. It is read in some 30 microseconds on a processor; torch's figures of a GPU take longer, so
a run reads them once a second.
"""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from pathlib import Path

import torch

from jielong.errors import InputError
from jielong.model.devices import from_cuda

MEASURED_SECONDS, SIZE = 0.3, 768  # of the products, and the side of their matrices
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def mfu(tokens_per_second: float, flops_a_token: float, peak: float | None, devices: int) -> float | None:
    """The share of the peak of all devices that the model's arithmetic takes; None: the peak is not known.

    flops_a_token: of training, as `flops_per_token` in model/cost.py; peak: FLOP/s of one device.
    """
    return flops_a_token * tokens_per_second / (peak * devices) if peak else None


def peak_of(device: torch.device, precision: str) -> float | None:
    """FLOP/s of one device in a precision, as data sheets or a measurement say; None where neither does."""
    if device.type == "cpu":
        return measured_peak(precision)
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    try:
        return from_cuda(found.name, found.total_memory, (found.major, found.minor)).peak(precision)
    except InputError:  # it computes in a way that no data sheet names
        return None


@functools.cache
def measured_peak(precision: str) -> float:
    """FLOP/s of this processor in products of square matrices, the best of some; no random number is drawn."""
    left = torch.full((SIZE, SIZE), 0.5, dtype=HALF.get(precision, torch.float32))
    best, end = 0.0, time.monotonic() + MEASURED_SECONDS
    with torch.no_grad():
        while True:
            start = time.perf_counter()
            torch.mm(left, left)
            best = max(best, 2.0 * SIZE**3 / max(time.perf_counter() - start, 1e-9))
            if time.monotonic() > end:
                return best


def memory_bytes(device: torch.device) -> int:
    """The most bytes that torch had on a GPU so far; on other devices the resident bytes of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # not Linux: the most so far
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
