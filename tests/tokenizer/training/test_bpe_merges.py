"""Learned merges: those of the definition, and those of the `tokenizers` library, ties and habits included."""

from __future__ import annotations

import random

import numpy as np
import orjson
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from jielong.tokenizer.training import bpe_merges
from jielong.tokenizer.training.bpe_merges import byte_chars, byte_order, learn_merges, learn_merges_plain
from jielong.tokenizer.training.piece_counts import PieceCounter


def count(pieces: list[bytes]) -> PieceCounter:
    counter = PieceCounter()
    counter.add(np.frombuffer(b"".join(pieces), np.uint8), np.cumsum([0, *map(len, pieces)], dtype=np.int64))
    return counter


def theirs(words: list[str], vocab_size: int, min_frequency: int, specials: list[str]) -> list[tuple[int, int]]:
    """The library's merges over words parted by blanks."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(words)], trainer=trainer)
    model = orjson.loads(tokenizer.to_str())["model"]
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def zipf_words(seed: int, letters: str, number: int, longest: int) -> list[str]:
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(1, longest))) for _ in range(number // 4)]
    return [vocabulary[min(int(rng.paretovariate(0.7)), len(vocabulary)) - 1] for _ in range(number)]


@pytest.mark.parametrize("letters", ["ab", "abc", "的一是在不了有和人这", "aé的😀"])
@pytest.mark.parametrize("min_frequency", [1, 2, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_merges_of_the_library(letters: str, min_frequency: int, seed: int) -> None:
    words = zipf_words(seed, letters, 1500, 14)
    found = learn_merges(count([word.encode() for word in words]), 700, min_frequency, [b"<|x|>", None])
    assert found.pairs == theirs(words, 700, min_frequency, ["<|x|>", "<|中|>"])


@given(st.lists(st.text("ab的", min_size=1, max_size=12), min_size=1, max_size=30), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_the_merges_of_the_definition(words: list[str], min_frequency: int) -> None:
    pieces = [word.encode() for word in words]
    fast = learn_merges(count(pieces), 300, min_frequency)
    slow = learn_merges_plain(count(pieces).items(), 300, min_frequency)
    assert (fast.tokens, fast.pairs, fast.reached) == (slow.tokens, slow.pairs, slow.reached)


def test_many_tokens_take_four_bytes_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [word.encode() for word in zipf_words(5, "abcdefgh", 3000, 10)]
    narrow = learn_merges(count(words), 900, 2)
    monkeypatch.setattr(bpe_merges, "NARROW_IDS", 100)
    assert learn_merges(count(words), 900, 2) == narrow


def test_a_special_token_that_arises_keeps_its_id() -> None:
    found = learn_merges(count([b"hello"] * 5), 300, 2, [b"hello", b"a"])
    assert found.tokens.count(b"hello") == 1 and found.tokens[0] == b"hello"
    assert found.pairs == theirs(["hello"] * 5, 300, 2, ["hello", "a"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("min_frequency", [1, 2, 4])
def test_special_tokens_that_arise_among_others(seed: int, min_frequency: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their pairs are not new to the tables, or were too rare to be kept: the slow way through Python."""
    calls = 0
    again = bpe_merges._Learner._merge_again

    def counted(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        again(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bpe_merges._Learner, "_merge_again", counted)
    letters = ("ab", "abc", "abcde")[seed % 3]
    words = zipf_words(seed, letters, 1500, 14)
    specials = ["ab", "ba", "aa", "bab", "abab", "c", "abc", "cab", "aaaa"]
    found = learn_merges(count([word.encode() for word in words]), 600, min_frequency, [s.encode() for s in specials])
    assert calls > 0 and found.pairs == theirs(words, 600, min_frequency, specials)


def test_edges() -> None:
    assert learn_merges(count([]), 300, 2).pairs == []
    assert learn_merges(count([b"a", b"b"]), 300, 2).pairs == []
    assert learn_merges(count([b"ab"] * 3), 256, 2).pairs == []  # no place for a token
    assert learn_merges(count([b"ab"] * 3), 1, 2).tokens == [bytes([byte]) for byte in byte_order()]
    one = learn_merges(count([b"ab"] * 3), 300, 4)
    assert one.pairs == [] and one.reached == 0
    two = learn_merges(count([b"aaaa" * 1000]), 270, 1)
    assert two.tokens[256:] == [b"aa", b"aaaa"] + [b"a" * 2**n for n in range(3, 12)] + two.tokens[267:]


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_merges, "PROGRESS_EVERY", 50)
    seen: list[tuple[int, int]] = []
    words = [word.encode() for word in zipf_words(7, "abcdef", 2000, 9)]
    learn_merges(count(words), 400, 2, progress=lambda there, wanted: seen.append((there, wanted)))
    assert seen == [(300, 400), (350, 400), (400, 400)]


def test_the_alphabet_is_the_library_s() -> None:
    assert set(byte_chars()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_chars().values()) == list(range(256)) and byte_chars()["Ġ"] == ord(" ")
    assert "".join(sorted(byte_chars())) == "".join(byte_chars())  # in the order of code points
