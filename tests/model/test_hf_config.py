"""Which class a config declares, and that each field survives the way there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.errors import ModelError
from jielong.model.config import Config
from jielong.model.hf_config import (
    CLASSES,
    OWN,
    class_of,
    from_hf_config,
    read_config,
    reason_for_own_class,
    to_hf_config,
)

SHAPE = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}  # fmt: skip
EXPERTS = {"num_experts": 4, "moe_intermediate_size": 24}
SOME_LAYERS = {
    "sliding_window": 8,
    "layer_types": ("full_attention", "sliding_attention", "full_attention", "sliding_attention"),
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> model_type, fields beside SHAPE
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "rope_theta": 5e5, "tie_word_embeddings": False}),
    "llama-training": ("llama", {"shifted_attention": 16}),
    "llama-full-layers": ("llama", {"sliding_window": 8, "layer_types": ("full_attention",) * 4}),
    "mistral": ("mistral", {"sliding_window": 8}),
    "mistral-3-heads": ("mistral", {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8}),
    "qwen2": ("qwen2", {"attention_bias": "qkv", "head_dim": 16}),
    "qwen2-window": ("qwen2", {"attention_bias": "qkv", **SOME_LAYERS}),
    "qwen3": ("qwen3", {"qk_norm": True, "head_dim": 16}),
    "qwen3-biases": ("qwen3", {"qk_norm": True, "attention_bias": True, "sliding_window": 8}),
    "qwen3-window": ("qwen3", {"qk_norm": True, **SOME_LAYERS}),
    "mixtral": ("mixtral", EXPERTS),
    "mixtral-window": ("mixtral", {**EXPERTS, "sliding_window": 8, "num_experts_per_tok": 3}),
    "qwen2-moe": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "norm_topk_prob": False, "attention_bias": "qkv",
         "mlp_only_layers": (2, 0)},
    ),
    "qwen2-moe-window": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 40, "router_aux_loss_per": "sequence", **SOME_LAYERS},
    ),
    "qwen3-moe": ("qwen3_moe", {**EXPERTS, "qk_norm": True, "mlp_only_layers": (1,), "router_z_loss_coef": 0.0}),
    "qwen3-moe-window": (
        "qwen3_moe", {**EXPERTS, "qk_norm": True, "norm_topk_prob": False, "attention_bias": True, "sliding_window": 8},
    ),
}  # fmt: skip
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "ntk": {"rope_type": "ntk", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "dynamic-shorter": {"rope_type": "dynamic", "factor": 6.0, "original_max_position_embeddings": 32},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn-original": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32, "truncate": False},
    "yarn-factors": {
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 1.0, "mscale_all_dim": 0.8,
    },
    "yarn-attention": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3},
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}  # fmt: skip
OWN_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {  # name -> fields, what the reason says
    "alibi": ({"position": "alibi"}, "no Hugging Face class has position = alibi"),
    "none": ({"position": "none"}, "no Hugging Face class has position = none"),
    "clex": ({"rope_scaling": {"rope_type": "clex", "factor": 4.0}}, "rope_type = clex"),
    "talking": ({"talking_heads": True}, "talking_heads"),
    "cap-window": (
        {"attn_logit_softcapping": 30.0, "attention": "eager", **SOME_LAYERS},
        "no Hugging Face class has attn_logit_softcapping",
    ),
    "sigmoid-bias": (
        {**EXPERTS, "scoring_func": "sigmoid", "router_bias_update_rate": 0.001},
        "no Hugging Face class has scoring_func = sigmoid and router_bias_update_rate",
    ),
    "one-bias": ({"attention_bias": "qkv", "qk_norm": True}, "llama has no qk_norm; mistral has no qk_norm; qwen2 has"),
    "window-biases": ({"attention_bias": True, "sliding_window": 8}, "llama has no sliding_window; mistral has no"),
    "unnormalised": (
        {**EXPERTS, "norm_topk_prob": False},
        "mixtral has no norm_topk_prob = false; qwen2_moe always has",
    ),
    "dense-layers": ({**EXPERTS, "mlp_only_layers": (0,)}, "mixtral has no mlp_only_layers"),
    "moe-some-windows": (
        {**EXPERTS, "qk_norm": True, **SOME_LAYERS},
        "qwen3_moe has one sliding_window for all layers",
    ),
    "shared-and-norm": (
        {**EXPERTS, "qk_norm": True, "shared_expert_intermediate_size": 40},
        "qwen2_moe has no qk_norm; qwen3_moe has no shared expert",
    ),
    "llama-3-heads": (
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8, "attention_bias": True},
        "llama needs hidden_size to be a multiple of num_attention_heads",
    ),
}


def config_of(fields: dict[str, Any]) -> Config:
    return Config.model_validate(SHAPE | fields)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_class_and_the_way_back(name: str) -> None:
    model_type, fields = CONFIGS[name]
    config = config_of(fields)
    architecture = next(one.architecture for one in CLASSES if one.model_type == model_type)
    assert class_of(config) == (model_type, architecture) and reason_for_own_class(config) is None
    table = orjson.loads(orjson.dumps(to_hf_config(config, 5, 3)))
    assert (table["model_type"], table["architectures"]) == (model_type, [architecture])
    assert (table["bos_token_id"], table["eos_token_id"]) == (3, 5)
    again = from_hf_config(table, "test")
    assert to_hf_config(again, 5, 3) == table
    for layer in range(4):
        assert (again.is_sparse(layer), again.window(layer)) == (config.is_sparse(layer), config.window(layer))
    kept = set(SHAPE) | set(fields) - {"sliding_window", "layer_types", "mlp_only_layers", "moe_intermediate_size"}
    if config.num_experts:
        assert again.expert_size == config.expert_size == 24
        kept -= {"intermediate_size"} if model_type == "mixtral" else set()  # it has no dense layers
    assert {key: getattr(again, key) for key in kept} == {key: getattr(config, key) for key in kept}


@pytest.mark.parametrize("kind", ["llama", "qwen3-window", "mixtral", "qwen2-moe"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_positions_and_the_way_back(kind: str, scaling: str) -> None:
    config = config_of(CONFIGS[kind][1] | {"rope_scaling": SCALINGS[scaling]})
    table = orjson.loads(orjson.dumps(to_hf_config(config, 0)))
    again = from_hf_config(table, "test")
    assert table["model_type"] == CONFIGS[kind][0] and to_hf_config(again, 0) == table
    assert again.max_position_embeddings == config.max_position_embeddings
    if scaling == "ntk":  # as the base it amounts to: 10,000 x 4^(D / (D - 2))
        size = config.size_of_head
        assert again.rope_scaling is None and again.rope_theta == 10_000.0 * 4.0 ** (size / (size - 2))
        assert "rope_scaling" not in table
        return
    assert again.original_length == config.original_length == 32 and again.rope_theta == config.rope_theta
    assert again.rope_scaling is not None and config.rope_scaling is not None
    same = {"original_max_position_embeddings": 32}
    assert again.rope_scaling.model_copy(update=same) == config.rope_scaling.model_copy(update=same)
    old, new = table["rope_scaling"], table["rope_parameters"]
    assert old == {key: new[key] for key in new if key != "rope_theta"} | {"type": new["rope_type"]}
    shorter = SCALINGS[scaling]["rope_type"] == "dynamic"
    assert table["max_position_embeddings"] == (32 if shorter else 128)


@pytest.mark.parametrize("name", OWN_CONFIGS)
def test_what_no_class_has_is_ours_and_says_why(name: str) -> None:
    fields, reason = OWN_CONFIGS[name]
    config = config_of(fields)
    assert class_of(config) == OWN and reason in (reason_for_own_class(config) or "")
    table = orjson.loads(orjson.dumps(to_hf_config(config, 5)))
    assert (table["model_type"], table["architectures"]) == (OWN[0], [OWN[1]])
    again = from_hf_config(table, "test")
    assert again == config.model_copy(update={"attention": "auto"}) and to_hf_config(again, 5) == table


def test_training_settings_are_kept_apart() -> None:
    assert "jielong" not in to_hf_config(config_of(EXPERTS), 0)
    fields = {"router_z_loss_coef": 0.5, "router_aux_loss_per": "sequence", "router_aux_loss_coef": 0.25}
    table = to_hf_config(config_of(EXPERTS | fields), 0)
    assert table["jielong"] == {"router_z_loss_coef": 0.5, "router_aux_loss_per": "sequence"}
    assert table["router_aux_loss_coef"] == 0.25


def foreign(model_type: str, change: dict[str, Any]) -> dict[str, Any]:
    """A config.json as others write it, with no key that we add."""
    table = to_hf_config(config_of(next(fields for kind, fields in CONFIGS.values() if kind == model_type)), 0)
    for key in ("rope_parameters", "rope_theta", "sliding_window", "use_sliding_window", "qkv_bias", "head_dim"):
        table.pop(key, None)
    return table | change


@pytest.mark.parametrize(
    ("model_type", "change", "expected"),
    [
        ("llama", {}, {"rope_theta": 10_000.0, "sliding_window": None, "attention_bias": False}),
        ("llama", {"rope_theta": 7, "rope_scaling": None}, {"rope_theta": 7.0}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}, {"rope_theta": 9.0}),
        ("llama", {"num_key_value_heads": None}, {"num_key_value_heads": 4}),
        ("llama", {"sliding_window": 16}, {"sliding_window": None}),
        ("llama", {"hidden_act": "swish"}, {}),
        ("mistral", {}, {"sliding_window": 4096}),
        ("mistral", {"sliding_window": None, "attention_bias": True}, {"sliding_window": None, "attention_bias": False}),
        ("mixtral", {}, {"sliding_window": None, "rope_theta": 1e6, "norm_topk_prob": True, "num_experts": 4}),
        ("qwen2", {"sliding_window": 16}, {"sliding_window": None, "attention_bias": "qkv"}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 16},
         {"sliding_window": 16, "layer_types": ("full_attention", *("sliding_attention",) * 3)}),
        ("qwen2", {"use_sliding_window": True}, {"sliding_window": None, "layer_types": None}),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 4},
         {"sliding_window": 4096, "layer_types": None, "head_dim": 128}),
        ("qwen2_moe", {}, {"attention_bias": "qkv", "mlp_only_layers": (0, 2), "norm_topk_prob": False}),
        ("qwen2_moe", {"qkv_bias": False, "mlp_only_layers": None}, {"attention_bias": False, "mlp_only_layers": ()}),
        ("qwen2_moe", {"mlp_only_layers": [3], "decoder_sparse_step": 2}, {"mlp_only_layers": (0, 2, 3)}),
        ("qwen2_moe", {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 16},
         {"sliding_window": 16, "layer_types": ("sliding_attention", *("full_attention",) * 3)}),
        ("qwen3_moe", {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 16},
         {"sliding_window": 16, "layer_types": None}),
        ("qwen3_moe", {"num_experts": None, "num_local_experts": 4}, {"num_experts": 4}),
    ],
)  # fmt: skip
def test_files_of_others(model_type: str, change: dict[str, Any], expected: dict[str, Any]) -> None:
    config = from_hf_config(foreign(model_type, change), "config.json")
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("rope", "expected", "longest"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, {"rope_type": "linear", "factor": 2.0}, 128),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.5}},
         {"rope_type": "dynamic", "factor": 2.5, "original_max_position_embeddings": 128}, 320),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": None}},
         {"rope_type": "yarn", "original_max_position_embeddings": 32, "beta_fast": 32.0}, 128),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, {"original_max_position_embeddings": 128}, 128),
        ({"rope_parameters": {"rope_type": "yarn", "factor": None, "rope_theta": 5.0}, "original_max_position_embeddings": 32},
         {"factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 64}, "rope_theta": 500000.0},
         {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}, 128),
    ],
)  # fmt: skip
def test_rope_as_others_write_it(rope: dict[str, Any], expected: dict[str, Any], longest: int) -> None:
    config = from_hf_config(foreign("llama", rope), "config.json")
    assert {key: getattr(config.rope_scaling, key) for key in expected} == expected
    assert config.max_position_embeddings == longest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type not supported, got 'gpt2'; must be one of llama, mistral, qwen2"),
        ({"hidden_act": "gelu"}, "hidden_act not supported, got 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias not supported, got True"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantized \(awq\), which is to be used, not trained"),
        ({"hidden_size": None}, "hidden_size missing or not a number, got None; complete the file"),
        ({"num_key_value_heads": 3}, "config.json: num_key_value_heads: must divide"),
        ({"hidden_size": 32.5}, "hidden_size: .*got 32.5"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}},
         r"rope_scaling.rope_type not supported, got 'longrope'; must be one of default, linear"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters.factor missing or not a number, got None"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, "rope_scaling.factor missing or not a number, got '4'"),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0}}, "rope_scaling.low_freq_factor missing"),
        ({"rope_scaling": [4]}, "rope_scaling: must be one flat table"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters: must be one flat table"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor not supported, got 0.5"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}}, "partial_rotary_factor not"),
    ],
)  # fmt: skip
def test_what_we_cannot_represent_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config(foreign("llama", change), "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_sparse_step": 0}, "decoder_sparse_step, mlp_only_layers: must be"),
        ({"mlp_only_layers": 3}, "decoder_sparse_step, mlp_only_layers: must be"),
        ({"num_experts": None}, "num_experts missing"),
        ({"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size missing"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok: more active experts"),
        ({"use_sliding_window": True, "layer_types": 4}, "layer_types: must be a list"),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention", "chunked_attention"] * 2}, "layer_types.1"),
    ],
)
def test_sparse_files_that_are_wrong_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config(foreign("qwen2_moe", change), "config.json")


def test_all_problems_are_named_at_once() -> None:
    change = {"hidden_act": "gelu", "mlp_bias": True, "vocab_size": "many", "rope_scaling": {"type": "longrope"}}
    with pytest.raises(ModelError) as caught:
        from_hf_config(foreign("llama", change), "config.json")
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(line.startswith("config.json: ") for line in lines)
    with pytest.raises(ModelError) as caught:  # those that Config finds itself
        from_hf_config(foreign("llama", {"num_key_value_heads": 3, "head_dim": 7}), "config.json")
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_config(tmp_path)
    for text, message in (("{", "not valid JSON"), ("[]", "not a JSON object")):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            read_config(tmp_path)
