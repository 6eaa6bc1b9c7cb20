from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jielong.infer.chat.speaking import Speaker
from jielong.infer.config import Config
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer import bpe
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import copy_folder, open_folder

SHAPE = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                    max_position_embeddings=160, tie_word_embeddings=False)  # fmt: skip
TEXTS = ["user\n今天天气怎么样？\nassistant\n今天天气很好。\nsystem\n说话简短。", "北京和上海的天气，谢谢。"] * 10

Make = Callable[..., Speaker]


def make_folder(folder: Path, seed: int) -> Path:
    """A random model with large weights (so that its choices are clear) and a tokenizer with ChatML, as those made here have.

    It writes Chinese words only: the output layer has nothing for other tokens.
    """
    bpe.save(bpe.train(TEXTS, 330, TokenizerConfig().specials, 2, True), folder / "tokenizer")
    tokenizer = open_folder(folder / "tokenizer")
    model = CausalLM(SHAPE.with_vocab(tokenizer.size))
    initialise(model, seed)
    for parameter in model.parameters():
        parameter.data.mul_(8)
    for token in range(tokenizer.size):
        if not re.fullmatch("[\u4e00-\u9fff]+", tokenizer.decode([token])):
            model.lm_head.weight.data[token] = 0
    save_folder(model, folder / "model", tokenizer.end_id)
    copy_folder(tokenizer, folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("chat"), 1)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("other"), 2)


@pytest.fixture
def speaker(chat_folder: Path) -> Make:
    """Makes speakers: `folder`, `turns`, `name`, and keys of [infer]."""

    def make(folder: Path = chat_folder, turns: bool = True, name: str = "mini", **keys: Any) -> Speaker:
        tokenizer = open_folder(folder)
        config = Config.model_validate({"max_new_tokens": 8, "temperature": 0.0, "device": "cpu"} | keys)
        template = ChatTemplate(tokenizer) if turns else None
        return Speaker(name, load_folder(folder).eval().requires_grad_(False), tokenizer, config, template)

    return make
