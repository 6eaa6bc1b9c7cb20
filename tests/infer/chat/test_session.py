"""A chat without a terminal: messages in, events out."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from jielong.errors import InputError
from jielong.infer.chat import speaking
from jielong.infer.chat.session import Asked, Began, Ended, Event, Listed, Piece, Session, Told
from jielong.infer.chat.speaking import Speaker, Turn, conversation
from jielong.infer.stream import Writing
from tests.infer.chat.conftest import Make


class Chat:
    """A session and its events."""

    def __init__(self, *speakers: Speaker, **options: Any) -> None:
        self.events: list[Event] = []
        self.session = Session(list(speakers), self.events.append, **options)

    def say(self, *lines: str) -> list[Event]:
        """The events of these lines."""
        self.events.clear()
        for line in lines:
            assert self.session.take(line)
        return list(self.events)

    def told(self, line: str) -> str:
        """The one thing that is said to a command."""
        [event] = self.say(line)
        assert isinstance(event, Told | Listed)
        return event.text

    def texts(self, speaker: int = 0) -> list[str]:
        return [exchange.records[speaker].text for exchange in self.session.exchanges]


def text_of(events: list[Event], speaker: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece) and event.speaker == speaker)


def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The text of each prompt that any model is given from now on, and its seed."""
    found, real = list[tuple[str, int]](), speaking.stream_text

    def watched(model: Any, ids: list[int], config: Any, stops: Any, seed: int, writing: Writing, *rest: Any) -> Any:
        backend = writing._characters.tokenizer.backend
        found.append((backend.decode(ids, skip_special_tokens=False), seed))
        return real(model, ids, config, stops, seed, writing, *rest)

    monkeypatch.setattr(speaking, "stream_text", watched)
    return found


def interrupt(monkeypatch: pytest.MonkeyPatch, after: list[int]) -> None:
    """Ctrl-C after so many pieces of each next text; -1: none."""
    real = speaking.stream_text

    def stopped(*arguments: Any) -> Generator[str, None, None]:
        count = after.pop(0) if after else -1
        pieces = real(*arguments)
        while count != 0:
            if (piece := next(pieces, None)) is None:
                return
            yield piece
            count -= 1
        raise KeyboardInterrupt

    monkeypatch.setattr(speaking, "stream_text", stopped)


