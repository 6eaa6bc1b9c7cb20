"""A chat without a terminal: messages go in, events come out.

`Session.take` is given one message or command at a time and tells `show` what happens, piece by piece; a test gives it a list's
`append`, a terminal one of the displays in showing.py. All that was said is in `exchanges`; what a model sees of it is made
from there (`Speaker.prompt`).

Two models are asked the same questions with the same seeds, and each sees its own answers only. A question that one of them
refuses is put to neither, so that their conversations stay side by side.

Ctrl-C arrives as KeyboardInterrupt, from the model or from `show`: the answer ends where it is and is kept.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from jielong.errors import InputError, JielongError, explain_os_error
from jielong.infer.chat.saving import append_lines
from jielong.infer.chat.slashes import OF_TURNS, Slash, help_text, keys_text, parse, set_key
from jielong.infer.chat.speaking import Answer, Speaker, Turn, conversation
from jielong.infer.config import against_model
from jielong.infer.generate import Continuation

QUOTED = 20  # characters of a question that a sentence quotes


@dataclass(frozen=True)
class Told:
    """Something said along the way, which is no result."""

    text: str


@dataclass(frozen=True)
class Listed:
    """Something that was asked for with a command."""

    text: str


@dataclass(frozen=True)
class Asked:
    """A message goes to all speakers. again: a second time."""

    message: str
    again: bool = False


@dataclass(frozen=True)
class Began:
    """A speaker, by number, is about to write."""

    speaker: int


@dataclass(frozen=True)
class Piece:
    """A speaker has written whole characters."""

    speaker: int
    text: str


@dataclass(frozen=True)
class Ended:
    """A speaker has written all."""

    speaker: int
    record: Continuation


Event = Told | Listed | Asked | Began | Piece | Ended


@dataclass(frozen=True)
class Exchange:
    """A message and what each speaker wrote after it."""

    message: str
    records: tuple[Continuation, ...]


class Session:
    """One chat. `exchanges`: what was said since the beginning or the last /reset, oldest first."""

    def __init__(
        self,
        speakers: list[Speaker],
        show: Callable[[Event], None],
        system: str = "",
        together: bool = False,
        ends_on_interrupt: bool = False,
    ) -> None:
        """system: the system prompt; together: speakers write at the same time, a token of each in turn, not one after the other;
        ends_on_interrupt: Ctrl-C ends the chat, too, where nobody types.

        Raises InputError for a cache that does not go with a model, and for a system prompt that spells a special token.
        """
        assert speakers and len({speaker.template is None for speaker in speakers}) == 1
        self.speakers, self.show, self.together = speakers, show, together
        self.exchanges: list[Exchange] = []
        self.turns = speakers[0].template is not None  # or text is continued
        self.system = ""
        self._ends_on_interrupt = ends_on_interrupt
        self._number = 0  # of the next draw: answers since the beginning
        self._forgetful = set[int]()  # speakers of whom was said that they do not see everything
        for speaker in speakers:
            _check_together(speaker)
        self._set_system(system)

    def run(self, messages: Iterable[str]) -> None:
        """Take all messages, or those until /exit."""
        for message in messages:
            if not self.take(message):
                return

    def take(self, line: str) -> bool:
        """A message or a command. A mistake is told in a sentence and changes nothing. Returns whether the chat goes on."""
        try:
            meant = parse(line)
            if isinstance(meant, str):
                self._ask(meant, len(self.exchanges))
                return True
            return self._obey(meant)
        except (JielongError, OSError) as error:
            known = error if isinstance(error, JielongError) else explain_os_error(error)
            if known is None:
                raise
            self.show(Told(f"error: {known}"))
            return True

    def conversations(self) -> list[dict[str, Any]]:
        """What was said, in the form `messages`, for each speaker."""
        return [
            conversation(self.system, self._turns(number, len(self.exchanges))).to_json()
            for number in range(len(self.speakers))
        ]

    # ------------------------------------------------------------------------------------------------ messages

    def _turns(self, speaker: int, count: int) -> list[Turn]:
        """The first so many exchanges as a speaker sees them."""
        return [Turn(exchange.message, exchange.records[speaker].text) for exchange in self.exchanges[:count]]

    def _ask(self, message: str, place: int, again: bool = False) -> None:
        """Put a message to all speakers as exchange number `place`; what stood there gives way once something is written.

        Raises InputError when a speaker refuses it, before anything is written.
        """
        if self.turns and not message.strip():
            raise InputError("question: empty, got white space only; write something")
        prompts = list[list[int]]()
        for number, speaker in enumerate(self.speakers):
            ids, left_out = speaker.prompt(self.system, self._turns(number, place), message)
            prompts.append(ids)
            if left_out and number not in self._forgetful:
                self._forgetful.add(number)
                who = f"{speaker.name}: " if len(self.speakers) > 1 else ""
                self.show(Told(f"{who}the conversation has outgrown the context of {speaker.context} tokens; from now on the "
                               f"oldest exchanges are left out of what the model sees, {left_out} this time"))  # fmt: skip
        self.show(Asked(message, again))
        seed = self.speakers[0].config.seed + self._number
        records, interrupted = self._written(message, prompts, seed)
        if interrupted and self.turns and not any(record.text for record in records):
            left = "the answer before stays" if again else "the question is taken back"
            self.show(Told(f"stopped before anything was written; {left}"))
        else:
            self.exchanges[place:] = [Exchange(message, tuple(records))]
            self._number += 1
        if interrupted and self._ends_on_interrupt:
            raise KeyboardInterrupt

    def _written(self, message: str, prompts: list[list[int]], seed: int) -> tuple[list[Continuation], bool]:
        """Let the speakers write after their prompts: the records, and whether Ctrl-C ended one of them."""
        records, any_interrupted = list[Continuation](), False
        for group in [range(len(prompts))] if self.together else [range(n, n + 1) for n in range(len(prompts))]:
            answers = {number: self.speakers[number].answer(prompts[number], seed) for number in group}
            interrupted = False
            try:
                for number in group:
                    self.show(Began(number))
                with _heard() as asked:
                    for number, text in _in_turn(answers):
                        self.show(Piece(number, text))
                        if asked():
                            raise KeyboardInterrupt
            except KeyboardInterrupt:
                interrupted = any_interrupted = True
            for number, answer in answers.items():
                rest, record = answer.end(message, interrupted)
                if rest:
                    self.show(Piece(number, rest))
                records.append(record)
                self.show(Ended(number, record))
            if interrupted and self._ends_on_interrupt and len(records) < len(prompts):
                raise KeyboardInterrupt  # the others are not asked any more, so there is no exchange
        return records, any_interrupted

    # ------------------------------------------------------------------------------------------------ commands

    def _obey(self, slash: Slash) -> bool:
        """Do what a command says. Returns whether the chat goes on."""
        if slash.name in OF_TURNS and not self.turns:
            raise InputError(f"/{slash.name}: there are no turns, text is continued here; start again with --chat")
        if slash.name == "exit":
            return False
        if slash.name == "help":
            self.show(Told(help_text(self.turns)))
        elif slash.name == "set":
            self._set(slash.rest)
        elif slash.name == "history":
            self._list()
        elif slash.name == "system":
            self._set_system(slash.rest)
            self.show(Told("the system prompt is set" if self.system else "there is no system prompt any more"))
        elif slash.name == "save":
            self.save(slash.rest)
        elif slash.name == "reset":
            self.exchanges, self._number = [], 0
            self._forgetful.clear()
            self.show(Told("the turns are forgotten"))
        elif not self.exchanges:
            raise InputError(f"/{slash.name}: nothing was asked yet; ask something first")
        elif slash.name == "retry":
            self._ask(self.exchanges[-1].message, len(self.exchanges) - 1, again=True)
        else:
            taken = self.exchanges.pop().message
            quoted = taken if len(taken) <= QUOTED else taken[:QUOTED] + "..."
            self.show(Told(f"taken back: {quoted}"))
        return True

    def _set(self, text: str) -> None:
        """/set: one key for all speakers, or none of them."""
        if not text:
            for speaker in self.speakers:
                head = f"{speaker.name}:\n" if len(self.speakers) > 1 else ""
                self.show(Listed(head + keys_text(speaker.config)))
            return
        before = [speaker.config for speaker in self.speakers]
        try:
            for speaker in self.speakers:
                speaker.config = set_key(speaker.config, text)
                _check_together(speaker)
        except JielongError:
            for speaker, config in zip(self.speakers, before, strict=True):
                speaker.config = config
            raise
        if self.speakers[0].config.seed != before[0].seed:
            self._number = 0  # the next answer draws with this very seed
        self.show(Told(f"set {text}"))

    def _set_system(self, text: str) -> None:
        for speaker in self.speakers:
            speaker.check("system", text)
        self.system = text

    def _list(self) -> None:
        """/history: the turns as text, each model's answers under its name."""
        lines = [f"system: {self.system}"] if self.system else []
        for exchange in self.exchanges:
            lines.append(f"user: {exchange.message}")
            for speaker, record in zip(self.speakers, exchange.records, strict=True):
                lines.append(f"{speaker.name if len(self.speakers) > 1 else 'assistant'}: {record.text}")
        self.show(Listed("\n".join(lines) or "nothing was said yet"))

    def save(self, name: str) -> None:
        """Append the conversation of each speaker to a file. Raises InputError where there is none, and for a bad file."""
        if not name:
            raise InputError("/save: no file is given; write /save FILE, for example /save chat.jsonl")
        if not self.exchanges:
            raise InputError(f"save: nothing to write to {name}, nothing was said; ask something first")
        rows = self.conversations()
        if len(rows) > 1:
            rows = [{"model": speaker.name, **row} for speaker, row in zip(self.speakers, rows, strict=True)]
        for warning in append_lines(Path(name).expanduser(), rows):
            self.show(Told(warning))
        self.show(Told(f"{name}: {len(rows)} conversation{'s' if len(rows) > 1 else ''} written"))


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C came since: the exception that it raises may be lost in code that is called from a library's."""
    came = list[int]()

    def on_signal(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not the main thread: nothing arrives here
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def _in_turn(answers: dict[int, Answer]) -> Iterator[tuple[int, str]]:
    """Pieces of several answers, one of each in turn, with whose they are."""
    open_ones = dict(answers)
    while open_ones:
        for number, answer in list(open_ones.items()):
            piece = next(answer.pieces, None)
            if piece is None:
                del open_ones[number]
            else:
                yield number, piece


def _check_together(speaker: Speaker) -> None:
    """Raises InputError for sampling that does not go with the model."""
    if problems := against_model(speaker.config, speaker.model.config):
        raise InputError(f"infer.{problems[0]}")
