"""Conversations -> tokens with a mask, at most so many: `chat.templates.shortened`, without what it does twice.

`shortened` says it plainly: render and cut the whole conversation, and again without its last exchange, until it fits. Its cost grows with
the third power of the exchanges. Here answers are gone through from the first one on: each is rendered with what stands before it, its
tokens are put behind those that are there, and the walk ends where no more fits. What comes out is the same, token by token; a turn that is
left out is looked at for special tokens, but not rendered by itself. tests/tune/test_cutting.py holds the two together.

`Cut` also has the bytes and characters of what is learned, without the tokens that end answers: bits per byte are of answers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jielong.errors import TokenizerError
from jielong.tokenizer.chat.conversations import ASSISTANT, Conversation, Unfit
from jielong.tokenizer.chat.templates import ChatTemplate, Learned
from jielong.tokenizer.folder import TokenizerFolder


@dataclass(frozen=True)
class Cut:
    """A conversation, perhaps without its last exchanges, in tokens."""

    conversation: Conversation
    ids: npt.NDArray[np.int64]  # (N,)
    learned: npt.NDArray[np.bool_]  # (N,)
    text_bytes: int  # UTF-8, of the learned text
    characters: int


@dataclass(frozen=True)
class _Answer:
    """An answer in the text of a conversation."""

    turn: int  # its place among the messages
    begin: int  # where it begins and, with its end-of-turn token, ends
    end: int
    after: int  # where the text ends if the conversation ends with it


class Cutter(ChatTemplate):
    """A chat template that cuts many conversations. Raises TokenizerError for a template that is broken or unsuited."""

    def __init__(self, tokenizer: TokenizerFolder, source: str | None = None) -> None:
        super().__init__(tokenizer, source)
        self._spelled = re.compile("|".join(map(re.escape, self._specials)) or "(?!)")
        numbers = ((self._backend.token_to_id(special), special) for special in self._specials)
        self._ends = {number: (len(special.encode("utf-8")), len(special)) for number, special in numbers}

    def fit(self, conversation: Conversation, most: int, learned: Learned = "answers") -> Cut:
        """A conversation in at most `most` tokens, without its last exchanges where they do not fit. Raises Unfit."""
        if any(self._spelled.search(message.content) or message.calls for message in conversation.messages):
            self._refuse_specials(conversation)
        try:
            if learned == "last":
                return self._fit_last(conversation, most)
            return self._fit_answers(conversation, most)
        except TokenizerError as error:  # the template cannot be all wrong, it has written the probe
            raise Unfit("template", str(error).partition(": ")[2].partition(";")[0]) from None

    # ------------------------------------------------------------------------------------------------- ways

    def _fit_answers(self, conversation: Conversation, most: int) -> Cut:
        whole, messages = self.render(conversation), conversation.messages
        pieces, cut, at, count = list[_Encoded](), None, 0, 0
        for answer in self._answers(conversation, whole):
            message = messages[answer.turn]
            if answer.begin < at:
                raise _changes(answer.turn)
            if message.trained:
                for text, wanted in ((whole[at : answer.begin], False), (whole[answer.begin : answer.end], True)):
                    pieces.append(self._encoded(text, wanted))
                    count += len(pieces[-1].ids)
                at = answer.end
            if not message.calls or answer.turn + 1 == len(messages):  # the conversation may end here
                tail = self._encoded(whole[at : answer.after], False)
                if count + len(tail.ids) <= most:
                    cut = answer.turn + 1, [*pieces, tail]
                elif cut is None:
                    raise Unfit("too_long", f"{count + len(tail.ids):,} tokens, of at most {most:,}")
                if count > most:
                    break
        assert cut is not None, "a conversation ends with an answer"
        return _joined(conversation, *cut)

    def _fit_last(self, conversation: Conversation, most: int) -> Cut:
        """Only the last answer is a piece of its own, so each shorter conversation is cut anew; mostly the whole one fits."""
        whole, messages = self.render(conversation), conversation.messages
        answers = list(self._answers(conversation, whole))

        def encoded(answer: _Answer) -> list[_Encoded]:
            if not messages[answer.turn].trained:
                return [self._encoded(whole[: answer.after], False)]
            borders = ((0, answer.begin, False), (answer.begin, answer.end, True), (answer.end, answer.after, False))
            return [self._encoded(whole[begin:end], learned) for begin, end, learned in borders]

        pieces = encoded(answers[-1])
        if (count := _size(pieces)) <= most:
            return _joined(conversation, len(messages), pieces)
        cut: tuple[int, list[_Encoded]] | None = None
        for answer in answers[:-1]:
            if messages[answer.turn].calls:
                continue
            pieces = encoded(answer)
            if (count := _size(pieces)) > most:
                break
            cut = answer.turn + 1, pieces
        if cut is None:
            raise Unfit("too_long", f"{count:,} tokens, of at most {most:,}")
        return _joined(conversation, *cut)

    # ------------------------------------------------------------------------------------------------ parts

    def _answers(self, conversation: Conversation, whole: str) -> Iterator[_Answer]:
        """The answers of a conversation in its text, in order, each looked for when it is asked for. Raises Unfit."""
        messages = conversation.messages
        for turn, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            before = self.render(dataclasses.replace(conversation, messages=messages[:turn]), prompt=True)
            after = whole
            if turn + 1 < len(messages):
                after = self.render(dataclasses.replace(conversation, messages=messages[: turn + 1]))
            if not (whole.startswith(after) and after.startswith(before)):
                raise _changes(turn)
            end = len(before) + len(self._answer(after[len(before) :]))
            yield _Answer(turn, len(before), end, len(after))

    def _encoded(self, text: str, learned: bool) -> _Encoded:
        ids = self._ids(text) if text else []
        if not learned:
            return _Encoded(ids, False, 0, 0)
        size, characters = self._ends.get(ids[-1], (0, 0)) if ids else (0, 0)
        return _Encoded(ids, True, len(text.encode("utf-8")) - size, len(text) - characters)


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A piece of text in tokens; bytes and characters of what is learned."""

    ids: list[int]
    learned: bool
    text_bytes: int
    characters: int


def _size(pieces: list[_Encoded]) -> int:
    return sum(len(piece.ids) for piece in pieces)


def _changes(turn: int) -> Unfit:
    return Unfit("template", f"the text up to turn {turn} changes when the next turn comes")


def _joined(conversation: Conversation, turns: int, pieces: list[_Encoded]) -> Cut:
    sizes = [len(piece.ids) for piece in pieces]
    return Cut(
        dataclasses.replace(conversation, messages=conversation.messages[:turns]),
        np.array([number for piece in pieces for number in piece.ids], np.int64),
        np.repeat([piece.learned for piece in pieces], sizes),
        sum(piece.text_bytes for piece in pieces),
        sum(piece.characters for piece in pieces),
    )
