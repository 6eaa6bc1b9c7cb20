"""Tokens, their types and what stands for what; tokenizers that llama.cpp does not have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jielong.errors import TokenizerError
from jielong.quantize.gguf.precuts import probes
from jielong.quantize.gguf.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    read_vocabulary,
    write_vocabulary,
)
from jielong.runs import write_json
from jielong.tokenizer import bpe, unigram
from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import open_folder
from tests.corpus import texts
from tests.quantize.gguf.folders import change, tokenizer_folder
from tests.quantize.gguf.test_pieces import sentencepiece_folder

SPECIALS = TokenizerConfig().specials


def with_config(folder: Path, bos: int | None = 0) -> Path:
    write_json(folder / "config.json", {"bos_token_id": bos})
    return folder


def written(vocabulary: Vocabulary) -> dict[str, object]:
    gguf = pytest.importorskip("gguf", reason="the quant extra")
    writer = gguf.GGUFWriter(None, "llama")
    write_vocabulary(writer, vocabulary)
    return {key: value.value for key, value in writer.kv_data[0].items()}


def test_ours(tmp_path: Path) -> None:
    folder = with_config(tokenizer_folder(tmp_path))
    tokenizer = open_folder(folder)
    found = read_vocabulary(folder, tokenizer.size + 2)
    assert (found.model, found.pre, found.differ, found.begins, found.ends) == ("gpt2", "qwen2", 0, False, False)
    assert found.tokens[: tokenizer.size] == [tokenizer.backend.id_to_token(n) for n in range(tokenizer.size)]
    assert found.types == [CONTROL] * 3 + [NORMAL] * (tokenizer.size - 3) + [UNUSED] * 2
    assert found.tokens[-1] == f"[PAD{tokenizer.size + 1}]" and found.ids == {"bos": 0, "eos": 0, "pad": 0}
    table = written(found)
    merges = json.loads(tokenizer.backend.to_str())["model"]["merges"]
    assert table["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert table["tokenizer.chat_template"] == CHATML and table["tokenizer.ggml.add_bos_token"] is False
    assert "tokenizer.ggml.scores" not in table and "tokenizer.ggml.eot_token_id" not in table
    [note] = found.notes
    assert note.startswith("tokenizer: llama.cpp has no name for its first cut; the nearest is qwen2: of 3")
    assert note.endswith("and the ids of none are others")


def test_roles_and_prompts(tmp_path: Path) -> None:
    """config.json has the last word on bos; a model that ends turns says so; what prompts begin with is as configured."""
    folder = with_config(tokenizer_folder(tmp_path), bos=1)
    change(folder / "config.json", eos_token_id=0)
    write_json(folder / "generation_config.json", {"eos_token_id": [2, 0]})
    change(folder / "tokenizer_config.json", add_bos_token=True, pad_token=None, chat_template=None)
    found = read_vocabulary(folder, 500)
    assert found.ids == {"bos": 1, "eos": 0, "eot": 2} and found.begins and found.template is None
    assert "tokenizer.chat_template" not in written(found)


def test_words_of_the_user(tmp_path: Path) -> None:
    tokenizer = bpe.train(texts(20), 330, SPECIALS, 2, True, user_words=("经济工作",))
    bpe.save(tokenizer, tmp_path)
    found = read_vocabulary(with_config(tmp_path), tokenizer.get_vocab_size())
    assert found.tokens[-1] == "经济工作" and found.types[-1] == USER_DEFINED


def test_a_normalizer_is_told(tmp_path: Path) -> None:
    """Qwen's brings text into NFC first."""
    folder = with_config(tokenizer_folder(tmp_path))
    change(folder / "tokenizer.json", normalizer={"type": "NFC"})
    assert "tokenizer: llama.cpp leaves out its normalizer (NFC)" in read_vocabulary(folder, 500).notes
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": []})
    assert not any("normalizer" in note for note in read_vocabulary(folder, 500).notes)


def test_pieces(tmp_path: Path) -> None:
    folder = with_config(sentencepiece_folder(tmp_path / "x"), bos=None)
    tokenizer = open_folder(folder)
    found = read_vocabulary(folder, tokenizer.size)
    assert (found.model, found.pre, found.differ, found.prefix, found.notes) == ("llama", "default", 0, True, [])
    assert found.types[:3] == [UNKNOWN, CONTROL, CONTROL] and found.types[3:259] == [BYTE] * 256
    assert len(found.scores) == len(found.tokens) == tokenizer.size and not found.merges
    table = written(found)
    assert table["tokenizer.ggml.add_space_prefix"] is True and table["tokenizer.ggml.unknown_token_id"] == 0


@pytest.mark.parametrize("kind", ["unigram", "bytepiece", "sentencepiece", "no bytes"])
def test_kinds_that_llama_cpp_does_not_have(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    if kind in ("unigram", "bytepiece"):
        bpe.save(unigram.train(texts(20), kind, 300, SPECIALS)[0], folder)  # type: ignore[arg-type]
    else:
        name, fallback = ("unigram", True) if kind == "sentencepiece" else ("bpe", False)
        sentencepiece_folder(folder, name, byte_fallback=fallback)
    what = {"sentencepiece": "Unigram over characters", "no bytes": "BPE over characters"}.get(
        kind, "Unigram over bytes"
    )
    with pytest.raises(
        TokenizerError, match=f"tokenizer: llama.cpp has none of its kind, got {what} in .*; use the Hugging"
    ):
        read_vocabulary(with_config(folder), 2000)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"the tokenizer has \d+ ids, the model 100 embeddings"):
        read_vocabulary(with_config(tokenizer_folder(tmp_path)), 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "long digits", "user words", "pieces", "pieces with a normalizer"])
def test_llama_cpp_differs_as_often_as_measured(kind: str, tmp_path: Path) -> None:
    """Its own tokenizer, of a file without weights, on the same texts."""
    gguf = pytest.importorskip("gguf", reason="the quant extra")
    llama_cpp = pytest.importorskip("llama_cpp", reason="a binding of llama.cpp, which is built from source")
    folder = tmp_path / "x"
    if kind.startswith("pieces"):
        sentencepiece_folder(folder, normalization_rule_name="nmt_nfkc" if kind.endswith("normalizer") else "identity")
    else:
        words = ("经济工作", "GPT") if kind == "user words" else ()
        bpe.save(
            bpe.train([*texts(60), *["1998年12345人"] * 9], 420, SPECIALS, 2, kind != "long digits", user_words=words),
            folder,
        )
    tokenizer = open_folder(with_config(folder, None))
    vocabulary = read_vocabulary(folder, tokenizer.size)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    write_vocabulary(writer, vocabulary)
    for key, value in {
        "context_length": 64,
        "embedding_length": 8,
        "block_count": 1,
        "head_count": 1,
        "feed_forward_length": 8,
        "layer_norm_rms_eps": 1e-5,
    }.items():
        getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    asked = probes()
    found = [llama.tokenize(text.encode("utf-8"), add_bos=False, special=False) for text in asked]
    differ = sum(mine != theirs for mine, theirs in zip(tokenizer.encode(asked), found, strict=True))
    assert differ == vocabulary.differ and (differ > 0) == (kind in ("long digits", "pieces with a normalizer"))
