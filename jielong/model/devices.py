"""Devices that a run can be planned for: memory, speed, and what we assume about both. Pure figures, no torch.

From data sheets (NVIDIA; dense figures, without structured sparsity; half precision with float32 accumulation):
    RTX 3090, RTX 4090   GA102 whitepaper v2, appendix A; Ada GPU architecture whitepaper v1, appendix A
    V100 SXM2 32 GB      Tesla V100 data sheet, 2020; no bfloat16 (compute capability 7.0)
    A100 SXM 80 GB       A100 Tensor Core GPU data sheet, 2022
    H100, H200 SXM       H100 and H200 Tensor Core GPU data sheets, 2023 and 2024 (their figures with sparsity, halved)
"GB" of memory are GiB there. `float32` is what the ordinary units do, which is what torch uses unless TF32 is allowed
by train.precision = "tf32"; `fp8` is that of the linear layers alone.

Assumptions, ours, each of which a plan names and its caller can replace:
    utilisation  share of the peak that training of a small model reaches: eager PyTorch with fused attention, no fp8. The
                 faster the chip, the smaller the share, because small products do not fill it. What a run reaches is in
                 its metrics: tokens_per_second x FLOPs a token / peak.
    price        dollars an hour on the large rental markets, rounded, autumn 2026. Look it up, and say --price.
    usable       share of the memory that tensors may take: the rest is the context, the allocator's gaps and the display.
    cpu          80 GFLOP/s a core in float32 (two 256-bit multiply-adds a cycle at 2.5 GHz), twice that in bfloat16 where
                 the processor has it; memory and cores are this machine's.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from jielong.errors import InputError

GIB = 1 << 30
TERA = 1e12
CPU_CORE = 80e9  # FLOP/s in float32; see above
USABLE = 0.92


@dataclass(frozen=True)
class Device:
    """One processor with memory of its own. Speeds in FLOP/s (None: it can not), memory in bytes, prices in dollars."""

    name: str
    kind: str  # "cpu" or "cuda"
    memory: int
    bfloat16: float | None
    float16: float | None
    float32: float
    tf32: float | None
    bandwidth: float  # bytes of its own memory a second
    utilisation: float  # assumption
    price: float  # an hour, assumption
    usable: float = USABLE  # assumption
    capability: int = 8  # CUDA's compute capability, its first number: it decides which kernels there are
    fp8: float | None = None

    @property
    def usable_bytes(self) -> int:
        """Bytes that tensors may take."""
        return int(self.memory * self.usable)

    def peak(self, precision: str) -> float:
        """FLOP/s of matrix products in a precision. Raises InputError for one that the device does not have."""
        speed = {"bfloat16": self.bfloat16, "float16": self.float16, "float32": self.float32, "tf32": self.tf32,
                 "fp8": self.fp8}[precision]  # fmt: skip
        if speed is None:
            raise InputError(
                f"train.precision: {self.name} has no {precision} arithmetic, got {precision!r}; use auto or float32, or plan "
                "for another --device"
            )
        return speed

    def best_precision(self) -> str:
        """What `train.precision = "auto"` takes on it: bfloat16 where it is fast, else float16 on CUDA, else float32."""
        if self.bfloat16 is not None and self.bfloat16 > self.float32:
            return "bfloat16"
        faster = self.kind == "cuda" and self.float16 is not None and self.float16 > self.float32
        return "float16" if faster else "float32"


PRESETS = {
    device.name: device
    for device in (
        Device("rtx-3090", "cuda", 24 * GIB, 71 * TERA, 71 * TERA, 35.6 * TERA, 35.6 * TERA, 936e9, 0.45, 0.25),
        Device("rtx-4090", "cuda", 24 * GIB, 165.2 * TERA, 165.2 * TERA, 82.6 * TERA, 82.6 * TERA, 1008e9, 0.40, 0.45,
               fp8=330.3 * TERA),
        Device("v100-32g", "cuda", 32 * GIB, None, 125 * TERA, 15.7 * TERA, None, 900e9, 0.35, 0.40, capability=7),
        Device("a100-80g", "cuda", 80 * GIB, 312 * TERA, 312 * TERA, 19.5 * TERA, 156 * TERA, 2039e9, 0.40, 1.50),
        Device("h100", "cuda", 80 * GIB, 989 * TERA, 989 * TERA, 67 * TERA, 494 * TERA, 3350e9, 0.30, 2.50,
               capability=9, fp8=1979 * TERA),
        Device("h200", "cuda", 141 * GIB, 989 * TERA, 989 * TERA, 67 * TERA, 494 * TERA, 4800e9, 0.30, 3.00,
               capability=9, fp8=1979 * TERA),
    )
}  # fmt: skip
NAMES = (*PRESETS, "cpu")


def cpu() -> Device:
    """This machine's processor and memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    flags = _processor_flags()
    half = "avx512_bf16" in flags or "amx_bf16" in flags
    single = cores * CPU_CORE
    return Device("cpu", "cpu", memory, single * (2 if half else 1), None, single, None, 20e9, 0.5, 0.05, 0.85)


def _processor_flags() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def find_device(name: str) -> Device:
    """A preset by name. Raises InputError for an unknown one."""
    if name == "cpu":
        return cpu()
    if name not in PRESETS:
        raise InputError(f"--device: unknown, got {name!r}; must be one of {', '.join(NAMES)}; choose one of them")
    return PRESETS[name]


def from_cuda(title: str, memory: int, capability: tuple[int, int]) -> Device:
    """The device of a CUDA card: its preset where the name is known, with the memory that it really has.

    title: what the driver calls it ("NVIDIA GeForce RTX 4090"). An unknown card takes the speeds of a known one that is like
    it, an RTX 3090 with bfloat16 or a V100 without: a rough guess, which its name says.
    """
    words = title.lower().replace("-", " ").split()
    for name, device in PRESETS.items():
        if name.removeprefix("rtx-").split("-")[0] in words:
            return dataclasses.replace(device, memory=memory)
    like = PRESETS["rtx-3090" if capability >= (8, 0) else "v100-32g"]
    name = f"{title} (speeds of {like.name} assumed)"
    return dataclasses.replace(like, name=name, memory=memory, capability=capability[0])


def this_device() -> Device:
    """What this machine has: its first CUDA card, else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return cpu()
    found = torch.cuda.get_device_properties(0)
    return from_cuda(found.name, found.total_memory, (found.major, found.minor))
