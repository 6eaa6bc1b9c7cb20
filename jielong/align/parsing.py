"""Preferences, from the forms that people have them in to three: pairs, answers that are marked good or bad, prompts.

    pairs       {"prompt", "chosen", "rejected"}, each a text or a list of turns (role and content, or from and value)
                {"chosen": [...], "rejected": [...]}, both the whole conversation: the turns before the last one are the prompt
                {"conversations": [...], "chosen": {"from", "value"}, "rejected": {...}}                              LLaMA-Factory
                {"question", "response_chosen", "response_rejected"}                                             MedicalGPT
                {"messages": [..., answer], "rejected_response"}                                                   ms-swift
                {"instruction", "input"?, "chosen", "rejected"}
    unpaired    {"prompt", "completion" (or as ANSWERS has it), "label"}, {"messages": [..., answer], "label"}; and pairs, which are two
    prompts     whatever has a prompt: all of these, and conversations (tokenizer/chat/conversations.py), whose last answer is dropped

Beside a prompt that is a text there may be "system" and "history", as alpaca has them. A pair's margin is the field "margin", or the
difference of two scores (SCORES). Turns are read by `conversations.parse`, which is asked with a stand-in where a question or an answer is
looked at alone; so they must take turns here as they must there. Nothing is repaired: what is unfit is named by a reason.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from jielong.align.config import Kind
from jielong.tokenizer.chat import conversations
from jielong.tokenizer.chat.conversations import ASSISTANT, MAX_DETAIL, PAIRS, ROLES, Message, Unfit
from jielong.tokenizer.chat.conversations import parse as parse_conversation

REASONS = {
    **conversations.REASONS,
    "with_tools": "a prompt or an answer with tools or calls of tools",
    "diverging": "two conversations that part before their last answers",
    "bad_label": "a label that is neither good nor bad",
    "bad_margin": "a margin that is no number, or below 0",
}
QUESTIONS = tuple(dict.fromkeys(("prompt", "question", "instruction", *(question for question, _ in PAIRS))))
ANSWERS = tuple(dict.fromkeys(("completion", "response", "answer", *(answer for _, answer in PAIRS))))
TURNS = ("messages", "conversations", "conversation", "context")  # hold lists of turns
CHOSEN = ("chosen", "response_chosen", "chosen_response")
REJECTED = ("rejected", "response_rejected", "rejected_response", "rejected_messages")
LABELS = ("label", "kto_tag")
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen_rating", "rejected_rating"))
NEEDED = {
    "pairs": ("prompt", "chosen", "rejected"),
    "unpaired": ("prompt", "completion", "label", "chosen", "rejected"),
    "prompts": ("prompt",),
}  # what a recipe's `fields` name must be there, or nothing is taken in its place
MARKS = {
    **dict.fromkeys(("true", "1", "good", "yes", "desirable", "chosen", "positive", "好", "对", "是"), True),
    **dict.fromkeys(
        ("false", "0", "-1", "bad", "no", "undesirable", "rejected", "negative", "坏", "差", "错", "否"), False
    ),
}
LARGEST = 1e38  # of a margin or a score: the difference of two fits float32
STAND_IN = "。"  # in place of a question or an answer that is looked at elsewhere


class Unsuited(Unfit):
    """Unfit, for one of the REASONS of this module."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        Exception.__init__(self, f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, of which one is better; margin: by how much, where that is known."""

    prompt: tuple[Message, ...]  # system first if at all, then user and assistant in turn; the last one is of the user
    chosen: str
    rejected: str
    margin: float | None = None


