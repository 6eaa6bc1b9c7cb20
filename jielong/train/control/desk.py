"""What keys do: commands to the run, lines that are typed, answers that come back. No terminal here.

A command is sent and not waited for: its answer is shown when it is there. What a run that does not go on is asked is refused at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jielong.errors import JielongError
from jielong.train.control import asking
from jielong.train.control.drawing import Typed
from jielong.train.control.keyboard import BACKSPACE, CLEAR, END, ENTER, ESCAPE
from jielong.train.control.mailbox import Mailbox
from jielong.train.control.reading import View

KEPT = 30  # answers
PLAIN = {"p": "pause", "r": "resume", "s": "save", "b": "batch"}  # keys of commands that take nothing
STOP, RATE, PROMPT, SETTINGS, PROMPTS = (
    "stop after this step, saved? y/n",
    "learning rate (3e-4, or x0.5):",
    "prompt:",
    "settings (temperature=0.8 top_p=0.9 ...), or Enter:",
    "sample prompts, with | between:",
)
QUESTIONS = {"x": STOP, "l": RATE, "g": PROMPT, "t": PROMPTS}
HELP = """p pause after this step: commands are still answered; r resume
s save a checkpoint now; x stop after this step, saved (asks)
l learning rate: 3e-4: the next step's, the schedule in proportion; x0.5 halves
g generate with the weights in memory: a prompt, then settings (top_k=50 seed=2)
t other sample prompts; b the rows of the last step as text
v answers large or small; j, k move in them
q quit: the run goes on; Esc leaves a question"""


class Desk:
    """Takes keys, one after the other; `typed` is what is drawn of it."""

    def __init__(self, box: Mailbox, view: Callable[[], View]) -> None:
        """view: the newest view of the run."""
        self.box, self.view, self.typed, self.left = box, view, Typed(), False
        self._sent: dict[str, str] = {}  # name of a command that is not answered -> what it was
        self._prompt = ""
        self._alive: bool | None = None  # whether the run went on when it was looked at last

    def press(self, key: str) -> None:
        """A key."""
        if self.typed.question == STOP:
            self._close()
            if key in "yY":
                self.send({"command": "stop"})
        elif self.typed.question:
            self._edit(key)
        elif key in PLAIN:
            self.send({"command": PLAIN[key]})
        elif key in QUESTIONS:
            self._ask(QUESTIONS[key])
        elif key == "?":
            self.note(HELP)
        elif key == "v":
            self.typed.large, self.typed.scroll = not self.typed.large, 0
        elif key in "jk":
            self.typed.scroll += 1 if key == "k" else -1
        elif key in ("q", END):
            self.left = True

    def send(self, command: dict[str, Any]) -> None:
        """Send a command, or say why not."""
        view = self.view()
        if not view.alive:
            self.note(f"nothing to control: {view.standing}")
            return
        try:
            asking.check(command)
            self._sent[self.box.send(command)] = command["command"]
        except (JielongError, OSError) as error:
            self.note(f"error: {error}")

    def collect(self) -> None:
        """Take in answers that have come, and say when the run ends or goes on."""
        view = self.view()
        if view.alive != self._alive:
            if not view.alive:
                self.note(f"Only to read: {view.standing.removeprefix('not going on: ')}.")
            elif self._alive is not None:
                self.note(f"It goes on: {view.standing}.")
            self._alive = view.alive
        for name, what in list(self._sent.items()):
            answer = self.box.answered(name)
            if answer is not None:
                del self._sent[name]
                wrong = "" if answer.get("ok") else "error: "
                self.note(f"[step {answer.get('step', '?')}] {what}: {wrong}{answer.get('text', '')}")

    def note(self, text: str) -> None:
        """Show a text among the answers."""
        self.typed.answers = [*self.typed.answers, text][-KEPT:]
        self.typed.scroll = 0

    def _ask(self, question: str) -> None:
        self.typed.question, self.typed.line = question, ""

    def _close(self) -> None:
        self.typed.question = self.typed.line = ""

    def _edit(self, key: str) -> None:
        if key == ENTER:
            self._enter(self.typed.question, self.typed.line)
        elif key == ESCAPE:
            self._close()
        elif key == BACKSPACE:
            self.typed.line = self.typed.line[:-1]
        elif key == CLEAR:
            self.typed.line = ""
        elif key.isprintable():
            self.typed.line += key

    def _enter(self, question: str, line: str) -> None:
        """A line is typed."""
        self._close()
        if question == PROMPT:
            self._prompt = line
            self._ask(SETTINGS)
        elif question == SETTINGS:
            try:
                self.send({"command": "generate", "prompt": self._prompt, **asking.settings_of(line)})
            except JielongError as error:
                self.note(f"error: {error}")
        elif question == RATE and line.strip():
            self.send({"command": "learning-rate", "value": line.strip()})
        elif question == PROMPTS and line.strip():
            self.send({"command": "prompts", "prompts": [part.strip() for part in line.split("|") if part.strip()]})
