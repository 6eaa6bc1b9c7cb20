"""Optimizers over a model's parameters."""

from __future__ import annotations

import torch
from torch import nn

from jielong.train.config import Config

CLEX_RATE = (
    0.01  # of the learning rate: the network stands in an exponent, and at the whole rate diverges (docs/LOG.md)
)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors (norms, biases) without, CLEX's network at a rate of its own; shared ones once.

    `rate` is what the learning rate is multiplied by.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    slow: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (slow if ".frequencies." in name else matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay, "rate": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate": 1.0},
    ]
    return groups + ([{"params": slow, "weight_decay": 0.0, "rate": CLEX_RATE}] if slow else [])


def adamw(model: nn.Module, config: Config, device: torch.device) -> torch.optim.AdamW:
    """torch's AdamW, in its fused form where the device has one."""
    return torch.optim.AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )
