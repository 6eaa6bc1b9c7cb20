"""Rounding to nearest, written in GPTQ's form, which transformers and gptqmodel read as well.

Layers that differ from the rest (left out, or with other bits) are named in `dynamic`, as gptqmodel does and reads; our own reader looks at
the shapes. transformers looks at neither: it cannot open such a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from jielong.errors import ModelError
from jielong.model.config import Config as ModelConfig
from jielong.model.quantized.files import gptq_tensors
from jielong.quantize.config import SIZES, WHOLE_ROW, Config
from jielong.quantize.rounding import round_to_nearest


def group_of(config: Config, shape: ModelConfig) -> int:
    """Columns that share a scale, or WHOLE_ROW: what the table says, or what follows from the shape."""
    if config.group_size is not None:
        return config.group_size
    if config.width == 8 and config.average_bits is None:
        return WHOLE_ROW
    rows = [shape.hidden_size, shape.num_attention_heads * shape.size_of_head, shape.feed_forward_size]
    if shape.num_experts is not None:
        rows += [width for width in (shape.moe_intermediate_size, shape.shared_expert_intermediate_size) if width]
    return next((size for size in SIZES if all(row % size == 0 for row in rows)), WHOLE_ROW)


def rounded_tensors(
    tensors: Iterator[tuple[str, Tensor]], config: Config, group: int, bits_of: Callable[[str], int], done: Callable[[str, int, int], None],
) -> Iterator[tuple[str, Tensor]]:  # fmt: skip
    """The tensors of a model with those of the layers that are rounded in GPTQ's form. done: called with name, weights and bits of each of these.

    Raises ModelError for a matrix that cannot be packed.
    """
    for name, tensor in tensors:
        layer = name.removesuffix(".weight")
        if not name.endswith(".weight") or tensor.ndim != 2 or not config.quantizes(layer):
            yield name, tensor
            continue
        bits, columns = bits_of(layer), tensor.shape[1]
        size = columns if group == WHOLE_ROW else group
        check_packing(layer, tensor, bits, size)
        symmetric = config.symmetric is not False
        integers = round_to_nearest(tensor, bits, size, symmetric)
        yield from gptq_tensors(layer, integers, old_zeros=symmetric).items()
        done(layer, tensor.numel(), bits)


def check_packing(layer: str, matrix: Tensor, bits: int, group: int) -> None:
    """Raises ModelError for a matrix whose rows the group does not divide, or that words of 32 bits do not hold evenly."""
    outputs, columns = matrix.shape
    if columns % group:
        raise ModelError(
            f"quantize.group_size: does not divide the {columns} columns of {layer}, got {group}; take one that does, or -1"
        )
    if (columns * bits) % 32 or (outputs * bits) % 32:
        raise ModelError(
            f"quantize: {layer} is {outputs} x {columns}, which words of 32 bits do not hold at {bits} bits; leave it out (leave_out), "
            "or take 8 bits"
        )


def gptq_config(config: Config, group: int, bits: dict[str, int], left: list[str]) -> dict[str, Any]:
    """What config.json says of a model in GPTQ's form. bits: of each layer; left: linear layers that are whole."""
    usual = config.width if config.average_bits is None else max(set(bits.values()), key=list(bits.values()).count)
    dynamic: dict[str, Any] = {f"-:^{re.escape(layer)}$": {} for layer in left}
    dynamic |= {f"+:^{re.escape(layer)}$": {"bits": number} for layer, number in bits.items() if number != usual}
    symmetric = config.symmetric is not False
    return {
        "quant_method": "gptq",
        "bits": usual,
        "group_size": group,
        "desc_act": False,
        "sym": symmetric,
        "lm_head": False,
        "checkpoint_format": "gptq" if symmetric else "gptq_v2",  # the first cannot hold a zero of 0
        **({"dynamic": dynamic} if dynamic else {}),
    }
