from __future__ import annotations

import pytest

from jielong.errors import RecipeError
from jielong.model.config import ALIASES, Config
from jielong.recipe import parse_section


def test_defaults_are_the_community_model() -> None:
    config = Config()
    shape = (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    assert shape == (512, 8, 16, 8)
    assert (config.rms_norm_eps, config.max_position_embeddings, config.attention_dropout) == (1e-5, 512, 0.0)
    # 8 x 512 / 3 = 1365, rounded up to a multiple of 64
    assert config.feed_forward_size == 1408
    assert config.with_vocab(6400).vocabulary == 6400


def test_short_names_are_accepted() -> None:
    table = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 128, "norm_eps": 1e-6,
             "max_seq_len": 128, "flash_attn": False, "dropout": 0.1}  # fmt: skip
    config = parse_section("model", Config, table)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 4)
    assert (config.intermediate_size, config.max_position_embeddings, config.attention) == (128, 128, "eager")
    assert (config.num_key_value_heads, config.rms_norm_eps, config.attention_dropout) == (2, 1e-6, 0.1)


def test_every_alias_names_a_field() -> None:
    assert set(ALIASES.values()) <= set(Config.model_fields)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"num_attention_heads": 3}, "must divide hidden_size 512, got 3"),
        ({"num_key_value_heads": 5}, "must divide num_attention_heads 16, got 5"),
        ({"hidden_size": 48, "num_attention_heads": 16}, "must be even for rotary positions, got 3"),
        ({"dim": 64, "hidden_size": 64}, "the same as hidden_size, and both are given"),
        ({"hidden_sise": 64}, "did you mean hidden_size?"),
        ({"hidden_size": 0}, "model.hidden_size: out of bounds, got 0; must be at least 1"),
        ({"flash_attn": "yes"}, "must be true or false"),
        ({"rope_scaling": {"rope_type": "yarn"}}, r"rope_scaling\.factor: missing for rope_type yarn; give it"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_scaling.rope_type"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling.rope_type: missing"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "must be at least 1"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "position": "alibi"}, "only for position = rope"),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 600}},
            "too long, got 600",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0}},
            "must be above low_freq_factor 4",
        ),
        ({"rope_scaling": {"rope_type": "ntk", "factor": 2.0}, "head_dim": 2}, "too small for ntk, got 2"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "too small for yarn, got 1"),
        (
            {"num_experts": 2, "num_experts_per_tok": 3},
            "more active experts than experts, got 3; must be at most num_experts 2",
        ),
        ({"num_experts": 4, "mlp_only_layers": [8]}, "no such layer, got 8; must be 0 to 7"),
        ({"moe_intermediate_size": 64}, "given without num_experts"),
        ({"scoring_func": "sigmoid"}, "scoring_func: given without num_experts"),
        ({"shared_expert_intermediate_size": 64}, "given without num_experts"),
        ({"layer_types": ["full_attention"]}, "must name each of the 8 layers, got 1"),
        ({"layer_types": ["sliding_attention"] * 8}, "there is no sliding_window"),
        ({"shifted_attention": 31}, "needs an even group"),
        ({"shifted_attention": 32, "sliding_window": 8}, "does not go with sliding_window or alibi"),
        (
            {"talking_heads": True, "attn_logit_softcapping": 5.0},
            "talking_heads: does not go with attn_logit_softcapping",
        ),
        ({"talking_heads": True, "attention": "sdpa"}, "talking_heads needs plain arithmetic, got sdpa"),
        ({"attn_logit_softcapping": 5.0, "attention": "sdpa"}, "no soft cap in sdpa"),
        ({"attention": "varlen", "position": "alibi"}, "varlen has neither alibi"),
        ({"attention": "flex", "attention_dropout": 0.1}, "flex has no attention_dropout"),
    ],
)
def test_bad_shapes_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        parse_section("model", Config, table)


def test_all_shape_problems_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_section("model", Config, {"hidden_size": 50, "num_attention_heads": 16, "num_key_value_heads": 3})
    assert "num_attention_heads" in str(caught.value) and "num_key_value_heads" in str(caught.value)


def test_odd_heads_are_fine_where_nothing_is_rotated() -> None:
    assert Config(hidden_size=48, num_attention_heads=16, position="alibi").size_of_head == 3


def test_every_kind_of_problem_at_once() -> None:
    """Heads, key-value heads, an odd head, a scaling without factor, too many active experts: five lines, one error."""
    table = {"hidden_size": 34, "num_attention_heads": 6, "num_key_value_heads": 4, "head_dim": 5,
             "rope_scaling": {"type": "dynamic"}, "num_experts": 2, "num_experts_per_tok": 3}  # fmt: skip
    with pytest.raises(RecipeError) as caught:
        parse_section("model", Config, table)
    for field in ("num_key_value_heads", "head_dim", "rope_scaling.factor", "num_experts_per_tok"):
        assert f"{field}: " in str(caught.value)


def test_a_field_out_of_bounds_hides_no_other_problem() -> None:
    for table in ({"rope_theta": -1.0}, {"flash_attn": 3}, {"hidden_sise": 3}):
        with pytest.raises(RecipeError) as caught:
            parse_section("model", Config, {**table, "num_key_value_heads": 3, "num_experts": 1})
        assert next(iter(table)) in str(caught.value)
        assert "num_key_value_heads: must divide" in str(caught.value)
        assert "num_experts_per_tok: more active experts" in str(caught.value)


def test_the_trained_length() -> None:
    assert Config().original_length == 512
    stretched = {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 2048}
    assert Config.model_validate(stretched).original_length == 512
    stretched["rope_scaling"]["original_max_position_embeddings"] = 1024  # type: ignore[index]
    assert Config.model_validate(stretched).original_length == 1024


def test_which_layers_are_sparse_and_which_have_a_window() -> None:
    config = Config(num_hidden_layers=3, num_experts=4, mlp_only_layers=(0, 2), sliding_window=9,
                    layer_types=("full_attention", "sliding_attention", "full_attention"))  # fmt: skip
    assert [config.is_sparse(layer) for layer in range(3)] == [False, True, False]
    assert [config.window(layer) for layer in range(3)] == [None, 9, None]
    assert not Config().is_sparse(0) and Config(sliding_window=3).window(7) == 3
    assert config.expert_size == config.feed_forward_size
    assert Config(num_experts=4, moe_intermediate_size=24).expert_size == 24
