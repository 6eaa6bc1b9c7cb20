"""The fixed examples and their cuts."""

from __future__ import annotations

from pathlib import Path

from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.reporting.examples import EXAMPLES, KINDS, cut, cut_all
from jielong.tokenizer.reporting.vocabulary import read_vocabulary
from tests.tokenizer.reporting.folders import byte_level, sentencepiece_like


def test_every_kind_has_an_example() -> None:
    assert list(dict.fromkeys(example.kind for example in EXAMPLES)) == list(KINDS)
    assert len({example.text for example in EXAMPLES}) == len(EXAMPLES)


def test_cuts_give_the_text_back(tmp_path: Path) -> None:
    """Pieces are joined and the bytes between < and > read again; no example holds such a spelling."""
    tokenizers = [open_folder(byte_level(tmp_path / "a")), open_folder(sentencepiece_like(tmp_path / "b"))]
    pairs = [(tokenizer, read_vocabulary(tokenizer.backend)) for tokenizer in tokenizers]
    for example, found in zip(EXAMPLES, cut_all(pairs), strict=True):
        assert found["text"] == example.text and found["kind"] == example.kind
        for (_, vocabulary), tokens in zip(pairs, found["cuts"], strict=True):
            raw = b"".join(vocabulary.raw[token["id"]] for token in tokens)
            assert raw.removeprefix(b" ") == example.text.encode()
            assert all(token["broken"] == ("<" in token["text"] and vocabulary.broken[token["id"]]) for token in tokens)


def test_a_piece_of_a_character_shows_its_bytes(tmp_path: Path) -> None:
    tokenizer = open_folder(byte_level(tmp_path))
    found = cut(tokenizer, read_vocabulary(tokenizer.backend), "龘")
    assert [token["text"] for token in found] == ["<E9>", "<BE>", "<98>"] and all(token["broken"] for token in found)
