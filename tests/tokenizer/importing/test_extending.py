"""New words: ids of old tokens stay, the old cut can be read off the new one, every text comes back, fewer tokens."""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.errors import TokenizerError
from jielong.tokenizer import bpe, unigram
from jielong.tokenizer.config import Config
from jielong.tokenizer.encoding.encoder import open_encoder
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.importing.extending import Extended, extend, extend_with, is_han, token_texts
from tests.tokenizer.importing.test_sentencepiece_model import SETTINGS, train, with_pieces

REAL = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
WORDS = ["冠状动脉粥样硬化", "冠状动脉", "北京的交通", "阿司匹林", "龘靐", "GPT生成", " transformer", "的"]
DOMAIN = "冠状动脉粥样硬化患者服用阿司匹林，冠状动脉介入。GPT生成 transformer龘靐"
KINDS = ("byte-level", "unigram, bytes", "bpe, bytes", "equal scores")
TEXT = st.lists(
    st.one_of(st.sampled_from([*WORDS, "冠状", "动脉", "</s>", "<|endoftext|>"]), st.characters(exclude_categories=["Cs"], exclude_characters="▁")),
    max_size=20,
).map("".join)  # fmt: skip


def write(kind: str, path: Path) -> Path:
    if kind == "byte-level":
        texts = ["冠状动脉和阿司匹林", "北京的交通工作 the trans former GPT", "中国人民很高兴"] * 5
        bpe.save(bpe.train(texts, 300, Config().specials, 2, True), path)
    else:
        data = train(**SETTINGS["bpe, bytes" if kind == "equal scores" else kind])
        path.mkdir()
        if kind == "equal scores":
            data = with_pieces(data, ["冠", "状", "动", "脉", "阿", "匹", "冠状", "状动", "动脉", "冠状动", "阿匹"])
        (path / "tokenizer.model").write_bytes(data)
    return path


@lru_cache
def made(kind: str) -> tuple[TokenizerFolder, Extended]:
    path = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    old = open_folder(write(kind, path / "old"))
    return old, extend(old, WORDS, path / "new")


def in_old_ids(extended: Extended, ids: list[int]) -> list[int]:
    parts = {token.id: token.parts for token in extended.tokens}
    return [part for token in ids for part in parts.get(token, (token,))]


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_tokens_and_old_ids_stay(kind: str) -> None:
    old, extended = made(kind)
    new = extended.tokenizer
    vocabulary = new.backend.get_vocab()
    assert all(vocabulary[token] == token_id for token, token_id in old.backend.get_vocab().items())
    assert [token.id for token in extended.tokens] == list(range(old.size, new.size))
    assert (new.end_id, new.end_token, new.start_id) == (old.end_id, old.end_token, old.start_id)
    asked = {token.text for token in extended.tokens if token.asked}
    assert asked | set(extended.known) | set(extended.refused) == set(WORDS)
    # spaces around a text are taken away by the second
    assert set(extended.refused) == ({" transformer"} if kind == "unigram, bytes" else set())
    before, after = old.encode([DOMAIN])[0], new.encode([DOMAIN])[0]
    assert len(after) < 0.6 * len(before)
    assert {"冠状动脉粥样硬化", "阿司匹林", "GPT生成"} <= set(new.cut(DOMAIN))
    assert all(token.parts and all(0 <= part < old.size for part in token.parts) for token in extended.tokens)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
@settings(max_examples=150)
def test_what_holds_for_every_text(kind: str, text: str) -> None:
    old, extended = made(kind)
    before, after = old.encode([text])[0], extended.tokenizer.encode([text])[0]
    assert extended.tokenizer.decode(after) == old.decode(before)
    assert extended.tokenizer.end_id not in after
    if "bpe" in kind:  # merges after all others: the old cut with neighbours joined
        assert in_old_ids(extended, after) == before
    elif kind != "byte-level" and not any(word.strip() in text for word in WORDS):
        assert after == before
    if "unigram" not in kind:
        assert extended.tokenizer.decode(after) == text


def test_merges_keep_the_old_cut_of_every_text() -> None:
    """In a byte-level tokenizer too, added tokens apart: they are found first."""
    old, _ = made("byte-level")
    words = ["冠状动脉粥样硬化", "动脉粥样", "高兴中国", "银行卡", "人民银行"]
    with tempfile.TemporaryDirectory() as place:
        extended = extend(old, words, Path(place) / "new")
        assert {token.how for token in extended.tokens} == {"merge"}
        draw = random.Random(5)
        for _ in range(2000):
            text = "".join(draw.choice("冠状动脉粥样硬化高兴中国银行卡人民，a 1") for _ in range(draw.randrange(15)))
            ids = extended.tokenizer.encode([text])[0]
            assert in_old_ids(extended, ids) == old.encode([text])[0]
            assert extended.tokenizer.decode(ids) == text


