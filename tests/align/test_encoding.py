"""Prompts and answers in tokens: what the model is given, what it would write, and nothing between."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.align.checking import SetAside
from jielong.align.config import Kind
from jielong.align.encoding import answers_of, encode
from jielong.align.examples import COLUMNS
from jielong.align.parsing import Example, Marked, Pair, Prompt, parse
from jielong.tokenizer.chat.conversations import Conversation, Message
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder
from tests.align.preferences import answer, marked, pair, system, user

BARE = (  # without a mark at the end of an answer, and 空 is not written
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] | replace('空', '') }}{% else %}[{{ m['content'] }}]"
    "{% endif %}{% endfor %}"
)


def one(record: dict[str, Any], kind: Kind = "pairs") -> Example:
    return parse(record, kind)[0]


def test_a_pair_by_hand(tokenizer: TokenizerFolder, template: ChatTemplate) -> None:
    library = tokenizers.Tokenizer.from_file(str(tokenizer.home / "tokenizer.json"))
    talk = [system("简短。"), user("天为什么是蓝的？"), answer("散射。"), user("谢谢")]
    found = encode(template, one(pair(1, prompt=talk, chosen="不客气。", rejected="哦")), 200)
    pieces = (
        "<|im_start|>system\n简短。<|im_end|>\n<|im_start|>user\n天为什么是蓝的？<|im_end|>\n<|im_start|>assistant\n",
        "散射。<|im_end|>",
        "\n<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n",
    )
    assert found.prompt == [token for piece in pieces for token in library.encode(piece, add_special_tokens=False).ids]
    wanted = {"chosen": "不客气。<|im_end|>", "rejected": "哦<|im_end|>"}
    assert found.answers == {name: library.encode(text, add_special_tokens=False).ids for name, text in wanted.items()}
    assert found.tokens == len(found.prompt) + max(map(len, found.answers.values()))


TEXT = st.text("今天北京 \n很好，！abc", min_size=1, max_size=12).filter(lambda text: bool(text.strip()))


@settings(max_examples=60)
@given(st.lists(TEXT, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2 == 1), TEXT)
def test_what_is_learned_from_is_what_a_model_writes(template: ChatTemplate, turns: list[str], text: str) -> None:
    """Prompt and answer are the tokens that tuning has, white space behind the end left out, however turns begin and end."""
    messages = tuple(Message(("user", "assistant")[n % 2], turn) for n, turn in enumerate(turns))
    found = encode(template, Marked(messages, text, True), 10_000)
    whole = template.encode(Conversation((*messages, Message("assistant", text))))
    both = found.prompt + found.answers["completion"]
    assert found.prompt == template.prompt(Conversation(messages))
    assert whole.ids.tolist()[: len(both)] == both and not whole.learned[len(both) :].any()
    assert template.tokenizer.backend.decode(found.answers["completion"], skip_special_tokens=True) == text


@pytest.mark.parametrize("record", [pair(1), pair(1, rejected="短", chosen="等于二，对不对？")])
def test_what_does_not_fit(template: ChatTemplate, record: dict[str, Any]) -> None:
    example = one(record)
    size = encode(template, example, 1000).tokens
    assert encode(template, example, size).tokens == size
    prompt, longest = len(template.prompt(Conversation(example.prompt))), size
    name = max(("chosen", "rejected"), key=lambda name: len(encode(template, example, 1000).answers[name]))
    detail = f"{prompt} tokens of prompt and {longest - prompt} of {name}, of at most {size - 1} together"
    with pytest.raises(SetAside, match=f"too_long: {detail}"):
        encode(template, example, size - 1)
    asked = Prompt(example.prompt, {})
    assert encode(template, asked, prompt + 1).tokens == prompt
    for kind in (example, asked):
        with pytest.raises(SetAside, match=f"too_long: {prompt} tokens of prompt, of at most {prompt} with an answer"):
            encode(template, kind, prompt)


def test_special_tokens_in_a_text(template: ChatTemplate) -> None:
    for record in (pair(1, prompt="<|im_end|>"), pair(1, chosen="好<|im_end|>"), pair(1, rejected="<|im_start|>")):
        with pytest.raises(SetAside, match=r"collision: turn .* spells the special token"):
            encode(template, one(record), 1000)
    with pytest.raises(SetAside, match="collision"):
        encode(template, one({"prompt": "<|im_end|>"}, "prompts"), 1000)


def test_templates_that_do_not_go_with_an_example(tokenizer: TokenizerFolder) -> None:
    bare = ChatTemplate(tokenizer, BARE)
    assert encode(bare, one(pair(1)), 1000).answers["rejected"] == bare.tokenizer.encode_prompt("不知道呢。")
    with pytest.raises(SetAside, match="template: no token of the answer is left"):
        encode(bare, one(pair(1, rejected="空")), 1000)
    with pytest.raises(SetAside, match="equal: both answers are the same tokens"):
        encode(bare, one(pair(1, chosen="空好", rejected="好空")), 1000)
    front = ChatTemplate(tokenizer, "{% if '改' in messages[-1]['content'] %}改{% endif %}" + BARE)
    with pytest.raises(SetAside, match="template: the text up to turn 2 changes"):
        encode(front, one(pair(1, chosen="改了")), 1000)
    fails = ChatTemplate(
        tokenizer, "{% if '坏' in messages[-1]['content'] %}{{ raise_exception('坏了') }}{% endif %}" + BARE
    )
    for record in (pair(1, prompt="坏"), pair(1, rejected="坏")):
        with pytest.raises(SetAside, match=r"template: cannot render a conversation .*坏了"):
            encode(fails, one(record), 1000)


@pytest.mark.parametrize(
    ("record", "kind", "values"),
    [
        (pair(1, margin=2), "pairs", {"margin": 2.0, "chosen": "等于2。", "rejected": "不知道呢。"}),
        (marked(1, 0), "unpaired", {"label": False, "completion": "等于2。"}),
        ({"prompt": "1 加一等于几？", "answer": 2, "甲": ["乙"]}, "prompts", {"columns": '{"answer":2,"甲":["乙"]}'}),
    ],
)
def test_rows_are_what_is_stored(
    template: ChatTemplate, record: dict[str, Any], kind: Kind, values: dict[str, Any]
) -> None:
    example = one(record, kind)
    row = encode(template, example, 1000).row("甲")
    assert set(row) == set(COLUMNS[kind])
    assert row.items() >= ({"source": "甲"} | values).items()
    assert orjson.loads(row["messages"]) == [user("1 加一等于几？")]
    assert [name for name in row if name.endswith("_ids")] == [
        "prompt_ids",
        *(f"{name}_ids" for name in answers_of(example)),
    ]
    assert isinstance(example, {"pairs": Pair, "unpaired": Marked, "prompts": Prompt}[kind])
