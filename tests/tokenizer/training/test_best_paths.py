"""Best paths: against the definition in twenty lines, for any number of threads."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from jielong.tokenizer.training.best_paths import DEAD, best_path_plain, count_uses, scores_without, table_of
from jielong.tokenizer.training.fragment_counts import count_fragments, spell
from tests.tokenizer.training.test_fragment_counts import cut, segments_of, texts_of


@pytest.mark.parametrize("seed", range(4))
def test_uses_are_those_of_the_plain_path(seed: int) -> None:
    source, texts = random.Random(seed), texts_of(seed, 50)
    text = segments_of(texts)
    fragments = count_fragments(text, 2, 4)
    names = list(spell(fragments, text.chars, np.arange(len(fragments.parents))))
    scores = np.array([-source.uniform(1, 20) if source.random() < 0.6 else DEAD for _ in names])
    spelling = -np.array([source.uniform(5, 60) for _ in text.chars])
    uses, spelled = count_uses(text, fragments, table_of(fragments), scores, spelling, 1)
    plain_scores = {name: score for name, score in zip(names, scores.tolist(), strict=True) if score > DEAD}
    plain_spelling = {chr(code): value for code, value in zip(text.chars.tolist(), spelling.tolist(), strict=True)}
    want = Counter(part for segment in cut(texts) for part in best_path_plain(segment, plain_scores, plain_spelling))
    got = {name: count for name, count in zip(names, uses.tolist(), strict=True) if count}
    codes = (chr(code) for code in text.chars.tolist())
    got |= {f"<{c.encode().hex().upper()}>": n for c, n in zip(codes, spelled.tolist(), strict=True) if n}
    assert got == want
    for threads in (2, 3, 50):
        again = count_uses(text, fragments, table_of(fragments), scores, spelling, threads)
        assert (again[0] == uses).all() and (again[1] == spelled).all()


def test_what_is_left_without_a_piece() -> None:
    text = segments_of(["中国人民", "中国", "人民", "中"])
    fragments = count_fragments(text, 1, 4)
    names = list(spell(fragments, text.chars, np.arange(len(fragments.parents))))
    value = {"中国人民": -1.0, "中国": -2.0, "人民": -3.0, "中": -4.0}
    scores = np.array([value.get(name, DEAD) for name in names])
    spelling = np.full(len(text.chars), -10.0)
    order = [names.index(name) for name in value]
    found = scores_without(np.array(order, np.int64), fragments, table_of(fragments), scores, spelling)
    assert found.tolist() == [-5.0, -14.0, -20.0, -10.0] and math.isfinite(found.sum())
