"""Folders of matrices that hold hardly more than a sign.

    onebit   OneBit (arXiv:2402.11295): y = ((x * g) S^T) * h with S of +1 and -1. No library has it, so its form is ours, and no other
             tool opens it: {layer}.signs (O, C / 8) uint8, eight columns a byte, low bits first; {layer}.in_scale g (C,); {layer}.out_scale h (O,)
    bitnet   BitNet b1.58 (arXiv:2402.17764): y = s Q(x) T^T with T of -1, 0, 1, and Q rounding each token's input to 8 bits. transformers opens it
             ("autobitlinear", offline): {layer}.weight (O / 4, C) uint8, four rows a byte, each + 1; {layer}.weight_scale (1,)

In memory both are the integers of linear.py, half a byte a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jielong.errors import ModelError
from jielong.model.hf_weights import names_of, tensors_of, weight_files
from jielong.model.quantized.linear import Integers, QuantizedLinear
from jielong.model.transformer import CausalLM

GROUP = 32  # columns of a scale in memory, all equal: torch's packed product wants groups
PARTS = {"jielong-onebit": ("signs", "in_scale", "out_scale"), "bitnet": ("weight", "weight_scale")}


def onebit_tensors(name: str, signs_OC: Tensor, in_scale_C: Tensor, out_scale_O: Tensor) -> dict[str, Tensor]:
    """The tensors of a layer of signs (bool, true: +1)."""
    packed = np.packbits(signs_OC.numpy(), axis=1, bitorder="little")
    return {
        f"{name}.signs": torch.from_numpy(packed),
        f"{name}.in_scale": in_scale_C.float().contiguous(),
        f"{name}.out_scale": out_scale_O.float().contiguous(),
    }


def bitnet_tensors(name: str, ternary_OC: Tensor, scale: float) -> dict[str, Tensor]:
    """The tensors of a layer of -1, 0, 1. The number of outputs must be a multiple of 4."""
    quarters = (ternary_OC + 1).to(torch.uint8).view(4, -1, ternary_OC.shape[1])
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return {f"{name}.weight": packed.contiguous(), f"{name}.weight_scale": torch.tensor([scale])}


def from_onebit(parts: dict[str, Tensor]) -> tuple[Integers, Tensor]:
    """Integers of a layer, and what its input is multiplied by."""
    columns = len(parts["in_scale"])
    signs = np.unpackbits(parts["signs"].numpy(), axis=1, count=columns, bitorder="little")
    codes = torch.from_numpy(signs * 2)  # 0 and 2 around a zero of 1
    return _integers(codes, parts["out_scale"].float()), parts["in_scale"].float()


def from_bitnet(parts: dict[str, Tensor]) -> Integers:
    """Integers of a layer of -1, 0, 1."""
    codes = torch.cat([(parts["weight"] >> shift) & 3 for shift in (0, 2, 4, 6)])
    return _integers(codes, parts["weight_scale"].float().expand(len(codes)))


def _integers(codes_OC: Tensor, scales_O: Tensor) -> Integers:
    columns = codes_OC.shape[1]
    groups = columns // GROUP if columns % GROUP == 0 else 1
    scales = scales_O[:, None].expand(-1, groups).contiguous()
    return Integers(codes_OC.contiguous(), scales, torch.ones_like(scales, dtype=torch.uint8), 2)


class Signs:
    """Such a folder while it is read (opening.Opening)."""

    def __init__(self, folder: Path, method: str) -> None:
        """method: a key of PARTS."""
        self.folder, self.method = folder, method
        self._marker = PARTS[method][-1]
        self._names: set[str] = set()
        for file in weight_files(folder):
            found = (name for name in names_of(file) if name.endswith(f".{self._marker}"))
            self._names |= {name.removesuffix(f".{self._marker}") for name in found}
        self._parts: dict[str, dict[str, Tensor]] = {name: {} for name in self._names}

    def swap(self, model: CausalLM) -> None:
        """Take the quantized layers' weights out of a model that has none yet (on the device meta)."""
        for name in sorted(self._names):
            try:
                module = model.get_submodule(name)
            except AttributeError:
                module = None
            if type(module) is not nn.Linear:
                raise ModelError(f"{self.folder}: {name} is no linear layer of a block; get the folder again")
            module.register_parameter("weight", None)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of what is dense."""
        for file in weight_files(self.folder):
            for name, tensor in tensors_of(file):
                layer, _, part = name.rpartition(".")
                if layer in self._names and part in PARTS[self.method]:
                    self._parts[layer][part] = tensor
                else:
                    yield name, tensor

    def place(self, model: CausalLM, state: dict[str, Tensor]) -> None:
        """Put the layers into the model, with their biases, which leave `state`."""
        for name, parts in self._parts.items():
            old, bias, factors = model.get_submodule(name), state.pop(f"{name}.bias", None), None
            assert isinstance(old, nn.Linear)
            try:
                if self.method == "bitnet":
                    integers = from_bitnet(parts)
                else:
                    integers, factors = from_onebit(parts)
                fits = integers.codes_OC.shape == (old.out_features, old.in_features)
            except (KeyError, ValueError, RuntimeError):
                fits = False
            if not fits:
                shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
                raise ModelError(
                    f"{self.folder}: {name} ({shapes}) does not fit config.json, a matrix of {(old.out_features, old.in_features)}; "
                    "get the folder again"
                )
            parent, _, last = name.rpartition(".")
            setattr(
                model.get_submodule(parent), last, QuantizedLinear(integers, bias, factors, self.method == "bitnet")
            )
