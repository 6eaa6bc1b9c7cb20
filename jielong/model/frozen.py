"""Weights that are not trained, held in less memory: half precision, LLM.int8 (arXiv:2208.07339) or NF4 (arXiv:2305.14314).

The linear layers of the blocks are held so; norms stay float32. Embedding and output layer are in the type of matrix products, which is what
autocast would make of them in every pass anyway. Quantized layers are those of bitsandbytes, which peft knows; a
model is read a tensor at a time and quantized as it comes, so that it never lies whole in memory.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor, nn

from jielong.errors import MissingExtraError
from jielong.model.transformer import CausalLM

QUANTIZED = ("int8", "nf4")


class Frozen:
    """How the weights of one model are held: it swaps layers of the empty model, and takes tensors as they are read."""

    def __init__(self, held: str, kind: torch.dtype, device: torch.device) -> None:
        """held: half, float32, int8 or nf4; kind: the type of matrix products. Raises MissingExtraError."""
        assert held in ("half", "float32", *QUANTIZED), held
        self.held, self.kind, self.device = held, kind, device
        self._layers: dict[str, Any] = {}
        if held in QUANTIZED and importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError("bitsandbytes", "tune", f'by adapter.base_weights = "{held}"')
        quiet()

    def swap(self, model: CausalLM) -> None:
        """Put quantized layers into a model that has no weights yet (on the device meta)."""
        if self.held not in QUANTIZED:
            return
        layers = _layers()

        for name, module in list(model.model.layers.named_modules()):
            if type(module) is not nn.Linear:
                continue
            shape, bias = (module.in_features, module.out_features), module.bias is not None
            layer: Any
            if self.held == "nf4":
                layer = layers.Linear4bit(
                    *shape, bias, self.kind, compress_statistics=True, quant_type="nf4", device="meta"
                )
                # a pass without gradients would pack the weights anew on some processors, with scales rounded to bfloat16: looking at a
                # model would change it
                layer.support_avx512bf16_for_cpu = False
            else:
                layer = layers.Linear8bitLt(*shape, bias, has_fp16_weights=False, threshold=6.0, device="meta")
            parent, _, last = name.rpartition(".")
            setattr(model.model.layers.get_submodule(parent), last, layer)
            self._layers[f"model.layers.{name}.weight"] = layer
        model.is_loaded_in_4bit = self.held == "nf4"
        model.is_loaded_in_8bit = self.held == "int8"

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the file, on the device, as it is held."""
        if name not in self._layers:
            wide = tensor.ndim < 2 or self.held == "float32"
            return tensor.to(self.device, torch.float32 if wide else self.kind)
        layers = _layers()

        if self.held == "nf4":
            given = layers.Params4bit(
                tensor.to(self.kind), requires_grad=False, compress_statistics=True, quant_type="nf4",
                module=self._layers[name],
            )  # fmt: skip
        else:
            given = layers.Int8Params(tensor.to(torch.float16), requires_grad=False, has_fp16_weights=False)
        taken: Tensor = given.to(self.device)
        return taken

    def place(self, state: dict[str, Tensor]) -> None:
        """Put quantized weights into their layers: they have not the shape of what they stand for, which load_state_dict asks for."""
        for name, layer in self._layers.items():
            layer.weight = state.pop(name)


def _layers() -> Any:
    """bitsandbytes.nn, which is not typed."""
    return importlib.import_module("bitsandbytes.nn")


def quiet() -> None:
    """bitsandbytes tells in every pass that inputs are cast, which autocast does on purpose; and at import of kernels that are nothing to us."""
    for name in ("bitsandbytes", "bitsandbytes.autograd._functions"):
        logging.getLogger(name).setLevel(logging.ERROR)


def halved(model: CausalLM, kind: torch.dtype) -> None:
    """Hold the matrices of a model that are not trained in half precision, those that lie under adapters too. In place."""
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.ndim >= 2 and parameter.dtype == torch.float32:
            parameter.data = parameter.data.to(kind)
