"""`jielong merge`: the same logits in a plain folder, in the base's type, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from jielong.errors import InputError
from jielong.infer.merging import merge_into
from jielong.model.hf import load_folder, read_config
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from tests.model.test_adapters import adapted, base_folder, logits, save


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A trained adapter, with a tokenizer in its folder."""
    model, found = adapted(base_folder(tmp_path / "base"))
    folder = save(model, found, tmp_path / "adapter")
    bpe.save(bpe.train(["中国人民今天很高兴。"] * 3, 290, TokenizerConfig().specials, 2, True), folder)
    return folder


@pytest.mark.parametrize(("dtype", "error"), [("auto", 1e-5), ("bfloat16", 0.2)])
def test_merge(adapter: Path, dtype: str, error: float, tmp_path: Path) -> None:
    found = merge_into(str(adapter), tmp_path / "new" / "merged", tmp_path, dtype)
    folder = tmp_path / "new" / "merged"
    assert found["dtype"] == read_config(folder)["dtype"] == ("float32" if dtype == "auto" else dtype)
    assert (logits(load_folder(folder).eval()) - logits(load_folder(adapter).eval())).abs().max() < error
    assert not (folder / "adapter_config.json").exists() and (folder / "tokenizer.json").is_file()
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.dtype == getattr(torch, found["dtype"])


def test_refused(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no adapter"):
        merge_into(str(tmp_path / "base"), tmp_path / "out", tmp_path)
    with pytest.raises(InputError, match="--dtype: unknown, got 'int3'"):
        merge_into(str(adapter), tmp_path / "out", tmp_path, "int3")
    with pytest.raises(InputError, match="--out: is there already"):
        merge_into(str(adapter), tmp_path / "base", tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_adapter_as_peft_leaves_it(adapter: Path, tmp_path: Path) -> None:
    """Without config.json and without a tokenizer: both are the base's."""
    for name in ("config.json", "generation_config.json", "base.json"):
        (adapter / name).unlink(missing_ok=True)
    for path in (tmp_path / "base", adapter):
        bpe.save(bpe.train(["中国人民今天很高兴。"] * 3, 290, TokenizerConfig().specials, 2, True), path)
    (adapter / "tokenizer.json").unlink()
    assert merge_into(str(adapter), tmp_path / "merged", tmp_path)["base"] == str(tmp_path / "base")
    assert (logits(load_folder(tmp_path / "merged").eval()) - logits(load_folder(adapter).eval())).abs().max() < 1e-5
