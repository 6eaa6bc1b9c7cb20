"""Every form becomes the same conversation, and what cannot be trained on is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jielong.tokenizer.chat.conversations import REASONS, Conversation, Message, Unfit, form_of, parse

ASKED = [{"role": "user", "content": "天为什么是蓝的？"}, {"role": "assistant", "content": "因为短波散射得多。"}]
TURNS = (Message("user", "天为什么是蓝的？"), Message("assistant", "因为短波散射得多。"))
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
CALL = {"name": "weather", "arguments": {"city": "北京"}}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ASKED},
        {"messages": json.dumps(ASKED)},  # a cell of a table
        {"messages": [{"role": " User ", "content": [{"type": "text", "text": "天为什么"}, {"type": "text", "text": "是蓝的？"}]}, ASKED[1]]},
        {"conversations": [{"from": "human", "value": ASKED[0]["content"]}, {"from": "gpt", "value": ASKED[1]["content"]}]},
        {"instruction": "天为什么是蓝的？", "input": "", "output": "因为短波散射得多。"},
        {"instruction": "", "input": "天为什么是蓝的？", "output": "因为短波散射得多。", "system": "  "},
        {"prompt": "天为什么是蓝的？", "response": "因为短波散射得多。"},
        {"question": "天为什么是蓝的？", "answer": "因为短波散射得多。", "id": 7},
        {"问题": "天为什么是蓝的？", "答案": "因为短波散射得多。"},
    ],
)  # fmt: skip
def test_forms(record: dict[str, Any]) -> None:
    assert parse(record) == Conversation(TURNS)


def test_fields_that_are_named() -> None:
    record = {"title": "天为什么是蓝的？", "reply": "因为短波散射得多。", "prompt": "x", "response": "y"}
    assert parse(record, ("title", "reply")) == Conversation(TURNS)
    assert form_of(record) == ("prompt", "response") and form_of({"title": 1}) is None
    with pytest.raises(Unfit, match="unknown_form: no title and answer; there are: title, reply"):
        parse(record, ("title", "answer"))


def test_history_input_and_system_of_alpaca() -> None:
    found = parse(
        {"instruction": "翻译", "input": "sky", "output": "天", "system": "你是译者", "history": [["sea", "海"]]}
    )
    assert [(m.role, m.content) for m in found.messages] == [
        ("system", "你是译者"), ("user", "sea"), ("assistant", "海"), ("user", "翻译\nsky"), ("assistant", "天")]  # fmt: skip
    assert found.questions == ("sea", "翻译\nsky")


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": CALL}]},
         {"role": "tool", "content": "晴"}],
        [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "北京"}'}}]},
         {"role": "tool", "content": "晴"}],
        [{"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "晴"}],
    ],
)  # fmt: skip
def test_calls_and_tools_are_kept(turns: list[dict[str, Any]]) -> None:
    key = "conversations" if "from" in turns[0] else "messages"
    record = {key: [{"role": "user", "content": "天气？"}, *turns, {"role": "assistant", "content": "今天晴。"}],
              "tools": json.dumps([TOOL])}  # fmt: skip
    found = parse(record)
    assert found.messages[1] == Message("assistant", "", (CALL,)) and found.tools == (TOOL,)
    assert parse(found.to_json()) == found


def test_an_answer_that_is_not_to_be_learned() -> None:
    found = parse({"messages": [ASKED[0], ASKED[1] | {"weight": 0}, *ASKED]})
    assert [m.trained for m in found.messages] == [True, False, True, True]


USER, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
SYSTEM, RESULT = {"role": "system", "content": "你"}, {"role": "tool", "content": "3"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"text": "天"}, "unknown_form"),
        ({}, "unknown_form"),
        ({"messages": {"role": "user"}}, "unknown_form"),
        ({"messages": "[{"}, "unknown_form"),
        ({"messages": ["你好"]}, "unknown_form"),
        ({"instruction": "a", "output": "b", "history": [["只有一半"]]}, "unknown_form"),
        ({"messages": []}, "no_turns"),
        ({"messages": [SYSTEM]}, "no_turns"),
        ({"messages": [{"role": "narrator", "content": "旁白"}, USER, ANSWER]}, "unknown_role"),
        ({"messages": [{"content": "没有角色"}, ANSWER]}, "unknown_role"),
        ({"messages": [ANSWER, USER]}, "role_order"),
        ({"messages": [USER, USER, ANSWER]}, "role_order"),
        ({"messages": [USER, SYSTEM, ANSWER]}, "role_order"),
        ({"messages": [USER, ANSWER, USER]}, "role_order"),
        ({"messages": [USER, ANSWER, RESULT, ANSWER]}, "role_order"),  # nothing was called
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "missing_text"),
        ({"prompt": "问", "response": None}, "missing_text"),
        ({"messages": [USER, {"role": "assistant", "content": " \n"}]}, "empty_answer"),
        ({"instruction": "", "input": "", "output": "答"}, "empty_question"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ANSWER]}, "not_text"),
        ({"prompt": ["问"], "response": "答"}, "not_text"),
        ({"messages": [USER, ANSWER], "tools": "[{"}, "bad_tools"),
        ({"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]}]}, "bad_tools"),
        ({"messages": [USER, {"role": "assistant", "content": "长" * 11}]}, "turn_too_long"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit) as caught:
        parse(record, max_characters=10)
    assert caught.value.reason == reason and caught.value.detail and reason in REASONS
