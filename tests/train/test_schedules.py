"""Schedules against arithmetic by hand, torch's schedulers and transformers' wsd."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from transformers import get_wsd_schedule

from jielong.train.phases import ScheduleName
from jielong.train.schedules import learning_rate

NAMES = get_args(ScheduleName)


def rates(name: str, total: int, warmup: int, decay: int = 0, peak: float = 1.0, floor: float = 0.1) -> list[float]:
    """Of every step."""
    return [learning_rate(name, step, total, warmup, decay, peak, floor) for step in range(1, total + 1)]


def theirs(make: object, total: int, peak: float = 1.0) -> list[float]:
    """What a scheduler of torch's form gives: the rates of steps 0 ... total."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    scheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(total + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_by_hand() -> None:
    """Peak 1, floor 0.1, 2 warm-up steps of 10: 1/2, 1, then 0.1 + 0.45 (1 + cos(pi k / 8)) for k = 1 ... 8.

    k = 4 is the middle: 0.1 + 0.45 = 0.55. k = 8 is the end: 0.1.
    """
    found = rates("cosine", 10, 2)
    assert found[:2] == [0.5, 1.0]
    assert found[5] == pytest.approx(0.55)
    assert found[9] == pytest.approx(0.1)
    assert found[1:] == sorted(found[1:], reverse=True)


def test_linear_and_wsd_by_hand() -> None:
    """Linear: 0.9 / 8 a step behind the warm-up. Wsd: three steps of 10 fall, 0.3 each."""
    assert rates("linear", 10, 2) == pytest.approx([0.5, 1.0, *(1 - 0.9 * k / 8 for k in range(1, 9))])
    assert rates("wsd", 10, 2, 3) == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.7, 0.4, 0.1])
    assert rates("wsd", 4, 2, 4) == pytest.approx([0.5, 1.0, 0.55, 0.1])  # no room: it falls from the warm-up's end


def test_inverse_sqrt_is_the_transformer_s() -> None:
    """arXiv:1706.03762, equation 3, scaled to its peak: min(step^-1/2, step * warmup^-3/2) * warmup^1/2."""
    expected = [min(n**-0.5, n * 16**-1.5) * 4.0 for n in range(1, 101)]
    assert rates("inverse_sqrt", 100, 16, floor=0.0) == pytest.approx(expected)
    assert rates("inverse_sqrt", 4, 0, floor=0.0) == pytest.approx([1, 0.5**0.5, 3**-0.5, 0.5])
    assert rates("inverse_sqrt", 100, 1, floor=0.3)[50:] == [0.3] * 50  # 1 / sqrt(51) is less


def test_constant_stays() -> None:
    assert rates("constant", 6, 2, floor=0.0) == [0.5, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("name", NAMES)
def test_warm_up_reaches_the_peak_and_nothing_is_above_it_or_below_the_floor(name: str) -> None:
    for total, warmup in ((1, 0), (1, 1), (2, 1), (7, 3), (100, 2), (100, 0)):
        found = rates(name, total, warmup, 20, peak=0.3, floor=0.03)
        assert found[:warmup] == pytest.approx([0.3 * n / warmup for n in range(1, warmup + 1)])
        assert all(0.03 - 1e-12 <= rate <= 0.3 for rate in found[warmup:])


@pytest.mark.parametrize("name", NAMES)
def test_steps_are_counted_from_one(name: str) -> None:
    for step in (0, 11):
        with pytest.raises(AssertionError):
            learning_rate(name, step, 10, 2, 2, 1.0, 0.1)


def test_cosine_and_linear_are_torch_s() -> None:
    """Without a warm-up torch's step n is our step n; its first rate, of step 0, is the peak."""
    schedulers = torch.optim.lr_scheduler
    cosine = theirs(lambda optimizer: schedulers.CosineAnnealingLR(optimizer, 50, eta_min=0.2), 50, 2.0)
    assert rates("cosine", 50, 0, peak=2.0, floor=0.2) == pytest.approx(cosine[1:])
    linear = theirs(lambda optimizer: schedulers.LinearLR(optimizer, 1.0, 0.1, 50), 50, 2.0)
    assert rates("linear", 50, 0, peak=2.0, floor=0.2) == pytest.approx(linear[1:])


def test_wsd_is_that_of_transformers() -> None:
    """Theirs warms up from the floor, ours from zero; behind the warm-up they are the same."""
    for floor in (0.0, 0.1):
        theirs_after = theirs(
            lambda optimizer, floor=floor: get_wsd_schedule(
                optimizer,
                num_warmup_steps=10,
                num_stable_steps=60,
                num_decay_steps=30,
                decay_type="linear",
                min_lr_ratio=floor,
            ),
            100,
            2.0,
        )
        begin = 10 if floor else 0
        assert rates("wsd", 100, 10, 30, 2.0, 2 * floor)[begin:] == pytest.approx(theirs_after[begin + 1 :])


def test_a_schedule_that_nobody_knows() -> None:
    with pytest.raises(AssertionError, match="staircase"):
        learning_rate("staircase", 5, 10, 2, 2, 1.0, 0.1)
    assert math.isfinite(sum(rates("cosine", 3, 3)))  # all warm-up
