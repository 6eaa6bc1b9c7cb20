"""The recipe's [data] table."""

from __future__ import annotations

import difflib
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from jielong.data.measuring.columns import COLUMNS
from jielong.data.measuring.filters import rules_of
from jielong.data.measuring.terms import Group
from jielong.data.reading.presets import PRESETS
from jielong.data.steps import PATH_FIELDS, STANDARD, Annotate, AnyStep, Augment, Filter, Measure
from jielong.recipe import Section, absolute, harmless

MAX_STEPS = 32  # the bits that tell which documents need which step


class Source(Section):
    """One named source of raw text."""

    name: str = Field(description="name of the source, written beside every document", min_length=1)
    path: str = Field(
        description="a file, a folder (searched below), a glob; also a URL (s3://...), a dataset (hf:owner/name, "
        "modelscope:owner/name), builtin:NAME; relative to the recipe's folder",
        min_length=1,
    )
    preset: str | None = Field(
        None,
        description="the published form of a known corpus, which says how a record becomes a text: jielong data presets",
    )
    text_field: str | None = Field(
        None,
        description="field or column that holds the text; none: the first of text, content, ... that is there",
        min_length=1,
    )
    document: Literal["auto", "file", "paragraph", "line"] = Field(
        "auto",
        description="what one document is in a txt file; auto: the file up to 1 MiB, else its blank-line separated "
        "paragraphs, or its lines when it has no blank line",
    )
    encoding: str = Field(
        "auto", description="encoding of the files, for example gb18030; auto: by the bytes of each file (UTF-8, GB18030, "
        "Big5, UTF-16)",
    )  # fmt: skip
    validation_fraction: float | None = Field(
        None,
        description="share of this source's documents held out, 1 for a validation set of its own; none: data.validation_fraction",
        ge=0,
        le=1,
    )
    licence: str = harmless("", "note on the licence, for the report")
    weight: float = harmless(1.0, "wished share among the sources, shown beside the actual one", gt=0)

    @model_validator(mode="after")
    def _check(self) -> Source:
        if self.preset is not None and self.preset not in PRESETS:
            near = difflib.get_close_matches(self.preset, PRESETS, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else "list them with: jielong data presets"
            raise ValueError(f"preset: unknown, got {self.preset!r}; {hint}")
        if self.preset is not None and self.text_field is not None:
            raise ValueError(
                f"text_field: given together with preset {self.preset}, which knows the fields; remove one of them"
            )
        return self


class Config(Section):
    """Raw text -> documents."""

    sources: tuple[Source, ...] = Field(description="where the raw text is", strict=False, min_length=1)
    steps: tuple[AnyStep, ...] = Field(
        STANDARD, description="what is done to the text, from top to bottom; each step is a table with the key step",
        strict=False,
    )  # fmt: skip
    validation_fraction: float = Field(
        0.01, description="share of the documents held out for validation, chosen by a hash of their text", gt=0, lt=0.5
    )
    balance: tuple[Group, ...] = Field(
        (),
        description="groups of terms whose shares and neighbours the report shows, for a look at biases",
        strict=False,
    )
    chunk_megabytes: int = Field(
        16, description="text worked on at a time by one process, and in one file of documents, MB", ge=1, le=512
    )
    processes: int | None = harmless(None, "worker processes; none: one a core", ge=1)
    engine: Literal["local", "ray"] = harmless(
        "local",
        "ray: the workers are actors on a Ray cluster (RAY_ADDRESS; without it a local one); the result is the same",
    )
    keep_work: bool = harmless(
        True, "keep the measured documents beside the result, so that a changed filter measures nothing again"
    )

    def placed(self, folder: Path) -> Config:
        """Source paths made absolute; builtin: names stay."""
        sources = tuple(s.model_copy(update={"path": absolute(s.path, folder)}) for s in self.sources)
        steps = tuple(step.placed_step(folder) for step in self.steps)
        return self.model_copy(update={"sources": sources, "steps": steps})

    def result_fields(self) -> dict[str, Any]:
        """Without the places of the files: their content is what counts, and it is hashed."""
        values = super().result_fields()
        for row in values["sources"]:
            named = row["path"].startswith(("builtin:", "hf:", "modelscope:"))
            row["path"] = row["path"] if named else Path(row["path"]).name
            del row["licence"], row["weight"]
        values["steps"] = [
            {key: _names(value) if key in PATH_FIELDS and value else value for key, value in row.items()}
            for row in values["steps"]
        ]
        return values

    @model_validator(mode="after")
    def _check(self) -> Config:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: two sources have the same name, got {', '.join(twice)}; give each its own name")
        for number, step in enumerate(self.steps):
            unknown = [name for name in (*step.sources, *step.except_sources, *trusted(step)) if name not in names]
            if unknown and names:
                raise ValueError(
                    f"steps.{number}: unknown source, got {', '.join(unknown)}; the sources are {', '.join(names)}; correct it"
                )
        groups = [group.name for group in self.balance]
        if twice := sorted({name for name in groups if groups.count(name) > 1}):
            raise ValueError(f"balance: two groups have the same name, got {', '.join(twice)}; give each its own name")
        problem = columns_problem(self.steps) or _order_problem(self.steps)
        if problem:
            raise ValueError(problem)
        return self


def _names(places: str | list[str]) -> str | list[str]:
    return Path(places).name if isinstance(places, str) else [Path(place).name for place in places]


def trusted(step: AnyStep) -> tuple[str, ...]:
    """The sources that a step's perplexity model is trained on."""
    return step.trusted if isinstance(step, Measure) else ()


def _order_problem(steps: tuple[AnyStep, ...]) -> str | None:
    """Words are told of what is finished, once, and then copies are made of it."""
    kinds = [2 if isinstance(step, Augment) else int(isinstance(step, Annotate)) for step in steps]
    for number, (kind, after) in enumerate(pairwise(kinds)):
        if kind > after and kind == 2:
            return f"steps.{number}: augment stands before other steps; put it behind all of them"
        if kind > after:
            return f"steps.{number}: annotate stands before other steps; put it behind all of them but augment"
        if kind == after == 1:
            return f"steps.{number + 1}: annotate stands there twice; take one of them out"
    return None


def columns_problem(steps: tuple[AnyStep, ...]) -> str | None:
    """Why the filters of a list of steps cannot work, or None: every column must exist and be measured before."""
    if len(steps) > MAX_STEPS:
        return f"steps: too many, got {len(steps)}; at most {MAX_STEPS}; leave some out"
    measured: set[str] = {"text_len"}
    for number, step in enumerate(steps):
        if isinstance(step, Measure):
            if step.sources or step.except_sources:
                return f"steps.{number}: measure works on all sources; take sources and except_sources away"
            measured = set(COLUMNS) - (set() if step.trusted else {"perplexity"})
        elif isinstance(step, Filter):
            for rule in step.rules:
                if rule.column not in COLUMNS:
                    near = difflib.get_close_matches(rule.column, COLUMNS, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"columns: {', '.join(COLUMNS)}"
                    return f"steps.{number}.rules: unknown column, got {rule.column!r}; {hint}"
                bounded = rule.min is not None or rule.max is not None
                if bounded and COLUMNS[rule.column].kind == "text":
                    return f"steps.{number}.rules: {rule.column} holds words, got min or max; give is_in = [...]"
                if rule.is_in and COLUMNS[rule.column].kind != "text":
                    return f"steps.{number}.rules: {rule.column} holds numbers, got is_in; give min or max"
            missing = [rule.column for rule in rules_of(step) if rule.column not in measured]
            if missing and missing != ["perplexity"]:
                return (
                    f"steps.{number}: a filter on {missing[0]} stands before it is measured; put a step measure above it, or "
                    "give it preset = 'none' and rules on text_len alone"
                )
            if missing:
                return f"steps.{number}: a filter on perplexity, but measure names no trusted sources; name some"
    return None
