"""Lion against its formula in plain Python."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from jielong.train.optimizers import lion
from jielong.train.optimizers.lion import Lion


@pytest.mark.parametrize("run", [1 << 22, 4])
def test_lion_equals_the_formula(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """arXiv:2302.06675, algorithm 2, number by number; in runs so small that a parameter is cut, too."""
    monkeypatch.setattr(lion, "RUN", run)
    generator = torch.Generator().manual_seed(1)
    parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 3), (2,), (5,))]
    weights = [p.detach().double().flatten().tolist() for p in parameters]
    moments = [[0.0] * len(values) for values in weights]
    decays, rate, (one, two) = [0.1, 0.1, 0.0], 0.02, (0.9, 0.95)
    groups: Any = [
        {"params": parameters[:2], "weight_decay": 0.1, "rate": 1.0},
        {"params": parameters[2:], "weight_decay": 0.0, "rate": 1.0},
    ]
    optimizer = Lion(groups, (one, two))
    for _ in range(4):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for number, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=generator)
            for place, g in enumerate(p.grad.flatten().tolist()):
                m, w = moments[number][place], weights[number][place]
                update = math.copysign(1.0, one * m + (1 - one) * g)
                weights[number][place] = w - rate * decays[number] * w - rate * update
                moments[number][place] = two * m + (1 - two) * g
        optimizer.step()
    for number, p in enumerate(parameters):
        assert p.flatten().tolist() == pytest.approx(weights[number], abs=1e-5)
        assert optimizer.state[p]["exp_avg"].flatten().tolist() == pytest.approx(moments[number], abs=1e-6)


def test_what_has_no_gradient_stays() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Lion([{"params": [parameter], "weight_decay": 0.5, "rate": 1.0}], (0.9, 0.95))
    optimizer.step()
    assert parameter.tolist() == [1.0] * 3 and not optimizer.state
