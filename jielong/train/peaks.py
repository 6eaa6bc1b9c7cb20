"""How many bytes of tensors one training step has alive at most, phase by phase: the measure of `model/memory.py`.

Resident memory would be the wrong measure: the C allocator keeps what was freed, and pages of the libraries come and go.
torch tells its profiler of every allocation and release of tensor memory, inside fused kernels too, with the time; the
running sum of these on top of what was alive before is exact to the byte. (A TorchDispatchMode sees results of operators
only, not what a kernel takes for itself meanwhile.) Not seen are scratch buffers that oneDNN takes from the C allocator.
On CUDA the caching allocator counts by itself: `max_memory_allocated`, with the work space of cuBLAS in it, without
what is cached but not in use and without the CUDA context (about half a gigabyte).

The profiler sees threads of torch only: what one of ours (model/fused.py) is the last to let go of seems to stay. So on the CPU
the measured step runs in one thread.

Measured is a second step: the first one also makes the optimizer's state (and on CUDA compiles what is compiled). On the
CPU a few tokens do for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch

from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch

PHASES = ("forward", "backward", "step")


@dataclass(frozen=True)
class Peaks:
    """Bytes of tensors: alive before the step, and the most in each phase of it."""

    before: int
    forward: int
    backward: int
    step: int  # clipping and the optimizer

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.forward, self.backward, self.step)


def measure_step(engine: TorchEngine, batches: Sequence[Batch]) -> Peaks:
    """Take two optimizer steps over these micro-batches and measure the second. It changes the weights."""
    tokens = sum(batch.inputs.size for batch in batches)
    if engine.device.type == "cuda":
        _step(engine, batches[:1], tokens, nullcontext)
        return _on_cuda(engine, batches, tokens)
    first = batches[0]
    _step(engine, [Batch(*(getattr(first, field.name)[:1, :8] for field in fields(first)))], 8, nullcontext)
    before = _alive(engine)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with _one_thread(), torch.profiler.profile(activities=kinds, profile_memory=True) as profile:
        _step(engine, batches, tokens, torch.profiler.record_function)
    return Peaks(before, **_read(profile, before))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _step(engine: TorchEngine, batches: Sequence[Batch], tokens: int, phase: Any) -> None:
    for batch in batches:
        with phase("jielong.forward"):
            losses = engine.forward(batch)
            part = (losses.cross_entropy + losses.auxiliary) / tokens
        with phase("jielong.backward"):
            engine.backward(part)
    with phase("jielong.step"):
        engine.step(1e-4)


def _alive(engine: TorchEngine) -> int:
    """Bytes of weights and their average, buffers, gradients and optimizer state, shared storage once."""
    tensors = [*engine.model.parameters(), *engine.model.buffers()]
    tensors += [parameter.grad for parameter in engine.model.parameters() if parameter.grad is not None]
    tensors += [v for state in engine.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    tensors += engine.average.weights.values() if engine.average is not None else []
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _read(profile: torch.profiler.profile, before: int) -> dict[str, int]:
    """The most of the running sum inside each phase."""
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    events: Any = results.events()  # torch's own type of them leaves nbytes out
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    spans = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.name().removeprefix("jielong."))
        for event in events
        if event.name().startswith("jielong.")
    ]
    peaks = dict.fromkeys(PHASES, before)
    for start, end, name in spans:
        now = before + sum(change for at, change in changes if at < start)
        peaks[name] = max(peaks[name], now)
        for at, change in changes:
            if start <= at <= end:
                now += change
                peaks[name] = max(peaks[name], now)
    return peaks


def _on_cuda(engine: TorchEngine, batches: Sequence[Batch], tokens: int) -> Peaks:
    peaks = dict.fromkeys(PHASES, 0)

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats(engine.device)
        yield
        torch.cuda.synchronize(engine.device)
        short = name.removeprefix("jielong.")
        peaks[short] = max(peaks[short], torch.cuda.max_memory_allocated(engine.device))

    before = torch.cuda.memory_allocated(engine.device)
    _step(engine, batches, tokens, phase)
    return Peaks(before, **peaks)
