"""Reasons beyond those of the forms: what is no choice, what is there already or its opposite, what validation asks."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.align.checking import REASONS, Known, SetAside, check_choice, examples_of, question
from jielong.align.config import Kind, Source
from jielong.align.parsing import Example, Marked, Pair, Prompt, parse
from jielong.data.reading.readers import BadRecord, Object
from jielong.tokenizer.chat.conversations import Message
from tests.align.preferences import BAD, BAD_LABELS, answer, marked, pair, system, user
from tests.tune.talks import line

SOURCE = Source(name="s", path="s.jsonl")


def item(record: dict[str, Any]) -> Object:
    return Object(record, "s.jsonl", 3, line(record), "utf-8")


def one(record: dict[str, Any], kind: Kind = "pairs") -> Example:
    return parse(record, kind)[0]


@pytest.mark.parametrize(("record", "reason"), [row for row in BAD if isinstance(row[0], dict)])
def test_what_a_record_alone_says(record: dict[str, Any], reason: str) -> None:
    if reason in ("collision", "too_long"):  # these are seen in tokens
        for example in examples_of(item(record), SOURCE, "pairs", 50_000):
            check_choice(example)
        return
    with pytest.raises(SetAside) as caught:
        for example in examples_of(item(record), SOURCE, "pairs", 50_000):
            check_choice(example)
    assert caught.value.reason == reason and caught.value.detail


@pytest.mark.parametrize(("record", "reason"), BAD_LABELS)
def test_what_a_marked_answer_alone_says(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(SetAside, match=reason):
        examples_of(item(record), SOURCE, "unpaired", 50_000)


def test_a_bad_record_keeps_its_reason() -> None:
    with pytest.raises(SetAside, match="bad_json: unexpected end"):
        examples_of(BadRecord("bad_json", "unexpected end", "{", "s.jsonl", 7), SOURCE, "pairs", 50_000)


def test_records_that_are_nested_too_deeply() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(SetAside, match="unknown_form: it is nested too deeply"):
        examples_of(Object(pair(1, margin=nested), "s.jsonl", 3, b"", "utf-8"), SOURCE, "pairs", 50_000)


@pytest.mark.parametrize("kind", ["pairs", "unpaired", "prompts"])
def test_a_system_message_for_those_that_have_none(kind: Kind) -> None:
    record = pair(1)
    for example in examples_of(item(record), SOURCE, kind, 100, "你是助手。"):
        assert example.prompt == (Message("system", "你是助手。"), Message("user", record["prompt"]))
    record["prompt"] = [system("别的"), user("问")]
    for example in examples_of(item(record), SOURCE, kind, 100, "你是助手。"):
        assert [turn.content for turn in example.prompt] == ["别的", "问"]


def test_the_fields_of_the_source() -> None:
    named = Source(name="s", path="s", fields={"prompt": "q", "chosen": "a", "rejected": "b"})
    found = examples_of(item({"q": "问", "a": "好", "b": "差"}), named, "pairs", 100)
    assert found == (Pair((Message("user", "问"),), "好", "差"),)


def test_the_question_of_an_example() -> None:
    """What users say, turn by turn; neither the system message nor what was answered."""
    talk = [system("简短。"), user("天 为什么\n是蓝的？"), answer("散射。"), user("继续")]
    assert question(one(pair(1, prompt=talk))) == "天为什么是蓝的\n继续"
    other = [user("天为什么是蓝的?"), answer("不知道。"), user("继续。")]
    assert question(one(pair(1, prompt=other), "prompts")) == "天为什么是蓝的\n继续"
    assert question(one(pair(1, prompt="继续"))) == "继续"


def test_duplicates_and_contradictions() -> None:
    known = Known()

    def admit(example: Example, held: bool = False) -> None:
        known.admit(example, question(example), held)

    admit(one(pair(1)))
    with pytest.raises(SetAside, match="duplicate"):
        admit(one(pair(1, chosen="等于2。\n", margin=1.0)))
    with pytest.raises(SetAside, match="contradiction"):
        admit(one(pair(1, chosen="不知道呢。", rejected="等于2。")))
    admit(one(pair(1, rejected="等于3。")))
    admit(one(pair(1, prompt=[system("简短。"), user("1 加一等于几？")])))
    admit(one(marked(1), "unpaired"))
    with pytest.raises(SetAside, match="contradiction"):
        admit(one(marked(1, "bad"), "unpaired"))
    with pytest.raises(SetAside, match="duplicate"):
        admit(one(marked(1, "good"), "unpaired"))
    admit(one({"prompt": "问", "answer": 1}, "prompts"))
    with pytest.raises(SetAside, match="duplicate"):
        admit(one({"prompt": "问", "answer": 2}, "prompts"))


def test_what_validation_asks() -> None:
    known, held = Known(), one(pair(1))
    known.admit(held, question(held), True)
    for record in (pair(1, chosen="二。"), pair(1, prompt="1加一等于几")):
        with pytest.raises(SetAside, match="leaked: validation asks this, too: 1加一等于几"):
            known.admit(one(record), question(one(record)), False)
        known.admit(one(record), question(one(record)), True)
    with pytest.raises(SetAside, match="duplicate"):
        known.admit(held, question(held), False)
    other = one(pair(1, prompt=[user("你好"), answer("你好！"), user("1 加一等于几？")]))
    known.admit(other, question(other), False)


def test_every_reason_has_words() -> None:
    assert all(text and text[0].islower() for text in REASONS.values())
    with pytest.raises(AssertionError):
        SetAside("because", "x")


def test_kinds_are_what_they_say() -> None:
    assert isinstance(one(pair(1)), Pair) and isinstance(one(pair(1), "unpaired"), Marked)
    assert isinstance(one(pair(1), "prompts"), Prompt)
