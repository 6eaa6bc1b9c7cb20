"""LISA (arXiv:2403.17919): all weights are trained, but of the blocks only a few at a time, drawn anew every so many steps.

The embedding, the last norm and the output layer are trained always. A block that rests has no gradient and no state in the optimizer, so
the memory for both is that of the blocks at work; its moments begin anew when it is drawn again, as in the paper. Which blocks work is a function of
the seed and the step, so that a run that goes on draws the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

import numpy as np
from torch import Tensor

from jielong.model.transformer import CausalLM


def working_blocks(seed: int, step: int, interval: int, count: int, blocks: int) -> tuple[int, ...]:
    """The blocks that are trained in a step, counted from 1; `count` of `blocks`, the same for `interval` steps."""
    chance = np.random.default_rng([seed, (step - 1) // interval])
    return tuple(sorted(chance.choice(blocks, min(count, blocks), replace=False).tolist()))


def work(model: CausalLM, blocks: Iterable[int], state: MutableMapping[Tensor, Any]) -> None:
    """Let these blocks be trained and the others rest, without gradients and state."""
    chosen = set(blocks)
    for number, block in enumerate(model.model.layers):
        for parameter in block.parameters():
            parameter.requires_grad_(number in chosen)
            if number not in chosen:
                parameter.grad = None
                state.pop(parameter, None)
