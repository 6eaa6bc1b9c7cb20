from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.infer.cache import KVCache
from jielong.model.config import Config
from jielong.model.cost import (
    active_parameters,
    el_cache_bytes,
    embedding_parameters,
    flops_per_token,
    inference_flops_per_token,
    kv_cache_bytes,
    mean_keys,
    parameters,
    product_parameters,
)
from jielong.model.transformer import CausalLM

SMALL = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
}
HAND = {"vocab_size": 10, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "intermediate_size": 8}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"qk_norm": True},
        {"attention_bias": True},
        {"attention_bias": "qkv"},
        {"head_dim": 6},
        {"talking_heads": True},
        {"position": "alibi", "intermediate_size": 50},
        {"rope_scaling": {"rope_type": "clex", "factor": 4.0, "hidden_multiple": 3}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"num_experts": 4},
        {"num_experts": 5, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "mlp_only_layers": [1]},
        {"num_experts": 4, "shared_expert_intermediate_size": 24, "router_bias_update_rate": 0.001},
    ],
    ids=str,
)
def test_parameters_equal_the_model_s(changes: dict[str, Any]) -> None:
    config = Config.model_validate(SMALL | changes)
    with torch.device("meta"):
        model = CausalLM(config)
    assert parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def test_active_parameters_are_those_of_a_model_with_as_many_experts() -> None:
    sparse = SMALL | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
    many, few = (Config.model_validate(sparse | {"num_experts": count}) for count in (8, 2))
    gates = (8 - 2) * 32 * 3  # a gate scores every expert
    assert active_parameters(many) == parameters(few) + gates
    assert active_parameters(few) == parameters(few)


def test_flops_by_hand() -> None:
    """Width 4, one head, one layer, vocabulary 10, feed-forward 8, row of 6 tokens.

    Products: 4 x 4 x 4 (q, k, v, o) + 3 x 4 x 8 (feed-forward) + 10 x 4 (output) = 64 + 96 + 40 = 200 weights, and 12 norm
    weights that count as multiplications too: 212 x 6 = 1272. Attention: 6 x 1 x 1 x 4 x 6 = 144.
    """
    config = Config.model_validate(HAND)
    assert embedding_parameters(config) == 40
    assert product_parameters(config) == 212
    assert flops_per_token(config, 6) == 1272 + 144
    untied = Config.model_validate(HAND | {"tie_word_embeddings": False})
    assert flops_per_token(untied, 6) == 1272 + 144


def test_flops_of_experts_by_hand() -> None:
    """The same with 4 experts of width 8, 2 active, and a shared one of width 5.

    The dense layer's 96 weights become 2 x 96 = 192, the gate's 4 x 4 = 16, the shared expert's 3 x 4 x 5 = 60 and its gate's 4.
    """
    config = Config.model_validate(HAND | {"num_experts": 4, "shared_expert_intermediate_size": 5})
    assert product_parameters(config) == 212 - 96 + 192 + 16 + 60 + 4


def test_the_network_of_clex_costs_no_flops_a_token() -> None:
    clex = {"rope_scaling": {"rope_type": "clex", "factor": 2.0}}
    assert flops_per_token(Config.model_validate(HAND | clex), 6) == 1272 + 144


def test_keys_that_are_seen_by_hand() -> None:
    """A window of 2 in a row of 4: queries see 0.5, 1.5, 2, 2 keys at the middle of their place, 6 / 4 = 1.5 on average."""
    plain = Config.model_validate(HAND)
    assert mean_keys(plain, 0, 4) == 2
    assert mean_keys(plain.model_copy(update={"sliding_window": 2}), 0, 4) == 1.5
    assert mean_keys(plain.model_copy(update={"sliding_window": 9}), 0, 4) == 2
    assert mean_keys(plain.model_copy(update={"shifted_attention": 2}), 0, 4) == 1
    mixed = {"sliding_window": 2, "layer_types": ["full_attention"]}
    assert mean_keys(Config.model_validate(HAND | mixed), 0, 4) == 2


def test_talking_heads_mix_every_score_twice_by_hand() -> None:
    """One head in place of a head of 4 numbers more: 6 x 2 x 1 x 1 x 3 = 36."""
    assert flops_per_token(Config.model_validate(HAND | {"talking_heads": True}), 6) == (212 + 2) * 6 + 144 + 36


def test_flops_of_a_new_token_by_hand() -> None:
    """2 x 212, and two products of 4 numbers with each of 6 keys: 2 x 2 x 4 x 6 = 96; of 2 keys in a window of 2: 32."""
    config = Config.model_validate(HAND)
    assert inference_flops_per_token(config, 6) == 424 + 96
    assert inference_flops_per_token(config.model_copy(update={"sliding_window": 2}), 6) == 424 + 32


def test_cache_bytes_are_the_cache_s() -> None:
    config = Config.model_validate(SMALL)
    cache = KVCache(config, 2, 7, torch.device("cpu"))
    assert kv_cache_bytes(config) * 2 * 7 == cache.keys.nbytes + cache.values.nbytes
    assert kv_cache_bytes(config, 2) == kv_cache_bytes(config) / 2


def test_an_el_cache_is_half_where_every_head_has_keys() -> None:
    config = Config.model_validate(SMALL | {"num_key_value_heads": 4, "position": "alibi"})
    assert el_cache_bytes(config) == kv_cache_bytes(config) / 2 == 3 * 32 * 4
