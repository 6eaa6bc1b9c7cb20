"""All chunks added up: the counts of the manifest and the dictionary that report.json holds and page.py draws.

Nothing is measured here. What the chunks counted is added; samples of the smallest keys stay; the partners of rejected
duplicates are fetched from the work files. The result depends on the corpus and the recipe alone.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jielong.data.cleaning.decontaminate import open_index
from jielong.data.config import Config, Source
from jielong.data.measuring import associations
from jielong.data.measuring.balance import merge
from jielong.data.measuring.columns import COLUMNS
from jielong.data.measuring.filters import rules_of
from jielong.data.pipeline.chunks import array, finished, read_counts, read_texts
from jielong.data.pipeline.final import HOLD_OUT
from jielong.data.pipeline.passes import DECIDED, Setting, find_row
from jielong.data.pipeline.plan import step_values
from jielong.data.pipeline.recorder import EDIT_SAMPLES, RULE_SAMPLES, SAMPLE_CHARS, Sample, edges_of, smallest
from jielong.data.steps import Decontaminate, Filter, Fragments, Lines, Near
from jielong.storage import AnyFile, size_of

SHOWN_LINES = 40
TOP_CHARACTERS = 60
COVERAGE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 8000)
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
GROUP_CHARS = 120
OPEN_CHUNKS = 4
MERGE_AT = 16


class Summary:
    """The counts of every chunk of every pass, added up."""

    def __init__(self, setting: Setting, config: Config, files: list[tuple[Source, AnyFile]]) -> None:
        self.setting, self.config, self.files = setting, config, files
        self.steps: dict[str, dict[str, Any]] = {}
        self.columns: dict[str, list[int]] = {}
        self._samples: dict[str, dict[str, dict[str, list[Sample]]]] = {}
        self._removed: dict[str, Counter[str]] = {}
        self.final: dict[str, Any] = {}
        self._remaining: Counter[str] = Counter()
        self._extremes: dict[str, list[Any]] = {}
        self.preview: list[tuple[str, str]] = []
        self._balance: list[dict[str, Any]] = []
        self._open: dict[tuple[Path, int], Any] = {}
        for folder in setting.folders:
            measured: dict[str, list[int]] = {}  # of this pass; a later measure replaces an earlier one
            for number in finished(Path(folder)):
                chunk = read_counts(Path(folder), number)
                add(measured, chunk["columns"])
                self._add(chunk)
            self.columns = measured or self.columns
        self.train, self.validation = int(self.final["train"]), int(self.final["validation"])
        self.read = int(self.steps["read"]["in"])
        self.added = sum(int(step["added"]) for step in self.steps.values())
        self.kept = self.train + self.validation
        self.rejected: Counter[str] = Counter()
        for step in self.steps.values():
            self.rejected.update(step["rejected"])
        self._reconcile()

    def _reconcile(self) -> None:
        plan = self.setting.plan
        made = [plan.labels[number] for number in plan.copying]
        order = ["read", *plan.labels[: len(plan.labels) - len(made)], HOLD_OUT, *made]
        self.steps = {label: self.steps[label] for label in order}
        before = self.read
        for label, step in self.steps.items():
            assert step["in"] == before, f"records are lost before {label}: {step['in']} of {before}"
            before = step["out"]
            assert step["in"] + step["added"] == step["out"] + sum(step["rejected"].values()), (label, step)
        assert before == self.kept and self.read + self.added == self.kept + self.rejected.total()

    def _add(self, chunk: dict[str, Any]) -> None:
        add(self.steps, chunk["steps"])
        for label, rules in chunk["samples"].items():
            for rule, kinds in rules.items():
                for kind, rows in kinds.items():
                    limit = EDIT_SAMPLES if kind == "edit" else RULE_SAMPLES
                    place = self._samples.setdefault(label, {}).setdefault(rule, {})
                    place[kind] = smallest(place.get(kind, []) + rows, limit)
        for label, lines in chunk["repeated"].items():
            self._removed.setdefault(label, Counter()).update(dict(lines))
        if "balance" in chunk:
            self._balance.append(chunk["balance"])
            if len(self._balance) == MERGE_AT:  # the parts of a large corpus are not all held at once
                self._balance = [merge(self._balance)]
        if "final" in chunk:
            final = chunk["final"]
            self._remaining.update(dict(final.pop("repeated")))
            self.preview += [(source, text) for source, text in final.pop("preview")][: 3 - len(self.preview)]
            for name, (split, identity) in final.pop("extremes").items():
                known = self._extremes.get(name)
                nearer = known is None or (split < known[0] if name == "train" else split > known[0])
                self._extremes[name] = [split, identity] if nearer else known  # type: ignore[assignment]
            add(self.final, final)

    def extreme(self) -> str:
        """The id of the document next to the border between the splits."""
        return str(self._extremes["train" if self.train else "validation"][1])

    def move(self) -> None:
        """One document went to the split that was empty."""
        step = 1 if self.train else -1
        self.train, self.validation = self.train - step, self.validation + step
        assert self.train > 0 and self.validation > 0

    # ---------------------------------------------------------------------------------------------- the manifest

    def counts(self) -> dict[str, Any]:
        """The counts of the manifest."""
        rejected = self._rejected_by_source()
        read = self.steps["read"]["by_source"]
        return {
            "read": self.read,
            "added": self.added,
            "kept": self.kept,
            "train": self.train,
            "validation": self.validation,
            "rejected": dict(sorted(self.rejected.items())),
            "chars": sum(self.final["chars"].values()),
            "bytes": sum(self.final["bytes"].values()),
            "raw_bytes": sum(size_of(path) for _, path in self.files),
            "steps": [
                {"step": label, "in": step["in"], "kept": step["out"] - step["added"], "added": step["added"],
                 "rejected": sum(step["rejected"].values()), "edited": step["edited"],
                 "rules": dict(sorted(step["rejected"].items()))}
                for label, step in self.steps.items()
            ],
            "by_source": {
                name: {
                    "read": read.get(name, {"in": 0})["in"],
                    "added": sum(step["by_source"].get(name, {"added": 0})["added"] for step in self.steps.values()),
                    "kept": self.final["kept"][name],
                    "chars": self.final["chars"][name],
                    "bytes": self.final["bytes"][name],
                    "rejected": dict(sorted(rejected[name].items())),
                }
                for name in self.setting.sources
            },
        }  # fmt: skip

    def _rejected_by_source(self) -> dict[str, Counter[str]]:
        found: dict[str, Counter[str]] = {name: Counter() for name in self.setting.sources}
        for step in self.steps.values():
            for name, row in step["by_source"].items():
                found[name].update(row["rejected"])
        return found

    # ------------------------------------------------------------------------------------------------ the report

    def report(self, run: str) -> dict[str, Any]:
        """What report.json holds."""
        counts = self.counts()
        totals = {name: counts[name] for name in ("read", "kept", "added", "chars", "bytes", "raw_bytes")}
        languages: Counter[str] = Counter()
        for row in self.final["languages"].values():
            languages.update(row)
        return {
            "format": 1,
            "run": run,
            "totals": totals | {"rejected": self.rejected.total()},
            "sources": self._sources(counts),
            "steps": [self._step(label, step) for label, step in self.steps.items()],
            "columns": [self._column(name) for name in COLUMNS if name in self.columns or name == "text_len"],
            "rules": self._rules(),
            "near": self._near(),
            "lines": self._lines(),
            "fragments": self._fragments(),
            "repeated": [{"text": text, "count": count} for text, count in most(self._remaining)],
            "lengths": {"edges": edges_of("text_len").tolist(), **self.final["lengths"]},
            "languages": dict(languages.most_common()),
            "characters": self._characters(),
            "balance": self._balanced(),
            "evaluation": self._evaluation(),
        }

    def listing(self, step: int) -> Path:
        """The file that lists the fragments of a step."""
        at = next(number for number, row in enumerate(self.setting.plan.passes) if step in row.decide)
        return Path(self.setting.folders[at]) / DECIDED / f"fragments-{step}.tsv"

    def _fragments(self) -> list[dict[str, Any]]:
        """Of each step `fragments`: how many were listed and marked, and the most frequent."""
        found = []
        for number, (label, step) in enumerate(zip(self.setting.plan.labels, self.setting.plan.steps, strict=True)):
            if isinstance(step, Fragments):
                head, *lines = self.listing(number).read_text(encoding="utf-8").splitlines()
                listed = [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]
                marked = [row for row in listed if row["action"] == "remove"]
                shown = marked[:SHOWN_LINES] + [row for row in listed if row["action"] != "remove"][:SHOWN_LINES]
                found.append({"step": label, "listed": len(listed), "marked": len(marked), "rows": shown})
        return found

    def _balanced(self) -> dict[str, Any]:
        """Shares and neighbours of the terms that the recipe names."""
        if not self._balance:
            return {}
        chars = {name: self.final["own_chars"][name] for name in self.setting.sources}
        return associations.summary(merge(self._balance), list(self.config.balance), chars)

    def _evaluation(self) -> list[dict[str, Any]]:
        """Of each evaluation file that was looked for: its items, and those that could not be."""
        found = []
        for label, step in zip(self.setting.plan.labels, self.setting.plan.steps, strict=True):
            if isinstance(step, Decontaminate):
                rejected = self.steps[label]["rejected"]
                for row in open_index(step).counts:
                    found.append({"step": label, "file": row.label, "items": row.items, "joined": row.joined,
                                  "too_short": row.too_short, "documents": rejected.get(row.label, 0)})  # fmt: skip
        return found

    def _sources(self, counts: dict[str, Any]) -> list[dict[str, Any]]:
        rows = []
        for source in self.config.sources:
            mine = [(of, path) for of, path in self.files if of.name == source.name]
            rejected = {
                f"{label}/{rule}": count
                for label, step in self.steps.items()
                for rule, count in step["by_source"].get(source.name, {"rejected": {}})["rejected"].items()
            }
            rows.append(
                {"name": source.name, "licence": source.licence or None, "weight": source.weight, "files": len(mine),
                 "raw_bytes": sum(size_of(path) for _, path in mine),
                 "encodings": dict(sorted(Counter(of.encoding for of, _ in mine).items())),
                 **counts["by_source"][source.name], "rejected": rejected,
                 "languages": self.final["languages"].get(source.name, {})}
            )  # fmt: skip
        return rows

    def _step(self, label: str, step: dict[str, Any]) -> dict[str, Any]:
        labels = self.setting.plan.labels
        options = self.setting.plan.steps[labels.index(label)] if label in labels else None
        samples = [
            {"kind": kind, **bare(row)}
            for kind, kinds in sorted(self._samples.get(label, {}).items())
            for row in kinds.get("edit", [])
        ]
        shown = {} if options is None else {k: v for k, v in step_values(options).items() if k not in ("step", "name")}
        kind = label if options is None else options.step
        by_source = {name: row | {"rejected": sum(row["rejected"].values())} for name, row in step["by_source"].items()}
        return {"name": label, "kind": kind, **step, "by_source": by_source, "options": shown, "samples": samples}

    def _column(self, name: str) -> dict[str, Any]:
        about, edges = COLUMNS[name], edges_of(name)
        kept = self.final["columns"].get(name) or [0] * (len(edges) - 1)
        measured = self.columns.get(name, kept)
        return {
            "name": name,
            "en": about.en,
            "zh": about.zh,
            "unit": about.unit,
            "edges": edges.tolist(),
            "log": bool(edges[-1] > 1),
            "measured": measured,
            "kept": kept,
            "quantiles": quantiles(edges, measured),
            "thresholds": [
                {"step": label, "min": rule.min, "max": rule.max, "because": rule.because,
                 "rejected": self.steps[label]["rejected"].get(name, 0)}
                for label, rule in self._thresholds() if rule.column == name
            ],
        }  # fmt: skip

    def _thresholds(self) -> list[tuple[str, Any]]:
        plan = self.setting.plan
        return [
            (label, rule)
            for label, step in zip(plan.labels, plan.steps, strict=True)
            if isinstance(step, Filter)
            for rule in rules_of(step)
        ]

    def _rules(self) -> list[dict[str, Any]]:
        """Every rule with what it rejected, and what it let stay or what stays in its place."""
        thresholds = {(label, rule.column): rule for label, rule in self._thresholds()}
        keys = [(label, rule) for label, step in self.steps.items() for rule in sorted(step["rejected"])]
        keys += [key for key in thresholds if key not in keys]
        rows = []
        for label, name in keys:
            rule, kinds = thresholds.get((label, name)), self._samples.get(label, {}).get(name, {})
            rejected = once(kinds.get("rejected_near", []) + kinds.get("rejected", []))
            if any(row.get("like") for row in rejected):
                rejected.sort(key=lambda row: row["like"] or [0, 0])  # chunk by chunk
                kept: list[Any] = [self._partner(row["like"]) for row in rejected]
            else:
                kept = [bare(row) for row in once(kinds.get("kept_near", []) + kinds.get("kept", []))]
            rows.append(
                {"step": label, "rule": name, "column": None if rule is None else name,
                 "min": None if rule is None else rule.min, "max": None if rule is None else rule.max,
                 "because": "" if rule is None else rule.because, "count": self.steps[label]["rejected"].get(name, 0),
                 "rejected": [bare(row) for row in rejected], "kept": kept}
            )  # fmt: skip
        return rows

    def _partner(self, like: list[int] | None) -> Sample | None:
        """The document that stays for a rejected one."""
        return None if like is None else self._document(Path(self.setting.folders[like[0]]), like[1], SAMPLE_CHARS)

    def _document(self, work: Path, document: int, limit: int) -> Sample:
        chunk, row = find_row(work, document)
        text = self._texts(work, chunk)[row].as_py()
        place = array(work, chunk, "places")[row]
        return {
            "text": text[:limit],
            "chars": len(text),
            "source": self.setting.sources[int(place["source"])],
            "file": self.setting.files[int(place["file"])][1],
            "line": int(place["line"]),
        }

    def _texts(self, work: Path, chunk: int) -> Any:
        """The texts of a chunk; the last few stay, since samples come from few chunks or in their order."""
        if (work, chunk) not in self._open:
            while len(self._open) >= OPEN_CHUNKS:
                del self._open[next(iter(self._open))]
            self._open[work, chunk] = read_texts(work, chunk)
        return self._open[work, chunk]

    def _near(self) -> list[dict[str, Any]]:
        plan, rows = self.setting.plan, []
        for at, current in enumerate(plan.passes):
            for step in current.decide:
                if isinstance(plan.steps[step], Near):
                    work = Path(self.setting.folders[at])
                    figures = orjson.loads((work / DECIDED / "done.json").read_bytes())["figures"][str(step)]
                    largest = [
                        {"size": row["size"], "text": self._document(work, row["document"], GROUP_CHARS)["text"]}
                        for row in figures["largest"]
                    ]
                    rows.append({"step": plan.labels[step], **figures, "largest": largest})
        return rows

    def _lines(self) -> list[dict[str, Any]]:
        plan = self.setting.plan
        return [
            {"step": label, "unit": step.unit, "min_documents": step.min_documents,
             "removed": [{"text": text, "documents": count} for text, count in most(self._removed.get(label, Counter()))],
             "lines_removed": self.steps[label]["edits"].get(step.unit, 0)}
            for label, step in zip(plan.labels, plan.steps, strict=True) if isinstance(step, Lines)
        ]  # fmt: skip

    def _characters(self) -> dict[str, Any]:
        """Which characters the kept text is made of; the frequent ones are the first level of GB2312."""
        counts = np.zeros(0x110000, np.int64)
        last = Path(self.setting.folders[-1])
        for number in finished(last):
            found = np.asarray(array(last, number, "characters"))
            counts[found[:, 0]] += found[:, 1]
        seen = np.flatnonzero(counts)
        han = {code: count for code, count in zip(seen.tolist(), counts[seen].tolist(), strict=True) if is_han(code)}
        ranked = sorted(han.items(), key=lambda item: (-item[1], item[0]))
        total, shares = sum(han.values()), np.cumsum([count for _, count in ranked])
        level_one, known = gb2312(range(0xB0, 0xD8)), set(gb2312(range(0xB0, 0xF8)))
        missing = [char for char in level_one if ord(char) not in han]
        outside = sum(count for code, count in han.items() if chr(code) not in known)
        return {
            "distinct": len(han),
            "total": total,
            "coverage": [[n, round(float(shares[n - 1] / total), 6)] for n in COVERAGE if n <= len(ranked)],
            "common_seen": len(level_one) - len(missing),
            "common_of": len(level_one),
            "common_missing": "".join(missing[:200]),
            "outside": round(outside / total, 6) if total else 0.0,
            "top": [[chr(code), count] for code, count in ranked[:TOP_CHARACTERS]],
        }


def add(into: dict[str, Any], more: dict[str, Any]) -> None:
    """Add numbers and lists of numbers, key by key, at any depth."""
    for key, value in more.items():
        if key not in into:
            into[key] = value
        elif isinstance(value, dict):
            add(into[key], value)
        elif isinstance(value, list):
            into[key] = [a + b for a, b in zip(into[key], value, strict=True)]
        else:
            into[key] += value


def quantiles(edges: Any, counts: list[int]) -> dict[str, float]:
    """Quantiles from a histogram, linear within a bin."""
    total = np.cumsum(counts)
    if not len(total) or not total[-1]:
        return {}
    positions = np.concatenate([[0], total]) / total[-1]
    return {f"p{q:02d}": float(np.interp(q / 100, positions, edges)) for q in QUANTILES}


def once(rows: list[Sample]) -> list[Sample]:
    """Each text once; what knows its value before what does not."""
    seen: dict[str, Sample] = {}
    for row in rows:
        seen[row["text"]] = seen.get(row["text"], {}) | row
    return list(seen.values())[: 2 * RULE_SAMPLES]


def bare(row: Sample) -> Sample:
    """A sample without what it was chosen by."""
    return {key: value for key, value in row.items() if key not in ("key", "like")}


def most(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent, ties in the order of the text."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN_LINES]


def is_han(code: int) -> bool:
    """Whether a code point is a Han character (unified or compatibility ideographs, or 〇)."""
    return 0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x3FFFF or code == 0x3007


def gb2312(rows: range) -> list[str]:
    """The characters of some rows of GB2312 (0xB0 to 0xD7: the first level, 3 755 characters by frequency of use)."""
    found = []
    for lead in rows:
        for trail in range(0xA1, 0xFF):
            try:
                found.append(bytes([lead, trail]).decode("gb2312"))
            except UnicodeDecodeError:
                continue
    return found