@dataclass(frozen=True)
class Marked:
    """An answer to a prompt, good (True) or bad."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool


@dataclass(frozen=True)
class Prompt:
    """A prompt, and whatever else its record holds, for the functions that say what answers are worth."""

    prompt: tuple[Message, ...]
    columns: dict[str, Any]  # JSON


Example = Pair | Marked | Prompt
Turns = tuple[Message, ...]


def parse(
    record: Mapping[str, Any], kind: Kind, fields: Mapping[str, str] | None = None, max_characters: int | None = None
) -> tuple[Example, ...]:
    """The examples of a record: one, or of a pair two where answers are wanted that are marked.

    fields: names in the record of what is looked for (`prompt`, `chosen`, ...); max_characters: of a turn at most. Raises Unfit.
    """
    record = _renamed(record, kind, fields or {})
    if kind == "prompts":
        return (_prompt(record, max_characters),)
    paired = all(any(record.get(name) is not None for name in names) for names in (CHOSEN, REJECTED))
    if kind == "unpaired" and _first(record, LABELS) is not None and not paired:
        return (_marked(record, max_characters),)
    pair = _pair(record, kind, max_characters)
    if kind == "pairs":
        return (pair,)
    return Marked(pair.prompt, pair.chosen, True), Marked(pair.prompt, pair.rejected, False)


# ---------------------------------------------------------------------------------------------------------- kinds


def _pair(record: Mapping[str, Any], kind: Kind, most: int | None) -> Pair:
    asked, better, worse = _first(record, QUESTIONS), _first(record, CHOSEN), _first(record, REJECTED)
    listed = _first(record, TURNS)
    if worse is None or (better is None and listed is None):
        wanted = "chosen and rejected" if kind == "pairs" else "label, and no chosen and rejected"
        raise Unfit("unknown_form", f"no {wanted}; there are: {_there(record)}")
    if better is None:
        assert listed is not None
        better = listed  # it ends with the answer
    else:
        asked = asked or listed
    prompt = None if asked is None else _asked(record, asked, most)
    before, chosen = _answered(record, better, prompt, most)
    other, rejected = _answered(record, worse, prompt or before, most)
    before, other = before or other, other or before
    if before is None or other is None:
        raise Unfit("unknown_form", f"no prompt beside {better} and {worse}; there are: {_there(record)}")
    if _said(before) != _said(other):
        raise Unsuited("diverging", f"{better} and {worse} part before their last turns")
    return Pair(before, chosen, rejected, _margin(record))


def _marked(record: Mapping[str, Any], most: int | None) -> Marked:
    asked, answer, listed = _first(record, QUESTIONS), _first(record, ANSWERS), _first(record, TURNS)
    if answer is None:
        answer = listed  # it ends with the answer
    else:
        asked = asked or listed
    if answer is None:
        raise Unfit("unknown_form", f"no {', '.join(ANSWERS[:3])} or messages; there are: {_there(record)}")
    prompt = None if asked is None else _asked(record, asked, most)
    before, completion = _answered(record, answer, prompt, most)
    if before is None:
        raise Unfit("unknown_form", f"no prompt beside {answer}; there are: {_there(record)}")
    label = _first(record, LABELS)
    assert label is not None
    return Marked(before, completion, _mark(record[label], label))


def _prompt(record: Mapping[str, Any], most: int | None) -> Prompt:
    asked = _first(record, QUESTIONS) or _first(record, TURNS)
    if asked is not None:
        prompt = _asked(record, asked, most, answered=True)
    else:
        whole = _first(record, (*CHOSEN, *REJECTED))
        before = None if whole is None else _answered(record, whole, None, most)[0]
        if before is None:
            raise Unfit("unknown_form", f"no prompt, question, instruction or messages; there are: {_there(record)}")
        prompt = before
    used = {asked, "system", "history", *CHOSEN, *REJECTED, *TURNS[:-1]}
    if asked == "instruction":
        used.add("input")
    if asked in TURNS:
        used.add("tools")
    return Prompt(prompt, {name: value for name, value in record.items() if name not in used and _is_json(value)})


# ---------------------------------------------------------------------------------------------------------- parts


def _asked(record: Mapping[str, Any], name: str, most: int | None, answered: bool = False) -> Turns:
    """The turns of a prompt, the last one of the user. answered: what assistants say behind it is dropped."""
    value, system = record[name], record.get("system")
    rows = _rows(value, name)
    if rows is None:
        history = record.get("history")
        if history is not None and not isinstance(history, list):
            raise Unfit("unknown_form", f"history is no list, got {_quoted(history)}")
        more = record.get("input") if name == "instruction" else None
        given = {"instruction": value, "input": more, "history": history, "system": system, "output": STAND_IN}
        with _told("", ("field 'instruction'", f"field {name!r}")):
            return _checked(given, most)[:-1]
    if rows and _role(rows[-1]) == ASSISTANT:
        if not answered:
            raise Unfit("role_order", f"{name}: the last turn is of assistant, not of user")
        rows = rows[:-1]
    if not rows:
        raise Unfit("no_turns", f"{name}: there is nothing")
    tools = record.get("tools") if name in TURNS else None
    with _told(f"{name}: "):
        closed = [*rows, {"role": ASSISTANT, "content": STAND_IN}]
        return _checked({"messages": closed, "system": system, "tools": tools}, most)[:-1]


def _answered(record: Mapping[str, Any], name: str, prompt: Turns | None, most: int | None) -> tuple[Turns | None, str]:
    """The turns before an answer, and the answer: a text, one turn, or the end of a conversation, which repeats `prompt` or goes on behind
    it.
    """
    value = record[name]
    rows = _rows(value, name)
    if rows is None:
        with _told("", ("field 'response'", f"field {name!r}"), ("turn 2", name)):
            return prompt, _checked({"prompt": STAND_IN, "response": value}, most)[-1].content
    if rows and _role(rows[0]) == ASSISTANT:
        if prompt is None:
            raise Unfit("unknown_form", f"no prompt beside {name}; there are: {_there(record)}")
        with _told(f"{name}, with its prompt: "):
            turns = _checked({"messages": [*(turn.to_json() for turn in prompt), *rows]}, most)
        return turns[:-1], turns[-1].content
    tools = record.get("tools") if name in TURNS else None
    with _told(f"{name}: "):
        turns = _checked({"messages": rows, "system": record.get("system"), "tools": tools}, most)
    said, asked = _said(turns[:-1]), _said(prompt or ())
    if said[len(said) - len(asked) :] == asked:
        return turns[:-1], turns[-1].content
    if asked[len(asked) - len(said) :] == said:
        return prompt, turns[-1].content
    raise Unsuited("diverging", f"{name} goes with another prompt")


def _checked(record: dict[str, Any], most: int | None) -> Turns:
    """The turns of a conversation. Raises Unfit, for tools and calls of them, too."""
    found = parse_conversation(record, None, most)
    if found.tools or any(turn.calls for turn in found.messages):
        raise Unsuited("with_tools", "it has tools" if found.tools else "a tool is called")
    return found.messages


def _rows(value: Any, name: str) -> list[Any] | None:
    """Turns as they stand in a record; None: it is a text, or what ought to be one."""
    if isinstance(value, str) and name in TURNS:  # a cell of a table
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise Unfit("unknown_form", f"{name} is no JSON ({error}), got {_quoted(value)}") from None
    if isinstance(value, Mapping) and _is_turn(value):
        return [value]
    if isinstance(value, list) and (name in TURNS or (value and _is_turn(value[0]))):
        return value
    if name in TURNS:
        raise Unfit("unknown_form", f"{name} is no list, got {_quoted(value)}")
    return None


def _is_turn(row: Any) -> bool:
    return isinstance(row, Mapping) and ("role" in row or "from" in row)


def _role(row: Any) -> str | None:
    """Of a turn as it stands in a record; None: not known."""
    if not isinstance(row, Mapping):
        return None
    given = next((row[name] for name in ("role", "from") if name in row), None)
    return ROLES.get(str(given).strip().lower())


def _said(turns: Turns) -> list[tuple[str, str]]:
    """What two prompts are compared by."""
    return [(turn.role, turn.content.strip()) for turn in turns]


def _margin(record: Mapping[str, Any]) -> float | None:
    value = record.get("margin")
    if value is not None and not (isinstance(value, str) and not value.strip()):
        found = _number(value)
        if found is None:
            raise Unsuited("bad_margin", f"margin is no number, got {_quoted(value)}")
        if found < 0:
            raise Unsuited("bad_margin", f"margin is below 0, got {found:g}")
        return found
    for better, worse in SCORES:
        scores = _number(record.get(better)), _number(record.get(worse))
        if scores[0] is not None and scores[1] is not None:
            if scores[0] < scores[1]:
                raise Unsuited("bad_margin", f"{better} is below {worse}, got {scores[0]:g} and {scores[1]:g}")
            return scores[0] - scores[1]
    return None


def _number(value: Any) -> float | None:
    """A finite number, in a cell of a table too; None: none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < LARGEST else None  # nor is it, where it is no number


