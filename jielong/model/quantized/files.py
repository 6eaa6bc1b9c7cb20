"""Quantized model folders: what config.json says of them, and their tensors as Integers.

    gptq   {layer}.qweight  (C x bits / 32, O)   codes, packed along the columns
           {layer}.qzeros   (N, O x bits / 32)   zeros, packed along the outputs; checkpoint_format "gptq" holds zero - 1, "gptq_v2" zero
           {layer}.scales   (N, O)
           {layer}.g_idx    (C,)                 group of each column; not in order where act order was on
    awq    {layer}.qweight  (C, O / 8)           version "gemm", 4 bits
           {layer}.qzeros   (N, O / 8)
           {layer}.scales   (N, O)

Both are the files of gptqmodel, transformers and vLLM, and rounding to nearest is written as gptq. Bits and groups are read from the shapes, so a
folder whose layers differ (gptqmodel's `dynamic`) opens as well. Experts are made whole again when they are read, since in memory
they are stacked; so is a quantized output layer.

Shapes: O outputs, C columns, N groups of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jielong.errors import ModelError
from jielong.model.hf_weights import names_of, tensors_of, weight_files
from jielong.model.quantized.linear import Integers, QuantizedLinear
from jielong.model.quantized.packing import BITS, pack, pack_awq, unpack, unpack_awq
from jielong.model.transformer import CausalLM

CONFIG = "quantization_config"
PARTS = ("qweight", "qzeros", "scales", "g_idx")


def described(table: dict[str, Any]) -> dict[str, Any] | None:
    """What a model's config.json says of its quantization; None: nothing. `table`: of config.json."""
    found = table.get(CONFIG)
    return found if isinstance(found, dict) and found else None


# ----------------------------------------------------------------------------------------------------- writing


def gptq_tensors(name: str, integers: Integers, old_zeros: bool = True) -> dict[str, Tensor]:
    """The tensors of a layer as gptq has them. old_zeros: as checkpoint_format "gptq", zero - 1, which cannot hold a zero of 0; else "gptq_v2"."""
    groups = torch.arange(integers.codes_OC.shape[1]) // integers.group
    if integers.order_C is not None:
        by_column = torch.empty_like(groups)
        by_column[integers.order_C] = groups
        codes = torch.empty_like(integers.codes_OC)
        codes[:, integers.order_C] = integers.codes_OC
    else:
        by_column, codes = groups, integers.codes_OC
    zeros = integers.zeros_ON.to(torch.int16) - int(old_zeros)
    assert not bool((zeros < 0).any()), "a zero of 0 needs gptq_v2"
    return {
        f"{name}.qweight": pack(codes.T, integers.bits),
        f"{name}.qzeros": pack(zeros.to(torch.uint8), integers.bits).T.contiguous(),
        f"{name}.scales": integers.scales_ON.T.to(torch.float16).contiguous(),
        f"{name}.g_idx": by_column.to(torch.int32),
    }


def awq_tensors(name: str, integers: Integers) -> dict[str, Tensor]:
    """The tensors of a layer of 4 bits as awq's gemm form has them."""
    return {
        f"{name}.qweight": pack_awq(integers.codes_OC.T),
        f"{name}.qzeros": pack_awq(integers.zeros_ON.T),
        f"{name}.scales": integers.scales_ON.T.to(torch.float16).contiguous(),
    }


# ----------------------------------------------------------------------------------------------------- reading


