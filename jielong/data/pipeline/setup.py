"""From the options of the steps to functions that work: the cleaners, and what fills the columns.

The only place that knows which module does which step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data import steps
from jielong.data.annotating import Annotator
from jielong.data.augmenting import Augmenter
from jielong.data.cleaning.cleaner import Cleaner, DropDocument
from jielong.data.cleaning.decontaminate import DecontaminateCleaner
from jielong.data.cleaning.flagged import FlaggedWords, FlaggedWordsCleaner, read_words
from jielong.data.pipeline.docs import Docs
from jielong.data.pipeline.plan import Plan


def make_cleaner(step: Any) -> Cleaner | None:
    """The cleaner of a text step; None for split and measure, which are not functions of one text to one text."""
    if isinstance(step, steps.Markup):
        from jielong.data.cleaning.markup import MarkupCleaner

        return MarkupCleaner(step)
    if isinstance(step, steps.Characters):
        from jielong.data.cleaning.characters import CharactersCleaner

        return CharactersCleaner(step)
    if isinstance(step, steps.Simplify):
        from jielong.data.cleaning.traditional import SimplifyCleaner

        return SimplifyCleaner(step)
    if isinstance(step, steps.Whitespace):
        from jielong.data.cleaning.whitespace import WhitespaceCleaner

        return WhitespaceCleaner(step)
    if isinstance(step, steps.Repeats):
        from jielong.data.cleaning.whitespace import RepeatsCleaner

        return RepeatsCleaner(step)
    if isinstance(step, steps.Adverts):
        from jielong.data.cleaning.adverts import AdvertsCleaner

        return AdvertsCleaner(step)
    if isinstance(step, steps.PersonalData):
        from jielong.data.cleaning.personal import PersonalDataCleaner

        return PersonalDataCleaner(step)
    if isinstance(step, steps.Decontaminate):
        return DecontaminateCleaner(step)
    return FlaggedWordsCleaner(step) if isinstance(step, steps.FlaggedWords) else None


class Cleaners:
    """The text steps of a plan, made once in each process."""

    def __init__(self, plan: Plan, models: dict[int, str]) -> None:
        self.texts: dict[int, Cleaner] = {}
        self._flagged: dict[int, FlaggedWords] = {}
        self._models: dict[int, Any] = {}
        for number, step in enumerate(plan.steps):
            cleaner = make_cleaner(step)
            if cleaner is not None:
                self.texts[number] = cleaner
            if isinstance(step, steps.Augment):
                Augmenter(step, 0)  # what is wrong with it is said now, not behind everything else
            if isinstance(step, steps.Annotate):
                Annotator(step)
            if isinstance(step, steps.Measure) and step.flagged_words_file is not None:
                words = read_words(Path(step.flagged_words_file), "data.steps.measure.flagged_words_file")
                self._flagged[number] = FlaggedWords(words)
        for number, model in models.items():
            from jielong.data.measuring import perplexity

            self._models[number] = perplexity.load(Path(model))

    def leaky(self, step: int, docs: Docs) -> NDArray[np.bool_]:
        """Which documents may hold an evaluation item."""
        cleaner = self.texts[step]
        assert isinstance(cleaner, DecontaminateCleaner)
        return cleaner.index.flags(*docs.encoded())

    def columns(self, step: int, docs: Docs) -> dict[str, NDArray[Any]]:
        """The columns of documents: one value each."""
        from jielong.data.measuring.measure import measure

        data, offsets = docs.encoded()
        flagged = self._flagged.get(step)
        covered = None if flagged is None else np.array([flagged.covered(text) for text in docs.texts], np.int64)
        found: dict[str, NDArray[Any]] = measure(data, offsets, covered)
        if step in self._models:
            found["perplexity"] = self._models[step].perplexity(data, offsets)
        return {name: np.asarray(values, object if name == "lang" else None) for name, values in found.items()}


def clean_texts(plan: Plan, before: int, texts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Texts (each with its source) as the cleaning steps before a step leave them; what they drop is left out."""
    cleaners = [(number, make_cleaner(step)) for number, step in enumerate(plan.steps[:before])]
    for source, text in texts:
        try:
            for number, cleaner in cleaners:
                if cleaner is not None and plan.applies(number, source):
                    text = cleaner(text, Counter())
        except DropDocument:
            continue
        if text.strip():
            yield text
