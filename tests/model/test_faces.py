"""A model of ours as its class of transformers: the same parameters, the same logits, the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.model.adapter_config import Adapter
from jielong.model.adapters import attach
from jielong.model.config import Config
from jielong.model.faces import face
from jielong.model.heads import add_head, score
from jielong.model.transformer import CausalLM, initialise

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]])


def made(**settings: Any) -> CausalLM:
    shape = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 32}  # fmt: skip
    model = CausalLM(Config.model_validate(shape | settings))
    initialise(model, 1)
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [None, "lora", "dora"])
def test_logits_and_gradients_are_those_of_the_model(tied: bool, kind: Any) -> None:
    model = made(tie_word_embeddings=tied)
    if kind is not None:
        attach(model, Adapter(kind=kind, rank=4, dropout=0.0), 1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_()
    theirs = face(model)
    assert torch.allclose(theirs(input_ids=IDS).logits, model(IDS), atol=1e-5)
    theirs(input_ids=IDS).logits.square().mean().backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    model(IDS).square().mean().backward()
    for name, one in model.named_parameters():
        assert (one.grad is None) == (name not in found)
        assert one.grad is None or torch.allclose(found[name], one.grad, atol=1e-5), name


def test_a_step_of_ours_is_seen_by_the_face() -> None:
    model = made()
    theirs = face(model)
    before = theirs(input_ids=IDS).logits.detach()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(1.5)
    assert not torch.allclose(theirs(input_ids=IDS).logits, before)


@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_their_class(tied: bool) -> None:
    model = made(tie_word_embeddings=tied)
    add_head(model, "score", 3)
    theirs = face(model, scored=True).eval()
    theirs.config.pad_token_id = 0
    rows = torch.tensor([[3, 1, 4, 1, 5], [2, 7, 1, 0, 0]])
    lengths = torch.tensor([5, 3])
    mask = (torch.arange(5) < lengths[:, None]).long()
    assert torch.allclose(
        theirs(input_ids=rows, attention_mask=mask).logits[:, 0], score(model, rows, lengths), atol=1e-5
    )


def test_scores_are_float32_under_autocast() -> None:
    """Two that differ in the fourth digit are not alike."""
    model = made()
    add_head(model, "score", 3)
    theirs = face(model, scored=True).eval()
    theirs.config.pad_token_id = 31
    with torch.autocast("cpu", torch.bfloat16):
        found = theirs(input_ids=IDS).logits
    assert found.dtype == torch.float32


def test_an_embedding_in_half_is_widened_where_blocks_add_to_it() -> None:
    model = made()
    attach(model, Adapter(rank=4, dropout=0.0), 1, torch.bfloat16)
    seen = []
    theirs = face(model)
    theirs.model.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        theirs(input_ids=IDS)
    assert seen == [torch.float32]
