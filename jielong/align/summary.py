"""What is counted while examples are prepared, and the few of them that are shown: `preferences.json`, which the page is made of.

Everything that was read is training, validation or a reject with a reason, of each source and in all; `report` refuses to say anything else.
`read` counts examples: a record of two answers where each is learned from by itself is two, and `records` one. Examples that are shown are
those with the smallest hash of each source, so that they are a sample, and the same one each time.

The one statistic of pairs that deserves a warning is length. Where chosen answers are mostly the longer ones, a method that compares sums of
log-probabilities learns to write more before it learns anything else (arXiv:2403.19159), and the loss does not show it.
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import Any, Literal

import orjson
import xxhash

from jielong.align.checking import REASONS
from jielong.align.config import Kind, Source
from jielong.align.encoding import Encoded, answers_of
from jielong.align.examples import SPLITS
from jielong.align.parsing import Marked, Pair, Prompt
from jielong.tune.summary import EXAMPLES, REJECT_CHARS, REJECTS, token_edges

EXAMPLE_CHARS = 1500  # of each text that is shown
LENGTH_BIAS = 0.65  # share of pairs in which the same side is longer, above which it is said; a choice of taste
SIDES: dict[Kind, tuple[str, ...]] = {"pairs": ("chosen", "rejected"), "unpaired": ("good", "bad"), "prompts": ()}
MOST_COLUMNS = 50  # that are named


class Tally:
    """The counts of one source, or of all."""

    def __init__(self) -> None:
        self.records = self.read = 0
        self.kept = dict.fromkeys(SPLITS, 0)
        self.rejected: Counter[str] = Counter()
        self.sums: dict[str, float] = {}
        self.columns: Counter[str] = Counter()

    def add(self, figures: dict[str, float]) -> None:
        """Figures of an example, or of another tally."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def join(self, other: Tally) -> None:
        """Take another one's counts in."""
        self.records, self.read = self.records + other.records, self.read + other.read
        self.kept = {split: self.kept[split] + other.kept[split] for split in SPLITS}
        self.rejected += other.rejected
        self.columns += other.columns
        self.add(other.sums)

    def report(self, kind: Kind) -> dict[str, Any]:
        """For JSON. Nothing has vanished."""
        kept = sum(self.kept.values())
        assert self.read == kept + self.rejected.total(), "examples are missing"
        return {
            "records": self.records,
            "read": self.read,
            **self.kept,
            "rejected": {reason: self.rejected[reason] for reason in REASONS if self.rejected[reason]},
            "statistics": self._statistics(kind, kept),
        }

    def _statistics(self, kind: Kind, kept: int) -> dict[str, Any]:
        """Means and shares of what is kept; None where there is nothing to take them of."""

        def mean(name: str, count: float) -> float | None:
            return self.sums.get(name, 0) / count if count else None

        found: dict[str, Any] = {"prompt_tokens": mean("prompt_tokens", kept)}
        good = self.sums.get("good", 0)
        counts = {"chosen": kept, "rejected": kept, "good": good, "bad": kept - good}
        for side in SIDES[kind]:
            found |= {f"{side}_{unit}": mean(f"{side}_{unit}", counts[side]) for unit in ("tokens", "characters")}
        if kind == "pairs":
            found |= {name: mean(name, kept) for name in ("chosen_longer", "rejected_longer", "equal_length")}
            margins = int(self.sums.get("margins", 0))
            found |= {"margins": margins, "margin": mean("margin", margins)}
        if kind == "unpaired":
            found["good"] = mean("good", kept)
        if kind == "prompts":
            found["columns"] = dict(sorted(self.columns.most_common(MOST_COLUMNS)))
        return found


def figures_of(encoded: Encoded) -> dict[str, float]:
    """What is added up of an example. Characters are those of the text as it was given."""
    example, found = encoded.example, dict[str, float]()
    found["prompt_tokens"] = len(encoded.prompt)
    for name, text in answers_of(example).items():
        side = _side(example, name)
        found |= {f"{side}_tokens": len(encoded.answers[name]), f"{side}_characters": len(text)}
    if isinstance(example, Pair):
        longer = len(example.chosen) - len(example.rejected)
        found |= {"chosen_longer": longer > 0, "rejected_longer": longer < 0, "equal_length": longer == 0}
        if example.margin is not None:
            found |= {"margins": 1, "margin": example.margin}
    if isinstance(example, Marked):
        found["good"] = example.label
    return found


def length_bias(statistics: dict[str, Any]) -> Literal["longer", "shorter"] | None:
    """What chosen answers are by their lengths, in more than LENGTH_BIAS of the pairs; None: neither, or no pairs."""
    if (statistics.get("chosen_longer") or 0) > LENGTH_BIAS:
        return "longer"
    return "shorter" if (statistics.get("rejected_longer") or 0) > LENGTH_BIAS else None


