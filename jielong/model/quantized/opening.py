"""What reads a quantized folder: by what its config.json says, and who can.

| quant_method | | read by |
|---|---|---|
| gptq, awq | integers by groups: GPTQ, AWQ, rounding to nearest | files.py |
| jielong-onebit, bitnet | signs with two vectors of scales (OneBit); -1, 0, 1 (BitNet b1.58, with a class of transformers) | signs.py |
| bitsandbytes, torchao, compressed-tensors, ... | what transformers opens | foreign.py: transformers, whose layers are taken over |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from jielong.model.quantized.files import CONFIG as QUANTIZATION
from jielong.model.quantized.files import Packed, described
from jielong.model.quantized.signs import PARTS, Signs
from jielong.model.transformer import CausalLM

__all__ = ["QUANTIZATION", "Opening", "opening"]


class Opening(Protocol):
    """A quantized folder while it is read."""

    def swap(self, model: CausalLM) -> None:
        """Take the quantized layers' weights out of a model that has none yet (on the device meta)."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of what is dense in memory."""

    def place(self, model: CausalLM, state: dict[str, Tensor]) -> None:
        """Put the quantized layers into the model, with their biases, which leave `state`."""


def opening(folder: Path, table: dict[str, Any]) -> Opening | None:
    """What reads a folder whose config.json is `table`; None: it is not quantized. Raises ModelError for a form nobody here reads."""
    given = described(table)
    if given is None:
        return None
    method = str(given.get("quant_method"))
    if method in ("gptq", "awq"):
        return Packed(folder, table)
    if (
        method in PARTS
        and given.get("linear_class", "autobitlinear") == "autobitlinear"
        and not given.get("use_rms_norm")
    ):
        return Signs(folder, method)
    from jielong.model.quantized.foreign import Foreign

    return Foreign(folder, table)
