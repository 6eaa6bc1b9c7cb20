"""What an example must be to be learned from, and the reasons why it is set aside. Nothing is repaired, nothing vanishes.

Files are judged by the readers (data/reading), records by parsing.py, text by the chat template (preparing.py). Here is what is left: pairs
that are no choice, examples that are there already or that say the opposite of one that is, and those that validation would recognise.

What is on one side of the split or the other is a *question*: what the users say in a prompt, turn by turn, as tune's `normalised` leaves it,
without the system message and the answers between. Of a prompt of one turn, and nearly all are, that is its only question. The last turn
alone would put every "继续" on the same side, and set aside whatever ends so; the first alone is where a conversation begins, while the
answers that are compared are given to its end.
"""

from __future__ import annotations

import dataclasses

import orjson
import xxhash

from jielong.align import parsing
from jielong.align.config import Kind, Source
from jielong.align.parsing import Example, Marked, Pair, parse
from jielong.data.reading import records
from jielong.data.reading.readers import BadRecord, Object
from jielong.tokenizer.chat.conversations import SYSTEM, USER, Message, Unfit
from jielong.tune.checking import normalised

REASONS = {
    **records.REASONS,
    **parsing.REASONS,
    "too_long": "more tokens than fit, prompt and answer together",
    "equal": "two answers that are the same but for white space",
    "duplicate": "the same example as one before, but for white space",
    "contradiction": "the opposite of one before: the pair the other way round, or the answer with the other mark",
    "leaked": "a training example whose question stands in validation",
}


class SetAside(Exception):  # noqa: N818 - it is no error of anybody's
    """A record or an example that is not learned from: `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def examples_of(
    item: Object | BadRecord, source: Source, kind: Kind, most: int, system: str | None = None
) -> tuple[Example, ...]:
    """The examples of a record, with the recipe's system message where they have none. most: characters of a turn. Raises SetAside."""
    if isinstance(item, BadRecord):
        raise SetAside(item.reason, item.detail)
    try:
        found = parse(item.record, kind, source.fields, most)
    except Unfit as unfit:
        raise SetAside(unfit.reason, unfit.detail) from None
    except RecursionError:
        raise SetAside("unknown_form", "it is nested too deeply") from None
    for example in found:
        for name, text in _texts(example):
            if "\x00" in text:
                raise SetAside("binary", f"{name} holds NUL at character {text.index(chr(0))}")
    return found if system is None else tuple(_opened(example, system) for example in found)


def check_choice(example: Example) -> None:
    """Raises SetAside for a pair whose answers differ in white space only."""
    if isinstance(example, Pair) and "".join(example.chosen.split()) == "".join(example.rejected.split()):
        raise SetAside("equal", f"both answers are {example.chosen.strip()[:80]}")


def question(example: Example) -> str:
    """What the users say in the prompt, normalised: a line a turn."""
    return "\n".join(normalised(turn.content) for turn in example.prompt if turn.role == USER)


class Known:
    """What has been kept so far, by 16 bytes each: some hundred bytes of memory an example."""

    def __init__(self) -> None:
        self._examples: set[bytes] = set()
        self._held: set[bytes] = set()  # questions of the validation

    def admit(self, example: Example, asked: str, held: bool) -> None:
        """Remember an example whose question is given. Raises SetAside for one that must not be kept.

        Prompts are the same whatever else their records hold: a model is asked each of them once.
        """
        same, opposite = _digests(example)
        if same in self._examples:
            raise SetAside("duplicate", "the same was kept before")
        if opposite in self._examples:
            raise SetAside("contradiction", "the opposite was kept before")
        hashed = xxhash.xxh3_128_digest(asked.encode("utf-8"))
        if held:
            self._held.add(hashed)
        elif hashed in self._held:
            raise SetAside("leaked", f"validation asks this, too: {asked[:80]}")
        self._examples.add(same)


def _digests(example: Example) -> tuple[bytes, bytes | None]:
    """What an example is recognised by, and what its opposite would be; None: it has none."""
    turns = [[turn.role, turn.content.strip()] for turn in example.prompt]

    def digest(*rest: object) -> bytes:
        return xxhash.xxh3_128_digest(orjson.dumps([turns, *rest]))

    if isinstance(example, Pair):
        answers = example.chosen.strip(), example.rejected.strip()
        return digest(*answers), digest(*reversed(answers))
    if isinstance(example, Marked):
        return digest(example.completion.strip(), example.label), digest(example.completion.strip(), not example.label)
    return digest(), None


def _texts(example: Example) -> list[tuple[str, str]]:
    """The texts that a model reads, each with a name for a person."""
    found = [(f"turn {number}", turn.content) for number, turn in enumerate(example.prompt, 1)]
    if isinstance(example, Pair):
        return [*found, ("chosen", example.chosen), ("rejected", example.rejected)]
    return [*found, ("the answer", example.completion)] if isinstance(example, Marked) else found


def _opened(example: Example, system: str) -> Example:
    if example.prompt[0].role == SYSTEM:
        return example
    return dataclasses.replace(example, prompt=(Message(SYSTEM, system), *example.prompt))
