"""What happened to a chunk: counts that reconcile, and samples to look at.

Each step is entered with documents and left with documents; between the two some are rejected, some are made by
splitting, and `leave` asserts that nothing else happened. Samples are chosen by a hash of the text, or by how near a
value is to the threshold, so that the same corpus shows the same samples whatever the order or the number of processes.
Everything is written as JSON beside the chunk and added up by summary.py.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from jielong.data.compiled import kernel
from jielong.data.measuring.columns import COLUMNS
from jielong.data.measuring.filters import breaks
from jielong.data.pipeline.chunks import Reject
from jielong.data.pipeline.docs import Docs
from jielong.data.steps import Rule

EDIT_SAMPLES = 6  # of each kind of edit
RULE_SAMPLES = 10  # of each rule, by chance; and as many next to the threshold
SAMPLE_CHARS = 2_000
CHANCE_CHARS = 200  # of a text that decide whether it is a sample
SOME_DOCUMENTS = 200  # of a chunk among which samples of what stays are chosen
FACTOR, MASK = 0x9E3779B97F4A7C15, 2**64 - 1  # of a multiplicative hash
AROUND_CHARS = 60  # kept of a text on both sides of an edit
EDIT_CHARS = 400
REPEATED = 200  # most frequent lines kept of a chunk
BINS_RATIO, BINS_PER_DECADE, DECADES = 100, 12, 7

_LONG_RUN = re.compile(r"(?<=[0-9A-Za-z]{2})[0-9A-Za-z]|(?<=[0-9A-Za-z]{2}[- ])[0-9]|(?<=•[- ])[0-9]")

Sample = dict[str, Any]


class Sampler:
    """The few samples of the smallest keys."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.rows: list[Sample] = []
        self.bound = float("inf")

    def wants(self, key: float) -> bool:
        """Whether a sample of this key would be kept: ask before making it."""
        return key < self.bound

    def add(self, key: float, sample: Sample) -> None:
        """Add one; the largest key leaves when there are too many."""
        self.rows.append({"key": key} | sample)
        if len(self.rows) >= 4 * self.limit:
            self._shrink()

    def sorted(self) -> list[Sample]:
        """The samples, smallest key first."""
        self._shrink()
        return self.rows

    def _shrink(self) -> None:
        self.rows = smallest(self.rows, self.limit)
        if len(self.rows) == self.limit:
            self.bound = self.rows[-1]["key"]


def nearest(rows: NDArray[np.int64], distance: NDArray[np.float64]) -> list[int]:
    """The RULE_SAMPLES rows of the smallest distance."""
    values = distance[rows]
    if len(rows) > RULE_SAMPLES:
        rows = rows[values <= np.partition(values, RULE_SAMPLES - 1)[RULE_SAMPLES - 1]]
    found: list[int] = rows[np.argsort(distance[rows], kind="stable")][:RULE_SAMPLES].tolist()
    return found


def smallest(rows: list[Sample], limit: int) -> list[Sample]:
    """The rows of the smallest keys, in order; ties by text, so that the order of adding has no part in it."""
    return sorted(rows, key=lambda row: (row["key"], str(row.get("text", row.get("before", "")))))[:limit]


def chance(text: str) -> float:
    """A number in [0, 1) from a hash."""
    return xxhash.xxh3_64_intdigest(text[:CHANCE_CHARS].encode("utf-8")) / 2**64


@cache
def salt(name: str) -> int:
    """A number that stands for a name."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8"))


def edges_of(column: str) -> NDArray[np.float64]:
    """The edges of a column's histogram: even ones for shares, logarithmic ones (after 0) for counts and lengths."""
    if COLUMNS[column].unit.startswith(("of ", "per word")):
        return np.linspace(0, 1, BINS_RATIO + 1)
    steps = np.arange(BINS_PER_DECADE * DECADES + 1) / BINS_PER_DECADE
    return np.concatenate([[0.0], 10.0**steps])


def histogram(column: str, values: NDArray[Any]) -> list[int]:
    """How many values fall between the edges; what lies outside falls into the last bin, what is missing nowhere."""
    edges = edges_of(column)
    counts = np.zeros(len(edges) - 1, np.int64)
    _count(np.asarray(values, np.float64), edges, edges[-1] == 1, counts)
    found: list[int] = counts.tolist()
    return found


@kernel
def _count(values, edges, even, counts):  # type: ignore[no-untyped-def]
    """As numpy.histogram of the values cut off at the first and last edge, without sorting them.

    even: the edges stand at even distances from 0 to 1, so that a value's bin can be guessed."""
    bins = len(counts)
    for value in values:
        if not np.isfinite(value):
            continue
        place, left = 0, bins
        if even:
            place = int(min(max(value, 0.0), 1.0) * bins)
            place -= place == bins
            place -= edges[place] > value and place > 0
            place += place + 1 < bins and edges[place + 1] <= value
        else:
            while left > 1:  # halved without a branch that is hard to foresee
                half = left // 2
                place += half * (edges[place + half] <= value)
                left -= half
        counts[place] += 1


