"""A stretch of a run: the steps of one phase, and how many rows each of them has.

Rows of a step are constant, or grow in a batch ramp: linearly in the tokens that were read since the stretch began, from the first
number of rows to the last. A step has a whole number of rows for each process, and whole micro-batches where the ramp begins with
one, so growth is a staircase, and a stretch is a short list of `Level`s, each so many steps of the same size. Everything else
(the tokens after a step, the rows of a step) is looked up there: exact, whole numbers, the same on every process, and nothing that
grows with the length of the run.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Level(NamedTuple):
    """Steps of the same size, from `first_step` on up to the next level."""

    first_step: int
    rows: int
    tokens_before: int


@dataclass(frozen=True)
class Stretch:
    """Steps `first_step` ... `last_step` of a run, counted from 1."""

    phase: int  # its place among the recipe's phases, from 0
    sequence_length: int
    rows_per_step: int  # at the end of its ramp, if it has one
    rows_per_micro_batch: int
    first_step: int
    steps: int
    levels: tuple[Level, ...]
    warmup_steps: int  # of its own schedule; not read where it has none
    decay_steps: int
    processes: int = 1

    @property
    def last_step(self) -> int:
        return self.first_step + self.steps - 1

    @property
    def tokens_before(self) -> int:
        """Tokens that the stretches before it read."""
        return self.levels[0].tokens_before

    @property
    def tokens(self) -> int:
        return self.tokens_after(self.last_step) - self.tokens_before

    @property
    def tokens_per_step(self) -> int:
        """At the end of its ramp, if it has one."""
        return self.rows_per_step * self.sequence_length

    @property
    def micro_batches(self) -> int:
        """How many of them a process takes in a step, at the end of the ramp."""
        return self.rows_per_step // self.processes // self.rows_per_micro_batch

    @property
    def ramped(self) -> bool:
        """Whether not all of its steps have the same size."""
        return self.levels[0].rows != self.rows_per_step

    def _level(self, step: int) -> Level:
        assert self.first_step <= step <= self.last_step
        return self.levels[bisect.bisect_right(self.levels, step, key=lambda level: level.first_step) - 1]

    def rows(self, step: int) -> int:
        """Rows of a step, all processes together."""
        return self._level(step).rows

    def tokens_after(self, step: int) -> int:
        """Tokens of the run when a step of this stretch is done."""
        level = self._level(step)
        return level.tokens_before + (step - level.first_step + 1) * level.rows * self.sequence_length

    def describe(self) -> str:
        """One line for a person."""
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        ramp = f"{self.levels[0].rows} growing to " if self.ramped else ""
        return (
            f"{self.steps} steps of {ramp}{self.rows_per_step} rows x {self.sequence_length} tokens, "
            f"{self.micro_batches} micro-batch{'' if self.micro_batches == 1 else 'es'} a step{each}"
        )


def levels(
    budget: int,
    length: int,
    rows: int,
    first_step: int,
    before: int,
    start: int | None = None,
    ramp: int = 0,
    grain: int = 1,
) -> tuple[tuple[Level, ...], int]:
    """The levels of a stretch, and its steps, so that they read `budget` tokens or, in the last step, more.

    length: tokens in a row. start: rows of the first step (None: no ramp), growing to `rows` by `grain` over the first `ramp` tokens;
    grain divides the difference. first_step, before: the steps count from there, and so many tokens were read before.
    """
    found, step, done = list[Level](), first_step, 0  # done: tokens of this stretch
    sizes = range(start or rows, rows, grain)
    assert budget > 0 and rows > 0 and (start is None or (rows - start) % grain == 0)
    for size in [*sizes, rows]:
        if done >= budget:
            break
        until = budget
        if size < rows:  # where a larger step has its turn: done * (rows - start) >= ramp * (next size - start)
            until = min(budget, -(-ramp * (size + grain - sizes.start) // (rows - sizes.start)))
        steps = max(0, -(-(until - done) // (size * length)))
        if steps:
            found.append(Level(step, size, before + done))
        step, done = step + steps, done + steps * size * length
    assert all(one.first_step < other.first_step for one, other in pairwise(found))
    return tuple(found), step - first_step
