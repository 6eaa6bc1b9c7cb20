"""Ids: those of the `tokenizers` library on any text, for any merges, with any number of threads."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

from jielong.data.cleaning.scan import encode
from jielong.tokenizer import bpe
from jielong.tokenizer.encoding import bpe_encoder
from jielong.tokenizer.encoding.bpe_encoder import BpeEncoder
from jielong.tokenizer.encoding.encoder import open_encoder
from tests.tokenizer.encoding.test_splitting import TEXTS

LEARNED_FROM = [
    "中国人民银行今天宣布，下调存款准备金率0.5个百分点。人工智能是研究、开发用于模拟人的智能的科学。",
    "don't print(x)  # 注释\n\n    return 'hello hello hello' + 'world', 2024\r\n\t",
    "é e\u0301 가 하 😀🏽 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 中中中中中中中中中中中中中中中中",
] * 3


def opened(tokenizer: tokenizers.Tokenizer, threads: int = 1) -> BpeEncoder:
    tokenizer.encode_special_tokens = True
    found = open_encoder(Path("nowhere"), tokenizer, threads)
    assert isinstance(found, BpeEncoder)
    return found


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    return bpe.train(LEARNED_FROM, 420, ("<|endoftext|>",), 2, True)


def check(tokenizer: tokenizers.Tokenizer, encoder: BpeEncoder, texts: list[str]) -> None:
    ids, ends = encoder(*encode(texts))
    assert ids.dtype == np.uint32 and ends.dtype == np.int64 and len(ids) == ends[-1]
    expected = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids[ends[n] : ends[n + 1]].tolist() for n in range(len(texts))] == expected


@given(texts=st.lists(TEXTS, max_size=5), threads=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_the_ids_of_the_library(trained: tokenizers.Tokenizer, texts: list[str], threads: int) -> None:
    check(trained, opened(trained, threads), texts)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=200, deadline=None)
def test_the_ids_of_any_unicode_and_back(trained: tokenizers.Tokenizer, text: str) -> None:
    encoder = opened(trained)
    check(trained, encoder, [text])
    assert trained.decode(encoder(*encode([text]))[0].tolist()) == text


def test_special_spellings_are_text(trained: tokenizers.Tokenizer) -> None:
    texts = ["a<|endoftext|>b", "<|endoftext|>"]
    check(trained, opened(trained), texts)
    assert 0 not in opened(trained)(*encode(texts))[0]
    trained.encode_special_tokens = False
    as_tokens = open_encoder(Path("nowhere"), trained, 1)
    assert isinstance(as_tokens, BpeEncoder)
    check(trained, as_tokens, texts)
    assert as_tokens(*encode(texts))[0].tolist().count(0) == 2


@pytest.mark.parametrize("short", [0, 1, 64, 1000])
def test_short_and_long_pieces_are_merged_alike(
    trained: tokenizers.Tokenizer, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heap and the look at every pair, each on all pieces (compiled anew: SHORT is a constant in the code)."""
    rng = random.Random(short)
    texts = ["".join(rng.choices("a中国人民e", k=rng.randrange(200))) for _ in range(200)] + ["a" * 999, "中" * 333]
    data, bounds = encode(texts)
    encoder = opened(trained)
    ids = np.empty(len(data), np.uint32)
    work = np.empty((2, 4096), np.int32)
    byte_ids, byte_ranks, pairs, likely = encoder._merges
    for text in range(len(texts)):
        begin, end = bounds[text], bounds[text + 1]
        if end - begin <= short:
            size = bpe_encoder._merge_short(data, begin, end, byte_ids, byte_ranks, pairs, likely, work, ids, 0)
        else:
            size = bpe_encoder._merge_long(data, begin, end, byte_ids, pairs, likely, ids, 0)
        model = trained.model.tokenize("".join(_spelled(texts[text])))
        assert ids[:size].tolist() == [token.id for token in model]


def _spelled(text: str) -> list[str]:
    from jielong.tokenizer.training.bpe_merges import byte_chars

    names = {byte: char for char, byte in byte_chars().items()}
    return [names[byte] for byte in text.encode()]


def test_a_megabyte_of_one_letter(trained: tokenizers.Tokenizer) -> None:
    ids, ends = opened(trained)(*encode(["a" * 1_000_000, "", "a" * 7]))
    assert trained.decode(ids[: ends[1]].tolist()) == "a" * 1_000_000
    assert ends[1] == ends[2] < ends[3]


def test_no_texts_and_empty_texts(trained: tokenizers.Tokenizer) -> None:
    for threads in (1, 3):
        ids, ends = opened(trained, threads)(*encode([]))
        assert (len(ids), ends.tolist()) == (0, [0])
        ids, ends = opened(trained, threads)(*encode(["", ""]))
        assert (len(ids), ends.tolist()) == (0, [0, 0, 0])


@given(texts=st.lists(TEXTS, max_size=5))
@settings(max_examples=200, deadline=None)
def test_user_words(texts: list[str]) -> None:
    tokenizer = bpe.train(LEARNED_FROM, 400, ("<|x|>", "人民"), 2, True, user_words=("中国人", "hello", "a "))
    tokenizer.add_tokens([AddedToken("国人", normalized=True), AddedToken("😀中", normalized=True)])
    check(tokenizer, opened(tokenizer), [*texts, "中国人民hello中国人a 国人"])


@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_nfc(texts: list[str]) -> None:
    tokenizer = bpe.train(LEARNED_FROM, 400, ("<|x|>",), 2, True)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("hello", normalized=False), AddedToken("中国", normalized=True)])
    check(tokenizer, opened(tokenizer, 2), [*texts, "e\u0301中国 \u2126\uf900", "\u1100\u1161\u11a8", "hello\u0338"])


def test_nfc_knows_every_character_that_changes() -> None:
    """Whatever the library changes, alone or behind another character, is left to it."""
    unstable = bpe_encoder._unstable_characters()
    nfc = normalizers.NFC()
    for start in (*range(0, 0xD800, 512), *range(0xE000, 0x32000, 512), 0xE0000):
        for frame in ("a{}b", "\u1112{}b", "\u0938\u093c{}", "\u09c7{}", "\u16d63{}"):
            text = "\n".join(frame.format(chr(code)) for code in range(start, start + 512) if not unstable[code])
            assert nfc.normalize_str(text) == text


def test_ignore_merges_takes_whole_pieces() -> None:
    tokenizer = bpe.train(LEARNED_FROM, 400, ("<|x|>",), 2, True)
    import orjson

    described = orjson.loads(tokenizer.to_str())
    vocabulary = described["model"]["vocab"]
    vocabulary["Ġzzz"] = len(vocabulary)  # no merge leads here
    texts = ["a zzz", " zzz zzzz zz"]
    for ignore in (True, False):
        described["model"]["ignore_merges"] = ignore
        changed = tokenizers.Tokenizer.from_str(orjson.dumps(described).decode())
        check(changed, opened(changed), texts)
        assert (vocabulary["Ġzzz"] in opened(changed)(*encode(texts))[0]) == ignore
