"""PPO's arithmetic on an answer of three tokens, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from jielong.align.methods import ppo_arithmetic as ppo

MASK = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])


def test_each_token_costs_its_distance_and_the_last_one_earns_the_reward() -> None:
    ratio = torch.tensor([[0.2, -0.1, 0.4], [0.5, 0.3, 9.0]])
    found = ppo.token_rewards(torch.tensor([1.0, 2.0]), ratio, MASK, 0.1)
    expected = [[-0.02, 0.01, 1.0 - 0.04], [-0.05, 2.0 - 0.03, 0.0]]
    assert torch.allclose(found, torch.tensor(expected))


def test_generalised_advantages() -> None:
    """Discount 0.9, lambda 0.5: from the end on, d3 = 1 - 0.3 = 0.7; d2 = 0.9 x 0.3 - 0.2 = 0.07; d1 = 0.9 x 0.2 - 0.1 = 0.08."""
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    found = ppo.advantages(rewards, values, torch.ones(1, 3), 0.9, 0.5)
    third, second = 0.7, 0.07 + 0.45 * 0.7
    assert found[0].tolist() == pytest.approx([0.08 + 0.45 * second, second, third])


def test_with_lambda_one_an_advantage_is_what_comes_less_the_value() -> None:
    rewards, values = torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[0.3, 0.1, 0.4]])
    found = ppo.advantages(rewards, values, torch.ones(1, 3), 1.0, 1.0)
    assert found[0].tolist() == pytest.approx([1.5 - 0.3, 1.0 - 0.1, 1.0 - 0.4])


def test_what_lies_behind_an_answer_has_no_part_in_it() -> None:
    rewards, values = torch.tensor([[0.0, 1.0, 5.0]]), torch.tensor([[0.1, 0.2, 7.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    short = ppo.advantages(rewards[:, :2], values[:, :2], mask[:, :2], 0.9, 0.5)
    found = ppo.advantages(rewards * mask, values, mask, 0.9, 0.5)
    assert torch.allclose(found[:, :2], short) and found[0, 2] == 0


def test_the_clipped_objective() -> None:
    """Ratios 1.5, 0.5 and 1.1 with advantages 1, -1 and 2 at a clip of 0.2: 1.2, -0.8 and 2.2."""
    old = torch.zeros(1, 3)
    new = torch.tensor([[math.log(1.5), math.log(0.5), math.log(1.1)]])
    loss, clipped = ppo.policy_loss(new, old, torch.tensor([[1.0, -1.0, 2.0]]), torch.ones(1, 3), 0.2)
    assert float(loss) == pytest.approx(-(1.2 - 0.8 + 2.2)) and float(clipped) == 2


def test_clipped_tokens_have_no_gradient() -> None:
    new = torch.tensor([[math.log(1.5), math.log(1.1)]], requires_grad=True)
    loss, _ = ppo.policy_loss(new, torch.zeros(1, 2), torch.ones(1, 2), torch.ones(1, 2), 0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    assert new.grad is not None and new.grad[0].tolist() == pytest.approx([0.0, -1.1])


def test_values_move_by_the_clip_at_most() -> None:
    """From 0 to 0.5 with a return of 1: as if it had moved to 0.2, which is further from it."""
    found = ppo.value_loss(torch.tensor([[0.5]]), torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2)
    assert float(found) == pytest.approx(0.5 * (1 - 0.2) ** 2)
    found = ppo.value_loss(torch.tensor([[0.1]]), torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1), 0.2)
    assert float(found) == pytest.approx(0.5 * (1 - 0.1) ** 2)


def test_whitened_advantages_are_those_of_the_answers_tokens() -> None:
    found = ppo.whitened(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]]), MASK)
    inside = found[MASK.bool()]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-6) and float(inside.std(unbiased=False)) == pytest.approx(
        1, abs=1e-4
    )
    assert found[1, 2] == 0
