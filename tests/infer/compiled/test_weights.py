"""Addresses are those of the parameters; 16 bits only where no number changes."""

import torch

from jielong.infer.compiled import kernels
from jielong.infer.compiled.matrices import ADDRESS, BIAS, FACTORS, GROUP, KIND, ORDER, ROUNDED, SCALES, ZEROS
from jielong.infer.compiled.vectors import INT4, INT8
from jielong.infer.compiled.weights import Weights, matrices, quantized, store_small
from jielong.model.config import Config
from jielong.model.quantized.linear import Integers, QuantizedLinear
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
    assert weights.kind == 0 and weights.embedding == weights.output[ADDRESS] == model.lm_head.weight.data_ptr()
    assert weights.layers[1, kernels.DOWN] == second.mlp.down_proj.weight.data_ptr()
    assert weights.layers[1, kernels.Q + BIAS] == second.self_attn.q_proj.bias.data_ptr()
    assert weights.layers[1, kernels.OUT + BIAS] == weights.layers[1, kernels.Q_NORM] == 0
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
    assert weights.kind == weights.output[KIND] == 1 and weights.output[ADDRESS] == model.lm_head.weight.data_ptr()
    assert weights.last_norm != model.model.norm.weight.data_ptr()  # norms are float32 copies then


def test_integers_are_read_where_they_are() -> None:
    model = make(hidden_size=64)
    dense, mlp = Weights(model, frozen=False).bytes, model.model.layers[1].mlp
    columns, (up, down) = torch.arange(64), (mlp.up_proj.weight, mlp.down_proj.weight)
    removed = up.nbytes + down.nbytes
    codes, ones = torch.ones(up.shape, dtype=torch.uint8), torch.ones(len(up), 2, dtype=torch.uint8)
    integers = Integers(codes, ones.float(), ones, 4, columns)
    mlp.up_proj = QuantizedLinear(integers, factors_C=torch.ones(64).half())
    codes, ones = torch.ones(down.shape, dtype=torch.uint8), torch.ones(64, 1, dtype=torch.uint8)
    mlp.down_proj = QuantizedLinear(Integers(codes, ones.float(), ones, 8), torch.ones(64), rounded=True)
    assert quantized(model) == [mlp.up_proj, mlp.down_proj]
    weights = Weights(model, frozen=False)
    halves, single = weights.layers[1, kernels.UP : kernels.DOWN], weights.layers[1, kernels.DOWN :]
    assert halves[ADDRESS] == mlp.up_proj.codes.data_ptr() and single[ADDRESS] == mlp.down_proj.codes.data_ptr()
    assert halves[SCALES] == mlp.up_proj.scales.data_ptr() and single[ZEROS] == mlp.down_proj.zeros.data_ptr()
    assert halves[ORDER] == columns.data_ptr() and single[BIAS] == mlp.down_proj.bias.data_ptr()
    assert halves[FACTORS] not in (0, mlp.up_proj.factors.data_ptr())  # a float32 copy
    assert [list(matrix[[KIND, GROUP, ROUNDED]]) for matrix in (halves, single)] == [
        [INT4, 32, 0],
        [INT8, down.shape[1], 1],
    ]
    assert single[ORDER] == single[FACTORS] == halves[BIAS] == 0 and weights.layers[1, kernels.GATE + KIND] == 0
    assert weights.widest == weights.widest_prepared == down.shape[1]
    assert weights.bytes == dense - removed + up.numel() // 2 + len(up) * 2 * 5 + down.numel() + 64 * 5
