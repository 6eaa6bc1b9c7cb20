"""Where a model's weights are in memory, for the kernels, which know addresses only.

Nothing is copied but what has to be: matrices are read where the parameters are, as float32, bfloat16 or float16, or where a QuantizedLinear
holds its integers; norms, biases and factors likewise where they are float32, else as small float32 copies, made anew at each `find`. What an
address belongs to is kept alive here (and by threads that are in a step), so that a parameter that gets other memory leaves its old numbers behind, never a
dangling address.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from jielong.infer.compiled import kernels
from jielong.infer.compiled.matrices import (
    ADDRESS,
    BIAS,
    FACTORS,
    FIELDS,
    GROUP,
    KIND,
    ORDER,
    ROUNDED,
    SCALES,
    ZEROS,
)
from jielong.infer.compiled.vectors import BFLOAT16, FLOAT16, FLOAT32, INT4, INT8
from jielong.model.cross_entropy import OutputLayer
from jielong.model.feed_forward import MLP
from jielong.model.quantized.linear import QuantizedLinear
from jielong.model.transformer import Attention, Block, CausalLM

KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


class Weights:
    """The addresses of a dense model's weights."""

    def __init__(self, model: CausalLM, frozen: bool) -> None:
        """frozen: the weights will not change: matrices that are all bfloat16 or all float16 numbers are kept in 16 bits."""
        self._model = model
        self._small = store_small(matrices(model)) if frozen else {}
        self.alive: list[Tensor] = []
        dense = sum(self._matrix(matrix).nbytes for matrix in matrices(model))
        self.bytes = dense + sum(
            layer.codes.nbytes + layer.scales.nbytes + layer.zeros.nbytes for layer in quantized(model)
        )
        self.find()

    def find(self) -> None:
        """Look where they are; after anything that gave parameters other memory."""
        model = self._model
        self.alive = []
        embedding = self._matrix(model.model.embed_tokens.weight)
        self.embedding, self.kind = self._address(embedding, embedding.dtype), KINDS[embedding.dtype]
        self.output = np.zeros(FIELDS, np.int64)
        self._describe(model.lm_head, self.output)
        self.last_norm = self._address(model.model.norm.weight)
        self.layers = np.zeros((len(model.model.layers), kernels.WEIGHTS), np.int64)
        for row, layer in zip(self.layers, model.model.layers, strict=True):
            assert isinstance(layer, Block) and isinstance(layer.self_attn, Attention)
            norms = {
                kernels.FIRST_NORM: layer.input_layernorm,
                kernels.Q_NORM: layer.self_attn.q_norm,
                kernels.K_NORM: layer.self_attn.k_norm,
                kernels.SECOND_NORM: layer.post_attention_layernorm,
            }
            for place, norm in norms.items():
                row[place] = 0 if norm is None else self._address(norm.weight)
            for place, linear in _linear(layer):
                self._describe(linear, row[place : place + FIELDS])
        layers = quantized(model)
        self.widest = max((layer.in_features for layer in layers), default=0)  # columns of a matrix of integers
        self.widest_prepared = max((layer.in_features for layer in layers if _prepares(layer)), default=0)

    def _describe(self, layer: nn.Module, out: np.ndarray) -> None:
        """Fill in what matrices.py says of a matrix."""
        assert isinstance(layer, nn.Linear | QuantizedLinear)
        out[BIAS] = 0 if layer.bias is None else self._address(layer.bias)
        if isinstance(layer, nn.Linear):
            matrix = self._matrix(layer.weight)
            out[ADDRESS], out[KIND] = self._address(matrix, matrix.dtype), KINDS[matrix.dtype]
            return
        assert layer.in_features == layer.group * layer.scales.shape[1]
        out[ADDRESS], out[KIND] = self._address(layer.codes, torch.uint8), INT4 if layer.halved else INT8
        out[SCALES], out[ZEROS] = self._address(layer.scales), self._address(layer.zeros, torch.uint8)
        out[GROUP], out[ROUNDED] = layer.group, layer.rounded
        out[ORDER] = 0 if layer.order is None else self._address(layer.order, torch.int64)
        out[FACTORS] = 0 if layer.factors is None else self._address(layer.factors)

    def _matrix(self, matrix: Tensor) -> Tensor:
        small = self._small.get(id(matrix))
        return matrix.detach() if small is None else small

    def _address(self, weight: Tensor, dtype: torch.dtype = torch.float32) -> int:
        """Where it lies as this type, its rows together: where it is, if it does."""
        weight = weight.detach().to(dtype).contiguous()
        self.alive.append(weight)
        return weight.data_ptr()


def _linear(layer: Block) -> list[tuple[int, nn.Module]]:
    """The linear layers of a block and the places of their descriptions in the kernel's table."""
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(attention, Attention) and isinstance(mlp, MLP)
    return [
        (kernels.Q, attention.q_proj),
        (kernels.K, attention.k_proj),
        (kernels.V, attention.v_proj),
        (kernels.OUT, attention.o_proj),
        (kernels.GATE, mlp.gate_proj),
        (kernels.UP, mlp.up_proj),
        (kernels.DOWN, mlp.down_proj),
    ]


def _prepares(layer: QuantizedLinear) -> bool:
    return layer.order is not None or layer.factors is not None or layer.rounded


def unreadable(model: CausalLM) -> str | None:
    """The first linear layer of a dense model that is neither float32 nor 16 bits nor integers as we hold them, in words; None: all are.

    Others' layers (bitsandbytes, torchao, an adapter around a layer) may look like nn.Linear and do something else.
    """
    named = {module: name for name, module in model.named_modules()}
    layers = list[nn.Module]()
    for block in model.model.layers:
        assert isinstance(block, Block)
        layers += [layer for _, layer in _linear(block)]
    for layer in [*layers, model.lm_head]:
        if type(layer) in (nn.Linear, OutputLayer):
            known = type(layer.weight) is nn.Parameter and layer.weight.dtype in KINDS
        else:
            known = type(layer) is QuantizedLinear
        if not known or "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_hooks:
            return f"{named[layer]} is of a kind that it cannot read"
    return None


def matrices(model: CausalLM) -> list[Tensor]:
    """All matrices of a model that are parameters, a shared one once."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


def quantized(model: CausalLM) -> list[QuantizedLinear]:
    """All layers of integers of a model."""
    return [module for module in model.modules() if isinstance(module, QuantizedLinear)]


@torch.no_grad()
def store_small(parameters: list[Tensor]) -> dict[int, Tensor]:
    """16-bit copies by the parameters' identities, when no value of any float32 matrix is changed by that; else nothing."""
    for dtype in (torch.bfloat16, torch.float16):
        copies: dict[int, Tensor] = {}
        for parameter in parameters:
            small = parameter.detach().to(dtype)
            if parameter.dtype != torch.float32 or not torch.equal(small.float(), parameter):
                break
            copies[id(parameter)] = small
        else:
            return copies
    return {}
