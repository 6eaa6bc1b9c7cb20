"""The average of the weights against a running sum in plain Python."""

from __future__ import annotations

import pytest
import torch

from jielong.model.transformer import CausalLM
from jielong.train.optimizers.averaging import Average
from tests.train.conftest import SHAPE

TIED = SHAPE.model_copy(update={"vocab_size": 30, "tie_word_embeddings": True})


@pytest.mark.parametrize("decay", [0.15, 0.999])
def test_the_average_is_the_formula(decay: float) -> None:
    model = CausalLM(TIED)
    weight = model.model.norm.weight
    average, expected = Average(model, decay), 1.0
    for step in range(6):
        with torch.no_grad():
            weight.fill_(2.0 + step)
        average.update(model)
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * (2.0 + step)
    assert average.steps == 6
    assert average.weights["model.norm.weight"].tolist() == pytest.approx([expected] * 16, rel=1e-6)
    average.restart(model)
    assert average.steps == 0 and torch.equal(average.weights["model.norm.weight"], weight)


def test_a_state_dict_with_averages() -> None:
    """The tied head has the embedding's; buffers are as they are."""
    model = CausalLM(
        TIED.model_copy(update={"num_experts": 2, "moe_intermediate_size": 8, "router_bias_update_rate": 0.1})
    )
    average = Average(model, 0.5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1.0)
    found = dict(average.state(model.state_dict()))
    assert found.keys() == before.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, before[name] + 1.0 if name.endswith("correction_bias") else before[name]), name
    assert found["lm_head.weight"] is found["model.embed_tokens.weight"]
