"""AdamW whose two moments take a byte each: bitsandbytes (arXiv:2110.02861), and torch's AdamW for the rest.

A moment is kept in blocks of 256 numbers, each block with its largest in float32 and the others as one of 256 steps of it: 2.03
bytes a weight against 8. Small parameters and the embedding keep 32 bits (groups.py says why), so nothing of bitsandbytes'
own exceptions is used, and its global registry of them stays empty.

State: `state1`, `state2` (the codes), `absmax1`, `absmax2`, `qmap1`, `qmap2` (what the codes stand for) and `step`. It is taken
over by another run of the same optimizer bit for bit, and by no other kind. Blocks are cut from a parameter as it lies here, so
shards would have others: not with FSDP2 and ZeRO.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

KINDS = frozenset({"step", "state1", "state2", "absmax1", "absmax2", "qmap1", "qmap2"})


def eight_bit_adamw(
    parameters: Sequence[nn.Parameter], weight_decay: float, betas: tuple[float, float], epsilon: float
) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit over large matrices, one group. The package must be there (opening.check_optimizer)."""
    logger = logging.getLogger("bitsandbytes")  # at import it tells of kernels that are nothing to us
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from bitsandbytes import optim
    finally:
        logger.setLevel(level)
    group = {"params": list(parameters), "weight_decay": weight_decay, "rate": 1.0, "decayed": True}
    kind: Any = vars(optim)["AdamW8bit"]  # not declared as exported
    optimizer: torch.optim.Optimizer = kind([group], lr=0.0, betas=betas, eps=epsilon, min_8bit_size=0)
    optimizer.register_step_pre_hook(_counted)
    return optimizer


def _counted(optimizer: torch.optim.Optimizer, *rest: Any) -> None:
    """Counts of steps that come from a checkpoint are tensors; bitsandbytes' kernels take numbers."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = int(state["step"])
