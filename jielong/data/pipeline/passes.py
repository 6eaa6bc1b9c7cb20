"""One pass over one chunk: carry out the last decisions, do the text steps, write what the next pass needs.

The same code runs in the main process and in workers. It reads and writes files of its own chunk only (and looks at
places of other chunks, to say whom a duplicate is like), so chunks can be done in any order, twice, or by another
process after a kill.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from jielong.data.cleaning.cleaner import DropDocument
from jielong.data.cleaning.scan import Scanner, encode
from jielong.data.cleaning.sentences import cut, split_sentences
from jielong.data.deduplicating import fingerprints as prints
from jielong.data.deduplicating import near
from jielong.data.measuring.filters import rules_of
from jielong.data.measuring.terms import Group
from jielong.data.mining.grams import gram_hashes
from jielong.data.mining.removing import removable, remove
from jielong.data.pipeline.chunks import (
    COUNTS,
    DOCUMENTS,
    WORK_LEVEL,
    Publishing,
    Reject,
    array,
    ranks,
    read_documents,
    rejects_table,
    write_documents,
    write_table,
)
from jielong.data.pipeline.decisions import DECISION
from jielong.data.pipeline.docs import PLACE, Docs, Raw, joined
from jielong.data.pipeline.plan import Plan
from jielong.data.pipeline.recorder import Recorder
from jielong.data.pipeline.setup import Cleaners
from jielong.data.steps import Decontaminate, Exact, Filter, Fragments, Lines, Measure, Near, PersonalData, Split

DECIDED = "decided"  # folder of a pass's decisions


@dataclass(frozen=True)
class Setting:
    """What every chunk of a run has in common; sent to each worker once."""

    plan: Plan
    folders: tuple[str, ...]  # of each pass
    sources: tuple[str, ...]
    files: tuple[tuple[int, str, str], ...]  # of each file: source, path to show, name within the source
    models: tuple[tuple[int, str], ...]  # measure steps with trusted sources, and the file of each one's model
    seed: int
    validation_fractions: tuple[float, ...]  # of each source
    balance: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Task:
    """One chunk of one pass; `raw` for the first pass only."""

    number: int
    at: int  # the pass
    raw: Raw | None = None


class Worker:
    """Does chunks. Tables and cleaners are made once."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.plan = setting, setting.plan
        self._cleaners = Cleaners(setting.plan, dict(setting.models))
        self._scanners: dict[int, tuple[Scanner, dict[int, int]]] = {}
        self._decided: tuple[int, dict[int, NDArray[np.uint64]]] = (-1, {})
        self._places: tuple[int, NDArray[Any]] = (-1, np.zeros(0, PLACE))

    def do(self, task: Task) -> int:
        """Make a chunk's folder; returns its number."""
        out = Path(self.setting.folders[task.at])
        recorder = Recorder(self.setting.sources, self.setting.files)
        if task.at == 0:
            assert task.raw is not None
            docs = self._from_raw(task.raw, recorder)
        else:
            docs = self._carry_out(task.number, task.at - 1, recorder)
        docs = self._text_steps(docs, task.at, recorder)
        docs.columns["text_len"] = docs.lengths()
        with Publishing(out, task.number, os.getpid()) as folder:
            if task.at + 1 < len(self.plan.passes):
                self._write_keys(folder, docs, self.plan.passes[task.at].decide)
                write_documents(folder / DOCUMENTS, docs)
                np.save(folder / "places.npy", docs.places, allow_pickle=False)
                write_table(folder / "rejects.parquet", rejects_table(recorder.rejects), WORK_LEVEL, ("step", "rule"))
                extra = {}
            else:
                extra = self._write_documents(folder, docs, task, recorder)
            if task.raw is not None:
                extra["end"] = list(task.raw.end)
            value = recorder.as_dict() | {"rows": len(docs)} | extra
            (folder / COUNTS).write_bytes(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        return task.number

    # ---------------------------------------------------------------------------------------------- coming in

    def _from_raw(self, raw: Raw, recorder: Recorder) -> Docs:
        docs = Docs.of(raw)
        bad = np.array([row[0] for row in raw.bad], docs.places.dtype)
        came_in = np.concatenate([docs.places["source"], bad["source"]])
        recorder.enter("read", came_in, sum(map(len, raw.texts)))
        for place, (_, reason, detail, text) in zip(bad, raw.bad, strict=True):
            recorder.reject(Reject(text, place, "read", reason, detail))
        recorder.leave("read", docs.places["source"], sum(map(len, raw.texts)))
        return docs

    def _carry_out(self, number: int, at: int, recorder: Recorder) -> Docs:
        """The documents of the pass before, without those that were decided against and the lines that go."""
        work = Path(self.setting.folders[at])
        decided = work / DECIDED
        docs = read_documents(work, number)
        decision = np.load(decided / f"{number:05d}.npy", allow_pickle=False)
        assert decision.dtype == DECISION and len(decision) == len(docs)
        state, lengths = decision["step"], docs.columns["text_len"]
        alive = np.arange(len(docs))
        for step in self.plan.passes[at].decide:
            label, options = self.plan.labels[step], self.plan.steps[step]
            recorder.enter(label, docs.places["source"][alive], int(lengths[alive].sum()))
            stays = state[alive] != step
            if isinstance(options, Filter):
                recorder.near_thresholds(label, docs, alive, stays, rules_of(options))
            for row in alive[~stays].tolist():
                recorder.reject(self._decided_reject(docs, row, decision[row], step, at))
            alive = alive[stays]
            if isinstance(options, Fragments):  # nothing is decided behind it in this pass
                docs = self._remove_fragments(docs.take(alive), step, options, self._lines_of(at)[step], recorder)
                recorder.leave(label, docs.places["source"], int(docs.lengths().sum()))
                return docs
            if isinstance(options, Lines):  # nor here
                gone = self._lines_of(at)[step]
                has = _has_any(array(work, number, f"{step}.hashes"), array(work, number, f"{step}.offsets"), gone)
                docs = self._remove_lines(docs.take(alive), np.flatnonzero(has[alive]), step, options, gone, recorder)
                recorder.leave(label, docs.places["source"], int(docs.lengths().sum()))
                return docs
            recorder.leave(label, docs.places["source"][alive], int(lengths[alive].sum()))
        return docs.take(alive)

    def _decided_reject(self, docs: Docs, row: int, decision: Any, step: int, at: int) -> Reject:
        options, label = self.plan.steps[step], self.plan.labels[step]
        text, place = docs.text(row), docs.places[row]
        if isinstance(options, Filter):
            rule = rules_of(options)[int(decision["rule"])]
            value = docs.columns[rule.column][row]
            shown = value if isinstance(value, str) else f"{float(value):.6g}"
            bound = [
                f"{name} is {limit:g}" for name, limit in (("min", rule.min), ("max", rule.max)) if limit is not None
            ]
            bound += [f"may be {', '.join(rule.is_in)}"] if rule.is_in else []
            return Reject(text, place, label, rule.column, f"{shown}; {', '.join(bound)}")
        like = (at, int(decision["other"]))
        found = self._place(at, like[1])
        where = f"{self.setting.files[int(found['file'])][1]}:{int(found['line'])}"
        if isinstance(options, Exact):
            return Reject(text, place, label, "duplicate", f"the same text is at {where}", like)
        assert isinstance(options, Near)
        similarity = near.estimate(int(decision["same"]), options.permutations)
        return Reject(text, place, label, "near_duplicate", f"similarity {similarity:.2f} with {where}", like)

    def _place(self, at: int, document: int) -> Any:
        """The place of a document of a pass."""
        if self._places[0] != at:
            path = Path(self.setting.folders[at]) / DECIDED / "places.npy"
            self._places = (at, np.load(path, mmap_mode="r", allow_pickle=False))
        return self._places[1][document]

    def _lines_of(self, at: int) -> dict[int, NDArray[np.uint64]]:
        if self._decided[0] != at:
            folder = Path(self.setting.folders[at]) / DECIDED
            steps = [n for n in self.plan.passes[at].decide if isinstance(self.plan.steps[n], Lines | Fragments)]
            self._decided = (at, {n: np.load(folder / f"lines-{n}.npy", allow_pickle=False) for n in steps})
        return self._decided[1]

    def _remove_lines(
        self,
        docs: Docs,
        rows: NDArray[np.int64],
        step: int,
        options: Lines,
        gone: NDArray[np.uint64],
        recorder: Recorder,
    ) -> Docs:
        """Take the lines away from the documents that have any (rows)."""
        label, some = self.plan.labels[step], docs.take(rows)
        hashes, starts = self._unit_hashes(some, options)
        hit = np.isin(hashes, gone)
        works = np.array([self.plan.applies(step, name) for name in self.setting.sources])[docs.places["source"]]
        keep = np.ones(len(docs), np.bool_)
        replaced: dict[int, str] = {}
        for at, row in enumerate(rows.tolist()):
            if not works[row]:
                continue
            text, bad = some.text(at), hit[starts[at] : starts[at + 1]]
            units = units_of(text, options.unit)
            for unit, goes in zip(units, bad, strict=True):
                if goes:
                    recorder.repeated_line(label, unit.strip())
            new = "".join(unit for unit, goes in zip(units, bad, strict=True) if not goes).strip("\n")
            recorder.edited(label, text, new, docs.places[row], Counter({options.unit: int(bad.sum())}))
            replaced[row] = new
            if not new.strip():
                keep[row] = False
                recorder.reject(Reject(text, docs.places[row], label, "empty", "every line of it is a repeated one"))
        docs.replace(replaced)
        return docs.take(np.flatnonzero(keep))

    def _remove_fragments(
        self, docs: Docs, step: int, options: Fragments, gone: NDArray[np.uint64], recorder: Recorder
    ) -> Docs:
        """Cut the fragments out of the documents that hold any."""
        label, keep = self.plan.labels[step], np.ones(len(docs), np.bool_)
        works = np.array([self.plan.applies(step, name) for name in self.setting.sources])[docs.places["source"]]
        replaced: dict[int, str] = {}
        for row in np.flatnonzero(works & removable(*docs.encoded(), gone, options.min_chars)).tolist():
            text = docs.text(row)
            new, cuts = remove(text, gone, options.min_chars)
            if not cuts:
                continue
            for piece in cuts:
                recorder.repeated_line(label, piece.strip())
            recorder.edited(label, text, new, docs.places[row], Counter({"fragment": len(cuts)}))
            replaced[row] = new
            if not new.strip():
                keep[row] = False
                recorder.reject(Reject(text, docs.places[row], label, "empty", "it holds nothing but mined adverts"))
        docs.replace(replaced)
        return docs.take(np.flatnonzero(keep))

    def _unit_hashes(self, docs: Docs, options: Lines) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """A hash for each line or sentence; sentences are laid out as lines for it."""
        data, offsets = docs.encoded()
        if options.unit == "sentence":
            parts = (units_of(text, "sentence") for text in docs.texts)
            data, offsets = encode(["\n".join(unit.replace("\n", " ") for unit in units) for units in parts])
        return prints.unit_hashes(data, offsets, options.min_han, docs.places["source"].astype(np.int64))

    # ------------------------------------------------------------------------------------------------- on text

    def _text_steps(self, docs: Docs, at: int, recorder: Recorder) -> Docs:
        scanner, bits = self._scanner(at)
        flags = scanner.flags(*docs.encoded()) if bits else np.zeros(len(docs), np.uint32)
        chars = int(docs.lengths().sum()) if self.plan.passes[at].text else 0
        for step in self.plan.passes[at].text:
            label, options = self.plan.labels[step], self.plan.steps[step]
            recorder.enter(label, docs.places["source"], chars)
            works = np.array([self.plan.applies(step, name) for name in self.setting.sources])[docs.places["source"]]
            if isinstance(options, Measure):
                docs.columns |= self._cleaners.columns(step, docs)
                recorder.measured(docs)
            elif isinstance(options, Split):
                docs, flags = self._split(docs, flags, works, label, options, recorder)
                if bits:
                    flags = scanner.flags(*docs.encoded())  # a piece has ends of its own
            else:
                mask = works & (flags & np.uint32(1 << bits[step]) != 0)
                if isinstance(options, Decontaminate):  # a look at all texts at once is the faster one
                    mask &= self._cleaners.leaky(step, docs)
                chosen = np.flatnonzero(mask)
                behind = scanner if step != max(bits) else None
                docs, flags = self._clean(docs, flags, chosen, step, behind, recorder)
            chars = int(docs.lengths().sum())
            recorder.leave(label, docs.places["source"], chars)
        return docs

    def _scanner(self, at: int) -> tuple[Scanner, dict[int, int]]:
        if at not in self._scanners:
            steps = [step for step in self.plan.passes[at].text if step in self._cleaners.texts]
            triggers = [self._cleaners.texts[step].triggers for step in steps]
            self._scanners[at] = Scanner(triggers), {step: bit for bit, step in enumerate(steps)}
        return self._scanners[at]

    def _clean(
        self, docs: Docs, flags: NDArray[np.uint32], chosen: Any, step: int, scanner: Scanner | None, recorder: Recorder
    ) -> tuple[Docs, NDArray[np.uint32]]:
        cleaner, label = self._cleaners.texts[step], self.plan.labels[step]
        secret = isinstance(self.plan.steps[step], PersonalData)
        texts, places, changed, gone = docs.texts, docs.places, dict[int, str](), set()
        edits = Counter[str]()
        for row in chosen.tolist():
            text = texts[row]
            edits.clear()  # those of the document before
            try:
                new = cleaner(text, edits)
            except DropDocument as drop:
                recorder.reject(Reject(text, docs.places[row], label, drop.rule, drop.detail), secret)
                gone.add(row)
                continue
            if new is text:
                continue
            if not new or new.isspace():
                recorder.reject(Reject(text, docs.places[row], label, "empty", f"nothing is left of it: {dict(edits)}"))
                gone.add(row)
                continue
            recorder.edited(label, text, new, places[row], edits, secret)
            changed[row] = new
        encoded = docs.replace(changed)
        if changed and scanner is not None:  # a step behind may have something to do now
            flags[list(changed)] = scanner.flags(*joined(encoded))
        if gone:
            keep = np.array([row for row in range(len(docs)) if row not in gone], np.int64)
            docs, flags = docs.take(keep), flags[keep]
        return docs, flags

    def _split(
        self, docs: Docs, flags: NDArray[np.uint32], works: Any, label: str, options: Split, recorder: Recorder
    ) -> tuple[Docs, NDArray[np.uint32]]:
        long = np.flatnonzero(works & (docs.lengths() > options.max_chars)).tolist()
        if not long:
            return docs, flags
        parts = {row: cut(docs.texts[row], options.max_chars) for row in long}
        rows = np.repeat(np.arange(len(docs)), [len(parts.get(row, (0,))) for row in range(len(docs))])
        split = docs.take(rows)
        assert split is not docs
        at, pieces_at = 0, dict[int, str]()
        for row in range(len(docs)):
            pieces = parts.get(row)
            if pieces is None:
                at += 1
                continue
            assert "".join(pieces) == docs.texts[row]
            first = int(docs.places[row]["part"])
            for number, piece in enumerate(pieces):
                pieces_at[at] = piece
                split.places[at]["part"] = first * 10_000 + number + 1  # a part of a part: both can be read
                at += 1
            recorder.split(label, docs.places[row], len(pieces))
        split.replace(pieces_at)
        return split, flags

    # -------------------------------------------------------------------------------------------------- writing

    def _write_keys(self, folder: Path, docs: Docs, decide: tuple[int, ...]) -> None:
        """What the deciding steps of this pass compare by."""
        names = [(self.setting.sources[source], name) for source, _, name in self.setting.files]
        np.save(folder / "rank.npy", ranks(docs, names), allow_pickle=False)
        data, offsets = docs.encoded()
        folded = None
        for step in decide:
            options = self.plan.steps[step]
            if isinstance(options, Exact | Near) and folded is None:
                folded = prints.normalise(data, offsets)
            if isinstance(options, Exact):
                assert folded is not None
                found = prints.digests(*folded) if options.normalise else prints.raw_digests(docs.texts)
                np.save(folder / f"{step}.digest.npy", found, allow_pickle=False)
            elif isinstance(options, Near):
                assert folded is not None
                plan = near.layout(options.similarity, options.permutations)
                lows, bands = prints.signatures(*folded, options.ngram, plan.permutations, plan.bands, plan.rows)
                np.save(folder / f"{step}.signature.npy", lows, allow_pickle=False)
                # by column: they are read a band at a time
                np.save(folder / f"{step}.bands.npy", np.asfortranarray(bands), allow_pickle=False)
            elif isinstance(options, Fragments):
                hashes, starts = gram_hashes(data, offsets, options.min_chars)
                np.save(folder / f"{step}.hashes.npy", hashes, allow_pickle=False)
                np.save(folder / f"{step}.offsets.npy", starts, allow_pickle=False)
            elif isinstance(options, Lines):
                hashes, starts = prints.distinct(*self._unit_hashes(docs, options))
                np.save(folder / f"{step}.hashes.npy", hashes, allow_pickle=False)
                np.save(folder / f"{step}.offsets.npy", starts, allow_pickle=False)

    def _write_documents(self, folder: Path, docs: Docs, task: Task, recorder: Recorder) -> dict[str, Any]:
        from jielong.data.pipeline.final import write_final  # it knows the formats that leave the stage

        return write_final(folder, docs, task, self.setting, recorder)


def _has_any(hashes: NDArray[np.uint64], starts: NDArray[np.int64], wanted: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which documents have one of the wanted hashes."""
    before = np.concatenate([[0], np.cumsum(np.isin(hashes, wanted))])
    return np.asarray(before[starts[1:]] > before[starts[:-1]])


def units_of(text: str, unit: str) -> list[str]:
    """The lines (with their ends) or sentences of a text; together they are the text."""
    if unit == "sentence":
        return split_sentences(text)
    *lines, last = text.split("\n")
    return [*(line + "\n" for line in lines), last]


def document_starts(work: Path) -> NDArray[np.int64]:
    """The number of the first document of each chunk of a pass."""
    starts: NDArray[np.int64] = np.load(work / DECIDED / "starts.npy", allow_pickle=False)
    return starts


def find_row(work: Path, document: int) -> tuple[int, int]:
    """Chunk and row of a document's number within a pass."""
    starts = document_starts(work)
    chunk = int(np.searchsorted(starts, document, side="right")) - 1
    return chunk, document - int(starts[chunk])
