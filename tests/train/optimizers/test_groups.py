from __future__ import annotations

from typing import Any

import pytest

from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.optimizers.groups import CLEX_RATE, block_matrices, large_matrices, parameter_groups

SHAPE = ModelConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)


def test_no_decay_on_norms_and_biases() -> None:
    model = CausalLM(SHAPE.model_copy(update={"attention_bias": True}))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: Any = parameter_groups(model, 0.1)
    decayed, plain = ([names[id(p)] for p in group["params"]] for group in groups)
    assert all("norm" not in name and not name.endswith("bias") for name in decayed)
    assert all("norm" in name or name.endswith("bias") for name in plain)
    assert len(decayed) + len(plain) == len(list(model.parameters()))  # the tied head is there once
    assert [(group["weight_decay"], group["decayed"]) for group in groups] == [(0.1, True), (0.0, False)]


def test_clex_moves_slowly() -> None:
    scaling = {"rope_type": "clex", "factor": 4.0}
    model = CausalLM(ModelConfig.model_validate(SHAPE.model_dump() | {"rope_scaling": scaling}))
    groups: Any = parameter_groups(model, 0.1)
    frequencies = model.model.frequencies
    assert frequencies is not None
    assert [id(p) for p in groups[2]["params"]] == [id(p) for p in frequencies.parameters()]
    assert [group["rate"] for group in groups] == [1.0, 1.0, CLEX_RATE]
    engine = TorchEngine(model, Config(device="cpu", precision="float32"))
    engine.step(0.5)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [0.5, 0.5, 0.5 * CLEX_RATE]
    assert not any("frequencies" in name for name in block_matrices(model))


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, set()),
        ({"talking_heads": True}, {"self_attn.talk_before", "self_attn.talk_after"}),
        (
            {"num_experts": 4, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 8},
            {"mlp.gate.weight", "mlp.shared_expert_gate.weight"},
        ),
    ],
)
def test_matrices_of_the_blocks(changes: dict[str, Any], left: set[str]) -> None:
    """All that has two dimensions in a block, but what is named here; nothing outside of blocks."""
    model = CausalLM(SHAPE.model_copy(update={"tie_word_embeddings": False} | changes))
    found = block_matrices(model)
    inside = {name for name, p in model.named_parameters() if name.startswith("model.layers.") and p.ndim >= 2}
    assert {name.removeprefix("model.layers.0.") for name in inside - found.keys()} == left
    assert found.keys() <= inside
    halves = {name.split(".")[-1]: count for name, (_, count) in found.items() if "experts." in name and count > 1}
    assert halves == ({"gate_up_proj": 2} if "num_experts" in changes else {})
    rest: Any = parameter_groups(model, 0.1, found)
    assert sum(len(group["params"]) for group in rest) + len(found) == len(list(model.parameters()))


def test_large_matrices_are_all_but_the_embedding() -> None:
    model = CausalLM(
        SHAPE.model_copy(update={"vocab_size": 600, "hidden_size": 64, "tie_word_embeddings": False, "head_dim": 32})
    )
    assert {name for name, p in model.named_parameters() if p.numel() >= 4096} - large_matrices(model).keys() == {
        "model.embed_tokens.weight"
    }
    assert "lm_head.weight" in large_matrices(model)
    assert "model.layers.0.self_attn.k_proj.weight" not in large_matrices(model)  # 2,048 elements
