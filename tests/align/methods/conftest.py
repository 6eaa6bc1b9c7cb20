"""A tiny base that can be aligned, an engine around it, and a few examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.align.config import Config
from jielong.align.training import as_training
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.folder import TokenizerFolder, copy_folder
from jielong.train.engines.pytorch import TorchEngine

SOURCES = [{"name": "a", "path": "a.jsonl"}]
# a prompt and two answers of three tokens and of two
PAIR = {"prompt_ids": [5, 9, 12], "chosen_ids": [20, 21, 7], "rejected_ids": [30, 7], "margin": None}
OTHER = {"prompt_ids": [6, 8], "chosen_ids": [40, 7], "rejected_ids": [20, 33, 7], "margin": None}


@pytest.fixture(scope="session")
def base(tokenizer: TokenizerFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("base")
    shape = ModelConfig(vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, max_position_embeddings=128)  # fmt: skip
    model = CausalLM(shape)
    initialise(model, 1)
    with torch.no_grad():  # away from even probabilities
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    save_folder(model, folder, tokenizer.end_id)
    copy_folder(tokenizer, folder)
    return folder


def config_of(method: str, **settings: Any) -> Config:
    """A table of the stage."""
    given = {"method": method, "sources": SOURCES, "device": "cpu", "precision": "float32", "micro_batch_size": 2}
    return Config.model_validate(given | settings)


Opened = Callable[..., tuple[TorchEngine, CausalLM]]


@pytest.fixture
def opened(base: Path) -> Opened:
    """An engine around the base, with an adapter or a head where they are asked for; and the base by itself."""

    def make(config: Config, head: str = "", moved: float = 0.0) -> tuple[TorchEngine, CausalLM]:
        from jielong.model.heads import add_head

        settings = as_training(config, config.method)
        if config.adapter is not None:
            from jielong.train.adapting import open_adapted

            model, _ = open_adapted(settings, config.adapter, base, None, None, 1, torch.device("cpu"))
        else:
            model = load_folder(base)
        if head:
            add_head(model, head, 3 if head == "score" else None)  # type: ignore[arg-type]
        torch.manual_seed(2)
        with torch.no_grad():  # a policy that is not its base any more
            for parameter in model.parameters() if moved else ():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * moved)
        return TorchEngine(model, settings), load_folder(base).eval()

    return make


def log_probability(model: CausalLM, prompt: list[int], answer: list[int]) -> float:
    """Of an answer, token by token, by our own model: the sum of log-probabilities."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]]))[0].double()
    total = 0.0
    for place, token in enumerate(answer):
        total += float(logits[len(prompt) + place - 1].log_softmax(dim=0)[token])
    return total
