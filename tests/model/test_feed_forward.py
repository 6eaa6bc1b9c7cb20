from __future__ import annotations

import math

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from jielong.model.feed_forward import MLP

PART = 1e-5


def test_equals_llama() -> None:
    torch.manual_seed(0)
    theirs = LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=48))
    ours = MLP(32, 48)
    ours.load_state_dict(theirs.state_dict())  # strict: the names are the same, and there are no biases
    x = torch.randn(2, 5, 32, requires_grad=True)
    expected, out = theirs(x), ours(x)
    assert (out - expected).abs().max() < PART
    (wanted,), (got,) = torch.autograd.grad(expected.square().sum(), x), torch.autograd.grad(out.square().sum(), x)
    assert (got - wanted).abs().max() < PART


def test_by_hand() -> None:
    """One number: gate 2, up 3, down 5. silu(2 x 1) x (3 x 1) x 5 = 2 / (1 + e^-2) x 15."""
    layer = MLP(1, 1)
    for projection, value in ((layer.gate_proj, 2.0), (layer.up_proj, 3.0), (layer.down_proj, 5.0)):
        torch.nn.init.constant_(projection.weight, value)
    assert math.isclose(layer(torch.ones(1)).item(), 30 / (1 + math.exp(-2)), rel_tol=1e-6)
