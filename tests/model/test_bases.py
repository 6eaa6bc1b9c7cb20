"""A model to go on from: its shape, its weights as links, its tokenizer compared, rows for new tokens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from jielong.errors import ModelError, RecipeError
from jielong.model.adapters import Adapted
from jielong.model.bases import adopt, base_files, extended, stops_of
from jielong.model.config import Config
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.importing.extending import extend
from tests.model.test_adapters import adapter_of, attach, logits, save, train_some

TEXTS = [f"第{n}条新闻：中国人民今天很高兴，因为天气{'很好' if n % 2 else '不错'}。" for n in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("base")
    bpe.save(bpe.train(TEXTS, 300, TokenizerConfig().specials, 2, True), folder)
    tokenizer = open_folder(folder)
    model = CausalLM(Config(vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            num_key_value_heads=2, max_position_embeddings=64))  # fmt: skip
    initialise(model, 1)
    save_folder(model, folder, tokenizer.end_id)
    return folder


def given(folder: Path, **more: Any) -> Config:
    return Config.model_validate({"base": folder.name, **more}).placed(folder.parent)


def test_the_shape_is_the_bases(made: Path) -> None:
    config = given(made, attention="eager", max_position_embeddings=128)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.attention, config.max_position_embeddings, config.base) == ("eager", 128, str(made))
    assert given(made, hidden_size=32).hidden_size == 32  # saying the same is no contradiction
    assert config.result_fields()["base"] == made.name  # its place is no matter
    again = Config.model_validate(config.model_dump()).placed(Path("/"))
    assert again == config


def test_another_shape_is_refused(made: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.hidden_size: is the base's, got 64; the base has 32") as error:
        given(made, hidden_size=64, num_hidden_layers=3)
    assert "model.num_hidden_layers: is the base's, got 3; the base has 2; remove it" in str(error.value)


def test_a_base_that_is_not_there() -> None:
    config = Config(base="nothing", hidden_size=64).placed(Path("/nowhere"))
    assert (config.base, config.hidden_size) == ("/nowhere/nothing", 64)  # a plan needs no weights
    with pytest.raises(ModelError, match="base: no model folder, got /nowhere/nothing"):
        base_files(Path("/nowhere/nothing"))


def test_a_run_is_its_newest_checkpoint(made: Path, tmp_path: Path) -> None:
    for stage, step in (("train", 10), ("train", 200), ("tune", 5)):
        shutil.copytree(made, tmp_path / "run" / stage / "checkpoints" / f"step-{step:08d}")
        found = Config(base="run").placed(tmp_path)
        assert (
            found.base == str(tmp_path / "run" / stage / "checkpoints" / f"step-{step:08d}") and found.hidden_size == 32
        )


def test_weights_are_links_and_nothing_changes(made: Path, tmp_path: Path) -> None:
    tokenizer = open_folder(made)
    config = adopt(given(made), tokenizer, None, tmp_path)
    assert (tmp_path / "model.safetensors").is_symlink() and config.base is None
    assert torch.equal(logits_of(tmp_path), logits_of(made))
    assert [name for name, _ in base_files(made)] == [
        "base/config.json", "base/generation_config.json", "base/model.safetensors",
    ]  # fmt: skip


def logits_of(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_folder(folder).eval()(torch.arange(20)[None] + 5)


def test_several_ids_end_a_text(made: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(made, base)
    (base / "generation_config.json").write_bytes(orjson.dumps({"eos_token_id": [2, 0]}))
    out = tmp_path / "out"
    out.mkdir()
    adopt(given(base), open_folder(base), None, out)
    assert sorted(stops_of(out)) == [0, 2]


def test_rows_for_new_tokens_are_means_of_what_their_text_was_cut_into(made: Path, tmp_path: Path) -> None:
    wider = tmp_path / "tokenizer"
    wider.mkdir()
    found = extend(open_folder(made), ["人民今天", "葡萄糖"], wider)
    out = tmp_path / "out"
    out.mkdir()
    config = adopt(given(made), found.tokenizer, None, out)
    assert config.vocab_size == found.tokenizer.size > found.old_size
    before = load_folder(made).state_dict()["model.embed_tokens.weight"]
    after = load_folder(out).state_dict()["model.embed_tokens.weight"]
    assert torch.equal(after[: found.old_size], before)
    for token in found.tokens:
        assert torch.allclose(after[token.id], after[list(token.parts)].mean(dim=0), atol=1e-6)


def test_spare_rows_of_the_base_become_rows_of_new_tokens(made: Path, tmp_path: Path) -> None:
    """Many open models have more rows than ids: those were never trained, and a new token there begins as a mean, too."""
    tokenizer = open_folder(made)
    spacious = tmp_path / "spacious"
    shape = load_folder(made).config.model_copy(update={"vocab_size": tokenizer.size + 40})
    model = CausalLM(shape)
    initialise(model, 3)
    save_folder(model, spacious, tokenizer.end_id)
    copy_folder(tokenizer, spacious)
    found = extend(tokenizer, ["葡萄糖"], tmp_path / "wider")
    out = tmp_path / "out"
    out.mkdir()
    assert adopt(given(spacious), found.tokenizer, None, out).vocab_size == tokenizer.size + 40
    before = model.state_dict()["model.embed_tokens.weight"]
    after = load_folder(out).state_dict()["model.embed_tokens.weight"]
    for token in found.tokens:
        assert torch.allclose(after[token.id], after[list(token.parts)].mean(dim=0), atol=1e-6)
    rest = [number for number in range(len(before)) if number not in {token.id for token in found.tokens}]
    assert torch.equal(after[rest], before[rest])


def test_a_key_that_is_said_beside_the_base_holds_whatever_its_default(made: Path) -> None:
    assert given(made, max_position_embeddings=512).max_position_embeddings == 512
    with pytest.raises(RecipeError, match=r"model\.hidden_size: is the base's, got 512; the base has 32"):
        given(made, hidden_size=512)


def test_a_row_of_which_nothing_is_known_is_the_mean_of_all() -> None:
    old = torch.randn(5, 3)
    new = extended(old, 7, {5: [1, 3]})
    assert torch.allclose(new[5], (old[1] + old[3]) / 2) and torch.allclose(new[6], old.mean(dim=0), atol=1e-6)


def test_another_tokenizer_is_refused(made: Path, tmp_path: Path) -> None:
    bpe.save(
        bpe.train(["完全是另外一种文字，别的词。"] * 5, 290, TokenizerConfig().specials, 2, True), tmp_path / "other"
    )
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ModelError, match=r"not the tokenizer of model\.base"):
        adopt(given(made), open_folder(tmp_path / "other"), None, out)


def test_a_base_with_an_adapter_is_taken_merged(made: Path, tmp_path: Path) -> None:
    model = load_folder(made)
    attach(model, adapter_of(), 1)
    train_some_small(model)
    folder = save(model, Adapted(adapter_of(), made), tmp_path / "adapter")
    tokenizer: TokenizerFolder = open_folder(made)
    copy_folder(tokenizer, folder)
    out = tmp_path / "out"
    out.mkdir()
    adopt(given(folder), tokenizer, None, out)
    assert not (out / "model.safetensors").is_symlink()
    ids = torch.arange(20)[None] + 5
    with torch.no_grad():
        assert (load_folder(out).eval()(ids) - model(ids)).abs().max() < 1e-5
    assert {name for name, _ in base_files(folder)} >= {"base/adapter_model.safetensors", "base/model.safetensors"}


def train_some_small(model: CausalLM) -> None:
    train_some(model)
    assert logits(model).isfinite().all()
