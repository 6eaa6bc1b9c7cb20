"""What a model is given, to the letter; where its answer ends; what it no longer sees; and that nothing is computed twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jielong.errors import InputError
from jielong.infer import stepping
from jielong.infer.chat.speaking import Speaker, Turn, conversation
from jielong.infer.generate import Continuation
from tests.infer.chat.conftest import Make

TURNS = [Turn("今天天气怎么样？", "很好。"), Turn("北京呢？", "也很好。")]
TEXT = (
    "<|im_start|>system\n说话简短。<|im_end|>\n<|im_start|>user\n今天天气怎么样？<|im_end|>\n<|im_start|>assistant\n很好。<|im_end|>\n"
    "<|im_start|>user\n北京呢？<|im_end|>\n<|im_start|>assistant\n也很好。<|im_end|>\n<|im_start|>user\n谢谢<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def answered(speaker: Speaker, ids: list[int], seed: int = 1) -> Continuation:
    answer = speaker.answer(ids, seed)
    text = "".join(answer.pieces)
    rest, record = answer.end("问", interrupted=False)
    assert text + rest == record.text
    return record


def test_the_conversation_is_what_the_template_says_to_the_letter(speaker: Make) -> None:
    one = speaker()
    ids, left_out = one.prompt("说话简短。", TURNS, "谢谢")
    assert one.tokenizer.backend.decode(ids, skip_special_tokens=False) == TEXT and left_out == 0
    # and token by token what it is in training
    assert one.template is not None
    trained = one.template.encode(conversation("说话简短。", [*TURNS, Turn("谢谢", "不客气。")]))
    assert trained.ids.tolist()[: len(ids)] == ids
    without = one.prompt("", [], "谢谢")[0]
    assert one.tokenizer.backend.decode(without, skip_special_tokens=False) == (
        "<|im_start|>user\n谢谢<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("mark", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_an_answer_ends_with_its_token(speaker: Make, mark: str) -> None:
    """The model writes a special token where it wrote its third one: the two rows of the output layer change places."""
    one = speaker(repetition_penalty=1.0)
    ids, _ = one.prompt("", [], "天气怎么样？")
    config = one.config
    tokens = list(stepping_tokens(one, ids))
    third, end = tokens[2], one.tokenizer.backend.token_to_id(mark)
    assert third not in tokens[:2] and end not in tokens
    weight = one.model.lm_head.weight
    with torch.no_grad():
        weight[[third, end]] = weight[[end, third]]
    record = answered(one, ids)
    assert (record.tokens, record.stopped) == (2, "end_of_text") and config.max_new_tokens == 8
    assert record.text == one.tokenizer.decode(tokens[:2]).replace("\ufffd", "")


def stepping_tokens(speaker: Speaker, ids: list[int]) -> list[int]:
    from jielong.infer.generate import stream_tokens

    return list(stream_tokens(speaker.model, ids, speaker.config, frozenset(), 1))


def test_special_tokens_that_are_spelled_are_refused(speaker: Make) -> None:
    one = speaker()
    with pytest.raises(
        InputError, match=r"question: spells a special token of mini, got <\|im_end\|>; .*; write it another way"
    ):
        one.prompt("", [], "什么是<|im_end|>？")
    with pytest.raises(InputError, match="system: spells a special token"):
        one.check("system", "<|im_start|>")
    one.check("question", "<|im_end>")


def test_the_oldest_exchanges_are_left_out(speaker: Make) -> None:
    """A context of 160 tokens, of which 8 are kept free: what is seen is the most that fits, and the system prompt is always there."""
    one = speaker()
    turns = [Turn(f"第{number}天的天气", "很好。" * number) for number in range(9)]
    assert one.template is not None
    for count in range(10):
        ids, left_out = one.prompt("说话简短。", turns[:count], "谢谢")
        assert ids == one.template.prompt(conversation("说话简短。", turns[left_out:count], "谢谢"))
        assert len(ids) <= 152
        if left_out:
            more = one.template.prompt(conversation("说话简短。", turns[left_out - 1 : count], "谢谢"))
            assert len(more) > 152
    assert 0 < left_out < 9


def test_a_long_limit_does_not_cost_all_memory(speaker: Make) -> None:
    one = speaker(max_new_tokens=5000)
    ids, left_out = one.prompt("", TURNS[:1], "谢谢")
    assert left_out == 0 and len(ids) <= 80
    assert one.prompt("", TURNS * 5, "谢谢")[1] > 0


def test_a_question_that_is_too_long(speaker: Make) -> None:
    one = speaker()
    long = (
        "龘" * 48
    )  # three tokens each: there is no room for what was said before, and for seven tokens of an answer only
    ids, left_out = one.prompt("", TURNS, long)
    assert (
        left_out == 2 and len(ids) == 153 and (answered(one, ids).stopped, answered(one, ids).tokens) == ("context", 7)
    )
    with pytest.raises(
        InputError, match=r"question: too long, got \d+ tokens; the context of mini is 160 tokens; shorten it"
    ):
        one.prompt("", TURNS, "龘" * 60)
    with pytest.raises(InputError, match=r"question: too long, got \d+ tokens with the system prompt; "):
        one.prompt("龘" * 40, [], long)


@pytest.mark.parametrize("keys", [{"cache": "rolling", "cache_tokens": 64}])
def test_a_rolling_cache_has_room_for_everything(speaker: Make, keys: dict[str, object]) -> None:
    one = speaker(**keys)
    ids, left_out = one.prompt("", TURNS * 8, "谢谢")
    assert len(ids) > 160 and left_out == 0 and answered(one, ids).tokens == 8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_computing_everything_anew(
    speaker: Make, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """Six exchanges with one speaker, against a new one for each; and only what is new goes through the first."""
    keeps, widths = speaker(temperature=temperature), list[int]()
    real = stepping.last_logits

    def counted(model: object, ids_BT: torch.Tensor, *rest: object) -> torch.Tensor:
        widths.append(ids_BT.shape[1])
        return real(model, ids_BT, *rest)  # type: ignore[arg-type]

    turns = list[Turn]()
    for number in range(6):
        question = f"第{number}天呢？"
        ids, left_out = keeps.prompt("说话简短。", turns, question)
        expected = answered(speaker(temperature=temperature), ids, number)
        monkeypatch.setattr(stepping, "last_logits", counted)
        widths.clear()
        assert answered(keeps, ids, number) == expected
        monkeypatch.setattr(stepping, "last_logits", real)
        if number > 0 and not left_out:
            assert widths[0] < 60 < len(ids) or number == 1
        turns.append(Turn(question, expected.text))


def test_without_a_template_each_message_is_a_text_of_its_own(speaker: Make) -> None:
    one = speaker(turns=False)
    assert one.prompt("", TURNS, "今天<|im_end|>") == (one.tokenizer.encode_prompt("今天<|im_end|>"), 0)
    with pytest.raises(InputError, match="prompt: too long, got"):
        one.prompt("", [], "龘" * 60)


def test_a_stop_string_ends_an_answer_too(speaker: Make) -> None:
    whole = answered(one := speaker(max_new_tokens=30), one.prompt("", [], "天气")[0])
    assert len(whole.text) > 3
    stop = whole.text[2]
    cut = answered(two := speaker(max_new_tokens=30, stop=[stop]), two.prompt("", [], "天气")[0])
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.stopped == "stop"


def test_an_interrupted_answer_keeps_whole_characters(speaker: Make, chat_folder: Path) -> None:
    one = speaker(max_new_tokens=30)
    ids, _ = one.prompt("", [], "天气")
    whole = answered(one, ids)
    answer = one.answer(ids, 1)
    text = next(answer.pieces)
    rest, record = answer.end("天气", interrupted=True)
    assert whole.text.startswith(text + rest) and record.text == text + rest and record.stopped == "interrupted"
    assert list(answer.pieces) == []
