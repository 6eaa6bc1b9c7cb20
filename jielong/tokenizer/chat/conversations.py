"""Conversations, from the forms that people have them in to one: messages of user and assistant, perhaps a system message and tools.

    messages    {"messages": [{"role", "content", "tool_calls"?}, ...], "tools"?}
    sharegpt    {"conversations": [{"from", "value"}, ...], "system"?, "tools"?}
    alpaca      {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer], ...]}
    pairs       {"prompt", "response"} and the like (PAIRS), of JSON, CSV or Parquet

What cannot be trained on is not repaired but named: `parse` raises `Unfit` with one of REASONS. Roles must take turns: system first if
at all, then user and assistant in turn, with tools' answers behind the assistant's calls, and the assistant last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

REASONS = {
    "unknown_form": "no conversation in a form that is known",
    "no_turns": "a conversation without a turn of user and assistant",
    "unknown_role": "a role that is none of system, user, assistant, tool",
    "role_order": "roles that do not take turns",
    "missing_text": "a turn without content, or null",
    "empty_answer": "an answer of the assistant that is empty or white space only",
    "empty_question": "a question that is empty or white space only",
    "not_text": "content that is no text",
    "bad_tools": "tools or calls that are no JSON objects",
    "turn_too_long": "a turn with more characters than are allowed",
    "collision": "a turn that spells one of the tokenizer's special tokens",
    "template": "a conversation that the chat template does not write turn by turn",
    "too_long": "more tokens than fit, in the first exchange already",
}
SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"
ROLES = {
    **dict.fromkeys(("system", "系统"), SYSTEM),
    **dict.fromkeys(("user", "human", "prompter", "用户"), USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatgpt", "bing", "bard", "model", "助手"), ASSISTANT),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "ipython"), TOOL),
}
CALLS = ("function_call", "tool_call", "tool_calls")  # sharegpt's role of an assistant's turn that is a call
PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("ask", "answer"),
    ("input", "output"),
    ("input", "target"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("问", "答"),
    ("提问", "回答"),
)
MAX_DETAIL = 80  # characters of a value that a reason quotes


class Unfit(Exception):  # noqa: N818 - it is no error of anybody's: a conversation is set aside
    """A conversation that cannot be trained on: `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Message:
    """A turn. `calls`: what an assistant calls, {"name", "arguments"}; `trained`: whether an answer is learned."""

    role: str
    content: str
    calls: tuple[dict[str, Any], ...] = ()
    trained: bool = True

    def to_json(self) -> dict[str, Any]:
        """As chat templates have it."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.calls:
            row["tool_calls"] = [{"type": "function", "function": call} for call in self.calls]
        return row


@dataclass(frozen=True)
class Conversation:
    """Turns in order, and the tools that the assistant may call."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def questions(self) -> tuple[str, ...]:
        """What the users say, for comparing conversations."""
        return tuple(message.content.strip() for message in self.messages if message.role == USER)

    def to_json(self) -> dict[str, Any]:
        """As the form `messages`."""
        row: dict[str, Any] = {"messages": [message.to_json() for message in self.messages]}
        return row | ({"tools": list(self.tools)} if self.tools else {})


def parse(
    record: Mapping[str, Any], pair: tuple[str, str] | None = None, max_characters: int | None = None
) -> Conversation:
    """The conversation of a record. pair: names of the fields that hold question and answer, in place of what is looked for;
    max_characters: of a turn at most. Raises Unfit.
    """
    messages, tools = _turns(record, pair)
    _check_order(messages)
    for number, message in enumerate(messages):
        if max_characters is not None and len(message.content) > max_characters:
            raise Unfit("turn_too_long", f"turn {number + 1} has {len(message.content):,} characters")
    return Conversation(tuple(messages), tools)


def form_of(record: Mapping[str, Any]) -> str | tuple[str, str] | None:
    """ "messages", "sharegpt", "alpaca", or the fields of a pair; None: none of them."""
    if "messages" in record:
        return "messages"
    if "conversations" in record or "conversation" in record:
        return "sharegpt"
    if "instruction" in record and "output" in record:
        return "alpaca"
    return next((pair for pair in PAIRS if all(name in record for name in pair)), None)


def _turns(record: Mapping[str, Any], pair: tuple[str, str] | None) -> tuple[list[Message], tuple[dict[str, Any], ...]]:
    form = pair or form_of(record)
    if form is None or (isinstance(form, tuple) and any(name not in record for name in form)):
        there = ", ".join(str(name)[:40] for name in list(record)[:20]) or "none"
        wanted = (
            " and ".join(form)
            if form
            else "messages, conversations, instruction and output, or a question and an answer"
        )
        raise Unfit("unknown_form", f"no {wanted}; there are: {there}")
    if form == "alpaca":
        return _alpaca(record), ()
    if isinstance(form, tuple):
        question, answer = (_text(record[name], f"field {name!r}") for name in form)
        return _opened(record, [Message(USER, question), Message(ASSISTANT, answer)]), ()
    key = next(name for name in ("messages", "conversations", "conversation") if name in record)
    rows = record[key]
    if isinstance(rows, str):  # a cell of a table
        rows = _json(rows, "unknown_form", key)
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise Unfit("unknown_form", f"{key} is no list, got {_quoted(rows)}")
    messages = [_message(row, number) for number, row in enumerate(rows, 1)]
    return _opened(record, messages), _tools(record.get("tools"))


def _alpaca(record: Mapping[str, Any]) -> list[Message]:
    question = _text(record["instruction"], "field 'instruction'")
    if record.get("input"):
        more = _text(record["input"], "field 'input'")
        question = f"{question}\n{more}" if question.strip() else more
    turns = list[Message]()
    history = record.get("history") or []
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise Unfit("unknown_form", f"history is no list, got {_quoted(history)}")
    for number, old in enumerate(history, 1):
        if not isinstance(old, Sequence) or isinstance(old, str) or len(old) != 2:
            raise Unfit("unknown_form", f"history {number} is no pair of question and answer, got {_quoted(old)}")
        texts = [_text(part, f"history {number}") for part in old]
        turns += [Message(USER, texts[0]), Message(ASSISTANT, texts[1])]
    turns += [Message(USER, question), Message(ASSISTANT, _text(record["output"], "field 'output'"))]
    return _opened(record, turns)


def _opened(record: Mapping[str, Any], messages: list[Message]) -> list[Message]:
    """With the record's system message in front, where it has one beside its turns."""
    system = record.get("system")
    if system is None or (isinstance(system, str) and not system.strip()):
        return messages
    return [Message(SYSTEM, _text(system, "field 'system'")), *messages]


def _message(row: Any, number: int) -> Message:
    if not isinstance(row, Mapping):
        raise Unfit("unknown_form", f"turn {number} is no object, got {_quoted(row)}")
    given = next((row[name] for name in ("role", "from") if name in row), None)
    key = str(given).strip().lower()
    value = next((row[name] for name in ("content", "value", "text") if name in row), None)
    if key in CALLS:
        return Message(ASSISTANT, "", _calls(value, number))
    if key not in ROLES:
        raise Unfit("unknown_role", f"turn {number} is of {_quoted(given)}")
    role, calls = ROLES[key], row.get("tool_calls")
    found = _calls(calls, number) if calls and role == ASSISTANT else ()
    if value is None and found:
        value = ""
    weight = row.get("weight")
    return Message(role, _text(value, f"turn {number}, of {role},"), found, weight is None or bool(weight))


def _text(value: Any, place: str) -> str:
    """Content as one text: a string, or the text parts of a list."""
    if isinstance(value, str):
        return value
    if value is None:
        raise Unfit("missing_text", f"{place} is null")
    if isinstance(value, Sequence) and value and all(isinstance(part, Mapping) for part in value):
        others = [part.get("type") for part in value if not isinstance(part.get("text"), str)]
        if not others:
            return "".join(part["text"] for part in value)
        raise Unfit("not_text", f"{place} holds a part of the type {_quoted(others[0])}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):  # a cell of a table
        return str(value)
    raise Unfit("not_text", f"{place} is of the type {type(value).__name__}")


def _tools(value: Any) -> tuple[dict[str, Any], ...]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    if isinstance(value, str):
        value = _json(value, "bad_tools", "tools")
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Unfit("bad_tools", f"tools are no list of objects, got {_quoted(value)}")
    return tuple(value)


def _calls(value: Any, number: int) -> tuple[dict[str, Any], ...]:
    """The calls of a turn, as {"name", "arguments"} each, whatever they are wrapped in."""
    if isinstance(value, str):
        value = _json(value, "bad_tools", f"turn {number}")
    found = list[dict[str, Any]]()
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise Unfit("bad_tools", f"turn {number} calls something without a name, got {_quoted(call)}")
        arguments = inner.get("arguments", inner.get("parameters", {}))
        if isinstance(arguments, str):
            arguments = _json(arguments or "{}", "bad_tools", f"turn {number}: arguments")
        found.append({"name": inner["name"], "arguments": arguments})
    if not found:
        raise Unfit("bad_tools", f"turn {number} calls nothing")
    return tuple(found)


def _json(text: str, reason: str, place: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unfit(reason, f"{place} is no JSON ({error}), got {_quoted(text)}") from None


def _quoted(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 3] + "..."


def _check_order(messages: list[Message]) -> None:
    """Raises Unfit where roles do not take turns, and for turns that say nothing."""
    turns = messages[1:] if messages and messages[0].role == SYSTEM else messages
    shift = len(messages) - len(turns) + 1
    if not turns:
        raise Unfit("no_turns", "there is " + ("a system message alone" if messages else "nothing"))
    before: Message | None = None
    for number, message in enumerate(turns, shift):
        called = before is not None and (before.role == TOOL or (before.role == ASSISTANT and bool(before.calls)))
        fits = {
            SYSTEM: False,
            USER: before is None or (before.role == ASSISTANT and not before.calls),
            ASSISTANT: before is not None and before.role in (USER, TOOL),
            TOOL: called,
        }[message.role]
        if not fits:
            behind = f"behind {before.role}" if before is not None else "at the beginning"
            raise Unfit("role_order", f"turn {number} is of {message.role}, {behind}")
        if not message.content.strip() and not message.calls and message.role in (USER, ASSISTANT):
            what = "empty_answer" if message.role == ASSISTANT else "empty_question"
            raise Unfit(what, f"turn {number} says nothing")
        before = message
    assert before is not None
    if before.role != ASSISTANT:
        raise Unfit("role_order", f"the last turn is of {before.role}, not of assistant")
