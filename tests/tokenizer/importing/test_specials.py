"""Where each special token is found, in which order, and what is said when it is not."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import models

from jielong.tokenizer.importing import specials


def backend(*added: str, pieces: tuple[str, ...] = ("a", "b")) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, []))
    made.add_special_tokens(list(added))
    return made


def roles(found: specials.Specials) -> dict[str, str]:
    return {role: special.token for role, special in found.found.items()}


def test_the_order_of_trust() -> None:
    made = backend("<|endoftext|>", "<x>", "<y>", "<|im_end|>")
    tables: dict[str, Any] = {"special_tokens_map.json": {}, "tokenizer_config.json": {"eos_token": {"content": "<x>"}}}
    assert specials.find(made, tables, {"end": "<y>"}).found["end"].source == "tokenizer_config.json"
    assert roles(specials.find(made, tables, {"end": "<y>"}))["end"] == "<x>"
    tables["special_tokens_map.json"] = {"eos_token": "<y>"}
    assert roles(specials.find(made, tables))["end"] == "<y>"
    assert roles(specials.find(made, tables, end_token="<|im_end|>"))["end"] == "<|im_end|>"
    assert roles(specials.find(made, {}, {"end": "<y>"}))["end"] == "<y>"
    assert roles(specials.find(made, {}))["end"] == "<|endoftext|>"
    assert roles(specials.find(made, {"tokenizer_config.json": {"eos_token": None}}))["end"] == "<|endoftext|>"


def test_ids_of_a_generation_config() -> None:
    made = backend("<x>", "<y>", "<|eot_id|>")  # ids 2, 3, 4
    found = specials.find(
        made, {"generation_config.json": {"eos_token_id": [3, 4], "bos_token_id": 2, "pad_token_id": 99}}
    )
    assert roles(found) == {"end": "<y>", "start": "<x>", "turn_end": "<|eot_id|>"}


def test_well_known_names_are_added_tokens() -> None:
    for name in ("<|endoftext|>", "</s>", "<|end_of_text|>", "<｜end▁of▁sentence｜>"):
        assert roles(specials.find(backend(name), {}))["end"] == name
    found = specials.find(backend(pieces=("a", "</s>", "<s>")), {})  # pieces of HTML
    assert not found.found
    assert roles(specials.find(backend("<|begin_of_text|>", "<|eot_id|>", "<pad>", "<unk>"), {})) == {
        "start": "<|begin_of_text|>", "turn_end": "<|eot_id|>", "padding": "<pad>", "unknown": "<unk>",
    }  # fmt: skip


def test_what_is_missing_is_named() -> None:
    tables = {"tokenizer_config.json": {"bos_token": None, "pad_token": "<pad>", "eos_token": "</s>"}}
    found = specials.find(backend("<s>", "</s>"), tables)
    assert roles(found) == {"end": "</s>"}
    assert found.missing == {
        "start": "tokenizer_config.json sets it to null",
        "turn_end": "not named by its files, and no well-known name in the vocabulary",
        "padding": "not in the vocabulary, got '<pad>' in tokenizer_config.json",
        "unknown": "not named by its files, and no well-known name in the vocabulary",
    }
    lines = list(found.lines())
    assert lines[0] == "end of text: </s> (id 3, tokenizer_config.json)"
    assert lines[3] == "padding: none (not in the vocabulary, got '<pad>' in tokenizer_config.json)"
    assert found.id_of("end") == 3 and found.id_of("padding") is None


def test_a_wrong_end_token_is_not_replaced() -> None:
    tables = {"tokenizer_config.json": {"eos_token": "<gone>"}}
    assert "end" not in specials.find(backend("</s>"), tables).found
    assert "end" not in specials.find(backend("</s>"), {}, end_token="<gone>").found
