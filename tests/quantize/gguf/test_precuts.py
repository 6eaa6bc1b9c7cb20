"""The first cut that is named is the one that gives the same ids most often."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from tokenizers import pre_tokenizers

from jielong.quantize.gguf.precuts import PRECUTS, choose, probes
from jielong.tokenizer.bpe import pre_split, untrained
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.importing.tiktoken_file import LLAMA3, QWEN
from tests.quantize.gguf.folders import tokenizer_folder


@pytest.fixture
def ours(tmp_path: Path) -> TokenizerFolder:
    return open_folder(tokenizer_folder(tmp_path))


def cut_by(opened: TokenizerFolder, *patterns: str) -> TokenizerFolder:
    """The same tokenizer with other first cuts."""
    opened.backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return opened


def test_probes() -> None:
    found = probes()
    assert 300 <= len(found) == len(set(found)) and all(map(str.strip, found))
    assert found == probes() and any("\r\n" in text for text in found) and any("'S" in text for text in found)


def test_patterns_cut_without_a_rest() -> None:
    """Every character is in a piece, in order."""
    for precut in PRECUTS:
        for pattern in precut.patterns:
            split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
            for text in probes()[::9]:
                assert "".join(piece for piece, _ in split.pre_tokenize_str(text)) == text


def test_our_own_cut_has_the_same_ids_by_another_name(ours: TokenizerFolder) -> None:
    """Its tokens do not cross the borders that only our pattern has."""
    choice = choose(ours)
    assert (choice.name, choice.differ, choice.example) == ("qwen2", 0, "") and choice.probes == len(probes())
    assert 0 < choice.pieces_differ < choice.probes / 4


@pytest.mark.parametrize(("name", "pattern"), [("qwen2", QWEN.pattern), ("llama-bpe", LLAMA3.pattern)])
def test_a_known_pattern_is_found(name: str, pattern: str, ours: TokenizerFolder) -> None:
    choice = choose(cut_by(ours, pattern))
    assert (choice.name, choice.differ, choice.pieces_differ) == (name, 0, 0)


@pytest.mark.parametrize("precut", PRECUTS, ids=lambda precut: precut.name)
def test_each_is_told_from_the_others(precut: object, ours: TokenizerFolder) -> None:
    """Even where the small vocabulary gives the same ids: then the pieces decide."""
    found = next(one for one in PRECUTS if one is precut)
    choice = choose(cut_by(ours, *found.patterns))
    assert (choice.name, choice.differ, choice.pieces_differ) == (found.name, 0, 0)


def test_gpt2s_own_pre_tokenizer(ours: TokenizerFolder) -> None:
    ours.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    choice = choose(ours)
    assert (choice.name, choice.differ, choice.pieces_differ) == ("gpt-2", 0, 0)


def test_what_no_name_does_is_counted(ours: TokenizerFolder) -> None:
    """A first cut into single characters."""
    choice = choose(cut_by(ours, r"[\s\S]"))
    assert 0 < choice.differ <= choice.probes and choice.example in probes()
    assert untrained(pre_split(True), ours.backend.model).encode(choice.example).ids != ours.encode([choice.example])[0]
