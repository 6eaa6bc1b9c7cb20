"""From the list of steps to passes over the documents.

Text steps look at one document, so all those in a row are done in one pass, chunk by chunk, on all cores. A corpus
step needs to see something of every document first; a filter does not, but it is decided from the columns alone, so that
changing it measures nothing again. So a pass is some text steps, and then the decisions:

    markup characters whitespace ... measure | filter exact near lines || split ...
    -------- text steps: pass 1 ------------   ---- decisions --------    pass 2 carries them out and goes on

The last pass writes the documents. Its decisions are none: what is left of the list after them is nothing but `annotate` and
`augment`, which look at what is written, so that changing them or their files makes that pass again and no other. `lines`
changes the text when it is carried out, as `fragments` does, so decisions after it wait for the next pass.

Each pass but the last is kept in the run folder under a hash of everything that determines it, and found again there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jielong import __version__
from jielong.data.config import Config
from jielong.data.steps import (
    PATH_FIELDS,
    TEXT_STEPS,
    Annotate,
    AnyStep,
    Augment,
    Exact,
    Fragments,
    Lines,
    Near,
    labels,
)
from jielong.runs import hash_json

FORMAT = 2  # of what the stage makes and keeps: raise it when the same recipe gives something else


@dataclass(frozen=True)
class Pass:
    """Numbers of steps: first those that work on text, then those that decide."""

    text: tuple[int, ...]
    decide: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe with their names, and the passes that they make."""

    steps: tuple[AnyStep, ...]
    labels: tuple[str, ...]
    passes: tuple[Pass, ...]  # the last one writes the documents
    copying: tuple[int, ...] = ()  # the augment steps, which the last pass takes after everything else
    annotating: int | None = None  # the annotate step, which stands before them

    def applies(self, step: int, source: str) -> bool:
        """Whether a step works on the documents of a source."""
        chosen = self.steps[step]
        return source not in chosen.except_sources and (not chosen.sources or source in chosen.sources)

    @property
    def behind(self) -> tuple[int, ...]:
        """The steps at the end of the list that belong to no pass: annotate, then augment."""
        return (() if self.annotating is None else (self.annotating,)) + self.copying

    def divided(self, inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The files that a run reads, without those of the steps `behind`; and those, which are the last of them."""
        at = len(inputs) - sum(len(self.steps[number].files()) for number in self.behind)
        return inputs[: max(at, 0)], inputs[max(at, 0) :]


def make_plan(steps: tuple[AnyStep, ...]) -> Plan:
    """Cut the list into passes."""
    passes: list[tuple[list[int], list[int]]] = [([], [])]
    copying = tuple(number for number, step in enumerate(steps) if isinstance(step, Augment))
    annotating = next((number for number, step in enumerate(steps) if isinstance(step, Annotate)), None)
    for number, step in enumerate(steps[: len(steps) - len(copying) - (annotating is not None)]):
        text, decide = passes[-1]
        is_text = isinstance(step, TEXT_STEPS)
        if (is_text and decide) or (decide and isinstance(steps[decide[-1]], Lines | Fragments)):
            passes.append(([], []))
            text, decide = passes[-1]
        (text if is_text else decide).append(number)
    if passes[-1][1]:
        passes.append(([], []))
    made = tuple(Pass(tuple(text), tuple(decide)) for text, decide in passes)
    return Plan(steps, tuple(labels(steps)), made, copying, annotating)


def keys_of(step: AnyStep) -> dict[str, Any]:
    """The options of a deciding step that its keys depend on, made while the text is at hand."""
    if isinstance(step, Exact):
        return step.model_dump(include={"normalise"})
    if isinstance(step, Near):
        return step.model_dump(include={"ngram", "permutations", "similarity"})  # similarity: the width of a band
    if isinstance(step, Lines):
        return step.model_dump(include={"unit", "min_han"})
    if isinstance(step, Fragments):
        return step.model_dump(include={"min_chars"})
    return {}


def fingerprints(plan: Plan, config: Config, inputs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """For each pass, a hash of what determines its files, and one of its decisions too."""
    sources = [
        source.model_dump(mode="json", include={"name", "text_field", "document", "encoding"})
        for source in config.sources
    ]
    so_far: Any = [
        FORMAT,
        __version__,
        sources,
        config.chunk_megabytes,
        [[row["label"], row["xxh3_128"]] for row in plan.divided(inputs)[0]],
    ]
    found = []
    for current in plan.passes:
        text = [[plan.labels[n], step_values(plan.steps[n])] for n in current.text]
        keys = [[plan.labels[n], keys_of(plan.steps[n])] for n in current.decide]
        here = hash_json([so_far, text, keys])
        so_far = [so_far, text, keys, [[plan.labels[n], step_values(plan.steps[n])] for n in current.decide]]
        found.append((here, hash_json(so_far)))
    return found


def step_values(step: AnyStep) -> dict[str, Any]:
    """A step's options without the places of files, whose content is hashed."""
    return {key: value for key, value in step.model_dump(mode="json").items() if key not in PATH_FIELDS}