def test_the_table_on_disk() -> None:
    old, extended = made("byte-level")
    table = orjson.loads((extended.tokenizer.path / "extension.json").read_bytes())
    assert (table["old_size"], table["size"]) == (old.size, extended.tokenizer.size)
    assert [row["parts"] for row in table["tokens"]] == [list(token.parts) for token in extended.tokens]
    word = next(token for token in extended.tokens if token.text == "GPT生成")
    assert word.how == "added" and list(word.parts) == old.encode(["GPT生成"])[0]


def test_hugging_face_reads_it_alike() -> None:
    from transformers import AutoTokenizer

    for kind in KINDS:
        _, extended = made(kind)
        theirs = AutoTokenizer.from_pretrained(extended.tokenizer.path)
        for text in (DOMAIN, "中国人民  \n\n冠状"):
            ids = theirs(text, add_special_tokens=False)["input_ids"]
            assert ids == extended.tokenizer.encode([text])[0]


def test_at_most_so_many(tmp_path: Path) -> None:
    old, _ = made("byte-level")
    extended = extend(old, ["冠状动脉粥样硬化", "银行", "动脉"], tmp_path / "new", count=1)
    assert extended.tokenizer.size == old.size + len(extended.tokens) <= old.size + 1
    assert all("no room: 1 new tokens" in why for why in extended.refused.values()) and extended.refused
    ids = extended.tokenizer.encode([DOMAIN])[0]
    assert in_old_ids(extended, ids) == old.encode([DOMAIN])[0]
    nothing = extend(old, [], tmp_path / "same")
    assert nothing.tokenizer.size == old.size and not nothing.tokens
    twice = extend(extended.tokenizer, ["人民很高兴"], tmp_path / "twice")  # an extended one can be extended
    assert twice.tokenizer.decode(twice.tokenizer.encode([DOMAIN])[0]) == DOMAIN


def test_what_cannot_be_a_token(tmp_path: Path) -> None:
    old, _ = made("bpe, bytes")
    extended = extend(old, ["", "  ", "一\n二", "词" * 100], tmp_path / "new")
    assert set(extended.refused) == {"", "  ", "一\n二", "词" * 100} and not extended.tokens
    with pytest.raises(TokenizerError, match="out: holds a tokenizer already"):
        extend(old, [], tmp_path / "new")


def test_merging_two_vocabularies(tmp_path: Path) -> None:
    old, _ = made("byte-level")
    other = open_folder(write("unigram, bytes", tmp_path / "other"))
    extended = extend_with(old, other, tmp_path / "new")
    han = [text for text in token_texts(other) if is_han(text)]
    assert han and all(len(extended.tokenizer.encode([text])[0]) == 1 for text in han if text not in extended.refused)
    everything = extend_with(old, other, tmp_path / "all", count=20, han_only=False)
    assert len(everything.tokens) <= 20
    assert not is_han("") and not is_han("中a") and is_han("〇中\U00020000")
    assert "<0x0A>" not in token_texts(other) and "<|endoftext|>" not in token_texts(old)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers lie outside the project, in ../shared/data")
@pytest.mark.parametrize(
    "name", ["chatglm2", "chinese_llama2", "chinese_llama_sp20k", "deepseek", "llama3", "minimind", "qwen1"]
)
def test_real_tokenizers(name: str, tmp_path: Path) -> None:
    old = open_folder(REAL / name)
    words = ["冠状动脉粥样硬化", "血管紧张素转换酶抑制剂", "经皮冠状动脉介入治疗", "GPT生成", "龘靐齉"]
    text = f"患者行{words[2]}，服用{words[1]}，{words[3]}的{words[0]}报告 the end.\n  def f(): 1998"
    extended = extend(old, words, tmp_path / "new")
    before, after = old.encode([text])[0], extended.tokenizer.encode([text])[0]
    assert not extended.refused and len(after) < 0.8 * len(before)
    assert extended.tokenizer.decode(after) == old.decode(before)
    plain = "中国人民银行今天宣布，下调存款准备金率0.5个百分点。</s>"
    assert extended.tokenizer.encode([plain]) == old.encode([plain])
    if name not in ("chinese_llama2", "chinese_llama_sp20k") and "added" not in {
        token.how for token in extended.tokens
    }:
        assert in_old_ids(extended, after) == before


def test_what_was_learned_here_is_still_encoded_by_compiled_code(tmp_path: Path) -> None:
    texts = [f"第{number}条：下调存款准备金率，大模型的训练与推理。\n" for number in range(60)]
    trained, _ = unigram.train(texts, "bytepiece", 300, ("<|endoftext|>",))
    bpe.save(trained, tmp_path / "old")
    extended = extend(open_folder(tmp_path / "old"), ["推理加速", "存款保险"], tmp_path / "new").tokenizer
    encoder = open_encoder(extended.path, extended.backend, 1)
    assert encoder is not None
    text = "推理加速与存款保险，训练。"
    ids, _ = encoder(*encode([text]))
    assert ids.tolist() == extended.encode([text])[0] and extended.decode(ids.tolist()) == text
    assert {extended.size - 2, extended.size - 1} <= set(ids.tolist())
