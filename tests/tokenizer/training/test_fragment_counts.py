"""Frequent fragments: against counting every substring by hand."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from jielong.tokenizer.encoding.splitting import open_splitter
from jielong.tokenizer.training import fragment_counts
from jielong.tokenizer.training.fragment_counts import Segments, count_fragments, read_segments, spell
from jielong.tokenizer.unigram import line_split

LONGEST = 3


def segments_of(texts: list[str], coverage: float = 1.0, least: int = 1) -> Segments:
    splitter = open_splitter((line_split(True, False),))
    assert splitter is not None
    return read_segments((texts[at : at + 2] for at in range(0, len(texts), 2)), splitter, coverage, least)


def texts_of(seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    words = ["中国", "人民", "银行", "abcdefgh", "def ", "1998", "\n", "，", "é", "😀", "龘"]
    return ["".join(source.choice(words) for _ in range(source.randrange(30))) for _ in range(count)]


def by_hand(segments: list[str], allowed: set[str], least: int) -> dict[str, int]:
    """Substrings of covered characters within a segment, up to LONGEST characters, ASCII ones up to 16, and all characters."""
    found = Counter[str]()
    for segment in segments:
        for start in range(len(segment)):
            for end in range(start + 1, min(start + 16, len(segment)) + 1):
                piece = segment[start:end]
                if (end - start == 1 or set(piece) <= allowed) and (end - start <= LONGEST or piece.isascii()):
                    found[piece] += 1
    return {piece: count for piece, count in found.items() if count >= least or len(piece) == 1}


def cut(texts: list[str]) -> list[str]:
    found = []
    for text in texts:
        current = ""
        for at, char in enumerate(text):
            alone = char.isnumeric()
            if current and (alone or (current[-1] == "\n" and char != "\n")):
                found.append(current)
                current = ""
            current += char
            if alone or at == len(text) - 1:
                found.append(current)
                current = ""
    return found


@pytest.mark.parametrize(("coverage", "least"), [(1.0, 1), (1.0, 4), (0.9, 3)])
def test_counts_are_those_of_every_substring(coverage: float, least: int) -> None:
    texts = texts_of(1, 60)
    text = segments_of(texts, coverage, 2)
    fragments = count_fragments(text, least, LONGEST)
    chars = [chr(code) for code in text.chars.tolist()]
    names = list(spell(fragments, text.chars, np.arange(len(fragments.parents))))
    assert len(names) == len(set(names))
    found = dict(zip(names, fragments.counts.tolist(), strict=True))
    assert found == by_hand(cut(texts), set(chars[: text.covered]), least)
    assert (np.array([len(name) for name in names]) == fragments.depths).all()
    assert text.size == len("".join(texts).encode("utf-8"))
    assert coverage == 1.0 or text.covered < len(chars)


def test_a_table_that_grows_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*texts_of(2, 80), "啊" * 3000, "".join(chr(0x4E00 + n) for n in range(3000))]
    text = segments_of(texts)
    want = count_fragments(text, 1, 5)
    monkeypatch.setattr(fragment_counts, "FIRST_SIZE", 16)
    got = count_fragments(text, 1, 5)
    pairs = [
        sorted(zip(spell(each, text.chars, np.arange(len(each.parents))), each.counts.tolist(), strict=True))
        for each in (want, got)
    ]
    assert pairs[0] == pairs[1]


def test_nothing() -> None:
    text = segments_of([])
    assert len(text.ids) == 0 and len(count_fragments(text, 1, 7).parents) == 0
    assert len(count_fragments(segments_of(["", "\n"]), 2, 7).parents) == 1
