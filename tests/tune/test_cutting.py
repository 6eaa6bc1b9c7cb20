"""The walk through the answers, and `shortened`, which says plainly what it must give: token by token the same."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.chat.conversations import Conversation, Message, Unfit, parse
from jielong.tokenizer.chat.templates import ChatTemplate, Learned, shortened
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tune.cutting import Cutter
from tests.tokenizer.chat.test_templates import BRACKETS, FIVE, LLAMA3
from tests.tune.talks import WITH_TOOLS, turns

MODES: tuple[Learned, ...] = ("answers", "last")
NO_TURN_END = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def same(fast: Cutter, plain: ChatTemplate, conversation: Conversation, most: int, learned: Learned) -> str | None:
    """Fail unless both give the same; the reason where they give none."""
    try:
        kept, tokens = shortened(plain, conversation, most, learned)
    except Unfit as unfit:
        with pytest.raises(Unfit) as caught:
            fast.fit(conversation, most, learned)
        assert (caught.value.reason, caught.value.detail) == (unfit.reason, unfit.detail)
        return unfit.reason
    cut = fast.fit(conversation, most, learned)
    assert cut.conversation == kept
    assert cut.ids.tolist() == tokens.ids.tolist() and cut.learned.tolist() == tokens.learned.tolist()
    assert len(cut.ids) <= most
    texts = [text for text, wanted in plain.pieces(kept, learned) if wanted]
    ends = sum(len(special) for text in texts for special in ("<|im_end|>", "<|eot_id|>", "</s>")
               if text.endswith(special) and special in plain._specials)  # fmt: skip
    assert cut.text_bytes == sum(len(text.encode()) for text in texts) - ends
    assert cut.characters == sum(map(len, texts)) - ends
    return None


@pytest.mark.parametrize("source", [CHATML, LLAMA3, BRACKETS, NO_TURN_END])
@pytest.mark.parametrize("learned", MODES)
def test_both_ways_agree_at_every_length(tokenizer: TokenizerFolder, source: str, learned: Learned) -> None:
    fast, plain = Cutter(tokenizer, source), ChatTemplate(tokenizer, source)
    rows = list(FIVE.messages)
    rows[4] = dataclasses.replace(rows[4], trained=False)
    unlearned = dataclasses.replace(FIVE, messages=tuple(rows))
    for conversation in (FIVE, unlearned, parse(turns("天？", "蓝。", "海？", "也蓝。", "为什么？", "水吸收红光。"))):
        whole = len(plain.encode(conversation).ids)
        found = [same(fast, plain, conversation, most, learned) for most in range(whole + 1, 0, -1)]
        assert found[0] is None and found[-1] == "too_long"


MESSAGES = st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1), st.booleans()), min_size=1, max_size=5)


@given(MESSAGES, st.integers(1, 300), st.sampled_from(MODES), st.sampled_from([CHATML, BRACKETS]))
def test_both_ways_agree_on_any_text(
    tokenizer: TokenizerFolder, rows: list[tuple[str, str, bool]], most: int, learned: Learned, source: str
) -> None:
    messages = [
        message
        for question, answer, trained in rows
        for message in (Message("user", question), Message("assistant", answer, trained=trained))
    ]
    same(*pair(tokenizer, source), Conversation(tuple(messages)), most, learned)


PAIRS: dict[tuple[int, str], tuple[Cutter, ChatTemplate]] = {}


def pair(tokenizer: TokenizerFolder, source: str) -> tuple[Cutter, ChatTemplate]:
    """Made once: hypothesis asks for it hundreds of times."""
    key = (id(tokenizer), source)
    if key not in PAIRS:
        PAIRS[key] = Cutter(tokenizer, source), ChatTemplate(tokenizer, source)
    return PAIRS[key]


def test_what_is_counted_is_the_answers_alone(tokenizer: TokenizerFolder) -> None:
    """Three answers of FIVE: the call, 今天晴。 and 不客气。, 4 characters of 3 bytes each, none of their <|im_end|>."""
    cut = Cutter(tokenizer).fit(parse(WITH_TOOLS), 1000)
    call = '<tool_call>{"name": "weather", "arguments": {"city": "北京"}}</tool_call>'
    assert cut.characters == len(call) + 4 + 4
    assert cut.text_bytes == len(call.encode()) + 12 + 12


def test_an_answer_keeps_its_end(tokenizer: TokenizerFolder) -> None:
    """However short the row, the last token that is learned is the end of a turn."""
    fast = Cutter(tokenizer)
    end = tokenizer.backend.token_to_id("<|im_end|>")
    seen = set[int]()
    for most in range(len(fast.fit(FIVE, 10_000).ids), 0, -1):
        try:
            cut = fast.fit(FIVE, most)
        except Unfit as unfit:
            assert unfit.reason == "too_long"
            continue
        assert cut.ids[cut.learned][-1] == end and len(cut.ids) <= most
        seen.add(len(cut.conversation.messages))
    assert seen == {7, 5}


@pytest.mark.parametrize("learned", MODES)
def test_what_the_template_cannot_write(tokenizer: TokenizerFolder, learned: Learned) -> None:
    picky = CHATML + "{% if messages | length > 5 %}{{ raise_exception('six turns') }}{% endif %}"
    long = parse(turns("一", "二", "三", "四", "五", "六"))
    with pytest.raises(Unfit, match=r"template: cannot render a conversation \(six turns\)"):
        Cutter(tokenizer, picky).fit(long, 1000, learned)
    rewrites = CHATML + "{% if messages | length > 5 %}。{% endif %}"
    with pytest.raises(Unfit, match="template: the text up to turn 1 changes when the next turn comes"):
        Cutter(
            tokenizer,
            rewrites.replace(
                "{%- for message in messages %}", "{{ messages | length // 6 }}{%- for message in messages %}"
            ),
        ).fit(long, 1000, learned)


@pytest.mark.parametrize("learned", MODES)
def test_a_turn_that_spells_a_special_token(tokenizer: TokenizerFolder, learned: Learned) -> None:
    fast, plain = pair(tokenizer, CHATML)
    for text in ("什么是<|im_end|>？", "<|endoftext|>"):
        assert same(fast, plain, parse(turns(text, "答")), 1000, learned) == "collision"
    called = Message("assistant", "", ({"name": "f", "arguments": {"x": "<|im_start|>"}},))
    conversation = Conversation((Message("user", "问"), called, Message("tool", "3"), Message("assistant", "答")))
    assert same(fast, plain, conversation, 1000, learned) == "collision"
    assert same(fast, plain, parse(turns("问" * 3, "答", "问", "<|im_end|>")), 8, learned) == "collision", (
        "left out or not"
    )
