"""Tokens as bytes, their kinds, and the entries worth a look."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from jielong.data.measuring.codepoints import HAN_RANGES
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.reporting.vocabulary import (
    KINDS,
    Vocabulary,
    byte_alphabet,
    decoders,
    han_characters,
    junk,
    kinds_of,
    longest,
    read_vocabulary,
    shown,
    token_bytes,
    whole_text,
)
from tests.tokenizer.reporting.folders import TEXTS, byte_level, sentencepiece_like

REAL = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"


def test_the_byte_alphabet_is_the_library_s() -> None:
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    table = byte_alphabet()
    assert sorted(table) == sorted(pre_tokenizers.ByteLevel.alphabet()) and sorted(table.values()) == list(range(256))
    for text in ("\x00\x1f ~\x7f", "中\u00ad\xa0é", "𠮷"):
        [(spelled, _)] = splitter.pre_tokenize_str(text)
        assert token_bytes(spelled, [{"type": "ByteLevel"}]) == text.encode()


@given(st.text())
def test_tokens_add_up_to_the_text(text: str) -> None:
    """Byte-level: the bytes of the tokens, end to end, are those of the text."""
    vocabulary, backend = opened()
    ids = backend.encode(text, add_special_tokens=False).ids
    assert b"".join(vocabulary.raw[number] for number in ids) == text.encode()


CACHE: list[tuple[Vocabulary, tokenizers.Tokenizer]] = []


@pytest.fixture(scope="module", autouse=True)
def _open(tmp_path_factory: pytest.TempPathFactory) -> None:
    tokenizer = open_folder(byte_level(tmp_path_factory.mktemp("vocabulary")))
    CACHE.append((read_vocabulary(tokenizer.backend), tokenizer.backend))


def opened() -> tuple[Vocabulary, tokenizers.Tokenizer]:
    return CACHE[0]


def test_pieces_with_byte_fallback(tmp_path: Path) -> None:
    tokenizer = open_folder(sentencepiece_like(tmp_path))
    vocabulary = read_vocabulary(tokenizer.backend)
    for text in TEXTS:
        ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
        assert b"".join(vocabulary.raw[number] for number in ids) == b" " + text.encode()
    assert vocabulary.single.sum() == 256 == vocabulary.counts()["byte"]
    assert vocabulary.broken.sum() == 128, "the bytes below 0x80 are whole"
    assert vocabulary.special == {0, 1, 2} and vocabulary.counts()["special"] == 3
    assert vocabulary.usable == len(vocabulary.raw) - 3
    assert [vocabulary.raw[n].decode() for n in longest(vocabulary, 2)] == ["中国人民很高兴啊啊啊", "点击免费下载"]
    found = {vocabulary.raw[n].decode(): why for n, why in junk(vocabulary).items()}
    assert found == {"中国人民很高兴啊啊啊": "long", "点击免费下载": "advert"}


def test_byte_level_kinds() -> None:
    vocabulary, backend = opened()
    assert vocabulary.counts()["byte"] == 128 and vocabulary.counts()["special"] == 1
    for number, raw in enumerate(vocabulary.raw):
        assert vocabulary.broken[number] == (whole_text(raw) is None)
        if not vocabulary.broken[number] and number not in vocabulary.special:
            assert backend.decode([number]) == raw.decode(), "the library says the same"


def test_an_id_without_a_token_is_a_hole() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"中": 0, "a": 3}, unk_token="a"))
    assert decoders(backend) == []
    vocabulary = read_vocabulary(backend)
    assert vocabulary.counts() == dict.fromkeys(KINDS, 0) | {"han1": 1, "latin": 1, "hole": 2}
    assert vocabulary.raw == ["中".encode(), b"", b"", b"a"] and vocabulary.usable == 2


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("中", "han1"), ("中国", "han2"), (" 中国人", "han3"), ("中国人民", "han4"), ("\u3007", "han1"), (" the", "latin"),
        ("é", "latin"), ("2024", "digits"), ("٣", "digits"), ("，", "symbols"), (" ->", "symbols"), ("👍", "symbols"),
        (" ", "space"), ("\n\n  ", "space"), ("", "space"), ("で", "other"), ("กำ", "other"), ("中，", "mixed"), ("a1", "mixed"),
        ("用GPT", "mixed"), ("\x00", "symbols"),
    ],
)  # fmt: skip
def test_kinds_by_example(text: str, kind: str) -> None:
    assert KINDS[kinds_of([text])[0]] == kind


def plain_kind(text: str) -> str:
    """The twin: character by character, from Python's own tables."""
    text = text[1:] if text.startswith(" ") and len(text) > 1 else text or " "
    han = [any(low <= ord(c) <= high for low, high in HAN_RANGES) for c in text]
    category = [unicodedata.category(c) for c in text]
    latin = [k[0] == "L" and "LATIN" in unicodedata.name(c, "") for c, k in zip(text, category, strict=True)]
    if all(han):
        return f"han{min(len(text), 4)}"
    for kind, every in (("latin", latin), ("digits", [k == "Nd" for k in category])):
        if all(every):
            return kind
    if all(k[0] == "Z" or c.isspace() for c, k in zip(text, category, strict=True)):
        return "space"
    if not any(han) and not any(k[0] == "L" for k in category):
        return "symbols"
    word = all(k[0] in "LN" or k in ("Mn", "Mc") for k in category) and not any(han) and not any(latin)
    return "other" if word and "Nd" not in category else "mixed"


