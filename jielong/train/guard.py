"""The spike guard: which steps are not taken, when a run goes back, and what it writes down of the text that did it.

A step is a *hit* when its loss or its gradient norm is not finite or is far above the band of the last `window` steps that were
taken. A loss may be `loss_deviations` deviations above the median of the newest quarter of them; the deviation is the noise from
step to step (median absolute difference of successive losses, scaled), which the fall of the loss at the beginning does not widen,
and at least 5 % of the median and 0.05 nats. A norm may be `norm_ratio` times its median, and 1. Medians, because a band of means is widened by the
first spike it lets through. Before a quarter of a window has been seen, a loss may be 1.5 times the largest one so far, the
first one three times that of a uniform guess, and a norm is only asked to be finite.

A hit is not taken: weights and optimizer stay as they are, the data is passed over. That is enough for a poisoned batch. After
`hits` of them in a row the state itself may be bad, and the run goes back to a checkpoint and passes over the data between
(PaLM, arXiv:2204.02311, section 5.1: restart some 100 steps before the spike, and skip the batches seen during it). It goes to the newest
one that is *proven*: a step from its weights was taken. One that was saved after the last step taken may hold what is bad.

Going back again to the same checkpoint tells two things apart. Hits at once, before a step was taken, on weights that were
good: then the data is another now (the next phase of a mix), and the band begins anew. Hits within 20 steps: then it is the learning
rate, which is lowered, by 1/2 the first time, 1/4 the second, and so on. After `max_rollbacks` to one checkpoint the run ends, with a
sentence. Where a phase of the run begins (phases.py), the band begins anew, too.

The state is a few numbers, part of every checkpoint: a run that was killed decides as the unbroken one.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jielong.runs import write_bytes
from jielong.train.config import Guard as Config

NEAR = 20  # steps after going back within which the same trouble is the learning rate's
LEAST_DEVIATION = 0.05  # of the median
LEAST_NATS, LEAST_NORM = (
    0.05,
    1.0,
)  # a deviation, and a norm that is never a spike: what is nearly known by heart has neither loss nor gradient
NOISE = 1.4826 / math.sqrt(2)  # times the median absolute difference of normal numbers is their standard deviation
EARLY, FIRST = 1.5, 3.0  # times the largest loss so far; times a uniform guess


@dataclass
class State:
    """What a guard remembers, as JSON."""

    losses: list[float] = field(default_factory=list)  # of the last steps taken
    norms: list[float] = field(default_factory=list)
    streak: int = 0  # steps not taken in a row
    taken: int = 0  # the last step that was taken
    since: int = 0  # steps taken since the run went back
    rollbacks: int = 0  # to the checkpoint that it went back to last
    rolled_to: int = -1  # its step
    lowered: int = 0  # how often in succession the rate was lowered
    rate: float = 1.0  # what the learning rate is multiplied by
    refused: int = 0  # steps not taken in the whole run
    returned: int = 0  # how often the run went back

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


class Guard:
    """Sees every step's loss and norm, the same on all ranks, and says what happens."""

    def __init__(self, config: Config, vocab_size: int | None, state: dict[str, Any] | None = None) -> None:
        """vocab_size: None for a loss that is no cross-entropy, of whose first value nothing is known."""
        self.config = config
        self._guess = math.inf if vocab_size is None else math.log(vocab_size)
        self.state = State(**(state or {}))

    def limits(self) -> tuple[float, float]:
        """The largest loss and the largest norm that a step may have now."""
        losses, norms = self.state.losses, self.state.norms
        if not self.config.enabled:
            return math.inf, math.inf
        newest = self.config.window // 4
        if len(losses) < newest:
            return (EARLY * max(losses) if losses else FIRST * self._guess), math.inf
        middle = statistics.median(losses[-newest:])
        noise = NOISE * statistics.median(abs(new - old) for old, new in itertools.pairwise(losses))
        limit = middle + self.config.loss_deviations * max(noise, LEAST_DEVIATION * abs(middle), LEAST_NATS)
        return limit, max(self.config.norm_ratio * statistics.median(norms), LEAST_NORM)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why a step must not be taken; None: it may."""
        most_loss, most_norm = self.limits()
        for name, value, most in (("loss", loss, most_loss), ("gradient norm", norm, most_norm)):
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value > most:
                return f"{name} {value:.4g} is above {most:.4g}"
        return None

    def accept(self, step: int, loss: float, norm: float) -> None:
        """A step was taken: it belongs to the band."""
        state = self.state
        for seen, value in ((state.losses, loss), (state.norms, norm)):
            seen.append(value)
            del seen[: -self.config.window]
        state.streak, state.taken, state.since = 0, step, state.since + 1

    def hit(self) -> bool:
        """A step was not taken; returns whether the run must go back."""
        self.state.streak += 1
        self.state.refused += 1
        return self.state.streak >= self.config.hits

    def begin_anew(self) -> None:
        """Another phase begins: longer rows, another mix or optimizer have other losses and norms, so the band is made of those to
        come. What was counted stays.
        """
        self.state.losses, self.state.norms = [], []

    def target(self, steps: Sequence[int]) -> int:
        """To which of the checkpoints with these steps, in order, the run goes back: the newest proven one, else the oldest."""
        proven = (step for step in reversed(steps) if step < self.state.taken or step == self.state.rolled_to)
        return next(proven, steps[0])

    def go_back(self, restored: dict[str, Any], step: int) -> bool:
        """Take over the state of the checkpoint of `step`, counting; returns False when it was gone back to too often."""
        old = self.state
        again = old.rolled_to == step
        other_data, too_fast = again and old.since == 0, again and 0 < old.since < NEAR
        self.state = new = State(**restored)
        new.rollbacks, new.rolled_to = old.rollbacks + 1 if again else 1, step
        new.lowered = old.lowered + 1 if too_fast else 0
        new.rate = old.rate * 0.5**new.lowered
        new.streak = new.since = 0
        new.refused, new.returned = old.refused, old.returned + 1
        if other_data:
            new.losses, new.norms = [], []
        return new.rollbacks <= self.config.max_rollbacks


def dump(path: Path, heading: dict[str, Any], texts: list[dict[str, Any]]) -> None:
    """Write the text of a step's rows as JSON lines: the heading, then every piece of a document with its place and source."""
    lines = [heading, *texts]
    before = path.read_bytes() if path.exists() else b""  # the same step again, after going back
    write_bytes(path, before + b"".join(orjson.dumps(line) + b"\n" for line in lines))