def _side(example: Any, name: str) -> str:
    """What an answer counts as: a completion is good or bad."""
    return ("good" if example.label else "bad") if isinstance(example, Marked) else name


class Summary:
    """The counts of all sources, and what is shown."""

    def __init__(self, sources: tuple[Source, ...], kind: Kind, length: int) -> None:
        self.kind, self.by_source = kind, {source.name: Tally() for source in sources}
        self._edges = token_edges(length)
        self._bins = {
            (name, part): [0] * (len(self._edges) - 1)
            for name, parts in (("lengths", SPLITS), ("answers", SIDES[kind]))
            for part in parts
        }
        self._each = max(1, EXAMPLES // len(sources))
        self._examples: dict[str, list[tuple[int, dict[str, Any]]]] = {name: [] for name in self.by_source}
        self.rejects: dict[str, list[dict[str, Any]]] = {}

    # --------------------------------------------------------------------------------------------- counting

    def keep(self, source: str, split: str, encoded: Encoded, place: tuple[str, int]) -> None:
        """Count an example that is kept. place: file and line."""
        tally, example = self.by_source[source], encoded.example
        tally.kept[split] += 1
        tally.add(figures_of(encoded))
        if isinstance(example, Prompt):
            tally.columns.update(list(example.columns))
        self._count("lengths", split, encoded.tokens)
        for name, ids in encoded.answers.items():
            self._count("answers", _side(example, name), len(ids))
        chance = xxhash.xxh3_64_intdigest(orjson.dumps([encoded.prompt, *encoded.answers.values()]))
        listed = self._examples[source]
        if len(listed) < self._each or chance < listed[-1][0]:
            known = {"source": source, "split": split, "file": place[0], "line": place[1]}
            listed.append((chance, known | _shown(encoded)))
            listed.sort(key=lambda item: item[0])
            del listed[self._each :]

    def _count(self, name: str, part: str, tokens: int) -> None:
        self._bins[name, part][min(bisect.bisect_right(self._edges, tokens), len(self._edges) - 1) - 1] += 1

    def reject(self, source: str, reason: str, detail: str, place: tuple[str, int], text: str) -> None:
        """Count an example, or a record that gives none, that is set aside."""
        self.by_source[source].rejected[reason] += 1
        shown = self.rejects.setdefault(reason, [])
        if len(shown) < REJECTS:
            shown.append(
                {"source": source, "file": place[0], "line": place[1], "detail": detail, "text": text[:REJECT_CHARS]}
            )

    # ------------------------------------------------------------------------------------------------ asked

    @property
    def read(self) -> int:
        """Examples that were read."""
        return sum(tally.read for tally in self.by_source.values())

    def kept(self, split: str) -> int:
        """Examples of a split."""
        return sum(tally.kept[split] for tally in self.by_source.values())

    @property
    def rejected(self) -> Counter[str]:
        """Examples that were set aside, by reason."""
        return sum((tally.rejected for tally in self.by_source.values()), Counter[str]())

    def report(self) -> dict[str, Any]:
        """Everything, for JSON and the page."""
        whole = Tally()
        for tally in self.by_source.values():
            whole.join(tally)
        histograms = {
            name: {"edges": self._edges, **{part: self._bins[name, part] for part in parts}}
            for name, parts in (("lengths", SPLITS), ("answers", SIDES[self.kind]))
            if parts
        }
        return {
            "kind": self.kind,
            **whole.report(self.kind),
            "by_source": {name: tally.report(self.kind) for name, tally in self.by_source.items()},
            **histograms,
            "examples": [shown for listed in self._examples.values() for _, shown in listed],
            "rejects": {reason: self.rejects[reason] for reason in REASONS if reason in self.rejects},
        }


def _shown(encoded: Encoded) -> dict[str, Any]:
    """An example for a person, its texts cut; `characters` are those of the whole ones."""
    example = encoded.example
    found: dict[str, Any] = {
        "prompt": [_cut(turn.content) | {"role": turn.role} for turn in example.prompt],
        "prompt_tokens": len(encoded.prompt),
        "answers": {
            _side(example, name): _cut(text) | {"tokens": len(encoded.answers[name])}
            for name, text in answers_of(example).items()
        },
    }
    if isinstance(example, Pair):
        found["margin"] = example.margin
    if isinstance(example, Prompt):
        found["columns"] = _cut(orjson.dumps(example.columns).decode())
    return found


def _cut(text: str) -> dict[str, Any]:
    return {"text": text[:EXAMPLE_CHARS], "characters": len(text)}