def test_the_history_is_what_the_template_says_to_the_letter(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(one := speaker(temperature=1.0), system="说话简短。"), given(monkeypatch)
    chat.say("今天天气怎么样？", "北京呢？", "//谢谢")
    first, second, third = chat.texts()
    assert one.template is not None
    turns = [Turn("今天天气怎么样？", first), Turn("北京呢？", second), Turn("/谢谢", third)]
    for count, (text, seed) in enumerate(prompts):
        assert text == one.template.render(
            conversation("说话简短。", turns[:count], turns[count].question), prompt=True
        )
        assert seed == 1 + count
    assert f"<|im_start|>assistant\n{first}<|im_end|>\n<|im_start|>user\n北京呢？<|im_end|>" in prompts[1][0]
    assert chat.session.conversations() == [conversation("说话简短。", turns).to_json()]


def test_an_answer_is_streamed_and_kept(speaker: Make) -> None:
    chat = Chat(speaker())
    events = chat.say("今天天气怎么样？")
    assert events[:2] == [Asked("今天天气怎么样？"), Began(0)]
    [exchange] = chat.session.exchanges
    assert text_of(events) == exchange.records[0].text and len(exchange.records[0].text) > 2
    assert events[-1] == Ended(0, exchange.records[0])


def test_retry_draws_anew_and_takes_the_place(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(speaker(temperature=3.0)), given(monkeypatch)
    chat.say("天气", "北京")
    before = chat.texts()
    events = chat.say("/retry")
    assert events[0] == Asked("北京", again=True)
    assert prompts[2] == (prompts[1][0], prompts[1][1] + 1)
    after = chat.texts()
    assert len(after) == 2 and after[0] == before[0] and after[1] != before[1]
    assert after[1] == text_of(events)


def test_undo_takes_back_an_exchange(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(speaker()), given(monkeypatch)
    chat.say("天气", "北京" * 20)
    assert chat.told("/undo") == "taken back: " + "北京" * 10 + "..."
    chat.say("上海")
    assert prompts[2][0] == prompts[1][0].replace("北京" * 20, "上海")
    assert [exchange.message for exchange in chat.session.exchanges] == ["天气", "上海"]


def test_reset_begins_anew(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same questions then have the same answers."""
    chat, prompts = Chat(speaker(temperature=1.0), system="简短"), given(monkeypatch)
    chat.say("天气", "北京")
    before = chat.texts()
    assert chat.told("/reset") == "the turns are forgotten" and chat.session.exchanges == []
    chat.say("天气", "北京")
    assert chat.texts() == before and prompts[2:] == prompts[:2]


def test_the_system_prompt(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(speaker()), given(monkeypatch)
    chat.say("天气", "/system 说话 简短。", "北京", "/system", "上海")
    assert [text.startswith("<|im_start|>system\n说话 简短。<|im_end|>\n<|im_start|>user\n天气") for text, _ in prompts] == [
        False, True, False,
    ]  # fmt: skip
    assert "error: system: spells a special token of mini, got <|im_end|>" in chat.told("/system <|im_end|>")
    assert chat.session.system == ""
    with pytest.raises(InputError, match="system: spells"):
        Session([speaker()], print, "<|im_end|>")


def test_keys_are_set(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(one := speaker()), given(monkeypatch)
    assert chat.told("/set max_new_tokens=3") == "set max_new_tokens=3"
    chat.say("天气", "/set seed=40", "北京")
    assert [exchange.records[0].tokens for exchange in chat.session.exchanges] == [3, 3]
    assert [seed for _, seed in prompts] == [1, 40]
    assert "max_new_tokens = 3" in chat.told("/set")
    before = one.config
    for line, message in (
        ("/set temperature=-1", "error: infer.temperature: out of bounds, got -1"),
        ("/set temprature=1", "did you mean temperature?"),
        ("/set cache=hidden", "error: infer.cache: hidden (EL-attention) does not go with this model"),
        ("/set", "temperature = 0.0"),
    ):
        assert message in chat.told(line)
        assert one.config == before


def test_history_help_and_exit(speaker: Make) -> None:
    chat = Chat(speaker(), system="简短")
    assert chat.told("/history") == "system: 简短"
    chat.say("天气")
    assert chat.told("/history") == f"system: 简短\nuser: 天气\nassistant: {chat.texts()[0]}"
    assert "/retry" in chat.told("/help")
    assert not chat.session.take("/exit")
    chat.session.run(["北京", "/exit", "上海"])
    assert [exchange.message for exchange in chat.session.exchanges] == ["天气", "北京"]


def test_mistakes_are_told_and_change_nothing(speaker: Make, tmp_path: Path) -> None:
    chat = Chat(speaker())
    for line, message in (
        ("/hlep", "did you mean /help?"),
        ("/undo", "error: /undo: nothing was asked yet; ask something first"),
        ("/retry", "error: /retry: nothing was asked yet"),
        ("/save", "error: /save: no file is given"),
        (f"/save {tmp_path}/chat.jsonl", "nothing was said"),
        ("什么是<|im_end|>？", "error: question: spells a special token of mini, got <|im_end|>"),
        ("龘" * 99, "error: question: too long"),
        (" ", "error: question: empty"),
    ):
        assert message in chat.told(line) and chat.session.exchanges == []
    chat.say("天气")
    assert "its folder does not exist" in chat.told(f"/save {tmp_path}/nowhere/chat.jsonl")
    assert chat.told(f"/save {tmp_path}/chat.jsonl").endswith("chat.jsonl: 1 conversation written")


def test_that_exchanges_are_left_out_is_said_once(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(speaker(), system="简短"), given(monkeypatch)
    events = chat.say(*(f"第{number}天的天气呢？" for number in range(8)))
    said = [event.text for event in events if isinstance(event, Told)]
    assert len(said) == 1 and said[0].startswith("the conversation has outgrown the context of 160 tokens; ")
    assert "第0天" in prompts[1][0] and "第0天" not in prompts[-1][0]
    assert all(text.startswith("<|im_start|>system\n简短<|im_end|>\n<|im_start|>user\n第") for text, _ in prompts)
    assert len(chat.session.exchanges) == 8  # nothing is forgotten, some is not seen


def test_ctrl_c_keeps_what_was_written(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Chat(speaker(max_new_tokens=20))
    whole.say("天气")
    chat = Chat(speaker(max_new_tokens=20))
    interrupt(monkeypatch, [3])
    events = chat.say("天气", "北京")
    first = chat.session.exchanges[0].records[0]
    assert first.stopped == "interrupted" and 0 < first.tokens < 20
    assert whole.texts()[0].startswith(first.text) and len(first.text) > 0
    ends = [event.record.stopped for event in events if isinstance(event, Ended)]
    assert ends[0] == "interrupted" and ends[1] != "interrupted" and len(chat.session.exchanges) == 2
    assert chat.session.conversations()[0]["messages"][1] == {"role": "assistant", "content": first.text}


def test_ctrl_c_while_it_is_shown(speaker: Make) -> None:
    """The interruption comes where it likes: here while a piece is written to the screen."""
    events = list[Event]()

    def show(event: Event) -> None:
        events.append(event)
        if isinstance(event, Piece) and len(events) == 5:
            raise KeyboardInterrupt

    session = Session([speaker(max_new_tokens=20)], show)
    assert session.take("天气")
    [exchange] = session.exchanges
    assert exchange.records[0].stopped == "interrupted" and exchange.records[0].text == text_of(events)
    assert session.take("北京") and len(session.exchanges) == 2


def test_ctrl_c_before_anything_is_written(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(speaker(max_new_tokens=20))
    interrupt(monkeypatch, [0, -1, 0])
    assert chat.say("天气")[-1] == Told("stopped before anything was written; the question is taken back")
    assert chat.session.exchanges == []
    chat.say("天气")
    before = chat.texts()
    assert chat.say("/retry")[-1] == Told("stopped before anything was written; the answer before stays")
    assert chat.texts() == before


def test_ctrl_c_ends_a_chat_in_which_nobody_types(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(speaker(max_new_tokens=20), ends_on_interrupt=True)
    interrupt(monkeypatch, [-1, 2])
    with pytest.raises(KeyboardInterrupt):
        chat.session.run(["天气", "北京", "上海"])
    assert [exchange.message for exchange in chat.session.exchanges] == ["天气", "北京"]
    two = Chat(speaker(), speaker(name="b"), ends_on_interrupt=True)
    interrupt(monkeypatch, [2])
    with pytest.raises(KeyboardInterrupt):
        two.session.run(["天气", "北京"])
    assert two.session.exchanges == []  # the second model was not asked


@pytest.mark.parametrize("together", [False, True])
def test_two_models_see_their_own_answers_and_the_same_seeds(
    speaker: Make, other_folder: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    def both() -> list[Speaker]:
        return [speaker(name="甲", temperature=1.0), speaker(other_folder, name="乙", temperature=1.0, seed=99)]

    alone = [Chat(one) for one in both()]
    alone[1].session.speakers[0].config = alone[0].session.speakers[0].config
    for chat in alone:
        chat.say("天气", "北京")
    pair, prompts = Chat(*both(), together=together), given(monkeypatch)
    events = pair.say("天气", "北京")
    for number, chat in enumerate(alone):
        assert pair.texts(number) == chat.texts() and text_of(events, number) == "".join(chat.texts())
        assert pair.session.conversations()[number] == chat.session.conversations()[0]
    assert pair.texts(0) != pair.texts(1) and [seed for _, seed in prompts] == [1, 1, 2, 2]
    whose = [event.speaker for event in events[: len(events) // 2] if isinstance(event, Piece)]
    assert (whose != sorted(whose)) == together
    assert pair.told("/history").split("\n")[1:3] == [f"甲: {pair.texts(0)[0]}", f"乙: {pair.texts(1)[0]}"]


def test_what_one_of_two_refuses_is_put_to_neither(speaker: Make, other_folder: Path) -> None:
    pair = Chat(speaker(name="甲"), speaker(other_folder, name="乙", cache="rolling"))
    events = pair.say("龘" * 60)
    assert len(events) == 1 and isinstance(events[0], Told) and "the context of 甲 is 160 tokens" in events[0].text
    assert pair.session.exchanges == []
    [first, second] = pair.say("/set")
    assert isinstance(first, Listed) and first.text.startswith("甲:\n") and isinstance(second, Listed)
    before = [one.config for one in pair.session.speakers]
    assert "error: infer.num_beams" in pair.told("/set num_beams=2")  # the second one's cache does not go with it
    assert [one.config for one in pair.session.speakers] == before


def test_ctrl_c_stops_one_of_two_or_both(speaker: Make, other_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def both() -> list[Speaker]:
        return [speaker(name="甲", max_new_tokens=20), speaker(other_folder, name="乙", max_new_tokens=20)]

    pair = Chat(*both())
    interrupt(monkeypatch, [2])
    pair.say("天气")
    assert [record.stopped for record in pair.session.exchanges[0].records] == ["interrupted", "length"]
    pair = Chat(*both(), together=True)
    interrupt(monkeypatch, [2])
    pair.say("天气")
    assert [record.stopped for record in pair.session.exchanges[0].records] == ["interrupted", "interrupted"]
    assert all(record.text for record in pair.session.exchanges[0].records)


def test_texts_that_are_continued(speaker: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat, prompts = Chat(speaker(turns=False, temperature=1.0)), given(monkeypatch)
    chat.say("天气", "北京", "/retry", "//x")
    assert [seed for _, seed in prompts] == [1, 2, 3, 4]
    assert [exchange.message for exchange in chat.session.exchanges] == ["天气", "北京", "/x"]
    assert [text for text, _ in prompts] == ["天气", "北京", "北京", "/x"]
    for line in ("/undo", "/reset", "/system 简短", "/history", "/save x"):
        assert "there are no turns, text is continued here; start again with --chat" in chat.told(line)
    assert "/undo" not in chat.told("/help")


def test_sampling_that_does_not_go_with_the_model(speaker: Make) -> None:
    with pytest.raises(InputError, match=r"infer.cache: hidden"):
        Chat(speaker(cache="hidden"))


def test_a_ctrl_c_whose_exception_is_lost_stops_all_the_same() -> None:
    """A signal that arrives in code called by a library: its exception is printed or dropped there, and nobody sees it."""
    import contextlib
    import os
    import signal

    from jielong.infer.chat.session import _heard

    before = signal.getsignal(signal.SIGINT)
    with _heard() as asked:
        assert not asked()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked()
    assert signal.getsignal(signal.SIGINT) is before
