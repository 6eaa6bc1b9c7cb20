from __future__ import annotations

import torch

from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM, initialise
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.optimizers import CLEX_RATE, adamw, parameter_groups

SHAPE = ModelConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)


def test_no_decay_on_norms_and_biases() -> None:
    model = CausalLM(SHAPE.model_copy(update={"attention_bias": True}))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ([names[id(p)] for p in group["params"]] for group in parameter_groups(model, 0.1))
    assert all("norm" not in name and not name.endswith("bias") for name in decayed)
    assert all("norm" in name or name.endswith("bias") for name in plain)
    assert len(decayed) + len(plain) == len(list(model.parameters()))  # the tied head is there once


def test_clex_moves_slowly() -> None:
    scaling = {"rope_type": "clex", "factor": 4.0}
    model = CausalLM(ModelConfig.model_validate(SHAPE.model_dump() | {"rope_scaling": scaling}))
    groups = parameter_groups(model, 0.1)
    frequencies = model.model.frequencies
    assert frequencies is not None
    assert [id(p) for p in groups[2]["params"]] == [id(p) for p in frequencies.parameters()]  # type: ignore[attr-defined]
    assert [group["rate"] for group in groups] == [1.0, 1.0, CLEX_RATE]
    engine = TorchEngine(model, Config(device="cpu", precision="float32"))
    engine.step(0.5)
    assert [group["lr"] for group in engine.optimizer.param_groups] == [0.5, 0.5, 0.5 * CLEX_RATE]


def test_fused_adamw_equals_the_formula() -> None:
    """The slow twin: AdamW as written in arXiv:1711.05101, algorithm 2, three steps by hand."""
    config = Config(learning_rate=0.01, weight_decay=0.1, beta1=0.9, beta2=0.95)
    model = CausalLM(SHAPE)
    initialise(model, 1)
    weight = model.model.layers[0].self_attn.q_proj.weight
    optimizer = adamw(model, config, torch.device("cpu"))
    expected, m, v = weight.detach().clone().double(), torch.zeros(8, 8).double(), torch.zeros(8, 8).double()
    for step in range(1, 4):
        gradient = torch.full((8, 8), 0.3 * step)
        gradient[0] = -0.1
        weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        update = (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        expected = expected - 0.01 * 0.1 * expected - 0.01 * update
    assert (weight.double() - expected).abs().max() < 1e-6
