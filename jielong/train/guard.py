"""The spike guard: which steps are not taken, when a run goes back, and what it writes down of the text that did it.

A step is a *hit* when its loss or its gradient norm is not finite or is far above the band of the last `window` steps that were
taken. A loss may be `loss_deviations` deviations above the median of the newest quarter of them; the deviation is the noise from
step to step (median absolute difference of successive losses, scaled), which the fall of the loss at the beginning does not widen,
and at least 2 % of the median. A norm may be `norm_ratio` times its median. Medians, because a band of means is widened by the
first spike it lets through. Before a quarter of a window has been seen, a loss may be 1.5 times the largest one so far, the
first one three times that of a uniform guess, and a norm is only asked to be finite.

A hit is not taken: weights and optimizer stay as they are, the data is passed over. That is enough for a poisoned batch. When `hits`
of them fall within 20 steps, the state itself is bad, and the run goes back to its newest checkpoint and passes over the
data between (PaLM, arXiv:2204.02311, section 5.1: restart some 100 steps before the spike, and skip the batches seen during it). Going
back again to the same checkpoint lowers the learning rate, by 1/2 the second time, 1/4 the third, and so on: what the data
does not explain, the rate does. After `max_rollbacks` the run ends, with a sentence.

The state is a few numbers, part of every checkpoint: a run that was killed decides as the unbroken one.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from jielong.runs import write_bytes
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Guard as Config
from jielong.train.loader import Span

NEAR = 20  # steps within which hits belong together
LEAST_DEVIATION = 0.02  # of the median
NOISE = 1.4826 / math.sqrt(2)  # times the median absolute difference of normal numbers is their standard deviation
EARLY, FIRST = 1.5, 3.0  # times the largest loss so far; times a uniform guess


@dataclass
class State:
    """What a guard remembers, as JSON."""

    losses: list[float] = field(default_factory=list)  # of the last steps taken
    norms: list[float] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)  # the last steps not taken
    rollbacks: int = 0  # to the checkpoint it went back to last
    rolled_to: int = -1
    rate: float = 1.0  # what the learning rate is multiplied by

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)


class Guard:
    """Sees every step's loss and norm, the same on all ranks, and says what happens."""

    def __init__(self, config: Config, vocab_size: int, state: dict[str, Any] | None = None) -> None:
        self.config = config
        self._guess = math.log(vocab_size)
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
        limit = middle + self.config.loss_deviations * max(noise, LEAST_DEVIATION * abs(middle))
        return limit, self.config.norm_ratio * statistics.median(norms)

    def objection(self, loss: float, norm: float) -> str | None:
        """Why a step must not be taken; None: it may."""
        most_loss, most_norm = self.limits()
        for name, value, most in (("loss", loss, most_loss), ("gradient norm", norm, most_norm)):
            if not math.isfinite(value):
                return f"{name} is {value}"
            if value > most:
                return f"{name} {value:.4g} is above {most:.4g}"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """A step was taken: it belongs to the band."""
        for seen, value in ((self.state.losses, loss), (self.state.norms, norm)):
            seen.append(value)
            del seen[: -self.config.window]

    def hit(self, step: int) -> bool:
        """A step was not taken; returns whether the run must go back."""
        self.state.hits = [*(old for old in self.state.hits if old > step - NEAR), step]
        return len(self.state.hits) >= self.config.hits

    def go_back(self, restored: dict[str, Any], step: int) -> bool:
        """Take over the state of the checkpoint of `step`, counting; returns False when it was gone back to too often."""
        again = self.state.rolled_to == step
        times = self.state.rollbacks + 1 if again else 1
        rate = self.state.rate * 0.5 ** (times - 1)
        self.state = State(**restored)
        self.state.hits, self.state.rollbacks, self.state.rolled_to, self.state.rate = [], times, step, rate
        return times <= self.config.max_rollbacks


def dump(
    path: Path, heading: dict[str, Any], spans: Iterable[Span], shards: Shards, tokenizer: TokenizerFolder
) -> None:
    """Write the text of a step's rows as JSON lines: the heading, then every piece of a document with its place and source."""
    lines = [heading]
    for span in spans:
        ids = shards.targets(span.document)[span.begin : span.end]
        lines.append({"row": span.row, "document": span.document, "source": shards.source_of(span.document),
                      "begin": span.begin, "end": span.end, "text": tokenizer.decode(ids.tolist())})  # fmt: skip
    before = path.read_bytes() if path.exists() else b""  # the same step again, after going back
    write_bytes(path, before + b"".join(orjson.dumps(line) + b"\n" for line in lines))