def from_gptq(parts: dict[str, Tensor], old_zeros: bool) -> Integers:
    """Integers of a layer's gptq tensors. old_zeros: they hold zero - 1."""
    columns = len(parts["g_idx"]) if "g_idx" in parts else None
    words, scales = parts["qweight"], parts["scales"]
    outputs = words.shape[1]
    bits = parts["qzeros"].shape[1] * 32 // outputs
    if bits not in BITS or (columns is not None and words.shape[0] * 32 // bits != columns):
        raise ModelError(
            f"qweight of {tuple(words.shape)} with qzeros of {tuple(parts['qzeros'].shape)} is of no known form"
        )
    codes = unpack(words, bits).T
    zeros = unpack(parts["qzeros"].T, bits).to(torch.int16) + (1 if old_zeros else 0)
    zeros = (zeros & (2**bits - 1)).to(torch.uint8)
    order = None
    if columns is not None:
        of_column = parts["g_idx"].long()
        size = columns // len(scales)
        if not torch.equal(of_column, torch.arange(columns) // size):
            order = torch.argsort(of_column, stable=True)
            if not torch.equal(of_column[order], torch.arange(columns) // size):
                raise ModelError("g_idx has groups of different sizes")
            codes = codes[:, order]
    return Integers(codes.contiguous(), scales.T.float().contiguous(), zeros.contiguous(), bits, order)


def from_awq(parts: dict[str, Tensor]) -> Integers:
    """Integers of a layer's awq tensors (gemm)."""
    codes, zeros = unpack_awq(parts["qweight"]).T, unpack_awq(parts["qzeros"]).T
    return Integers(codes.contiguous(), parts["scales"].T.float().contiguous(), zeros.contiguous(), 4)


class Packed:
    """A quantized folder while it is read: it swaps layers of the empty model, gives the dense tensors, and fills the layers."""

    def __init__(self, folder: Path, table: dict[str, Any]) -> None:
        """table: of config.json. Raises ModelError for a form that is not read here."""
        self.folder, given = folder, described(table)
        assert given is not None
        self.method = str(given.get("quant_method"))
        if self.method == "awq" and (given.get("version", "gemm") != "gemm" or given.get("bits", 4) != 4):
            raise ModelError(
                f"{folder}: awq of version {given.get('version')!r} with {given.get('bits')} bits; only gemm with 4 bits is read; "
                "use another folder"
            )
        self._old_zeros = given.get("checkpoint_format", "gptq") == "gptq"
        self._names: set[str] = set()
        for file in weight_files(folder):
            self._names |= {name.removesuffix(".qweight") for name in names_of(file) if name.endswith(".qweight")}
        self._layers: dict[str, Integers] = {}
        self._inside: set[str] = set()

    def swap(self, model: CausalLM) -> None:
        """Take the quantized layers' weights out of a model that has none yet (on the device meta)."""
        for name, module in list(model.named_modules()):
            if name in self._names and type(module) is nn.Linear:
                module.register_parameter("weight", None)
                self._inside.add(name)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of what is dense in memory; what is not is kept for `place`."""
        waiting: dict[str, dict[str, Tensor]] = {}
        for file in weight_files(self.folder):
            for name, tensor in tensors_of(file):
                layer, _, part = name.rpartition(".")
                if layer not in self._names or part not in PARTS:
                    yield name, tensor
                    continue
                parts = waiting.setdefault(layer, {})
                parts[part] = tensor
                if len(parts) == (3 if self.method == "awq" else 4):
                    integers = self._integers(layer, waiting.pop(layer))
                    if layer in self._inside:
                        self._layers[layer] = integers
                    else:
                        yield f"{layer}.weight", integers.matrix()
        for layer, parts in waiting.items():
            if {"qweight", "qzeros", "scales"} - parts.keys():
                raise ModelError(f"{self.folder}: {layer} has only {', '.join(sorted(parts))}; get the folder again")
            integers = self._integers(layer, parts)  # without g_idx: in order
            if layer in self._inside:
                self._layers[layer] = integers
            else:
                yield f"{layer}.weight", integers.matrix()

    def _integers(self, layer: str, parts: dict[str, Tensor]) -> Integers:
        try:
            return from_awq(parts) if self.method == "awq" else from_gptq(parts, self._old_zeros)
        except ModelError as error:
            raise ModelError(f"{self.folder}: {layer}: {error}; get the folder again") from None

    def place(self, model: CausalLM, state: dict[str, Tensor]) -> None:
        """Put the layers into the model, with their biases, which leave `state`."""
        for name in sorted(self._inside):
            old = model.get_submodule(name)
            assert isinstance(old, nn.Linear)
            integers, bias = self._layers[name], state.pop(f"{name}.bias", None)
            shape = (integers.codes_OC.shape[0], integers.codes_OC.shape[1])
            if shape != (old.out_features, old.in_features):
                raise ModelError(
                    f"{self.folder}: {name} is a matrix of {shape}, config.json says {(old.out_features, old.in_features)}; get the folder again"
                )
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, QuantizedLinear(integers, bias))