@given(st.lists(st.text(st.sampled_from("中国龘\u3007aZé9 5，。 \n\t→でнกำ\u0301👍\x00_𠮷"), max_size=5), min_size=1))
def test_kinds_are_those_of_the_plain_twin(texts: list[str]) -> None:
    assert [KINDS[n] for n in kinds_of(texts)] == list(map(plain_kind, texts))


def test_bytes_are_shown() -> None:
    assert shown("中a".encode()) == "中a" and shown(b"") == ""
    assert shown(b"\xe4\xb8") == "<E4><B8>" and shown(b"\xad,\xe4\xb8\xad\xe5") == "<AD>,中<E5>"
    assert shown(b"\xff\xf0\x9f\x91") == "<FF><F0><9F><91>"


@given(st.binary())
def test_what_is_shown_holds_every_byte(raw: bytes) -> None:
    text = whole_text(raw)
    assert text is None or shown(raw) == text
    again = b""
    rest = shown(raw)
    if "<" not in raw.decode("latin-1"):
        while rest:
            if rest[0] == "<":
                again, rest = again + bytes.fromhex(rest[1:3]), rest[4:]
            else:
                again, rest = again + rest[0].encode(), rest[1:]
        assert again == raw


def test_repeated_fragments() -> None:
    texts = ["哈哈哈哈", "一步一步", "哈哈", "中华人民", "中华人民共和国成立", "啊啊啊", "，，，，，中"]
    raw = [text.encode() for text in texts]
    none = np.zeros(len(raw), np.bool_)
    made = Vocabulary(raw, kinds_of(texts), np.array([len(b) for b in raw]), none, none, frozenset())
    assert junk(made) == {0: "repeated", 1: "repeated", 4: "long"}


def test_han_characters_are_counted() -> None:
    assert han_characters("中a\u3007𠮷，") == 3 and han_characters("") == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers lie outside the project, in ../shared/data")
@pytest.mark.parametrize("name", ["minimind", "deepseek", "chinese_llama2"])
def test_real_vocabularies(name: str) -> None:
    tokenizer = open_folder(REAL / name)
    vocabulary = read_vocabulary(tokenizer.backend)
    assert sum(vocabulary.counts().values()) == tokenizer.size == len(vocabulary.raw)
    assert vocabulary.counts()["byte"] >= 128
    text = "中国人民银行，2024年 GPT-4 的𠮷野家👍\n\n"
    [ids] = tokenizer.encode([text])
    assert b"".join(vocabulary.raw[n] for n in ids).removeprefix(b" ") == text.encode()
