"""Slow twins of the caches and small models to try them on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jielong.model.config import Config
from jielong.model.positions import alibi_slopes, attention_factor, inverse_frequencies, rotary, rotate
from jielong.model.transformer import CausalLM, initialise

SHAPE: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "max_position_embeddings": 16, "intermediate_size": 24,
}  # fmt: skip
SCALED = {"factor": 4.0, "original_max_position_embeddings": 4}
POSITIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_scaling": {"rope_type": "linear", **SCALED}},
    "ntk": {"rope_scaling": {"rope_type": "ntk", **SCALED}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", **SCALED}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", **SCALED}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", **SCALED}},
    "clex": {"rope_scaling": {"rope_type": "clex", **SCALED}},
    "alibi": {"position": "alibi"},
    "none": {"position": "none"},
}
FEATURES: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
    "qk_norm": {"qk_norm": True},
    "biases": {"attention_bias": True},
    "qkv biases": {"attention_bias": "qkv"},
    "no groups": {"num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1},
    "window": {"sliding_window": 3},
    "layer types": {"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"]},
    "soft cap": {"attn_logit_softcapping": 2.0, "attention_bias": True},
    "talking heads": {"talking_heads": True},
    "eager": {"attention": "eager"},
}


def make(**fields: Any) -> CausalLM:
    """A random model whose every weight counts: large, biases and mixing matrices too."""
    model = CausalLM(Config(**(SHAPE | fields)))
    initialise(model, 1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or ".talk_" in name or "frequencies" in name:
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.3
        else:
            parameter.data *= 10
    return model.eval()


def some_ids(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def kept_states(model: CausalLM, ids: list[int], capacity: int, sinks: int) -> Tensor:
    """Logits after each token, (T, V), where a token sees the first `sinks` and the most recent ones, `capacity` with itself.

    Positions are places among what is kept. Every layer's normed inputs are kept, and keys and values are made of them again
    for each token. Dense layers without talking heads and soft cap.
    """
    config, decoder = model.config, model.model
    size, share = config.size_of_head, config.num_attention_heads // config.num_key_value_heads
    kept: list[list[Tensor]] = [[] for _ in decoder.layers]
    logits = []
    for token in ids:
        x_C = decoder.embed_tokens.weight[token]
        for number, layer in enumerate(decoder.layers):
            kept[number].append(layer.input_layernorm(x_C))
            if len(kept[number]) > capacity:
                del kept[number][sinks]
            attention, inputs_SC = layer.self_attn, torch.stack(kept[number])
            length = len(inputs_SC)
            q_HD = attention.q_proj(inputs_SC[-1]).view(-1, size)
            k_SGD, v_SGD = (proj(inputs_SC).view(length, -1, size) for proj in (attention.k_proj, attention.v_proj))
            if attention.q_norm is not None:
                q_HD, k_SGD = attention.q_norm(q_HD), attention.k_norm(k_SGD)
            if config.position == "rope":
                if decoder.frequencies is not None:
                    inverse_d = decoder.frequencies(decoder.frequencies.stretch_of(capacity))
                else:
                    inverse_d = inverse_frequencies(config, capacity, torch.device("cpu"))
                cos, sin = rotary(torch.arange(length)[None], inverse_d, attention_factor(config))
                k_SGD = rotate(k_SGD, cos[0, 0][:, None], sin[0, 0][:, None])
                q_HD = rotate(q_HD, cos[0, 0, -1], sin[0, 0, -1])
            heads = []
            for head in range(config.num_attention_heads):
                scores_S = k_SGD[:, head // share] @ q_HD[head] / math.sqrt(size)
                if config.position == "alibi":
                    distance_S = torch.arange(length - 1, -1, -1)
                    scores_S = (
                        scores_S - alibi_slopes(config.num_attention_heads, torch.device("cpu"))[head] * distance_S
                    )
                window = config.window(number)
                if window is not None:
                    scores_S[: max(0, length - window)] = float("-inf")
                heads.append(scores_S.softmax(dim=0) @ v_SGD[:, head // share])
            x_C = x_C + attention.o_proj(torch.cat(heads))
            x_C = x_C + layer.mlp(layer.post_attention_layernorm(x_C))
        logits.append(model.lm_head(decoder.norm(x_C)))
    return torch.stack(logits)
