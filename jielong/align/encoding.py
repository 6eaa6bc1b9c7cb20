"""Examples -> tokens: of the prompt, up to where the assistant is to speak, and of each answer by itself, with its end.

Both are cut where they are cut when a model is asked (tokenizer/chat/templates.py), earlier answers of the prompt too, so that what a
method learns from is token for token what the model writes. An answer ends with its end-of-turn token; white space behind it belongs to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from jielong.align.checking import SetAside
from jielong.align.parsing import Example, Marked, Pair, Prompt
from jielong.errors import TokenizerError
from jielong.tokenizer.chat.conversations import ASSISTANT, Conversation, Message, Unfit
from jielong.tokenizer.chat.templates import ChatTemplate


@dataclass(frozen=True)
class Encoded:
    """An example in tokens."""

    example: Example
    prompt: list[int]
    answers: dict[str, list[int]]  # chosen and rejected, or completion, or none

    @property
    def tokens(self) -> int:
        """Of the prompt with its longest answer."""
        return len(self.prompt) + max(map(len, self.answers.values()), default=0)

    def row(self, source: str) -> dict[str, Any]:
        """As it is stored: the columns of examples.COLUMNS."""
        example = self.example
        row: dict[str, Any] = {"prompt_ids": self.prompt, **{f"{part}_ids": ids for part, ids in self.answers.items()}}
        row |= {"source": source, "messages": orjson.dumps([turn.to_json() for turn in example.prompt]).decode()}
        if isinstance(example, Pair):
            return row | {"margin": example.margin, "chosen": example.chosen, "rejected": example.rejected}
        if isinstance(example, Marked):
            return row | {"label": example.label, "completion": example.completion}
        return row | {"columns": orjson.dumps(example.columns).decode()}


def answers_of(example: Example) -> dict[str, str]:
    """The answers that an example holds, by the names of their columns."""
    match example:
        case Pair():
            return {"chosen": example.chosen, "rejected": example.rejected}
        case Marked():
            return {"completion": example.completion}
        case Prompt():
            return {}


def encode(template: ChatTemplate, example: Example, most: int) -> Encoded:
    """An example in tokens, at most `most` of prompt and answer together (of a prompt alone, with room for one). Raises SetAside."""
    try:
        prompt = template.prompt(Conversation(example.prompt))
        answers = {name: _answer(template, example, prompt, text) for name, text in answers_of(example).items()}
    except Unfit as unfit:
        raise SetAside(unfit.reason, unfit.detail) from None
    except TokenizerError as error:  # the template cannot be all wrong, it has written the probe
        raise SetAside("template", str(error).partition(": ")[2].partition(";")[0]) from None
    if len(prompt) >= most:
        raise SetAside("too_long", f"{len(prompt):,} tokens of prompt, of at most {most:,} with an answer")
    for name, ids in answers.items():
        if len(prompt) + len(ids) > most:
            detail = f"{len(prompt):,} tokens of prompt and {len(ids):,} of {name}, of at most {most:,} together"
            raise SetAside("too_long", detail)
    if isinstance(example, Pair) and answers["chosen"] == answers["rejected"]:
        raise SetAside("equal", "both answers are the same tokens")
    return Encoded(example, prompt, answers)


def _answer(template: ChatTemplate, example: Example, prompt: list[int], text: str) -> list[int]:
    """The tokens of an answer with its end. Raises Unfit."""
    whole = template.encode(Conversation((*example.prompt, Message(ASSISTANT, text))))
    ids, learned = whole.ids[len(prompt) :], whole.learned[len(prompt) :]
    if whole.ids[: len(prompt)].tolist() != prompt:
        raise Unfit("template", "the prompt's tokens change when the answer comes")
    if not learned.any():
        raise Unfit("template", "no token of the answer is left")
    found: list[int] = ids[learned].tolist()
    return found
