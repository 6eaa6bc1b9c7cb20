"""The compiled encoder of scored pieces: the library's ids, on any text, and the way back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from jielong.data.cleaning.scan import encode
from jielong.tokenizer.bpe import untrained
from jielong.tokenizer.encoding.encoder import open_encoder
from jielong.tokenizer.encoding.unigram_encoder import UnigramEncoder
from jielong.tokenizer.training.bpe_merges import byte_chars
from jielong.tokenizer.unigram import line_split, train

TEXTS = ["中国人民银行今天宣布，下调存款准备金率。\n\n新华社北京电 hello world, def f(x):\n    return 1998\n"] * 8
PIECES = ["中国", "国人", "人民", "中国人", "人", "é", "éa", "ab", "abc", "bcd", "😀😀", "\n\n", "，中", " a"]


def described(extra: dict[bytes, float]) -> tokenizers.Tokenizer:
    """Scored pieces over bytes; scores are multiples of 1 / 1024."""
    names = {byte: char for char, byte in byte_chars().items()}
    scores = {bytes([byte]): -12.0 for byte in range(256)} | extra
    vocabulary = [("".join(names[byte] for byte in piece), score) for piece, score in scores.items()]
    return untrained(line_split(True, False), models.Unigram(vocabulary, None, False))


def agree(tokenizer: tokenizers.Tokenizer, texts: list[str], threads: int = 1) -> None:
    encoder = open_encoder(Path(), tokenizer, threads)
    assert isinstance(encoder, UnigramEncoder)
    ids, offsets = encoder(*encode(texts))
    want = [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids[offsets[n] : offsets[n + 1]].tolist() for n in range(len(texts))] == want
    assert [tokenizer.decode(row, skip_special_tokens=False) for row in want] == texts


@pytest.fixture(scope="module")
def trained() -> tokenizers.Tokenizer:
    found, _ = train(TEXTS, "bytepiece", 330, ("<|endoftext|>",), user_words=("准备金", "def"))
    found.encode_special_tokens = True
    return found


@given(text=st.text(alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("".join(TEXTS)))))
def test_any_text(trained: tokenizers.Tokenizer, text: str) -> None:
    agree(trained, [text])


def test_many_texts_and_threads(trained: tokenizers.Tokenizer) -> None:
    source = random.Random(4)
    pool = [*"".join(TEXTS), "<|endoftext|>", "准备金", "def", "𠮷", "e\u0301", "\u200d"]
    texts = ["".join(source.choices(pool, k=source.randrange(80))) for _ in range(300)]
    for threads in (1, 2, 7):
        agree(trained, [*texts, "", "中" * 5000], threads)


@pytest.mark.parametrize("seed", range(6))
def test_ties_end_as_in_the_library(seed: int) -> None:
    """Few different scores, so many ways have the same sum; prefixes of characters take part."""
    source = random.Random(seed)
    extra = {piece.encode(): -float(source.choice([1, 2, 12, 24, 36])) for piece in PIECES}
    extra |= {bytes([0xE4, 0xB8]): -float(source.choice([1, 12, 24])), bytes([0xF0, 0x9F]): -24.0}
    texts = ["".join(source.choices("中国人民éabcd😀\n，1 丁丂", k=source.randrange(40))) for _ in range(300)]
    agree(described(extra), texts)


def test_what_is_left_to_the_library() -> None:
    assert open_encoder(Path(), described({}), 1) is not None
    assert open_encoder(Path(), described({"中".encode(): -0.1}), 1) is None  # sums would depend on their order
    assert open_encoder(Path(), described({"中国".encode()[1:]: -1.0}), 1) is None  # begins within a character
    missing = tokenizers.Tokenizer(models.Unigram([("a", -1.0)], None, False))
    missing.pre_tokenizer = described({}).pre_tokenizer
    assert open_encoder(Path(), missing, 1) is None
    lower = described({})
    lower.normalizer = tokenizers.normalizers.Lowercase()
    assert open_encoder(Path(), lower, 1) is None
