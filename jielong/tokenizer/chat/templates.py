"""A conversation as text and as tokens, by the chat template of a tokenizer's folder: the only place that knows what a turn looks like.

The template is the folder's own (Jinja, as Hugging Face has it, rendered in its sandbox), or CHATML where it has none. Which tokens are
learned is not written in the template: an answer is what stands between the conversation rendered up to its question, with the
generation prompt, and the same with the answer. So the text before it is to the letter what the model is given when it is asked, and any
template will do whose text grows turn by turn; one that rewrites earlier turns is refused with that reason.

    <|im_start|>user⏎你好<|im_end|>⏎<|im_start|>assistant⏎你好！<|im_end|>⏎
    ......................................................learned........

An answer ends with its end-of-turn token, which is learned; white space that the template puts behind it is not. Text is cut into tokens
at the borders of answers, because that is where it is cut when a model is asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import tokenizers

from jielong.errors import TokenizerError
from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.chat.conversations import ASSISTANT, SYSTEM, USER, Conversation, Message, Unfit
from jielong.tokenizer.folder import TokenizerFolder

Learned = Literal["answers", "last"]  # every answer, or the last one of each conversation

# what a template is tried with, before anything is rendered by it
PROBE = Conversation(
    (
        Message(SYSTEM, "只说真话。"),
        Message(USER, "天为什么是蓝的？"),
        Message(ASSISTANT, "因为短波散射得多。"),
        Message(USER, "海呢？"),
        Message(ASSISTANT, "水吸收红光。"),
    )
)


@dataclass(frozen=True)
class Tokens:
    """A conversation in tokens, and which of them are learned."""

    ids: npt.NDArray[np.int64]  # (N,)
    learned: npt.NDArray[np.bool_]  # (N,)


class ChatTemplate:
    """Renders conversations and cuts them into tokens. Raises TokenizerError for a template that is broken or unsuited."""

    def __init__(self, tokenizer: TokenizerFolder, source: str | None = None, learns: bool = True) -> None:
        """source: a template in place of the folder's. learns: False for one that is only asked by: it may rewrite earlier turns (Qwen3's
        takes the thoughts out of them).
        """
        self.tokenizer, self.learns = tokenizer, learns
        self.source = source or template_of(tokenizer) or CHATML
        self._backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
        self._backend.encode_special_tokens = False  # those that the template writes are meant
        table = _settings(tokenizer)
        self._names = {key: _spelling(table.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        added = self._backend.get_added_tokens_decoder()
        self._specials = tuple(
            sorted((token.content for token in added.values() if token.special), key=len, reverse=True)
        )
        self._check()

    # ------------------------------------------------------------------------------------------------ text

    def render(self, conversation: Conversation, prompt: bool = False) -> str:
        """The text of a conversation; prompt: with what makes the assistant speak next. Raises TokenizerError."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        row = conversation.to_json()
        names: dict[str, Any] = {key: value for key, value in self._names.items() if value is not None}
        try:
            rendered: Any = render_jinja_template(
                [row["messages"]], row.get("tools"), chat_template=self.source, add_generation_prompt=prompt, **names
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise TokenizerError(
                f"chat_template: cannot render a conversation ({error}); correct it, or take another template"
            ) from None
        return str(rendered[0][0])

    def pieces(self, conversation: Conversation, learned: Learned = "answers") -> list[tuple[str, bool]]:
        """The text in pieces, and of each whether it is learned. Raises Unfit."""
        self._refuse_specials(conversation)
        whole, found, at = self.render(conversation), list[tuple[str, bool]](), 0
        answers = [n for n, message in enumerate(conversation.messages) if message.role == ASSISTANT]
        for number in answers:
            before = self.render(_part(conversation, number), prompt=True)
            after = self.render(_part(conversation, number + 1))
            if not (whole.startswith(after) and after.startswith(before) and len(before) >= at):
                raise Unfit("template", f"the text up to turn {number + 1} changes when the next turn comes")
            end = len(before) + len(self._answer(after[len(before) :]))
            if conversation.messages[number].trained and (learned == "answers" or number == answers[-1]):
                found += [(whole[at : len(before)], False), (whole[len(before) : end], True)]
                at = end
        return [piece for piece in (*found, (whole[at:], False)) if piece[0]]

    def _answer(self, text: str) -> str:
        """An answer up to its end-of-turn token; without one, up to its end."""
        bare = text.rstrip()
        return bare if bare.endswith(self._specials) else text

    def _refuse_specials(self, conversation: Conversation) -> None:
        for number, message in enumerate(conversation.messages, 1):
            for text in (message.content, *(str(call) for call in message.calls)):
                spelled = next((special for special in self._specials if special in text), None)
                if spelled is not None:
                    raise Unfit("collision", f"turn {number} spells the special token {spelled}")

    # ---------------------------------------------------------------------------------------------- tokens

    def encode(self, conversation: Conversation, learned: Learned = "answers") -> Tokens:
        """A conversation in tokens. Raises Unfit."""
        ids, marks = list[int](), list[bool]()
        for text, wanted in self.pieces(conversation, learned):
            piece = self._ids(text)
            ids += piece
            marks += [wanted] * len(piece)
        return Tokens(np.array(ids, np.int64), np.array(marks, np.bool_))

    def prompt(self, conversation: Conversation) -> list[int]:
        """The tokens that a model is given to answer a conversation whose last turn is of the user (or of a tool). Answers in it are
        cut as in training. Raises Unfit for a turn that spells a special token.
        """
        self._refuse_specials(conversation)
        text = self.render(conversation, prompt=True)
        spoken = [n for n, message in enumerate(conversation.messages) if message.role == ASSISTANT]
        if not spoken or not self.learns:
            return self._ids(text)
        known = self.render(_part(conversation, spoken[-1] + 1))
        if not text.startswith(known):
            return self._ids(text)
        pieces = self.pieces(dataclasses.replace(conversation, messages=conversation.messages[: spoken[-1] + 1]))
        tail = "" if pieces[-1][1] else pieces.pop()[0]
        return [token for piece, _ in pieces for token in self._ids(piece)] + self._ids(tail + text[len(known) :])

    @property
    def written(self) -> frozenset[int]:
        """The ids that stand in a conversation of five turns, those that the template writes among them."""
        return frozenset(self._ids(self.render(PROBE)))

    @property
    def ends(self) -> tuple[int, ...]:
        """The id of the special token that the template puts behind an answer; none where it puts ordinary text there."""
        text = self.render(PROBE)[len(self.render(_part(PROBE, 4), prompt=True)) :]
        last = self._ids(self._answer(text))[-1:]
        return tuple(token for token in last if self._backend.id_to_token(token) in self._specials)

    @property
    def stops(self) -> tuple[int, ...]:
        """The ids that end an answer: the special token that the template puts behind one, and the end of text."""
        return tuple(dict.fromkeys((*self.ends, self.tokenizer.end_id)))

    def _ids(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    # ---------------------------------------------------------------------------------------------- checks

    def _check(self) -> None:
        """The probe's turns are all there, in order, and answers are found."""
        text, at = self.render(PROBE), 0
        for message in PROBE.messages:
            place = text.find(message.content, at)
            if place < 0:
                what = "drops the system prompt" if message.role == SYSTEM else f"drops a turn of {message.role}"
                raise TokenizerError(f"chat_template: {what}; correct it, or take another template")
            at = place + len(message.content)
        if not self.learns:
            return
        try:
            pieces = self.pieces(PROBE)
        except Unfit as unfit:
            raise TokenizerError(
                f"chat_template: {unfit.detail}, so it cannot be told which tokens are an answer; correct it, or take "
                "another template"
            ) from None
        learned = [piece for piece, wanted in pieces if wanted]
        answers = [message.content for message in PROBE.messages if message.role == ASSISTANT]
        if len(learned) != len(answers) or not all(map(str.__contains__, learned, answers)):
            raise TokenizerError(
                "chat_template: writes answers before the model is asked for them; correct it, or take another template"
            )


def _part(conversation: Conversation, turns: int) -> Conversation:
    return dataclasses.replace(conversation, messages=conversation.messages[:turns])


def template_of(tokenizer: TokenizerFolder) -> str | None:
    """The chat template of a tokenizer's folder, the one called default where there are several."""
    path = tokenizer.home / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = _settings(tokenizer).get("chat_template")
    if isinstance(found, list):
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _settings(tokenizer: TokenizerFolder) -> dict[str, Any]:
    path = tokenizer.home / "tokenizer_config.json"
    try:
        table = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return table if isinstance(table, dict) else {}


def _spelling(token: Any) -> str | None:
    """A special token's text, given as such or as a table."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def shortened(
    template: ChatTemplate, conversation: Conversation, most: int, learned: Learned = "answers"
) -> tuple[Conversation, Tokens]:
    """A conversation without its last exchanges, as many as must go for at most `most` tokens. Raises Unfit where not even the first
    answer, with its end, fits.
    """
    turns: Sequence[Message] = conversation.messages
    while True:
        tokens = template.encode(conversation, learned)
        if len(tokens.ids) <= most:
            return conversation, tokens
        ends = [
            n
            for n, message in enumerate(turns)
            if message.role == ASSISTANT and not message.calls and n + 1 < len(turns)
        ]
        if not ends:
            raise Unfit("too_long", f"{len(tokens.ids):,} tokens, of at most {most:,}")
        turns = turns[: ends[-1] + 1]
        conversation = dataclasses.replace(conversation, messages=tuple(turns))
