"""Heads: reward models as folders, and what is left of a model beside its score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from jielong.model.heads import SCORE, add_head, as_scored, is_scored, score
from jielong.model.hf import load_folder, read_config, save_folder
from tests.model.test_faces import IDS, made


@pytest.mark.parametrize("tied", [True, False])
def test_a_reward_model_is_saved_and_opened_again_here_and_in_transformers(tied: bool, tmp_path: Path) -> None:
    model = made(tie_word_embeddings=tied)
    add_head(model, "score", 3)
    save_folder(model, tmp_path, 0)
    table = read_config(tmp_path)
    assert is_scored(table) and table["architectures"][0].endswith("ForSequenceClassification")
    lengths = torch.tensor([8, 8])
    again = load_folder(tmp_path)
    assert torch.equal(score(again, IDS, lengths), score(model, IDS, lengths))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert theirs.config.num_labels == 1
    theirs.config.pad_token_id = 0
    assert torch.allclose(theirs(input_ids=IDS).logits[:, 0], score(model, IDS, lengths), atol=1e-5)


def test_the_same_seed_gives_the_same_head_and_none_gives_zeros() -> None:
    models = [made() for _ in range(3)]
    for model, seed in zip(models, (5, 5, None), strict=True):
        add_head(model, "score", seed)
    one, other, zero = (dict(model.named_parameters())[SCORE] for model in models)
    assert torch.equal(one, other) and one.abs().sum() > 0 and zero.abs().sum() == 0


def test_an_output_layer_of_its_own_is_not_trained_beside_a_score() -> None:
    model = made(tie_word_embeddings=False)
    add_head(model, "score", 1)
    assert not model.lm_head.weight.requires_grad and model.model.embed_tokens.weight.requires_grad


def test_a_language_model_is_not_scored() -> None:
    table = {"architectures": ["Qwen3ForCausalLM"]}
    assert not is_scored(table) and not is_scored({}) and is_scored(as_scored(table))
    assert as_scored(table)["architectures"] == ["Qwen3ForSequenceClassification"]
