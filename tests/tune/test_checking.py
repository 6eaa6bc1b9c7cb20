"""Reasons beyond those of the forms: what teaches nothing, what is there already, what validation asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.data.reading.readers import BadRecord, Object
from jielong.tokenizer.chat.conversations import Conversation, Message, parse
from jielong.tune.checking import (
    EXCERPT_CHARS,
    HASHES,
    REASONS,
    Known,
    SetAside,
    check_answers,
    conversation_of,
    excerpt,
    first_question,
    normalised,
    question_hash,
)
from jielong.tune.config import Source
from tests.tune.talks import BAD, config_of, line, turns

SOURCE = Source(name="s", path="s.jsonl")
CONFIG = config_of(Path("s.jsonl"))


def item(record: dict[str, Any]) -> Object:
    return Object(record, "s.jsonl", 3, line(record), "utf-8")


@pytest.mark.parametrize(("record", "reason"), [row for row in BAD if isinstance(row[0], dict)])
def test_what_a_record_alone_says(record: dict[str, Any], reason: str) -> None:
    if reason in ("collision", "too_long", "nothing_learned"):  # these are seen later
        conversation_of(item(record), SOURCE, CONFIG)
        return
    with pytest.raises(SetAside) as caught:
        conversation_of(item(record), SOURCE, CONFIG)
    assert caught.value.reason == reason and caught.value.detail


def test_a_bad_record_keeps_its_reason() -> None:
    bad = BadRecord("bad_json", "unexpected end", "{" * 30_000, "s.jsonl", 7)
    with pytest.raises(SetAside, match="bad_json: unexpected end"):
        conversation_of(bad, SOURCE, CONFIG)
    assert excerpt(bad) == "{" * EXCERPT_CHARS and excerpt(item(turns("问", "答"))) == line(turns("问", "答")).decode()


def test_every_reason_has_words() -> None:
    assert all(text and text[0].islower() for text in REASONS.values())
    with pytest.raises(AssertionError):
        SetAside("because", "x")


def test_a_system_message_for_those_that_have_none() -> None:
    config = config_of(Path("s.jsonl"), system="你是助手。")
    assert conversation_of(item(turns("问", "答")), SOURCE, config).messages[0] == Message("system", "你是助手。")
    has = {"messages": [{"role": "system", "content": "别的"}, *turns("问", "答")["messages"]]}
    assert [m.content for m in conversation_of(item(has), SOURCE, config).messages] == ["别的", "问", "答"]
    named = Source(name="s", path="s", pair=("标题", "正文"))
    assert len(conversation_of(item({"标题": "问", "正文": "答"}), named, CONFIG).messages) == 2


def test_answers_that_are_short_or_not_learned() -> None:
    both = parse(turns("问", "好", "再问", "很好的回答"))
    check_answers(both, "last", 4)
    with pytest.raises(SetAside, match="short_answer: turn 2 has 1 characters, of at least 4"):
        check_answers(both, "answers", 4)
    rows = turns("问", "好", "再问", "很好的回答")["messages"]
    rows[3]["weight"] = 0
    first_only = parse({"messages": rows})
    check_answers(first_only, "answers", 1)
    with pytest.raises(SetAside, match="nothing_learned: 2 answers"):
        check_answers(first_only, "last", 1)
    call = Message("assistant", "", ({"name": "f", "arguments": {}},))
    check_answers(Conversation((Message("user", "问"), call)), "answers", 4)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("天 为什么\n是蓝的？", "天为什么是蓝的?", True),
        ("ＡＢＣ是什么", "abc是什么。", True),
        ("3+4=?", "3*4=?", False),
        ("？", "！", False),
        ("你好", "您好", False),
    ],
)
def test_questions_that_are_the_same(one: str, other: str, same: bool) -> None:
    assert (normalised(one) == normalised(other)) == same and normalised(one)


def test_the_side_of_a_question() -> None:
    question = first_question(parse(turns("天 为什么\n是蓝的？", "答", "海呢", "答")))
    assert question == "天为什么是蓝的"
    assert question_hash(question, 1) == question_hash(question, 1) != question_hash(question, 2)
    share = sum(question_hash(str(n), 1) < HASHES // 4 for n in range(4000)) / 4000
    assert abs(share - 0.25) < 0.03, "four standard deviations of 4,000 draws"


def test_duplicates_and_leaks() -> None:
    known = Known()

    def admit(record: dict[str, Any], held: bool = False) -> None:
        conversation = parse(record)
        known.admit(conversation, first_question(conversation), held)

    admit(turns("问", "答"), held=True)
    with pytest.raises(SetAside, match="duplicate"):
        admit(turns(" 问", "答\n"))
    with pytest.raises(SetAside, match="leaked: validation asks this first, too: 问"):
        admit(turns("问？", "另一个答案"))
    admit(turns("问？", "另一个答案"), held=True)
    admit(turns("别的", "答"))
    admit(turns("别的", "答", "问", "答"))  # a question that validation asks first, later on
    admit(turns("别的", "答") | {"tools": [{"name": "f"}]})
    with pytest.raises(SetAside, match="duplicate"):
        admit({"prompt": "别的", "response": "答"})
