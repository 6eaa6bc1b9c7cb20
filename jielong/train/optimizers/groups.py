"""Which parameters an optimizer treats alike.

Weight decay is for matrices: norms and biases have none (the habit since GPT-2; a vector that only scales or shifts has nothing
to be drawn to zero for). CLEX's network moves at a rate of its own. Muon is for the matrices of the blocks, those that take
a vector of the stream to another one: it makes all singular values of an update alike, which means nothing for a table of vectors
(the embedding, the output layer), a gate that chooses, or the mixing of heads (Keller Jordan, "Muon"; arXiv:2502.16982,
section 2). They are named below one by one, so that a new kind of parameter is AdamW's until somebody decides otherwise.

8-bit state is for large matrices but the embedding: a row is touched only where its token occurs, so that its second moment has
another order of magnitude than that of the row beside it in the same block of 256 (arXiv:2110.02861, section 2.3, advises 32
bits there; transformers does so, too).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import nn

CLEX_RATE = (
    0.01  # of the learning rate: the network stands in an exponent, and at the whole rate diverges (docs/LOG.md)
)
LEAST_EIGHT_BIT = 4096  # elements: what bitsandbytes keeps in 32 bits anyway
MATRICES = re.compile(
    r"model\.layers\.\d+\.(?:self_attn\.[qkvo]_proj\.weight|mlp\.(?:shared_expert\.)?(?:gate|up|down)_proj\.weight"
    r"|mlp\.experts\.(?:gate_up|down)_proj)"
)


def parameter_groups(
    model: nn.Module, weight_decay: float, apart: Collection[str] = (), b_rate: float = 1.0
) -> list[dict[str, object]]:
    """Matrices with weight decay, vectors (norms, biases) without, CLEX's network at a rate of its own; shared ones once.

    apart: names of parameters that another optimizer has. b_rate: of the matrices B of adapters (LoRA+, arXiv:2402.12354), times that of the
    others. `rate` is what the learning rate is multiplied by; `decayed` says
    whether the group has the recipe's weight decay.
    """
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    slow: list[nn.Parameter] = []
    ahead: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in apart:
            if ".frequencies." in name:
                slow.append(parameter)
            elif ".lora_B." in name and b_rate != 1:
                ahead.append(parameter)
            else:
                (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups: list[dict[str, object]] = [
        {"params": matrices, "weight_decay": weight_decay, "rate": 1.0, "decayed": True},
        {"params": vectors, "weight_decay": 0.0, "rate": 1.0, "decayed": False},
    ]
    if ahead:
        groups.append({"params": ahead, "weight_decay": weight_decay, "rate": b_rate, "decayed": True})
    return groups + ([{"params": slow, "weight_decay": 0.0, "rate": CLEX_RATE, "decayed": False}] if slow else [])


def block_matrices(model: nn.Module) -> dict[str, tuple[nn.Parameter, int]]:
    """The blocks' matrices by name, each with how many lie one above the other in its last two dimensions.

    `experts.gate_up_proj` (E, 2I, C) is 2E matrices (I, C), as gate and up are two where there are no experts; `down_proj`
    (E, C, I) is E of them.
    """
    return {
        name: (parameter, 2 if name.endswith("experts.gate_up_proj") else 1)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and MATRICES.fullmatch(name)
    }


def large_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """What has 8-bit state: matrices of at least 4,096 elements, the embedding (and an output layer tied to it) excepted."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and parameter.ndim >= 2
        and parameter.numel() >= LEAST_EIGHT_BIT
        and ".frequencies." not in name
        and not name.endswith("embed_tokens.weight")
    }
