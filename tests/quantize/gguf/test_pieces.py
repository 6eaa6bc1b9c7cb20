"""Sentencepiece's BPE by scores, as llama.cpp cuts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from jielong.quantize.gguf.pieces import BYTE_TOKENS, NEVER, cut, measure, scores
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from tests.corpus import texts
from tests.quantize.gguf.folders import CHINESE, ENGLISH

sentencepiece = pytest.importorskip("sentencepiece")


def sentencepiece_folder(path: Path, kind: str = "bpe", **options: object) -> Path:
    """A tokenizer as Llama 2's: bytes for what is unknown, no normalization, as a tokenizer.json."""
    file = io.BytesIO()
    settings = {
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "byte_fallback": True,
        "vocab_size": 500,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts(60), *[ENGLISH] * 20]), model_writer=file, model_type=kind, hard_vocab_limit=False,
        minloglevel=2, **settings,
    )  # fmt: skip
    path.mkdir()
    (path / "given.model").write_bytes(file.getvalue())
    copy_folder(open_folder(path / "given.model"), path)
    (path / "given.model").unlink()
    return path


def parts(tokenizer: TokenizerFolder) -> tuple[dict[str, int], dict[str, float]]:
    return tokenizer.backend.get_vocab(), scores(json.loads(tokenizer.backend.to_str())["model"])


def test_scores_are_the_order_of_merges() -> None:
    vocab = {"<unk>": 0, "a": 1, "b": 2, "c": 3, "ab": 4, "abc": 5, "cab": 6}
    found = scores({"vocab": vocab, "merges": [["a", "b"], "ab c", ["c", "ab"]], "ignore_merges": False})
    assert [found[x] for x in ("ab", "abc", "cab")] == [-1, -2, -3] and found["a"] == NEVER and found["<unk>"] < -3
    assert set(BYTE_TOKENS) < found.keys()


def test_pieces_that_share_the_best_score_get_it_back() -> None:
    """The first merges, as far as their length falls, and what no merge makes."""
    merges = [["c", "ab"], ["a", "b"], ["ab", "c"], ["a", "c"]]
    vocab = {text: number for number, text in enumerate(("a", "b", "c", "ab", "abc", "cab", "ac", "bc"))}
    found = scores({"vocab": vocab, "merges": merges, "ignore_merges": True})
    assert [found[text] for text in ("cab", "ab", "abc", "ac", "bc")] == [0, 0, -3, -4, 0]


def test_cut_by_hand() -> None:
    """cabc: ab first (-1), then neither cab (-3) but abc (-2)."""
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "cab": 5, "\u2581": 6} | {
        x: 10 + n for n, x in enumerate(BYTE_TOKENS)
    }
    score = {"ab": -1.0, "abc": -2.0, "cab": -3.0}
    assert cut("cabc", ids, score, False) == [2, 4]
    assert cut("cab c", ids, score, True) == [6, 5, 6, 2]
    assert cut("é", ids, score, False) == [10 + 0xC3, 10 + 0xA9] and cut("", ids, score, True) == []


@pytest.mark.parametrize("prefix", [True, False])
def test_ids_are_those_of_sentencepiece(prefix: bool, tmp_path: Path) -> None:
    tokenizer = open_folder(sentencepiece_folder(tmp_path / "tokenizer", add_dummy_prefix=prefix))
    ids, score = parts(tokenizer)
    for text in (*CHINESE, ENGLISH):
        assert cut(text, ids, score, prefix) == tokenizer.encode([text])[0]
    found = measure(tokenizer, ids, score)
    assert (found.prefix, found.differ) == (prefix, 0) and found.probes >= 300


def test_a_normalizer_shows(tmp_path: Path) -> None:
    """llama.cpp knows none: full-width digits and double spaces stay."""
    folder = sentencepiece_folder(tmp_path / "x", normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    tokenizer = open_folder(folder)
    found = measure(tokenizer, *parts(tokenizer))
    assert 0 < found.differ < found.probes
