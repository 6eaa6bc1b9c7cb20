"""Every form that preferences come in, to the letter; and of what is unfit, the reason."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from jielong.align.config import Kind
from jielong.align.parsing import MARKS, REASONS, Marked, Pair, Prompt, Unsuited, parse
from jielong.tokenizer.chat.conversations import Message, Unfit
from tests.align.preferences import BAD, BAD_LABELS, answer, marked, system, user

ASKED = (Message("user", "问"),)
OPENED = (Message("system", "简短。"), *ASKED)
LONG = (Message("user", "你好"), Message("assistant", "你好！"), *ASKED)
Q, A, B = user("问"), answer("好答案"), answer("差答案")
HELLO, HELLO_TOO = user("你好"), answer("你好！")
FROM = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好！"}, {"from": "human", "value": "问"}]
GOOD, BADLY = {"from": "gpt", "value": "好答案"}, {"from": "gpt", "value": "差答案"}
SAID = {"prompt": "问", "chosen": "好答案", "rejected": "差答案"}
ANSWERS = {"chosen": "好答案", "rejected": "差答案"}


@pytest.mark.parametrize(
    ("record", "prompt"),
    [
        (SAID, ASKED),
        (SAID | {"prompt": [Q]}, ASKED),
        (SAID | {"prompt": Q}, ASKED),
        (SAID | {"prompt": [{"type": "text", "text": "问"}]}, ASKED),
        (SAID | {"prompt": [HELLO, HELLO_TOO, Q], "chosen": [A], "rejected": [B]}, LONG),
        (SAID | {"prompt": FROM, "chosen": GOOD, "rejected": BADLY}, LONG),
        (SAID | {"system": "简短。", "history": []}, OPENED),
        (SAID | {"system": "", "history": [["你好", "你好！"]]}, LONG),
        # the whole conversation twice
        ({"chosen": [Q, A], "rejected": [Q, B]}, ASKED),
        ({"chosen": [system("简短。"), Q, A], "rejected": [system("简短。"), Q, B]}, OPENED),
        ({"chosen": [HELLO, HELLO_TOO, Q, A], "rejected": [user("你好 "), HELLO_TOO, Q, B]}, LONG),
        ({"system": "简短。", "chosen": [Q, A], "rejected": [Q, B]}, OPENED),
        (SAID | {"chosen": [Q, A], "rejected": [Q, B]}, ASKED),  # and the prompt once more, as HuggingFaceH4 has it
        (SAID | {"chosen": [system("简短。"), Q, A], "rejected": [system("简短。"), Q, B]}, OPENED),
        (SAID | {"system": "简短。", "chosen": [Q, A], "rejected": [Q, B]}, OPENED),
        # the conversation goes on behind the prompt
        (SAID | {"prompt": "你好", "chosen": [HELLO_TOO, Q, A], "rejected": [HELLO_TOO, Q, B]}, LONG),
        ({"chosen": [HELLO, HELLO_TOO, Q, A], "rejected": "差答案"}, LONG),
        # others'
        ({"conversations": FROM, "chosen": GOOD, "rejected": BADLY}, LONG),
        ({"conversations": json.dumps(FROM), "chosen": GOOD, "rejected": BADLY}, LONG),
        ({"conversations": FROM[2:], "system": "简短。", "chosen": GOOD, "rejected": BADLY}, OPENED),
        ({"messages": [HELLO, HELLO_TOO, Q, A], "rejected_response": "差答案"}, LONG),
        ({"messages": [HELLO, HELLO_TOO, Q, A], "rejected_messages": [HELLO, HELLO_TOO, Q, B]}, LONG),
        (
            {"system": "", "history": [["你好", "你好！"]], "question": "问", "response_chosen": "好答案", "response_rejected": "差答案"},
            LONG,
        ),
        (
            {"context": [{"role": "human", "text": "问"}], "chosen": {"role": "assistant", "text": "好答案"},
             "rejected": {"role": "assistant", "text": "差答案"}},
            ASKED,
        ),
        (ANSWERS | {"question": "问"}, ASKED),
        (ANSWERS | {"instruction": "问", "input": ""}, ASKED),
        (ANSWERS | {"instruction": "翻译：", "input": "问"}, (Message("user", "翻译：\n问"),)),
        (ANSWERS | {"问题": "问"}, ASKED),
        (ANSWERS | {"prompt": None, "question": "问", "messages": None}, ASKED),  # a table's row
    ],
)  # fmt: skip
def test_pairs(record: dict[str, Any], prompt: tuple[Message, ...]) -> None:
    assert parse(record, "pairs") == (Pair(prompt, "好答案", "差答案"),)


def test_answers_are_not_changed() -> None:
    record = SAID | {"chosen": " 好\n答案\n", "rejected": 5}
    assert parse(record, "pairs") == (Pair(ASKED, " 好\n答案\n", "5"),)


@pytest.mark.parametrize(
    ("fields", "margin"),
    [
        ({}, None),
        ({"margin": 2}, 2.0),
        ({"margin": "0.5"}, 0.5),
        ({"margin": 0}, 0.0),
        ({"margin": None, "score_chosen": 20, "score_rejected": 17}, 3.0),
        ({"margin": "", "score_chosen": "20", "score_rejected": "17.5"}, 2.5),
        ({"chosen_score": 4, "rejected_score": 4.0}, 0.0),
        ({"score_chosen": 20, "score_rejected": None}, None),
        ({"score_chosen": [20], "score_rejected": 17}, None),
        ({"score_chosen": True, "score_rejected": False}, None),
    ],
)
def test_margins(fields: dict[str, Any], margin: float | None) -> None:
    [found] = parse(SAID | fields, "pairs")
    assert isinstance(found, Pair) and found.margin == margin and isinstance(found.margin, float | None)


@pytest.mark.parametrize("margin", ["nan", float("nan"), float("inf"), 1e300, 10**400, [1]])
def test_margins_that_are_none(margin: Any) -> None:
    with pytest.raises(Unfit, match=r"bad_margin: margin is no number, got "):
        parse(SAID | {"margin": margin}, "pairs")


@pytest.mark.parametrize(
    ("record", "prompt", "label"),
    [
        (marked(1), (Message("user", "1 加一等于几？"),), True),
        ({"question": "问", "answer": "等于2。", "label": 0}, ASKED, False),
        ({"instruction": "问", "input": "", "output": "等于2。", "label": "好"}, ASKED, True),
        ({"prompt": [HELLO, HELLO_TOO, Q], "completion": [answer("等于2。")], "label": "BAD"}, LONG, False),
        ({"messages": [system("简短。"), Q, answer("等于2。")], "label": "false"}, OPENED, False),
        ({"conversations": [*FROM, {"from": "gpt", "value": "等于2。"}], "kto_tag": True}, LONG, True),
        ({"prompt": "问", "response": "等于2。", "label": 1.0, "chosen": None, "rejected": None}, ASKED, True),
    ],
)
def test_marked_answers(record: dict[str, Any], prompt: tuple[Message, ...], label: bool) -> None:
    assert parse(record, "unpaired") == (Marked(prompt, "等于2。", label),)


def test_a_pair_is_two_marked_answers() -> None:
    both = (Marked(ASKED, "好答案", True), Marked(ASKED, "差答案", False))
    assert parse(SAID, "unpaired") == parse(SAID | {"label": "甲"}, "unpaired") == both


@pytest.mark.parametrize(("record", "reason"), BAD_LABELS)
def test_labels_that_say_nothing(record: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit) as caught:
        parse(record, "unpaired")
    assert caught.value.reason == reason and "label is " in caught.value.detail


def test_labels_in_words() -> None:
    for word, label in MARKS.items():
        [found] = parse(marked(1, f" {word.upper()} "), "unpaired")
        assert isinstance(found, Marked) and found.label is label


@pytest.mark.parametrize(
    ("record", "prompt", "columns"),
    [
        ({"prompt": "问"}, ASKED, {}),
        ({"question": "问", "answer": "42", "level": 3}, ASKED, {"answer": "42", "level": 3}),
        (SAID | {"id": "a", "score_chosen": 1}, ASKED, {"id": "a", "score_chosen": 1}),
        ({"chosen": [HELLO, HELLO_TOO, Q, A], "rejected": [HELLO, HELLO_TOO, Q, B], "id": 1}, LONG, {"id": 1}),
        ({"prompt": [HELLO, HELLO_TOO, Q]}, LONG, {}),
        ({"prompt": [HELLO, HELLO_TOO, Q, A]}, LONG, {}),
        ({"messages": [HELLO, HELLO_TOO, Q, answer("")], "tools": "", "topic": ["甲"]}, LONG, {"topic": ["甲"]}),
        ({"conversations": FROM, "system": None}, LONG, {}),
        ({"conversations": [*FROM, GOOD], "context": "段落"}, LONG, {"context": "段落"}),
        ({"instruction": "问", "input": "", "output": "答", "history": [["你好", "你好！"]]}, LONG, {"output": "答"}),
        ({"question": "问", "input": "x", "context": ["段"]}, ASKED, {"input": "x", "context": ["段"]}),
        ({"prompt": "问", "day": datetime.date(2025, 1, 2), "raw": b"\x00", "none": None}, ASKED, {"day": datetime.date(2025, 1, 2), "none": None}),
    ],
)  # fmt: skip
def test_prompts(record: dict[str, Any], prompt: tuple[Message, ...], columns: dict[str, Any]) -> None:
    assert parse(record, "prompts") == (Prompt(prompt, columns),)


def test_fields_that_have_other_names() -> None:
    record = {"q": "问", "a": "好答案", "b": "差答案", "gap": 2, "chosen": "没有关系"}
    names = {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "gap"}
    assert parse(record, "pairs", names) == (Pair(ASKED, "好答案", "差答案", 2.0),)
    assert parse({k: v for k, v in record.items() if k != "gap"}, "pairs", names) == (Pair(ASKED, "好答案", "差答案"),)
    swapped = {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"}
    assert parse(SAID, "pairs", swapped) == (Pair(ASKED, "差答案", "好答案"),)
    assert parse({"q": "问", "gold": "7", "a": 1}, "prompts", {"prompt": "q", "answer": "gold"}) == (
        Prompt(ASKED, {"answer": "7", "a": 1}),
    )
    assert parse({"q": "问", "a": "答", "ok": 1}, "unpaired", {"prompt": "q", "completion": "a", "label": "ok"}) == (
        Marked(ASKED, "答", True),
    )
    with pytest.raises(Unfit, match="unknown_form: no b for rejected; there are: q, a"):
        parse({"q": "问", "a": "好答案"}, "pairs", names)


@pytest.mark.parametrize(("record", "reason"), [row for row in BAD if isinstance(row[0], dict)])
def test_unfit_records(record: dict[str, Any], reason: str) -> None:
    if reason in ("equal", "binary", "collision", "too_long"):  # these are seen later
        parse(record, "pairs", None, 50_000)
        return
    with pytest.raises(Unfit) as caught:
        parse(record, "pairs", None, 50_000)
    assert caught.value.reason == reason and caught.value.detail and "\n" not in caught.value.detail


@pytest.mark.parametrize(
    ("record", "kind", "said"),
    [
        (SAID | {"chosen": None}, "pairs", "missing_text: field 'chosen' is null"),
        (SAID | {"rejected": " "}, "pairs", "empty_answer: rejected says nothing"),
        (SAID | {"chosen": "长" * 101}, "pairs", "turn_too_long: chosen has 101 characters"),
        (SAID | {"prompt": 1.5j}, "pairs", "not_text: field 'prompt' is of the type complex"),
        (ANSWERS | {"问题": None}, "pairs", "missing_text: field '问题' is null"),
        (SAID | {"prompt": [Q, Q]}, "pairs", "role_order: prompt: turn 2 is of user, behind user"),
        (SAID | {"chosen": {"from": "gpt", "value": ""}}, "pairs", "empty_answer: chosen, with its prompt: turn 2 says nothing"),
        ({"chosen": [Q, A], "rejected": [Q]}, "pairs", "role_order: rejected: the last turn is of user, not of assistant"),
        (SAID | {"rejected": [user("别的"), B]}, "pairs", "diverging: rejected goes with another prompt"),
        ({"prompt": "问", "chosen": "好"}, "pairs", "unknown_form: no chosen and rejected; there are: prompt, chosen"),
        ({"prompt": "问", "completion": "好"}, "unpaired", "unknown_form: no label, and no chosen and rejected; there are: prompt, completion"),
        ({"prompt": "问", "label": 1}, "unpaired", "unknown_form: no completion, response, answer or messages; there are: prompt, label"),
        ({"completion": "好", "label": 1}, "unpaired", "unknown_form: no prompt beside completion; there are: completion, label"),
        ({"chosen": "好"}, "prompts", "unknown_form: no prompt, question, instruction or messages; there are: chosen"),
        ({"messages": [answer("你好")]}, "prompts", "no_turns: messages: there is nothing"),
        ({"messages": "[{"}, "prompts", "unknown_form: messages is no JSON"),
        ({}, "prompts", "unknown_form: no prompt, question, instruction or messages; there are: none"),
    ],
)  # fmt: skip
def test_details_name_the_field(record: dict[str, Any], kind: Kind, said: str) -> None:
    with pytest.raises(Unfit) as caught:
        parse(record, kind, None, 100)
    assert str(caught.value).startswith(said)


def test_every_reason_has_words() -> None:
    assert all(text and text[0].islower() for text in REASONS.values())
    with pytest.raises(AssertionError):
        Unsuited("because", "x")
