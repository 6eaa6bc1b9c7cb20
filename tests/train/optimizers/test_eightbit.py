"""8-bit AdamW: near the exact one, state of a byte, goes on bit for bit."""

from __future__ import annotations

import torch

from jielong.train.optimizers.eightbit import KINDS, eight_bit_adamw

BETAS = (0.9, 0.95)


def stepped(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, seeds: range) -> None:
    for seed in seeds:
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()


def test_it_is_near_torch_s() -> None:
    """The update differs by the steps of the codes: a few per cent of its length."""
    first = torch.randn(64, 80, generator=torch.Generator().manual_seed(1))
    eight, exact = (torch.nn.Parameter(first.clone()) for _ in range(2))
    optimizer = eight_bit_adamw([eight], 0.1, BETAS, 1e-8)
    stepped(optimizer, eight, range(5))
    stepped(torch.optim.AdamW([exact], betas=BETAS, eps=1e-8, weight_decay=0.1), exact, range(5))
    error, moved = (eight - exact).detach().norm(), (exact.detach() - first).norm()
    assert 0 < float(error / moved) < 0.1
    state = optimizer.state[eight]
    assert state.keys() == KINDS
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8 and state["absmax1"].shape == (20,)


def test_a_count_of_steps_that_is_a_tensor() -> None:
    """As it comes from a checkpoint."""
    first = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    one, other = (torch.nn.Parameter(first.clone()) for _ in range(2))
    unbroken, broken = (eight_bit_adamw([p], 0.1, BETAS, 1e-8) for p in (one, other))
    stepped(unbroken, one, range(6))
    stepped(broken, other, range(3))
    again = eight_bit_adamw([other], 0.1, BETAS, 1e-8)
    state = broken.state[other]
    again.state[other] = {kind: torch.as_tensor(value).clone() for kind, value in state.items()}
    stepped(again, other, range(3, 6))
    assert torch.equal(one, other)
