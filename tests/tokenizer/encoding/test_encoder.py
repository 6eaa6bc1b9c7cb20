"""Which tokenizers are encoded in compiled code, and which are left to the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import tokenizers

from jielong.data.cleaning.scan import encode
from jielong.tokenizer import bpe
from jielong.tokenizer.encoding.bpe_encoder import BpeEncoder
from jielong.tokenizer.encoding.encoder import open_encoder
from tests.tokenizer.encoding.test_splitting import PARTS

REAL = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
NOWHERE = Path("nowhere")


def described() -> dict[str, Any]:
    result: dict[str, Any] = orjson.loads(bpe.train(["中国人民很高兴"] * 5, 300, ("<|x|>",), 2, True).to_str())
    return result


def open_changed(table: dict[str, Any]) -> object:
    backend = tokenizers.Tokenizer.from_str(orjson.dumps(table).decode())
    backend.encode_special_tokens = True
    return open_encoder(NOWHERE, backend, 1)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{Han}+"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "pre_tokenizer",
    [BYTE_LEVEL, BYTE_LEVEL | {"use_regex": False}, {"type": "Sequence", "pretokenizers": [SPLIT, SPLIT, BYTE_LEVEL]}],
)
def test_covered(pre_tokenizer: dict[str, Any]) -> None:
    assert isinstance(open_changed(described() | {"pre_tokenizer": pre_tokenizer}), BpeEncoder)


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": None},
        {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL, SPLIT]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT | {"behavior": "Removed"}, BYTE_LEVEL]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT | {"invert": True}, BYTE_LEVEL]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"String": "a"}}, BYTE_LEVEL]}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [SPLIT | {"pattern": {"Regex": "a(?=b)"}}, BYTE_LEVEL],
            }
        },
        {"normalizer": {"type": "Lowercase"}},
        {"normalizer": {"type": "NFKC"}},
        {"truncation": {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}},
    ],
)
def test_left_to_the_library(change: dict[str, Any]) -> None:
    assert open_changed(described() | change) is None


@pytest.mark.parametrize(
    "change", [{"dropout": 0.1}, {"unk_token": "中"}, {"end_of_word_suffix": "x"}, {"byte_fallback": True}]
)
def test_models_left_to_the_library(change: dict[str, Any]) -> None:
    table = described()
    table["model"] |= change
    assert open_changed(table) is None


def test_a_vocabulary_without_a_byte() -> None:
    table = described()
    table["model"]["vocab"]["zz"] = table["model"]["vocab"].pop("z")
    assert open_changed(table) is None


@pytest.mark.parametrize("field", ["single_word", "lstrip", "rstrip"])
def test_added_tokens_that_look_around(field: str) -> None:
    table = described()
    table["added_tokens"][0][field] = True
    assert isinstance(open_changed(table), BpeEncoder)  # a special token is text
    table["added_tokens"].append(table["added_tokens"][0] | {"id": 300, "content": "高", "special": False})
    assert open_changed(table) is None


def test_other_models() -> None:
    for model in (tokenizers.models.WordLevel({"a": 0}, unk_token="a"), tokenizers.models.WordPiece({"a": 0})):
        assert open_encoder(NOWHERE, tokenizers.Tokenizer(model)) is None


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers lie outside the project, in ../shared/data")
@pytest.mark.parametrize("name", ["minimind", "deepseek"])
def test_real_tokenizers(name: str) -> None:
    backend = tokenizers.Tokenizer.from_file(str(REAL / name / "tokenizer.json"))
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    encoder = open_encoder(REAL / name, backend, 2)
    assert isinstance(encoder, BpeEncoder)
    words = [token.content for token in backend.get_added_tokens_decoder().values()][:60]
    texts = ["".join(PARTS[n:] + PARTS[:n]) for n in range(len(PARTS))]
    texts += [f"中国{word}人民 {word}{word[1:]}" for word in words]
    ids, ends = encoder(*encode(texts))
    expected = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids[ends[n] : ends[n + 1]].tolist() for n in range(len(texts))] == expected