def _mark(value: Any, name: str) -> bool:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = MARKS.get(str(value).strip().lower()) if isinstance(value, (bool, int, str)) else None
    if found is None:
        raise Unsuited("bad_label", f"{name} is {_quoted(value)}; known are true and false, 1 and 0, good and bad")
    return found


# ---------------------------------------------------------------------------------------------------------- fields


def _renamed(record: Mapping[str, Any], kind: Kind, fields: Mapping[str, str]) -> Mapping[str, Any]:
    """A record with the names that are looked for. What has such a name by chance is left out."""
    if not fields:
        return record
    for wanted in NEEDED[kind]:
        if wanted in fields and fields[wanted] not in record:
            raise Unfit("unknown_form", f"no {fields[wanted]} for {wanted}; there are: {_there(record)}")
    rest = {name: value for name, value in record.items() if name not in fields and name not in fields.values()}
    return {**{wanted: record[name] for wanted, name in fields.items() if name in record}, **rest}


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of some fields that is there, and not null if possible; a table has all columns in every row."""
    there = [name for name in names if name in record and not (name == "context" and isinstance(record[name], str))]
    return next((name for name in there if record[name] is not None), next(iter(there), None))


def _there(record: Mapping[str, Any]) -> str:
    return ", ".join(str(name)[:40] for name in list(record)[:20]) or "none"


def _is_json(value: Any) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 3] + "..."


@contextlib.contextmanager
def _told(place: str, *names: tuple[str, str]) -> Iterator[None]:
    """`conversations.parse` tells of what it was given; here details are about the record in the file."""
    try:
        yield
    except Unfit as unfit:
        detail = unfit.detail
        for theirs, ours in names:
            detail = detail.replace(theirs, ours, 1)
        raise Unsuited(unfit.reason, place + detail) from None
