"""Bits per byte by hand, and against a slow twin that takes one document at a time."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jielong.evaluate.bits import measure
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter

DOCUMENTS = [("中国", [5, 6]), ("a", [7]), ("人工智能是什么", [8, 9, 10, 11, 12, 13, 14])]
SHAPE = Config(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
               max_position_embeddings=8)  # fmt: skip


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    with ShardWriter(tmp_path, "validation", Scheme(32, 3), 100) as writer:
        writer.add([text for text, _ in DOCUMENTS], [ids for _, ids in DOCUMENTS])
    write_manifest(tmp_path, Scheme(32, 3), {"validation": writer.summary()})
    return Shards(tmp_path, "validation")


def test_a_uniform_model_by_hand(shards: Shards) -> None:
    """All weights zero: every token costs log2(32) = 5 bits. 10 tokens and 3 ends: 65 bits; 6 + 1 + 21 = 28 bytes."""
    model = CausalLM(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for rows, length in ((1, 8), (2, 4), (3, 3)):
        found = measure(model, shards, length, rows)
        assert found["bits_per_byte"] == pytest.approx(65 / 28, rel=1e-6)
        assert found["loss"] == pytest.approx(5 * math.log(2), rel=1e-6)
        assert (found["tokens"], found["bytes"]) == (13, 28)


def test_equals_one_document_at_a_time(shards: Shards) -> None:
    model = CausalLM(SHAPE)
    initialise(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10)
        nats = sum(
            float(model.loss_sum(torch.tensor([[3, *ids]]), torch.tensor([[*ids, 3]]), None, None))
            for _, ids in DOCUMENTS
        )
    assert measure(model, shards, 8 + 3 + 2, 1)["bits_per_byte"] == pytest.approx(nats / math.log(2) / 28, rel=1e-5)


def test_a_budget_covers_whole_documents(shards: Shards) -> None:
    model = CausalLM(SHAPE)
    initialise(model, 1)
    found = measure(model, shards, 8, 2, max_tokens=4)  # the second document reaches it
    assert (found["tokens"], found["bytes"]) == (5, 7)


def test_documents_that_are_not_closed(tmp_path: Path) -> None:
    """A uniform model: 10 tokens of 5 bits and no ends, of 28 bytes; the start id 2 costs nothing."""
    scheme = Scheme(32, 3, 2, closes=False)
    with ShardWriter(tmp_path, "validation", scheme, 100) as writer:
        writer.add([text for text, _ in DOCUMENTS], [ids for _, ids in DOCUMENTS])
    write_manifest(tmp_path, scheme, {"validation": writer.summary()})
    model = CausalLM(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = measure(model, Shards(tmp_path, "validation"), 4, 2)
    assert found["bits_per_byte"] == pytest.approx(50 / 28, rel=1e-6)
    assert (found["tokens"], found["bytes"], found["documents"]) == (10, 28, 3)
    assert measure(model, Shards(tmp_path, "validation"), 4, 2, max_tokens=2)["documents"] == 1


def test_mode_and_gradients_are_left_alone(shards: Shards) -> None:
    model = CausalLM(SHAPE).train()
    measure(model, shards, 8, 2)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
