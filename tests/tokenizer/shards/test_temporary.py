"""Temporary shards: what is in them, what is counted, and that they are gone afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import DataError
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.temporary import shards_of_files
from tests.corpus import texts


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerFolder:
    bpe.save(bpe.train(texts(30), 300, TokenizerConfig().specials, 2, True), tmp_path / "tokenizer")
    return open_folder(tmp_path / "tokenizer")


def test_documents_are_there_and_then_gone(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "今天天气很好。"}\n{"text": 3}\n{"text": "明天见。"}\n', encoding="utf-8"
    )
    with shards_of_files([str(tmp_path / "a.jsonl")], tokenizer, "test") as (shards, rejected):
        texts = [tokenizer.decode(shards.targets(number).tolist()) for number in range(shards.documents)]
        folder = shards.folder
    assert texts == ["今天天气很好。", "明天见。"]
    assert sum(rejected.values()) == 1
    assert not folder.exists()


def test_no_readable_document_is_refused(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    nothing = [str(tmp_path / "a.txt")]
    with (
        pytest.raises(DataError, match="--calibration: no readable document"),
        shards_of_files(nothing, tokenizer, "test", "--calibration"),
    ):
        pass
