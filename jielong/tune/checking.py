"""What a record must be to be trained on, and the reasons why it is set aside. Nothing is repaired, nothing vanishes.

Files are judged by the readers (data/reading), turns by `conversations.parse`, text by the chat template (cutting.py). Here is what is left:
answers that teach nothing, conversations that are there already, and those that the validation would recognise. A training conversation
whose first question also opens one of the validation leaves training, however its answer differs: on web data that is what
an answer learned by heart looks like. Questions are compared as `normalised` leaves them.
"""

from __future__ import annotations

import dataclasses
import unicodedata

import orjson
import xxhash

from jielong.data.reading import records
from jielong.data.reading.readers import BadRecord, Object
from jielong.tokenizer.chat import conversations
from jielong.tokenizer.chat.conversations import ASSISTANT, SYSTEM, USER, Conversation, Message, Unfit, parse
from jielong.tokenizer.chat.templates import Learned
from jielong.tune.config import Config, Source

REASONS = {
    **records.REASONS,
    **conversations.REASONS,
    "nothing_learned": "no answer that is to be learned",
    "short_answer": "an answer shorter than is asked for",
    "duplicate": "the same conversation as one before, but for white space",
    "leaked": "a training conversation whose first question stands in validation",
}
EXCERPT_CHARS = 20_000  # of a record that is set aside, kept as evidence: a whole conversation, nearly always
HASHES = 1 << 64


class SetAside(Exception):  # noqa: N818 - it is no error of anybody's
    """A record that is not trained on: `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in REASONS, reason
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def conversation_of(item: Object | BadRecord, source: Source, config: Config) -> Conversation:
    """The conversation of a record, with the recipe's system message where it has none. Raises SetAside."""
    if isinstance(item, BadRecord):
        raise SetAside(item.reason, item.detail)
    try:
        found = parse(item.record, source.pair, config.max_turn_characters)
    except Unfit as unfit:
        raise SetAside(unfit.reason, unfit.detail) from None
    for number, message in enumerate(found.messages, 1):
        if "\x00" in message.content:
            raise SetAside("binary", f"turn {number} holds NUL at character {message.content.index(chr(0))}")
    if config.system is not None and found.messages[0].role != SYSTEM:
        found = dataclasses.replace(found, messages=(Message(SYSTEM, config.system), *found.messages))
    return found


def check_answers(conversation: Conversation, learned: Learned, least: int) -> None:
    """Raises SetAside where nothing is learned, or an answer (not a call) of fewer than `least` characters."""
    answers = [(n, message) for n, message in enumerate(conversation.messages, 1) if message.role == ASSISTANT]
    taught = [(n, message) for n, message in answers[-1 if learned == "last" else 0 :] if message.trained]
    if not taught:
        raise SetAside("nothing_learned", f"{len(answers)} answers, of which none is to be learned")
    for number, message in taught:
        if len(message.content.strip()) < least and not message.calls:
            raise SetAside(
                "short_answer", f"turn {number} has {len(message.content.strip())} characters, of at least {least}"
            )


def excerpt(item: Object | BadRecord) -> str:
    """A record as it stands in its file, cut."""
    return item.raw[:EXCERPT_CHARS] if isinstance(item, BadRecord) else item.excerpt(EXCERPT_CHARS)


def normalised(question: str) -> str:
    """What questions are compared by: width, case, white space, and punctuation at the end make no difference."""
    text = "".join(unicodedata.normalize("NFKC", question).casefold().split())
    return text.rstrip(".,!?;:~…。、") or text


def first_question(conversation: Conversation) -> str:
    """The first thing that a user says, normalised."""
    return normalised(next(message.content for message in conversation.messages if message.role == USER))


def question_hash(question: str, seed: int) -> int:
    """A number below HASHES that says on which side of the split a first question falls."""
    return xxhash.xxh3_64_intdigest(question.encode("utf-8"), seed=seed)


class Known:
    """What has been kept so far, by 16 bytes each: some hundred bytes of memory a conversation."""

    def __init__(self) -> None:
        self._conversations: set[bytes] = set()
        self._held: set[bytes] = set()  # first questions of the validation

    def admit(self, conversation: Conversation, question: str, held: bool) -> None:
        """Remember a conversation whose first question is given. Raises SetAside for one that must not be kept."""
        turns = [[message.role, message.content.strip(), message.calls] for message in conversation.messages]
        try:
            row = orjson.dumps([turns, conversation.tools], default=str)
        except TypeError as error:
            raise SetAside("bad_tools", f"tools or calls that are no JSON ({error})") from None
        same = xxhash.xxh3_128_digest(row)
        if same in self._conversations:
            raise SetAside("duplicate", "the same turns were kept before")
        asked = xxhash.xxh3_128_digest(question.encode("utf-8"))
        if held:
            self._held.add(asked)
        elif asked in self._held:
            raise SetAside("leaked", f"validation asks this first, too: {question[:80]}")
        self._conversations.add(same)
