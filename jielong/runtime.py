"""The machine under a run: device, precision, random state. torch is imported inside, never at import.

Precision: on CPU, bfloat16 matrix products are 2-3 times float32's speed where the processor has AVX-512 BF16 or AMX,
and slower than float32 where it has not; on CUDA they need compute capability 8.0 (Ampere). float16 has tensor cores of its
own since 7.0 (Volta), tf32 since 8.0, fp8 since 8.9 (Ada, Hopper). `auto` asks the device; what is asked for by name is taken
wherever it computes at all, however slowly (half precision on a CPU is for tests), and refused where it would not.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

from jielong.errors import RecipeError

if TYPE_CHECKING:
    import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h

FLOAT16_NEEDS = (
    7,
    0,
)  # compute capability with float16 tensor cores
NEEDS = {"tf32": (8, 0), "fp8": (8, 9)}  # compute capability


def choose_device(wanted: str, field: str = "train.device") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU. Raises RecipeError for a device that is not there."""
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(wanted, False):
        have = ", ".join(name for name, there in available.items() if there)
        raise RecipeError(f"{field}: not available on this machine, got {wanted!r}; available: {have}; use auto")
    return torch.device(wanted)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32's on the device."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        flags = Path("/proc/cpuinfo")
        words = flags.read_text(encoding="utf-8", errors="replace") if flags.is_file() else ""
        return "avx512_bf16" in words or "amx_bf16" in words
    return False


def choose_precision(wanted: str, device: torch.device) -> str:
    """`auto` -> bfloat16 where it is fast, else float16 on CUDA from Volta on (a V100), else float32.

    Raises RecipeError for tf32 and fp8 where the device has no such arithmetic.
    """
    if wanted == "auto":
        if has_fast_bfloat16(device):
            return "bfloat16"
        return "float16" if _capability(device) >= FLOAT16_NEEDS else "float32"
    if wanted in NEEDS and _capability(device) < NEEDS[wanted]:
        have, need = _capability(device), NEEDS[wanted]
        what = f"{device.type} of compute capability {have[0]}.{have[1]}" if have > (0, 0) else device.type
        raise RecipeError(
            f"train.precision: this device has no such arithmetic, got {wanted!r} on {what}; it needs an NVIDIA GPU of compute "
            f"capability {need[0]}.{need[1]}; use auto"
        )
    return wanted


def _capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of an NVIDIA GPU; (0, 0) for everything else (AMD's numbers of that name mean something else)."""
    import torch

    if device.type != "cuda" or torch.version.hip is not None:
        return 0, 0
    return torch.cuda.get_device_capability(device)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of torch's generators, as tensors that safetensors can hold."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    import torch

    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def keep_freed_memory() -> None:
    """Have this process keep the memory that tensors give back, instead of returning it to the system; for training on a CPU.

    glibc maps large blocks anew each time, and the system clears every page of them at its first touch: of a step's 30,000 page faults
    (4 kB each, up to 10 microseconds in a virtual machine) nearly all go away. Peak memory stays as it is to a few per cent. Nothing on
    other C libraries.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20)):
        mallopt(name, value)