class Recorder:
    """Counts and samples of one pass over one chunk, and the documents that left in it."""

    def __init__(self, sources: tuple[str, ...], files: tuple[tuple[int, str, str], ...]) -> None:
        self.sources, self.files = sources, files
        self.rejects: list[Reject] = []
        self.steps: dict[str, dict[str, Any]] = {}
        self.columns: dict[str, list[int]] = {}
        self._samples: dict[tuple[str, str, str], Sampler] = {}
        self._repeated: dict[str, Counter[str]] = {}

    def enter(self, label: str, sources: NDArray[Any], chars: int) -> None:
        """Documents (the source of each) come to a step."""
        by_source = np.bincount(sources, minlength=len(self.sources)).tolist()
        self.steps[label] = {
            "in": len(sources),
            "out": 0,
            "added": 0,
            "edited": 0,
            "chars_in": chars,
            "chars_out": 0,
            "edits": Counter[str](),
            "rejected": Counter[str](),
            "by_source": {
                name: {"in": count, "out": 0, "added": 0, "edited": 0, "rejected": Counter[str]()}
                for name, count in zip(self.sources, by_source, strict=True)
                if count
            },
        }

    def leave(self, label: str, sources: NDArray[Any], chars: int) -> None:
        """What is left goes on; the counts must be right."""
        step = self.steps[label]
        step["out"], step["chars_out"] = len(sources), chars
        by_source = np.bincount(sources, minlength=len(self.sources)).tolist()
        for name, row in step["by_source"].items():
            row["out"] = by_source[self.sources.index(name)]
            assert row["in"] + row["added"] == row["out"] + row["rejected"].total(), (label, name, row)
        assert step["in"] + step["added"] == step["out"] + step["rejected"].total(), (label, step)

    def reject(self, row: Reject, secret: bool = False) -> None:
        """A document leaves. `secret`: its sample shows only the form of its numbers and names."""
        step, source = self.steps[row.step], self.sources[int(row.place["source"])]
        self.rejects.append(row)
        step["rejected"][row.rule] += 1
        step["by_source"][source]["rejected"][row.rule] += 1
        key = chance(row.text)
        sampler = self._sampler(row.step, row.rule, "rejected", RULE_SAMPLES)
        if sampler.wants(key):
            text = hidden(row.text) if secret else row.text
            sampler.add(key, self._sample(text, row.place) | {"detail": row.detail, "like": row.like})

    def edited(
        self, label: str, before: str, after: str, place: Any, edits: Counter[str], secret: bool = False
    ) -> None:
        """A step changed a text. `secret`: what it took away is not to be shown, only its form."""
        step = self.steps[label]
        step["edited"] += 1
        step["by_source"][self.sources[place["source"]]]["edited"] += 1
        counts = step["edits"]
        for kind, number in edits.items():  # Counter.update is written in Python
            counts[kind] += number
        luck = xxhash.xxh3_64_intdigest(before[:CHANCE_CHARS].encode("utf-8"))
        samplers = self._samples
        for kind in edits:
            key = ((luck ^ salt(kind)) * FACTOR & MASK) / 2**64
            sampler = samplers.get((label, kind, "edit")) or self._sampler(label, kind, "edit", EDIT_SAMPLES)
            if key < sampler.bound:
                sampler.add(key, {"before": before, "after": after, "secret": secret, "place": place})

    def split(self, label: str, place: Any, pieces: int) -> None:
        """A document became several."""
        step = self.steps[label]
        row = step["by_source"][self.sources[int(place["source"])]]
        for counts in (step, row):
            counts["added"] += pieces - 1
            counts["edited"] += 1
        step["edits"]["cut"] += pieces - 1

    def copied(self, label: str, kind: str, text: str, copies: list[str], place: Any) -> None:
        """A document got copies."""
        step = self.steps[label]
        row = step["by_source"][self.sources[int(place["source"])]]
        for counts in (step, row):
            counts["added"] += len(copies)
        step["edits"][kind] += len(copies)
        key = ((xxhash.xxh3_64_intdigest(text[:CHANCE_CHARS].encode("utf-8")) ^ salt(kind)) * FACTOR & MASK) / 2**64
        sampler = self._sampler(label, kind, "edit", EDIT_SAMPLES)
        if sampler.wants(key):
            sampler.add(key, {"before": text, "after": copies[0], "secret": False, "place": place})

    def measured(self, docs: Docs) -> None:
        """The columns are there: their histograms, before any filter."""
        self.columns = {
            name: histogram(name, values) for name, values in docs.columns.items() if COLUMNS[name].kind != "text"
        }

    def near_thresholds(
        self, label: str, docs: Docs, rows: NDArray[np.int64], stays: NDArray[np.bool_], rules: tuple[Rule, ...]
    ) -> None:
        """For each rule, samples of what stays and of what it rejects next to its threshold, and of what stays by chance.

        rows: the documents that came to the filter; stays: which of them the filter lets stay.
        """
        kept, left = rows[stays], rows[~stays]
        some = kept[:: max(1, len(kept) // SOME_DOCUMENTS)]
        lucky = np.array([xxhash.xxh3_64_intdigest(docs.head(row)) for row in some.tolist()], np.uint64)
        for rule in rules:
            values = docs.columns[rule.column]
            luck = (lucky ^ np.uint64(salt(rule.column))) * np.uint64(FACTOR)
            for at in np.argsort(luck)[:RULE_SAMPLES].tolist():
                row, key = int(some[at]), float(luck[at]) / 2**64
                self._offer(label, rule.column, "kept", key, docs, row, values[row])
            if rule.is_in or values.dtype.kind not in "fiu":
                continue
            limits = [limit for limit in (rule.min, rule.max) if limit is not None]
            distance = np.min([np.abs(values.astype(np.float64) - limit) for limit in limits], axis=0)
            for row in nearest(kept, distance):
                self._offer(label, rule.column, "kept_near", float(distance[row]), docs, row, values[row])
            gone = left[breaks(rule, values[left])]
            for row in nearest(gone, distance):
                self._offer(label, rule.column, "rejected_near", float(distance[row]), docs, row, values[row])

    def repeated_line(self, label: str, line: str) -> None:
        """A line that left because it stands in many documents."""
        self._repeated.setdefault(label, Counter())[line[:EDIT_CHARS]] += 1

    def as_dict(self) -> dict[str, Any]:
        """Everything but the rejects, for JSON."""
        samples: dict[str, dict[str, dict[str, list[Sample]]]] = {}
        for (label, rule, kind), sampler in self._samples.items():
            rows = sampler.sorted()
            if kind == "edit":  # only now, for the few that stay
                rows = [self._edit(row) for row in rows]
            samples.setdefault(label, {}).setdefault(rule, {})[kind] = rows
        return {
            "steps": self.steps,
            "columns": self.columns,
            "samples": samples,
            "repeated": {label: rows.most_common(REPEATED) for label, rows in self._repeated.items()},
        }

    def _offer(self, label: str, rule: str, kind: str, key: float, docs: Docs, row: int, value: Any) -> None:
        sampler = self._sampler(label, rule, kind, RULE_SAMPLES)
        if sampler.wants(key):
            shown = value if isinstance(value, str) else float(value)
            sample = {"text": docs.opening(row, SAMPLE_CHARS), "chars": int(docs.lengths()[row])}
            sampler.add(key, sample | self._place(docs.places[row]) | {"value": shown})

    def _edit(self, row: Sample) -> Sample:
        old, new = around(row["before"], row["after"])
        if row["secret"]:
            old, new = hidden(old), hidden(new)
        return {"key": row["key"], "before": old, "after": new} | self._place(row["place"])

    def _sampler(self, label: str, rule: str, kind: str, limit: int) -> Sampler:
        found = self._samples.get((label, rule, kind))
        if found is None:
            found = self._samples[(label, rule, kind)] = Sampler(limit)
        return found

    def _sample(self, text: str, place: Any) -> Sample:
        return {"text": text[:SAMPLE_CHARS], "chars": len(text)} | self._place(place)

    def _place(self, place: Any) -> Sample:
        file = self.files[int(place["file"])][1]
        return {"source": self.sources[int(place["source"])], "file": file, "line": int(place["line"])}


def around(before: str, after: str) -> tuple[str, str]:
    """Both texts, cut to where they begin to differ."""
    start = same_start(before, after)
    ends = same_end(before[start:], after[start:])
    first, tail = max(0, start - AROUND_CHARS), max(0, ends - AROUND_CHARS)
    old, new = (text[first : len(text) - tail][:EDIT_CHARS] for text in (before, after))
    return old, new


def hidden(text: str) -> str:
    """Numbers and names in Latin letters by their first two characters and their length."""
    return _LONG_RUN.sub("•", text)


def same_start(first: str, second: str) -> int:
    """Characters that two texts have in common at their start, by halving: slices are compared in C."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def same_end(first: str, second: str) -> int:
    """Characters that two texts have in common at their end, in the same way."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[len(first) - middle : len(first) - low] == second[len(second) - middle : len(second) - low]:
            low = middle
        else:
            high = middle - 1
    return low
