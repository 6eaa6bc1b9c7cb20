"""The mask of a conversation, written out by hand; templates of others; what a template must not do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from jielong.errors import TokenizerError
from jielong.tokenizer import bpe
from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.chat.conversations import Conversation, Message, Unfit
from jielong.tokenizer.chat.templates import ChatTemplate, shortened, template_of
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
CALL = {"name": "weather", "arguments": {"city": "北京"}}
FIVE = Conversation(
    (
        Message("system", "说话简短。"),
        Message("user", "北京天气？"),
        Message("assistant", "", (CALL,)),
        Message("tool", "晴"),
        Message("assistant", "今天晴。"),
        Message("user", "谢谢"),
        Message("assistant", "不客气。"),
    ),
    (TOOL,),
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[问]{{ m['content'] }}[/问]{% elif m['role'] == 'system' %}[系统]{{ m['content'] }}"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    folder = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(["今天北京天气很好，谢谢。"] * 9, 300, TokenizerConfig().specials, 2, True), folder)
    return open_folder(folder)


SEGMENTS = (  # FIVE by hand; what is learned by itself
    (
        "<|im_start|>system\n说话简短。\n\n可以使用的工具：\n"
        '{"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}\n\n'
        '使用时写出：<tool_call>{"name": 工具名, "arguments": 参数}</tool_call><|im_end|>\n'
        "<|im_start|>user\n北京天气？<|im_end|>\n<|im_start|>assistant\n",
        False,
    ),
    ('<tool_call>{"name": "weather", "arguments": {"city": "北京"}}</tool_call><|im_end|>', True),
    ("\n<|im_start|>tool\n晴<|im_end|>\n<|im_start|>assistant\n", False),
    ("今天晴。<|im_end|>", True),
    ("\n<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n", False),
    ("不客气。<|im_end|>", True),
    ("\n", False),
)


def test_the_mask_of_five_turns_with_tools(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer, CHATML)
    assert tuple(template.pieces(FIVE)) == SEGMENTS
    library = tokenizers.Tokenizer.from_file(str(tokenizer.home / "tokenizer.json"))
    ids, mask = list[int](), list[bool]()
    for text, learned in SEGMENTS:
        piece = library.encode(text, add_special_tokens=False).ids
        ids, mask = ids + piece, mask + [learned] * len(piece)
    found = template.encode(FIVE)
    assert found.ids.tolist() == ids and found.learned.tolist() == mask
    end = library.token_to_id("<|im_end|>")
    assert [token == end for token in ids].count(True) == 7 and (found.ids[found.learned] == end).sum() == 3
    assert library.decode(ids, skip_special_tokens=False) == template.render(FIVE)


def test_the_last_answer_alone_and_answers_that_are_not_learned(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer)
    assert [text for text, learned in template.pieces(FIVE, "last") if learned] == ["不客气。<|im_end|>"]
    turns = list(FIVE.messages)
    turns[4] = dataclasses.replace(turns[4], trained=False)
    learned = [text for text, wanted in template.pieces(dataclasses.replace(FIVE, messages=tuple(turns))) if wanted]
    assert len(learned) == 2 and learned[-1] == "不客气。<|im_end|>"


def test_what_is_asked_is_what_was_trained(tokenizer: TokenizerFolder) -> None:
    """The prompt of each answer is, token by token, what stands before it in training."""
    template = ChatTemplate(tokenizer)
    whole = template.encode(FIVE)
    begins = np.flatnonzero(whole.learned & ~np.concatenate([[False], whole.learned[:-1]]))
    for begin, number in zip(begins.tolist(), (2, 4, 6), strict=True):
        asked = dataclasses.replace(FIVE, messages=FIVE.messages[:number])
        assert template.prompt(asked) == whole.ids[:begin].tolist()
    stop = tokenizer.backend.token_to_id("<|im_end|>")
    assert template.stops == (stop, tokenizer.end_id)


def test_a_tokenizer_carries_the_template(tokenizer: TokenizerFolder) -> None:
    """And transformers renders it, and cuts it where no answer begins, as we do."""
    assert template_of(tokenizer) == CHATML == ChatTemplate(tokenizer).source
    theirs = AutoTokenizer.from_pretrained(tokenizer.home)
    row = FIVE.to_json()
    template = ChatTemplate(tokenizer)
    assert theirs.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False) == template.render(FIVE)
    asked = dataclasses.replace(FIVE, messages=FIVE.messages[:2])
    row = asked.to_json()
    ids = theirs.apply_chat_template(row["messages"], tools=row["tools"], add_generation_prompt=True, return_dict=False)
    assert ids == template.prompt(asked)


def test_a_template_of_llama_3(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer, LLAMA3)
    simple = Conversation((Message("user", " 问 "), Message("assistant", "答")))
    assert [text for text, learned in template.pieces(simple) if learned] in (["答<|eot_id|>"], ["答"])


def test_a_template_without_markers(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer, BRACKETS)
    simple = Conversation(
        (Message("user", "问"), Message("assistant", "答"), Message("user", "再问"), Message("assistant", "再答"))
    )
    assert template.pieces(simple) == [
        ("[问]问[/问]", False),
        ("答</s>", True),
        ("[问]再问[/问]", False),
        ("再答</s>", True),
    ]
    assert template.stops == (tokenizer.end_id,)  # </s> is no special token of this tokenizer


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (BRACKETS.replace("[系统]{{ m['content'] }}", ""), "drops the system prompt"),
        ("{% for m in messages[-1:] %}{{ m['content'] }}{% endfor %}", "drops"),
        (
            "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{% endfor %}",
            "cannot be told",
        ),  # earlier turns change
        ("{% for m in messages %}{{ m['content'] }}{% endfor", "cannot render"),
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt and messages | length == 2 %}因为{% endif %}",
            "writes answers before the model is asked",
        ),
        ("{{ raise_exception('no system role') }}", "cannot render a conversation .no system role"),
    ],
)
def test_what_a_template_must_not_do(source: str, said: str, tokenizer: TokenizerFolder) -> None:
    with pytest.raises(TokenizerError, match=said):
        ChatTemplate(tokenizer, source)


def test_a_turn_that_spells_a_special_token(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer)
    for turns in ((Message("user", "什么是<|im_end|>？"), Message("assistant", "答")),
                  (Message("user", "问"), Message("assistant", "", ({"name": "f", "arguments": {"x": "<|endoftext|>"}},)),
                   Message("tool", "3"), Message("assistant", "答"))):  # fmt: skip
        with pytest.raises(Unfit, match=r"collision: turn . spells the special token <\|") as caught:
            template.encode(Conversation(turns))
        assert caught.value.reason == "collision"


def test_a_long_conversation_loses_exchanges_and_never_an_end(tokenizer: TokenizerFolder) -> None:
    template = ChatTemplate(tokenizer)
    end = tokenizer.backend.token_to_id("<|im_end|>")
    whole = len(template.encode(FIVE).ids)
    seen = set[int]()
    for most in range(whole + 1, 0, -1):
        try:
            kept, tokens = shortened(template, FIVE, most)
        except Unfit as unfit:
            assert unfit.reason == "too_long"
            seen.add(0)
            continue
        assert len(tokens.ids) <= most and kept.messages == FIVE.messages[: len(kept.messages)]
        assert kept.messages[-1].role == "assistant" and not kept.messages[-1].calls
        assert tokens.ids[tokens.learned][-1] == end
        seen.add(len(kept.messages))
    assert seen == {7, 5, 0}


REWRITES = (  # what comes last is written otherwise once something comes behind it, as Qwen3's thoughts are
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' }}"
    "{%- if message['role'] == 'assistant' and loop.last %}{{- '<think></think>' }}{%- endif %}"
    "{{- message['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def test_a_template_that_rewrites_turns_can_be_asked_by_though_not_learned_from(tokenizer: TokenizerFolder) -> None:
    with pytest.raises(TokenizerError, match="changes when the next turn comes"):
        ChatTemplate(tokenizer, REWRITES)
    template = ChatTemplate(tokenizer, REWRITES, learns=False)
    asked = Conversation((Message("user", "你好"), Message("assistant", "你好！"), Message("user", "天气？")))
    text = template.render(asked, prompt=True)
    assert tokenizer.backend.decode(template.prompt(asked), skip_special_tokens=False) == text
    end = tokenizer.backend.token_to_id("<|im_end|>")
    assert template.ends == (end,) and end in template.written
    assert "<think>" not in text


def test_a_question_that_spells_a_special_token_is_not_asked(tokenizer: TokenizerFolder) -> None:
    with pytest.raises(Unfit, match="spells the special token"):
        ChatTemplate(tokenizer).prompt(Conversation((Message("user", "什么是<|im_end|>？"),)))
