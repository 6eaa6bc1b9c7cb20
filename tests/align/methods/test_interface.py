"""Figures of parts as those of the whole."""

from __future__ import annotations

import pytest

from jielong.align.methods.interface import Figures, parts


def test_means_are_weighted_and_begin_anew() -> None:
    figures = Figures()
    figures.add({"loss": 1.0, "kl": float("nan")}, 3)
    figures.add({"loss": 2.0, "kl": 4.0}, 1)
    assert figures.take() == {"loss": pytest.approx(1.25), "kl": 4.0}
    assert figures.take() == {}


def test_parts_are_at_most_so_large() -> None:
    assert [len(part) for part in parts([{}] * 5, 2)] == [2, 2, 1]
