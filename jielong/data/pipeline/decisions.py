"""Who leaves: filters, exact duplicates, near-duplicates and repeated lines, decided over all chunks of a pass.

Nothing here reads text but `fragments`, and that only of documents that hold what stands in many. Filters read columns; the others read what the pass wrote beside the documents: digests,
signatures, band hashes, hashes of lines. Files are mapped, digests and hashes are sorted a part at a time, so that memory stays
flat: what grows is 22 bytes a document (its rank, its state, and who it is like) and the pairs that are alike.

The result is one record a document and does not depend on the order of the input: among equals the one of the best rank
stays (chunks.ranks).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.deduplicating import near
from jielong.data.measuring.filters import breaks, rules_of
from jielong.data.mining.counting import Chunk
from jielong.data.mining.listing import Row, read_listing
from jielong.data.mining.mining import Mined, mine
from jielong.data.pipeline.chunks import Stored, array, read_columns, read_documents
from jielong.data.pipeline.plan import Plan
from jielong.data.steps import Exact, Filter, Fragments, Lines, Near, Rule
from jielong.progress import Progress

DECISION = np.dtype([("step", "<i2"), ("rule", "<i2"), ("same", "<i2"), ("other", "<i8")])
STAYS = -1
PART_KEYS = 8_000_000  # digests or line hashes sorted at a time


@dataclass
class Decided:
    """The decisions of a pass: one record a document of each chunk, sets of line hashes, and figures for the report."""

    chunks: list[NDArray[Any]]
    lines: dict[int, NDArray[np.uint64]] = field(default_factory=dict)  # step -> hashes of the lines that leave
    listings: dict[int, list[Row]] = field(default_factory=dict)  # step -> fragments, for a person to read
    figures: dict[int, dict[str, Any]] = field(default_factory=dict)  # step -> what the report shows


class Deciding:
    """The documents of a pass, all chunks one after the other, as numbers."""

    def __init__(self, plan: Plan, work: Path, rows: list[int], source_names: list[str]) -> None:
        self.plan, self.work, self.rows, self.source_names = plan, work, rows, source_names
        self.starts = np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])
        self.total = int(self.starts[-1])
        self.result = np.zeros(self.total, DECISION)
        self.result["step"] = STAYS
        self.result["other"] = STAYS

    @property
    def alive(self) -> NDArray[np.bool_]:
        """The documents that no step has decided against."""
        return np.asarray(self.result["step"] == STAYS)

    def each(self) -> Iterator[tuple[int, slice]]:
        """Chunks and their documents."""
        for number in range(len(self.rows)):
            yield number, slice(int(self.starts[number]), int(self.starts[number + 1]))

    def gather(self, name: str, dtype: Any) -> NDArray[Any]:
        """An array of one value a document, of all chunks."""
        out = np.empty(self.total, dtype)
        for number, part in self.each():
            out[part] = array(self.work, number, name)
        return out

    def taking_part(self, step: int) -> NDArray[np.bool_]:
        """The documents that are still there and that the step works on."""
        mask = self.alive
        works = np.array([self.plan.applies(step, name) for name in self.source_names])
        if not works.all():
            for number, part in self.each():
                mask[part] &= works[array(self.work, number, "places")["source"]]
        return mask

    def run(self, decide: tuple[int, ...]) -> Decided:
        """Decide, step by step."""
        decided = Decided([])
        with Progress("decide", len(decide), "steps") as progress:
            for number in decide:
                step = self.plan.steps[number]
                progress.note(self.plan.labels[number])
                if isinstance(step, Filter):
                    self._filter(number, rules_of(step))
                elif isinstance(step, Exact):
                    self._exact(number)
                elif isinstance(step, Near):
                    decided.figures[number] = self._near(number, step)
                elif isinstance(step, Fragments):
                    mined = self._fragments(number, step)
                    decided.lines[number], decided.listings[number] = mined.gone, mined.rows()
                else:
                    assert isinstance(step, Lines)
                    decided.lines[number] = self._often(number, step.min_documents)
                progress.advance(1)
        decided.chunks = [self.result[part] for _, part in self.each()]
        return decided

    def _filter(self, step: int, rules: tuple[Rule, ...]) -> None:
        mask = self.taking_part(step)
        for chunk, part in self.each():
            columns = read_columns(self.work, chunk, sorted({rule.column for rule in rules}))
            for number, rule in enumerate(rules):
                here = np.flatnonzero(mask[part] & breaks(rule, columns[rule.column]))
                self.result["step"][part.start + here] = step
                self.result["rule"][part.start + here] = number
                mask[part.start + here] = False

    def _exact(self, step: int) -> None:
        """Of each digest, all but the best-ranked leave; a part of the digests at a time."""
        mask = self.taking_part(step)
        rank = self.gather("rank", np.uint64)
        name = f"{step}.digest"
        parts = max(1, -(-self.total // PART_KEYS))
        for part in range(parts):
            numbers, digests = [], []
            for chunk, place in self.each():
                found = array(self.work, chunk, name)
                chosen = mask[place] & (found[:, 0] % np.uint64(parts) == part)
                numbers.append(place.start + np.flatnonzero(chosen))
                digests.append(found[chosen])
            number, digest = np.concatenate(numbers), np.concatenate(digests)
            order = np.lexsort((number, rank[number], digest[:, 1], digest[:, 0]))
            number, digest = number[order], digest[order]
            if not len(number):
                continue
            first = np.concatenate([[True], (digest[1:] != digest[:-1]).any(axis=1)])
            leader = number[np.flatnonzero(first)][np.cumsum(first) - 1]
            gone = number[~first]
            self.result["step"][gone] = step
            self.result["other"][gone] = leader[~first]

    def _near(self, step: int, options: Near) -> dict[str, Any]:
        plan = near.layout(options.similarity, options.permutations)
        mask = self.taking_part(step)
        rank = self.gather("rank", np.uint64)
        bands, signatures = self._rows_of(f"{step}.bands"), self._rows_of(f"{step}.signature")
        gone = near.decide(bands, signatures, rank, mask, plan)
        sizes: dict[int, int] = {}
        for document, (leader, same) in gone.items():
            self.result[document] = (step, 0, same, leader)
            sizes[leader] = sizes.get(leader, 1) + 1
        largest = sorted(sizes.items(), key=lambda item: (-item[1], int(rank[item[0]])))[:20]
        return {
            "similarity": plan.similarity,
            "ngram": options.ngram,
            "permutations": plan.permutations,
            "bands": plan.bands,
            "rows": plan.rows,
            "verify": round(plan.verify_at, 4),
            "curve": near.curve(plan),
            "documents": int(mask.sum()),
            "rejected": len(gone),
            "groups": len(sizes),
            "largest": [{"size": size, "document": document} for document, size in largest],
        }

    def _rows_of(self, name: str) -> Callable[..., NDArray[Any]]:
        """A function that gives the rows of some documents (sorted numbers or not), of one column or of all.

        A chunk's file is open only while its rows are copied: there may be more chunks than files may be open.
        """
        stored = Stored(self.work, name)
        width, dtype = stored[0].shape[1], stored[0].dtype

        def rows(numbers: NDArray[np.int64], column: int | None = None) -> NDArray[Any]:
            out = np.empty((len(numbers), width) if column is None else len(numbers), dtype)
            order: Any = None  # as they are
            if (numbers[1:] < numbers[:-1]).any():
                order = np.argsort(numbers)
                numbers = numbers[order]
            bounds = np.searchsorted(numbers, self.starts)
            for number in np.flatnonzero(np.diff(bounds)).tolist():
                part = slice(int(bounds[number]), int(bounds[number + 1]))
                here, local = part if order is None else order[part], numbers[part] - self.starts[number]
                values = stored[number]
                out[here] = values[local] if column is None else values[local, column]
            return out

        return rows

    def _fragments(self, step: int, options: Fragments) -> Mined:
        """Fragments of the documents that are still there."""
        marks = read_listing(Path(options.listing), options.min_chars) if options.listing else ()
        frequent = self._often(step, options.min_documents)
        return mine(Holders(self, step, frequent), frequent, options, marks)

    def _often(self, step: int, min_documents: int) -> NDArray[np.uint64]:
        """Hashes that stand in at least min_documents of the documents that are still there, sorted."""
        mask = self.taking_part(step)
        name = str(step)
        total = sum(array(self.work, chunk, f"{name}.hashes").shape[0] for chunk, _ in self.each())
        parts = max(1, -(-total // PART_KEYS))
        repeated = []
        for part in range(parts):
            collected = []
            for chunk, place in self.each():
                hashes = np.asarray(array(self.work, chunk, f"{name}.hashes"))
                counts = np.diff(array(self.work, chunk, f"{name}.offsets"))
                chosen = np.repeat(mask[place], counts) & (hashes % np.uint64(parts) == part)
                collected.append(hashes[chosen])
            values, counts = np.unique(np.concatenate(collected), return_counts=True)
            repeated.append(values[counts >= min_documents])
        return np.sort(np.concatenate(repeated))


class Holders:
    """The documents that take part in a step and hold one of some hashes, chunk by chunk, as often as they are asked for."""

    def __init__(self, deciding: Deciding, step: int, hashes: NDArray[np.uint64]) -> None:
        self._deciding, self._step, self._hashes = deciding, step, hashes
        self._mask = deciding.taking_part(step)

    def __iter__(self) -> Iterator[Chunk]:
        work = self._deciding.work
        for chunk, place in self._deciding.each():
            found = array(work, chunk, f"{self._step}.hashes")
            counts = np.diff(array(work, chunk, f"{self._step}.offsets"))
            held = np.repeat(np.arange(len(counts)), counts)[np.isin(found, self._hashes)]
            rows = np.unique(held[self._mask[place][held]])
            if len(rows):
                docs = read_documents(work, chunk).take(rows)
                yield Chunk(*docs.encoded(), docs.places["source"])
