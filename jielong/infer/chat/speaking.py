"""One model in a chat: what it sees of the conversation, and its answer as it is written.

With a chat template the whole conversation is what the model is given, to the letter as in training. When it does not fit the
context any more, the oldest exchanges are left out of what the model sees; the system prompt stays. Room is kept for an answer:
max_new_tokens, but at most half of the context, so that a long limit does not cost all memory. Without a template each message
is the start of a text of its own.

What two prompts begin with is computed once (infer/prefix.py).
"""

from __future__ import annotations

import bisect
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from jielong.errors import InputError
from jielong.infer.config import Config
from jielong.infer.generate import Continuation, encode, finished, is_endless, room, stream_text
from jielong.infer.prefix import Prefix
from jielong.infer.stream import Writing
from jielong.model.transformer import CausalLM
from jielong.tokenizer.chat.conversations import ASSISTANT, SYSTEM, USER, Conversation, Message, Unfit
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder

KEPT_FREE = 2  # at most 1 / KEPT_FREE of the context is kept free for an answer


@dataclass(frozen=True)
class Turn:
    """A question, and what a model answered."""

    question: str
    answer: str


def conversation(system: str, turns: Sequence[Turn], question: str | None = None) -> Conversation:
    """Turns as chat templates and the form `messages` have them. system: "" for none; question: not answered yet."""
    messages = [Message(SYSTEM, system)] if system else []
    for turn in turns:
        messages += [Message(USER, turn.question), Message(ASSISTANT, turn.answer)]
    return Conversation((*messages, *([Message(USER, question)] if question is not None else [])))


class Speaker:
    """A model with its tokenizer, its sampling and, where it takes turns, its chat template. `config` may be replaced."""

    def __init__(
        self,
        name: str,
        model: CausalLM,
        tokenizer: TokenizerFolder,
        config: Config,
        template: ChatTemplate | None = None,
    ) -> None:
        """name: as the user called the model; template: None: it continues text."""
        self.name, self.model, self.tokenizer, self.config, self.template = name, model, tokenizer, config, template
        self._prefix = Prefix()
        self._stop_ids = tokenizer.stop_ids | {tokenizer.end_id}
        self._specials: tuple[str, ...] = ()
        if template is not None:
            added = tokenizer.backend.get_added_tokens_decoder()
            special = {token_id: token.content for token_id, token in added.items() if token.special and token.content}
            self._specials = tuple(special.values())
            # what the template itself writes is no part of an answer: a model that begins the user's turn has ended its own
            self._stop_ids |= {*template.stops, *(special.keys() & template.written)}

    @property
    def context(self) -> int:
        """The model's longest context, tokens."""
        return self.model.config.max_position_embeddings

    def check(self, field: str, text: str) -> None:
        """Raises InputError for a question or a system prompt that spells a special token. field: how the user knows it."""
        spelled = next((special for special in self._specials if special in text), None)
        if spelled is not None:
            raise InputError(
                f"{field}: spells a special token of {self.name}, got {spelled}; the model would take it for the end or the "
                "beginning of a turn; write it another way"
            )

    def prompt(self, system: str, turns: Sequence[Turn], question: str) -> tuple[list[int], int]:
        """The ids that the model is given, and how many of the oldest exchanges are left out of them.

        Raises InputError for a question that does not fit the context alone, and for what the template cannot write.
        """
        if self.template is None:
            return encode(self.model, self.tokenizer, question, self.config), 0
        self.check("question", question)
        ids = self._ids(system, turns, question)
        if is_endless(self.model, self.config):
            return ids, 0
        most = self.context - min(self.config.max_new_tokens, self.context // KEPT_FREE)
        if len(ids) <= most:
            return ids, 0
        starts = range(1, len(turns))
        first = 1 + bisect.bisect_left(
            starts, True, key=lambda start: len(self._ids(system, turns[start:], question)) <= most
        )
        left_out = min(first, len(turns))
        ids = self._ids(system, turns[left_out:], question)
        if len(ids) >= self.context:
            whole = " with the system prompt" if system else ""
            raise InputError(
                f"question: too long, got {len(ids)} tokens{whole}; the context of {self.name} is {self.context} tokens; "
                "shorten it"
            )
        return ids, left_out

    def _ids(self, system: str, turns: Sequence[Turn], question: str) -> list[int]:
        assert self.template is not None
        try:
            return self.template.prompt(conversation(system, turns, question))
        except Unfit as unfit:
            raise InputError(
                f"chat_template: {self.name} cannot be asked this, {unfit.detail}; write it another way, or /reset"
            ) from None

    def answer(self, ids: list[int], seed: int) -> Answer:
        """Begin to answer a prompt."""
        writing = Writing(self.tokenizer, ids, (*self.config.stop, *self._specials))
        pieces = stream_text(self.model, ids, self.config, self._stop_ids, seed, writing, self._prefix)
        return Answer(writing, pieces, room(self.model, len(ids), self.config), self.config)


class Answer:
    """An answer that is being written: `pieces` writes it, `end` ends it where it is."""

    def __init__(self, writing: Writing, pieces: Generator[str, None, None], full: int, config: Config) -> None:
        """full: how many tokens it may have."""
        self.pieces = pieces
        self._writing, self._full, self._config = writing, full, config

    def end(self, question: str, interrupted: bool) -> tuple[str, Continuation]:
        """The text that was held back, and the record of the whole."""
        self.pieces.close()
        rest = self._writing.finish()
        found = finished(question, self._writing, self._full, self._config)
        return rest, replace(found, stopped="interrupted") if interrupted else found
