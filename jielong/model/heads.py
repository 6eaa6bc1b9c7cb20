"""Layers of one output on a model's last hidden state: the score of a reward model, the value of PPO.

    score   a reward model: the folder is one of transformers' classes for sequence classification with one label, and has no output layer
    value   of training alone: checkpoints hold it apart (train/checkpoints.py), and what is published is the model without it

A head is a child of the CausalLM by its name, so engines, optimizers and checkpoints have it with the other parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jielong.model.transformer import CausalLM

SCORE, VALUE = "score.weight", "value.weight"  # names of their tensors
SCALES = (
    ".in_scale",
    ".out_scale",
)  # of layers of signs, which are vectors beside a full weight while they are trained
CLASSIFIER = "ForSequenceClassification"


def is_beside(name: str) -> bool:
    """Whether a tensor is of training alone: no published model folder has it, and checkpoints hold it apart."""
    return name == VALUE or name.endswith(SCALES)


def add_head(model: CausalLM, name: Literal["score", "value"], seed: int | None = None) -> None:
    """Give a model a head, float32, in place. seed: of normal weights, as small as transformers draws them; None: zeros.

    A model that scores has no use for its output layer, which is not trained any more.
    """
    first = model.model.embed_tokens.weight
    layer = nn.Linear(model.config.hidden_size, 1, bias=False, device=first.device, dtype=torch.float32)
    with torch.no_grad():
        if seed is None:
            layer.weight.zero_()
        else:
            drawn = torch.empty(layer.weight.shape).normal_(
                0.0, model.config.initializer_range, generator=torch.Generator().manual_seed(seed)
            )
            layer.weight.copy_(drawn)
    setattr(model, name, layer)
    if name == "score" and not model.config.tie_word_embeddings:
        model.lm_head.weight.requires_grad_(False)


def is_scored(table: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a reward model."""
    named = table.get("architectures") or [""]
    return str(named[0]).endswith(CLASSIFIER)


def as_scored(table: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a language model, as that of a reward model."""
    named = [name.replace("ForCausalLM", CLASSIFIER) for name in table["architectures"]]
    return table | {"architectures": named, "id2label": {"0": "reward"}, "label2id": {"reward": 0}}


def score(model: CausalLM, ids_BN: Tensor, lengths_B: Tensor) -> Tensor:
    """Scores (B,) of rows of tokens, filled up on the right, read at the last token of each."""
    hidden_BNC, _ = model.model(ids_BN)
    last_BC = hidden_BNC[torch.arange(len(ids_BN), device=ids_BN.device), lengths_B - 1]
    head: Any = model.score
    found_B: Tensor = head(last_BC.float())[:, 0]
    return found_B
