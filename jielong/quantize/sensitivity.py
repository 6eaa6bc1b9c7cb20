"""Mixed precision: which matrices need their bits.

How much a matrix hurts at so many bits is asked of the model itself: that one matrix is rounded, everything else left whole, and what the model
then says of some text is compared with what it says whole (KL divergence, nats a token). Bits are then given where a bit of a weight
takes most away, until the average is spent: the greedy rule for such a knapsack, exact but for the last matrix where the gains fall.

The hurts of matrices are taken as if they added up, which they do not quite; the whole is measured afterwards, as with every method.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from jielong.model.transformer import CausalLM
from jielong.progress import Progress
from jielong.quantize.rounding import round_to_nearest

CHOICES = (2, 3, 4, 8)  # bits that a matrix may have
ROWS = 4  # of text that the hurts are measured on


def allot(hurts: Mapping[str, Mapping[int, float]], sizes: Mapping[str, int], average: float) -> dict[str, int]:
    """Bits of each matrix such that the average over weights is at most `average`.

    hurts: of each matrix and number of bits; sizes: weights of each matrix. Every matrix starts with the fewest bits.
    """
    choices = sorted(next(iter(hurts.values())))
    found = dict.fromkeys(hurts, choices[0])
    left = average * sum(sizes.values()) - choices[0] * sum(sizes.values())
    queue = [_best(name, choices[0], hurts[name], sizes[name]) for name in hurts]
    heap = [entry for entry in queue if entry is not None]
    heapq.heapify(heap)
    while heap:
        _, name, now, bits = heapq.heappop(heap)
        if found[name] != now:
            continue
        cost = (bits - now) * sizes[name]
        if cost > left:  # a smaller step may still fit
            smaller = [other for other in choices if now < other < bits and (other - now) * sizes[name] <= left]
            if not smaller:
                continue
            bits = smaller[-1]
            cost = (bits - now) * sizes[name]
        left -= cost
        found[name] = bits
        if (entry := _best(name, bits, hurts[name], sizes[name])) is not None:
            heapq.heappush(heap, entry)
    return found


def _best(name: str, now: int, hurt: Mapping[int, float], size: int) -> tuple[float, str, int, int] | None:
    """The step up that takes most away for a bit of a weight: (minus the gain, name, bits now, bits then)."""
    steps = [(-(hurt[now] - hurt[bits]) / ((bits - now) * size), name, now, bits) for bits in hurt if bits > now]
    return min(steps) if steps else None


@torch.no_grad()
def measure_hurts(
    model: CausalLM, layers: list[str], ids_RT: npt.NDArray[Any], group: int | None, symmetric: bool
) -> dict[str, dict[int, float]]:
    """Of each layer (a linear one, by its name) and number of bits, the KL divergence in nats a token when it alone is rounded.

    group: columns that share a scale; None: a whole row. The model is as it was afterwards.
    """
    ids = torch.from_numpy(ids_RT[:ROWS]).to(model.model.embed_tokens.weight.device)
    whole = torch.log_softmax(model(ids).float(), dim=-1)
    found: dict[str, dict[int, float]] = {}
    with Progress("quantize: what each matrix needs", len(layers) * len(CHOICES), "passes") as bar:
        for name in layers:
            module = model.get_submodule(name)
            assert isinstance(module, nn.Linear)
            kept = module.weight.data
            found[name] = {}
            for bits in CHOICES:
                integers = round_to_nearest(kept.cpu(), bits, group or kept.shape[1], symmetric)
                module.weight.data = integers.matrix().to(kept.device)
                found[name][bits] = divergence(whole, torch.log_softmax(model(ids).float(), dim=-1))
                bar.advance(1)
            module.weight.data = kept
    return found


def divergence(whole: Tensor, other: Tensor) -> float:
    """KL(whole || other), nats a token, of log-probabilities (..., V)."""
    return float((whole.exp() * (whole - other)).sum(dim=-1).mean())
