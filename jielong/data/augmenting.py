"""More text from the text that there is: synonyms, sentences in another order, a model's rewriting.

Small corpora of a field gain from seeing the same matter in other words; large ones do not, and what a model wrote is not what
people write. So augmentation is a choice, made last: after all cleaning, from documents that stay, for training only. A copy
says what made it in its `meta` (`"augmented": "synonyms"`, with the number of the copy), so that it can be counted and taken away
again; it has no columns, because nothing measured it; and no copy is made of a document that is held out for validation, because
the copy in train would give it away.

Three ways (Wei and Zou, EDA, arXiv:1901.11196, for the first two):

- `synonyms`: words of the user's own groups become other words of their group, `share` of the occurrences;
- `shuffle`: the sentences of each paragraph in another order. For texts in which the order hardly matters (reviews, lists of facts);
- `generate`: a function `module:name` of the user's, (text, seed) -> text or None, for example one that asks a model to
  paraphrase.

Every choice is made by a hash of the text, the copy's number and the run's seed: the same copies in any order of documents,
with any number of processes.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from jielong.data import steps
from jielong.data.cleaning.flagged import FlaggedWords
from jielong.data.cleaning.sentences import split_sentences
from jielong.errors import DataError, InputError

Generate = Callable[[str, int], str | None]

_BETWEEN = re.compile(r"[\s,，、;；|=]+")


class Augmenter:
    """The step `augment`: makes copies of one text."""

    def __init__(self, step: steps.Augment, seed: int) -> None:
        """Raises InputError for a list or function that cannot be used."""
        self.step, self._seed = step, seed
        self.kind = step.method
        if step.method == "synonyms":
            assert step.file is not None
            synonyms = read_synonyms(Path(step.file))
            words = FlaggedWords(list(synonyms))
            self._change: Callable[[str, int], str | None] = lambda text, luck: replaced(
                text, words, synonyms, step.share, luck
            )
        elif step.method == "shuffle":
            self._change = shuffled
        else:
            assert step.function is not None
            self._change = load_function(step.function)

    def __call__(self, text: str) -> list[str]:
        """The copies of a text that came out different from it and from one another, at most `copies`.

        Raises DataError when the user's function fails, naming it.
        """
        luck = xxhash.xxh3_64_intdigest(text.encode("utf-8"), self._seed)
        if luck / 2**64 >= self.step.fraction:
            return []
        found: list[str] = []
        for number in range(self.step.copies):
            place = xxhash.xxh3_64_intdigest(b"%d %d" % (luck, number))
            try:
                new = self._change(text, place >> 1)  # 63 bits: a seed that NumPy and torch take too
            except Exception as error:
                if self.step.method != "generate":
                    raise
                raise DataError(
                    f"data.steps.augment.function: {self.step.function} failed, got {type(error).__name__}: {error}; correct it"
                ) from error
            if not isinstance(new, str | None):
                raise DataError(
                    f"data.steps.augment.function: must return text or None, got {type(new).__name__} from "
                    f"{self.step.function}; correct it"
                )
            if new and not new.isspace() and new != text and new not in found:
                found.append(new)
        return found


def read_synonyms(path: Path) -> dict[str, tuple[str, ...]]:
    """Word -> the other words of its groups, from a UTF-8 file of one group a line, words between blanks or commas.

    Raises InputError for a file that cannot be used; a line with one word only says nothing and is refused.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"data.steps.augment.file: not UTF-8, got {path}; convert it") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        words = list(dict.fromkeys(word for word in _BETWEEN.split(line.strip()) if word))
        if len(words) < 2:
            raise InputError(
                f"data.steps.augment.file: a group of one word, got {line.strip()[:40]!r} in line {number} of {path}; "
                "write the words that mean the same on one line"
            )
        for word in words:
            found.setdefault(word, []).extend(other for other in words if other != word)
    if not found:
        raise InputError(f"data.steps.augment.file: no words, got {path}; write one group of synonyms a line")
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


def replaced(text: str, words: FlaggedWords, synonyms: dict[str, tuple[str, ...]], share: float, luck: int) -> str:
    """The text with about that share of the known words replaced; `luck` decides which, and by what."""
    chance, parts, position = random.Random(luck), list[str](), 0
    for start, end in words.find(text):
        if chance.random() < share:
            parts += (text[position:start], chance.choice(synonyms[text[start:end]]))
            position = end
    return "".join([*parts, text[position:]])


def shuffled(text: str, luck: int) -> str:
    """The text with the sentences of each line in another order; lines stay where they are, nothing is lost or added.

    The blanks at the end of a sentence stay in their place, so that a paragraph ends as it did.
    """
    chance, lines = random.Random(luck), list[str]()
    for line in text.split("\n"):
        sentences = split_sentences(line)
        bare = [sentence.rstrip() for sentence in sentences]
        blanks = [sentence[len(short) :] for sentence, short in zip(sentences, bare, strict=True)]
        chance.shuffle(bare)
        lines.append("".join(short + blank for short, blank in zip(bare, blanks, strict=True)))
    return "\n".join(lines)


def load_function(name: str) -> Generate:
    """The function that `module:name` names. Raises InputError saying what is not there."""
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"data.steps.augment.function: no module {module!r} ({error}), got {name!r}; give module:name of a module that "
            "Python finds (PYTHONPATH)"
        ) from None
    function = getattr(found, attribute, None)
    if not callable(function):
        raise InputError(
            f"data.steps.augment.function: {module} has no function {attribute!r}, got {name!r}; correct it"
        )
    return function  # type: ignore[no-any-return]
