"""Where a model's weights are in memory, for the kernels, which know addresses only.

Nothing is copied but what has to be: matrices are read where the parameters are, as float32, bfloat16 or float16; norms and biases
likewise where they are float32, else as small float32 copies, made anew at each `find`. What an address belongs to is kept
alive here, so that a parameter that gets other memory leaves its old numbers behind, never a dangling address.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jielong.infer.compiled import kernels
from jielong.infer.compiled.vectors import BFLOAT16, FLOAT16, FLOAT32
from jielong.model.feed_forward import MLP
from jielong.model.transformer import Attention, Block, CausalLM

KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


class Weights:
    """The addresses of a dense model's weights."""

    def __init__(self, model: CausalLM, frozen: bool) -> None:
        """frozen: the weights will not change: matrices that are all bfloat16 or all float16 numbers are kept in 16 bits."""
        self._model = model
        self._small = store_small(matrices(model)) if frozen else {}
        self._alive: list[Tensor] = []
        self.bytes = sum(self._matrix(matrix).nbytes for matrix in matrices(model))
        self.find()

    def find(self) -> None:
        """Look where they are; after anything that gave parameters other memory."""
        model = self._model
        self._alive = []
        dtypes = {self._matrix(matrix).dtype for matrix in matrices(model)}
        assert len(dtypes) == 1, f"matrices of different types, {dtypes}"
        self.kind = KINDS[dtypes.pop()]
        self.embedding = self._address(self._matrix(model.model.embed_tokens.weight))
        self.output = self._address(self._matrix(model.lm_head.weight))
        self.last_norm = self._address(model.model.norm.weight.detach().float())
        self.layers = np.zeros((len(model.model.layers), kernels.WEIGHTS), np.int64)
        for row, layer in zip(self.layers, model.model.layers, strict=True):
            assert isinstance(layer, Block)
            for place, weight in _places(layer):
                if weight is not None:
                    row[place] = self._address(self._matrix(weight) if weight.ndim == 2 else weight.detach().float())

    def _matrix(self, matrix: Tensor) -> Tensor:
        small = self._small.get(id(matrix))
        return matrix.detach() if small is None else small

    def _address(self, weight: Tensor) -> int:
        weight = weight.contiguous()
        self._alive.append(weight)
        return weight.data_ptr()


def _places(layer: Block) -> list[tuple[int, Tensor | None]]:
    """The weights of a layer at their places in the kernel's table."""
    attention, mlp = layer.self_attn, layer.mlp
    assert isinstance(attention, Attention) and isinstance(mlp, MLP)
    q_norm, k_norm = attention.q_norm, attention.k_norm
    return [
        (kernels.FIRST_NORM, layer.input_layernorm.weight),
        (kernels.Q, attention.q_proj.weight),
        (kernels.K, attention.k_proj.weight),
        (kernels.V, attention.v_proj.weight),
        (kernels.Q_BIAS, attention.q_proj.bias),
        (kernels.K_BIAS, attention.k_proj.bias),
        (kernels.V_BIAS, attention.v_proj.bias),
        (kernels.Q_NORM, None if q_norm is None else q_norm.weight),
        (kernels.K_NORM, None if k_norm is None else k_norm.weight),
        (kernels.OUT, attention.o_proj.weight),
        (kernels.OUT_BIAS, attention.o_proj.bias),
        (kernels.SECOND_NORM, layer.post_attention_layernorm.weight),
        (kernels.GATE, mlp.gate_proj.weight),
        (kernels.UP, mlp.up_proj.weight),
        (kernels.DOWN, mlp.down_proj.weight),
    ]


def matrices(model: CausalLM) -> list[Tensor]:
    """All matrices of a model, a shared one once."""
    return [parameter for parameter in model.parameters() if parameter.ndim == 2]


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
