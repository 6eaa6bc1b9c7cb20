"""Learning-rate schedules: numbers in, numbers out.

All rise linearly over the warm-up and reach the peak at its last step. Then

    cosine         half a cosine down to the floor at the last step (arXiv:1608.03983, equation 5, without restarts)
    linear         a straight line down to the floor at the last step
    wsd            the peak, and in the last `decay` steps a straight line down to the floor: warm-up, stable, decay (MiniCPM,
                   arXiv:2404.06395), also known as a trapezoid; a run that may be made longer is broken off before the last part
    inverse_sqrt   peak * sqrt(warmup / step), as with the Transformer (arXiv:1706.03762, section 5.3), never below the floor;
                   without a warm-up as with one of a single step
    constant       the peak

Steps are optimizer steps, 1 ... total.
"""

from __future__ import annotations

import math


def learning_rate(name: str, step: int, total: int, warmup: int, decay: int, peak: float, floor: float) -> float:
    """The learning rate of optimizer step `step` by the schedule of that name. warmup, decay: of the steps."""
    assert 1 <= step <= total
    if step <= warmup:
        return peak * step / warmup
    if name == "cosine":
        return cosine(step, total, warmup, peak, floor)
    if name == "linear":
        return falling(step, warmup, total, peak, floor)
    if name == "wsd":
        return falling(step, max(warmup, total - decay), total, peak, floor)
    if name == "inverse_sqrt":
        return max(floor, peak * math.sqrt(max(1, warmup) / step))
    assert name == "constant", name
    return peak


def cosine(step: int, total: int, warmup: int, peak: float, floor: float) -> float:
    """Behind the warm-up: half a cosine from peak to floor."""
    done = (step - warmup) / max(1, total - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * done))


def falling(step: int, begin: int, total: int, peak: float, floor: float) -> float:
    """The peak up to step `begin`, then a straight line to the floor at step `total`."""
    done = max(0, step - begin) / max(1, total - begin)
    return peak + (floor - peak) * done
