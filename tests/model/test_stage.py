from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jielong.errors import ModelError
from jielong.model.config import Config
from jielong.model.hf import load_folder, read_config
from jielong.model.stage import run
from jielong.runs import Run, StageContext
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.shards.manifest import Scheme, write_manifest

SMALL = Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1)


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    bpe.save(bpe.train(["中国人民很高兴"] * 9, 270, TokenizerConfig().specials, 2, True), tmp_path / "tokenizer")
    shards_of(tmp_path)
    return StageContext(Run(tmp_path), tmp_path / "model", seed=3)


def shards_of(folder: Path, start_id: int | None = None) -> None:
    """Shards without documents: the model stage asks them what documents begin with."""
    (folder / "tokenizer" / "shards").mkdir(exist_ok=True)
    write_manifest(folder / "tokenizer" / "shards", Scheme(270, 0, start_id), {})


def test_the_vocabulary_comes_from_the_tokenizer(context: StageContext, tmp_path: Path) -> None:
    counts = run(SMALL, context, tmp_path)
    model = load_folder(context.out)
    assert counts["vocab_size"] == model.config.vocab_size == len(AutoTokenizer.from_pretrained(context.out))
    assert counts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["hf_class"] == type(AutoModelForCausalLM.from_pretrained(context.out)).__name__ == "LlamaForCausalLM"


def test_the_seed_decides_the_weights(context: StageContext, tmp_path: Path) -> None:
    run(SMALL, context, tmp_path)
    again = StageContext(context.run, tmp_path / "again", seed=3)
    other = StageContext(context.run, tmp_path / "other", seed=4)
    run(SMALL, again, tmp_path)
    run(SMALL, other, tmp_path)
    first, same, different = (load_folder(c.out).lm_head.weight for c in (context, again, other))
    assert torch.equal(first, same) and not torch.equal(first, different)


def test_the_beginning_of_texts_is_that_of_the_shards(context: StageContext, tmp_path: Path) -> None:
    run(SMALL, context, tmp_path)
    assert read_config(context.out)["bos_token_id"] == 0  # the end of the document before
    shards_of(tmp_path, start_id=1)
    run(SMALL, StageContext(context.run, tmp_path / "again", seed=3), tmp_path)
    for name in ("config.json", "generation_config.json"):
        assert read_config(tmp_path / "again", name)["bos_token_id"] == 1
        assert read_config(tmp_path / "again", name)["eos_token_id"] == 0


def test_a_vocabulary_smaller_than_the_tokenizer_s(context: StageContext, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.vocab_size: too small, got 100; the tokenizer has"):
        run(SMALL.with_vocab(100), context, tmp_path)
