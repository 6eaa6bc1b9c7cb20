"""A small tokenizer with the chat template of its own kind."""

from __future__ import annotations

import pytest

from jielong.tokenizer import bpe
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    folder = tmp_path_factory.mktemp("tokenizer")
    text = "今天北京天气很好，谢谢。天为什么是蓝的？因为短波散射得多。"
    bpe.save(bpe.train([text] * 9, 340, TokenizerConfig().specials, 2, True), folder)
    return open_folder(folder)


@pytest.fixture(scope="session")
def template(tokenizer: TokenizerFolder) -> ChatTemplate:
    return ChatTemplate(tokenizer)
