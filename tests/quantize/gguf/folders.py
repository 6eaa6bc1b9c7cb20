"""Tiny model folders with a tokenizer, to be exported."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
import torch

from jielong.model.hf import save_state
from jielong.runs import write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import copy_folder, open_folder
from tests.corpus import texts
from tests.model.test_hf import make
from tests.model.test_hf_config import config_of

ENGLISH = "The committee said that it's late, we've heard it."
CHINESE = (
    "新华社北京10月3日电，上海的经济工作取得新进展。",
    "用GPT生成的文本，it's fine！\n\n第二行  有空格。",
    "龘、👍，。",
)


@lru_cache
def _trained() -> str:
    """tokenizer.json of a BPE over bytes, as this project trains them."""
    return bpe.train([*texts(60), *[ENGLISH] * 20], 420, TokenizerConfig().specials, 2, True).to_str()


def tokenizer_folder(path: Path) -> Path:
    bpe.save(tokenizers.Tokenizer.from_str(_trained()), path)
    return path


def model_folder(
    path: Path, fields: dict[str, Any], dtype: torch.dtype = torch.float32, stops: tuple[str, ...] = (), spare: int = 5
) -> Path:
    """A random model of tests.model.test_hf_config's shapes. spare: rows of the embedding beyond the tokenizer's."""
    tokenizer = open_folder(tokenizer_folder(path.with_name(path.name + "-tokenizer")))
    model = make(config_of({**fields, "vocab_size": tokenizer.size + spare}))
    state = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    ids = [tokenizer.backend.token_to_id(stop) for stop in stops]
    save_state(model.config, state, path, tokenizer.end_id, stop_ids=ids)
    copy_folder(tokenizer, path)
    return path


def change(path: Path, **values: Any) -> None:
    """Change a JSON file."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | values)
