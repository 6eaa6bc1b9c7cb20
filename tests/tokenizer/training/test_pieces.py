"""Learning pieces: the number that was asked for, the rounds, and no worse than what was thrown away."""

from __future__ import annotations

import numpy as np
import pytest

from jielong.tokenizer.training.best_paths import best_path_plain
from jielong.tokenizer.training.fragment_counts import count_fragments, spell
from jielong.tokenizer.training.pieces import GRAIN, Learned, Spelling, learn_pieces, likely
from tests.tokenizer.training.test_fragment_counts import cut, segments_of, texts_of

TEXTS = [
    *texts_of(5, 400),
    *["中国人民银行今天宣布，下调存款准备金率。\n"] * 5,
    "龘靐齉爩鱻麤龗灪吁龖厵滟爨癵籱饢驫鲡鹂鸾",
]


def learned(wanted: int, penalty: float = 8.0, threads: int = 1) -> Learned:
    return learn_pieces(segments_of(TEXTS, 1.0, 2), wanted, penalty, 7, 2, threads)


@pytest.mark.parametrize("penalty", [0.0, 8.0])
def test_as_many_pieces_as_wanted_and_fewer_tokens_with_more(penalty: float) -> None:
    tokens = []
    for wanted in (20, 40, 80):
        found = learned(wanted, penalty)
        counted = [piece for piece, _ in found.pieces if len(piece) > 1]
        assert len(counted) == wanted >= found.rounds[-1].pieces
        assert all(score < 0 and float(score / GRAIN).is_integer() for _, score in found.pieces)
        assert len(dict(found.pieces)) == len(found.pieces) == len(found.uses)
        assert found.uses == sorted(found.uses, reverse=True)
        tokens.append(found.rounds[-1].tokens)
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[0] > tokens[2]


def test_threads_change_nothing() -> None:
    assert learned(60) == learned(60, threads=3)


def test_the_rounds_say_what_the_text_costs() -> None:
    """The last round's tokens are those of the plain best path with the pieces of the result."""
    found = learned(50)
    scores = {piece.decode(): score for piece, score in found.pieces if not (len(piece) == 2 and piece[0] >= 0xE0)}
    prefixes = {piece: score for piece, score in found.pieces if len(piece) == 2 and piece[0] >= 0xE0}
    spelling = {}
    for char in set("".join(TEXTS)):
        data = char.encode()
        ways = [found.byte_score * len(data)]
        if data[:2] in prefixes:
            ways.append(prefixes[data[:2]] + found.byte_score * (len(data) - 2))
        spelling[char] = max(ways)
    tokens = 0
    for segment in cut(TEXTS):
        for part in best_path_plain(segment, scores, spelling):
            if len(part) > 2 and part[0] == "<" and part[-1] == ">":
                data = bytes.fromhex(part[1:-1])
                tokens += len(data) - (data[:2] in prefixes)
            else:
                tokens += 1
    assert tokens == pytest.approx(
        found.rounds[-1].tokens, rel=0.01
    )  # scores were settled by one more round, and grained


def test_more_than_there_is() -> None:
    found = learned(100_000)
    assert 0 < found.rounds[-1].pieces < 100_000
    assert learn_pieces(segments_of([]), 10, 8.0, 7, 2, 1).pieces == []


def test_a_text_that_repeats_itself_fills_the_vocabulary_with_its_characters() -> None:
    line = "中国人民银行今天宣布下调存款准备金率\n"
    found = learn_pieces(segments_of([line] * 50), 30, 8.0, 7, 2, 1)
    assert found.rounds[-1].pieces < 10
    pieces = {piece.decode() for piece, _ in found.pieces}
    assert set(line) <= pieces and len([piece for piece in pieces if len(piece.encode()) > 1]) == 30


def test_the_likely_candidates() -> None:
    """Those that most characters stand in, with all that leads to them; every single character."""
    text = segments_of(TEXTS, 1.0, 2)
    every = count_fragments(text, 2, 7)
    assert likely(every, text, 10_000) is every
    some = likely(every, text, 8)
    assert len(text.chars) < len(some.parents) < len(every.parents)
    names = [list(spell(each, text.chars, np.arange(len(each.parents)))) for each in (every, some)]
    counts = dict(zip(names[0], every.counts.tolist(), strict=True))
    assert names[1][: len(text.chars)] == names[0][: len(text.chars)]
    assert all(counts[name] == count for name, count in zip(names[1], some.counts.tolist(), strict=True))
    best = max(names[0], key=lambda name: counts[name] * (len(name) - 1))
    assert best in names[1] and set(names[1]) <= set(names[0])


def test_spelling() -> None:
    """é has two bytes and no prefix, 中 three, 😀 four."""
    chars = np.array([ord(char) for char in "aé中😀"], np.uint32)
    spelling = Spelling(chars)
    assert spelling.sizes.tolist() == [1, 2, 3, 4] and np.flatnonzero(spelling.kept).tolist() == [0xE4B8, 0xF09F]
    spelled = np.array([5, 4, 3, 2])
    assert spelling.prefix_uses(spelled)[[0xE4B8, 0xF09F]].tolist() == [3, 2]
    assert spelling.byte_uses(spelled) == 5 + 8 + 3 + 4
    spelling.kept[0xE4B8] = False
    assert spelling.prefix_uses(spelled).sum() == 2 and spelling.byte_uses(spelled) == 5 + 8 + 9 + 4
    scores = np.zeros(1 << 16)
    scores[0xF09F] = -3.0
    assert spelling.scores(-2.0, scores).tolist() == [-2.0, -4.0, -6.0, -7.0]
