"""The [quantize] table: what goes together, and which layers are meant."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.errors import RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.quantize.config import Config, against_model, with_options
from jielong.recipe import parse

MODEL = ModelConfig(
    vocab_size=100,
    hidden_size=96,
    num_attention_heads=3,
    num_key_value_heads=3,
    intermediate_size=256,
    num_hidden_layers=1,
)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "int8", "bits": 4}, "quantize.bits: int8 has bits of its own, got 4"),
        ({"method": "awq", "bits": 3}, "quantize.bits: awq has bits of its own, got 3"),
        ({"method": "nf4", "group_size": 64}, "quantize.group_size: nf4 has no groups of its own"),
        ({"method": "rtn", "group_size": 4}, "quantize.group_size: too small, got 4; at least 8, or -1"),
        ({"method": "onebit", "symmetric": True}, "quantize.symmetric: onebit knows one way only"),
        ({"method": "awq", "act_order": True}, "quantize.act_order: of gptq alone, got method awq"),
        ({"method": "int8", "average_bits": 3.0}, "quantize.average_bits: for rtn, int4, gptq, got method int8"),
        ({"method": "rtn", "average_bits": 3.0, "bits": 3}, "quantize.bits: chosen by average_bits, got both"),
        ({"method": "nf4", "leave_out": ["*"]}, "quantize.leave_out: not for nf4"),
        ({"method": "int5"}, "quantize.method: "),
    ],
)
def test_what_does_not_go_together_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said.replace(".", r"\.")):
        with_options(options)


def test_layers_are_linear_layers_of_blocks() -> None:
    config = Config(leave_out=("*.layers.0.*", "*.down_proj"))
    assert config.quantizes("model.layers.1.self_attn.q_proj")
    assert config.quantizes("model.layers.1.mlp.experts.3.up_proj")
    assert config.quantizes("model.layers.1.block_sparse_moe.experts.3.w2")
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.embed_tokens", "lm_head",
                 "model.layers.1.mlp.gate", "model.layers.1.input_layernorm", "model.layers.1.mlp.shared_expert_gate"):  # fmt: skip
        assert not config.quantizes(name), name


def test_a_group_must_divide_every_row() -> None:
    assert against_model(Config(method="rtn", group_size=32), MODEL) == []
    assert against_model(Config(method="rtn", group_size=-1), MODEL) == []
    problem = against_model(Config(method="rtn", group_size=64), MODEL)
    assert problem == [
        "group_size: does not divide the rows of every matrix, got 64 for rows of 96; take one that does, or -1 for a whole row"
    ]


def test_shapes_that_a_method_does_not_know() -> None:
    sparse = MODEL.model_copy(update={"num_experts": 4, "num_experts_per_tok": 2})
    for method in ("gptq", "nf4", "onebit", "bitnet", "torchao-int8"):
        problems = against_model(Config.model_validate({"method": method}), sparse)
        assert f"method: {method} is for dense models, got one with experts; use int8, int4 or rtn" in problems
    assert against_model(Config(method="int4"), sparse) == []
    assert "average_bits: for dense models, got one with experts; remove the key" in against_model(
        Config(method="rtn", average_bits=3), sparse
    )
    assert against_model(Config(method="awq"), MODEL) == [
        "method: gptqmodel's awq takes matrices whose rows are a multiple of 64, got one of 96; use gptq"
    ]
    odd = MODEL.model_copy(update={"intermediate_size": 258})
    assert against_model(Config(method="bitnet"), odd) == [
        "method: bitnet packs four rows into one, got a matrix of 258 rows; use onebit"
    ]


def test_a_recipe_needs_a_model_to_make_smaller() -> None:
    from pathlib import Path

    with pytest.raises(RecipeError, match="quantize: needs a stage that makes a model which writes"):
        parse({"quantize": {}}, Path())


def test_what_a_method_does_not_read_changes_nothing() -> None:
    assert "distill" not in Config(method="int8").result_fields()
    assert "distill" in Config(method="onebit").result_fields()
    assert Config(calibration=("/a/b/c.txt",)).result_fields()["calibration"] == ["c.txt"]
