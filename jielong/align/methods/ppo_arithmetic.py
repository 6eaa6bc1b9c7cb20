"""The arithmetic of PPO on answers: rewards a token, advantages, losses. Shapes: B answers, T tokens of the longest; masks are 1 at tokens.

After Schulman et al. (arXiv:1707.06347), generalised advantages arXiv:1506.02438, rewards as in InstructGPT (arXiv:2203.02155).
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(rewards_B: Tensor, log_ratio_BT: Tensor, mask_BT: Tensor, beta: float) -> Tensor:
    """What each token is worth: -beta times how much likelier it is than under the reference, and at the last one the answer's reward.

    log_ratio_BT: log-probabilities less those of the reference. Returns (B, T), 0 outside of the mask.
    """
    found_BT = -beta * log_ratio_BT * mask_BT
    last_B = mask_BT.sum(dim=1).long() - 1
    return found_BT.scatter_add(1, last_B[:, None], rewards_B[:, None].to(found_BT.dtype))


def advantages(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, discount: float, gae_lambda: float) -> Tensor:
    """Generalised advantages (B, T): A_t = d_t + discount lambda A_{t+1}, d_t = r_t + discount V_{t+1} - V_t, and V is 0 behind the end."""
    found, running_B = torch.zeros_like(rewards_BT), torch.zeros_like(rewards_BT[:, 0])
    values_BT = values_BT * mask_BT
    for t in reversed(range(rewards_BT.shape[1])):
        next_B = values_BT[:, t + 1] if t + 1 < rewards_BT.shape[1] else torch.zeros_like(running_B)
        delta_B = rewards_BT[:, t] + discount * next_B - values_BT[:, t]
        running_B = (delta_B + discount * gae_lambda * running_B) * mask_BT[:, t]
        found[:, t] = running_B
    return found


def whitened(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and deviation 1 over the tokens of all answers; 0 outside of the mask."""
    count = mask_BT.sum().clamp(min=1)
    mean = (values_BT * mask_BT).sum() / count
    variance = ((values_BT - mean).square() * mask_BT).sum() / count
    return (values_BT - mean) * torch.rsqrt(variance + 1e-8) * mask_BT


def policy_loss(
    new_BT: Tensor, old_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """The sum over tokens of the clipped objective, negative, and how many tokens are clipped.

    new_BT, old_BT: log-probabilities by the weights of now and of the rollout.
    """
    ratio_BT = (new_BT - old_BT).exp()
    plain, clipped = ratio_BT * advantages_BT, ratio_BT.clamp(1 - clip, 1 + clip) * advantages_BT
    return -(torch.minimum(plain, clipped) * mask_BT).sum(), ((clipped < plain) * mask_BT).sum()


def value_loss(new_BT: Tensor, old_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor, clip: float) -> Tensor:
    """The sum over tokens of half the squared error of the values, which may move by `clip` at most in one rollout."""
    near_BT = old_BT + (new_BT - old_BT).clamp(-clip, clip)
    worse = torch.maximum((new_BT - returns_BT).square(), (near_BT - returns_BT).square())
    return 0.5 * (worse * mask_BT).sum()
