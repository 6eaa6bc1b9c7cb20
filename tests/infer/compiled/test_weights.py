"""Addresses are those of the parameters; 16 bits only where no number changes."""

import torch

from jielong.infer.compiled import kernels
from jielong.infer.compiled.weights import Weights, matrices, store_small
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise

TINY = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def make(**fields: object) -> CausalLM:
    model = CausalLM(Config.model_validate(TINY | fields))
    initialise(model, 1)
    return model


def test_parameters_are_read_where_they_are() -> None:
    model = make(attention_bias="qkv")
    weights = Weights(model, frozen=True)
    second = model.model.layers[1]
    assert weights.kind == 0 and weights.embedding == weights.output == model.lm_head.weight.data_ptr()
    assert weights.layers[1, kernels.DOWN] == second.mlp.down_proj.weight.data_ptr()
    assert weights.layers[1, kernels.Q_BIAS] == second.self_attn.q_proj.bias.data_ptr()
    assert weights.layers[1, kernels.OUT_BIAS] == weights.layers[1, kernels.Q_NORM] == 0
    assert weights.bytes == sum(matrix.nbytes for matrix in matrices(model))
    second.mlp.down_proj.weight.data = second.mlp.down_proj.weight.data.clone()
    assert weights.layers[1, kernels.DOWN] != second.mlp.down_proj.weight.data_ptr()
    weights.find()
    assert weights.layers[1, kernels.DOWN] == second.mlp.down_proj.weight.data_ptr()


def test_16_bits_only_where_no_number_changes() -> None:
    for dtype, kind in ((torch.bfloat16, 1), (torch.float16, 2)):
        model = make().to(dtype).float()
        small = store_small(matrices(model))
        assert len(small) == len(matrices(model)) and all(copy.dtype == dtype for copy in small.values())
        assert Weights(model, frozen=True).kind == kind and Weights(model, frozen=False).kind == 0
        assert Weights(model, frozen=True).bytes * 2 == Weights(model, frozen=False).bytes
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight[3, 5] = 0.1
        assert store_small(matrices(model)) == {} and Weights(model, frozen=True).kind == 0


def test_a_model_of_16_bits_is_read_as_it_is() -> None:
    model = make().to(torch.bfloat16)
    weights = Weights(model, frozen=False)
    assert weights.kind == 1 and weights.output == model.lm_head.weight.data_ptr()
    assert weights.last_norm != model.model.norm.weight.data_ptr()  # norms are float32 copies then
