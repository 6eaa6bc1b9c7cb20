"""Steps of a stretch: by hand, and against a walk step by step."""

from __future__ import annotations

import pytest

from jielong.train.stretches import Stretch, levels


def stretch(
    budget: int, length: int, rows: int, first: int = 1, before: int = 0, start: int | None = None, ramp: int = 0,
    grain: int = 1,
) -> Stretch:  # fmt: skip
    found, steps = levels(budget, length, rows, first, before, start, ramp, grain)
    return Stretch(0, length, rows, 1, first, steps, found, 0, 0)


def walked(budget: int, length: int, rows: int, start: int, ramp: int, grain: int) -> list[int]:
    """The rows of each step: from start to rows, linearly in the tokens read, rounded down to whole grains."""
    sizes, read = list[int](), 0
    while read < budget:
        size = rows if read >= ramp else start + (rows - start) * read // (ramp * grain) * grain
        sizes.append(min(rows, size))
        read += sizes[-1] * length
    return sizes


def test_without_a_ramp_by_hand() -> None:
    """1,000 tokens in steps of 4 rows x 16: 16 steps, the last one rounded up; step 10 is the first, 640 tokens were read before."""
    found = stretch(1000, 16, 4, 10, 640)
    assert (found.steps, found.last_step, found.tokens_before, found.tokens) == (16, 25, 640, 1024)
    assert [found.tokens_after(step) for step in (10, 11, 25)] == [704, 768, 1664]
    assert not found.ramped and found.rows(10) == found.rows(25) == 4


def test_a_ramp_by_hand() -> None:
    """From 1 row to 4 over 60 tokens, rows of 10: one more row for each 20 tokens read: 0 and 10, 20, 40, then at least 60."""
    found = stretch(140, 10, 4, start=1, ramp=60)
    assert [found.rows(step) for step in range(1, found.steps + 1)] == [1, 1, 2, 3, 4, 4]
    assert [found.tokens_after(step) for step in range(1, 7)] == [10, 20, 40, 70, 110, 150]
    assert found.ramped and found.tokens_per_step == 40
    assert "1 growing to 4 rows x 10 tokens" in found.describe()


@pytest.mark.parametrize("grain", [1, 2, 4])
@pytest.mark.parametrize(("start", "rows"), [(4, 32), (8, 16), (16, 16), (4, 8)])
@pytest.mark.parametrize("ramp", [1, 100, 5_000, 40_000])
@pytest.mark.parametrize("budget", [1, 999, 40_000])
def test_levels_are_the_walk(budget: int, ramp: int, start: int, rows: int, grain: int) -> None:
    found, sizes = stretch(budget, 16, rows, 7, 160, start, ramp, grain), walked(budget, 16, rows, start, ramp, grain)
    assert found.steps == len(sizes)
    assert [found.rows(7 + n) for n in range(len(sizes))] == sizes
    assert [found.tokens_after(7 + n) for n in range(len(sizes))] == [
        160 + 16 * sum(sizes[: n + 1]) for n in range(len(sizes))
    ]


def test_the_list_does_not_grow_with_the_run() -> None:
    assert len(levels(10**15, 1024, 512, 1, 0, 64, 10**14, 64)[0]) == 8


def test_only_its_own_steps() -> None:
    for step in (9, 26):
        with pytest.raises(AssertionError):
            stretch(1000, 16, 4, 10, 640).rows(step)
