"""Rounding in GPTQ's form: groups that follow from the shape, bits of each layer, what cannot be packed."""

from __future__ import annotations

import re

import pytest
import torch

from jielong.errors import ModelError
from jielong.model.config import Config as ModelConfig
from jielong.quantize.config import Config
from jielong.quantize.grouped import check_packing, gptq_config, group_of, rounded_tensors

SHAPE = ModelConfig(
    vocab_size=100,
    hidden_size=192,
    num_attention_heads=3,
    num_key_value_heads=3,
    intermediate_size=512,
    num_hidden_layers=1,
)


def test_groups_follow_from_the_shape() -> None:
    assert group_of(Config(method="int8"), SHAPE) == -1
    assert group_of(Config(method="int4"), SHAPE) == 64  # 128 does not divide 192
    assert group_of(Config(method="int4", group_size=32), SHAPE) == 32
    odd = SHAPE.model_copy(update={"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5})
    assert group_of(Config(method="int4"), odd) == -1


def test_only_layers_that_are_meant_change() -> None:
    tensors = {"model.embed_tokens.weight": torch.randn(8, 64), "model.layers.0.self_attn.q_proj.weight": torch.randn(32, 64),
               "model.layers.0.self_attn.q_proj.bias": torch.randn(32), "model.layers.0.mlp.up_proj.weight": torch.randn(64, 64)}  # fmt: skip
    seen = []
    config = Config(method="int4", leave_out=("*.up_proj",))
    found = dict(rounded_tensors(iter(tensors.items()), config, 32, lambda name: 4, lambda *row: seen.append(row)))
    assert seen == [("model.layers.0.self_attn.q_proj", 2048, 4)]
    layer = "model.layers.0.self_attn.q_proj"
    assert set(found) == (set(tensors) - {f"{layer}.weight"}) | {
        f"{layer}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")
    }
    assert all(found[name] is tensors[name] for name in set(tensors) & set(found))


def test_what_words_do_not_hold_is_refused() -> None:
    with pytest.raises(ModelError, match="group_size: does not divide the 96 columns of x, got 64"):
        check_packing("x", torch.zeros(32, 96), 4, 64)
    with pytest.raises(ModelError, match="x is 30 x 96, which words of 32 bits do not hold at 4 bits"):
        check_packing("x", torch.zeros(30, 96), 4, 32)
    check_packing("x", torch.zeros(32, 96), 3, 32)


def test_what_differs_is_named_as_gptqmodel_does() -> None:
    found = gptq_config(Config(method="rtn", average_bits=3.0), 64, {"a.b": 4, "a.c": 2, "a.d": 2}, ["a.e"])
    assert (found["bits"], found["group_size"], found["checkpoint_format"]) == (2, 64, "gptq")
    assert found["dynamic"] == {r"-:^a\.e$": {}, r"+:^a\.b$": {"bits": 4}}
    assert all(re.compile(pattern[2:]) for pattern in found["dynamic"])
    assert gptq_config(Config(method="rtn", symmetric=False), 64, {"a": 4}, [])["checkpoint_format"] == "gptq_v2"
