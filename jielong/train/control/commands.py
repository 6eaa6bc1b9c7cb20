"""`jielong watch` and `jielong control`: what they take and what they call.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts. Neither imports torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.console import RUNS, JsonOpt, RunsOpt, tell
from jielong.errors import RunError

RunArg = Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")]
Once = Annotated[bool, typer.Option("--once", help="Say one line and leave.")]
Command = Annotated[
    str,
    typer.Argument(
        metavar="COMMAND", help="pause, resume, save, stop, learning-rate, prompts, generate, batch or status."
    ),
]
Values = Annotated[
    list[str] | None,
    typer.Argument(metavar="[VALUE]...", help="learning-rate: 3e-4 or x0.5; prompts: texts; generate: the prompt."),
]
MaxTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="generate: length limit, tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", help="generate: 0: greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="generate: draw from the k most probable; 0: all.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="generate: draw from this much probability; 1: all.")]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", help="generate: weaken what was said; 1: off.")]
Seed = Annotated[int | None, typer.Option("--seed", help="generate: the same seed gives the same text.")]
Rows = Annotated[int | None, typer.Option("--rows", help="batch: so many rows; default: 4.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, help="Wait so long for the answer, seconds.")]


def watch(run: RunArg, once: Once = False, runs_dir: RunsOpt = RUNS, json: JsonOpt = False) -> dict[str, Any]:
    """The dashboard where there is a terminal, lines elsewhere."""
    from jielong.train.control import watching
    from jielong.train.control.reading import Reader, train_folder

    reader = Reader(run, train_folder(runs_dir, run))
    if once or json or not watching.is_terminal():
        return watching.watch_lines(reader, once or json)
    return watching.watch(reader)


def control(
    run: RunArg, command: Command, values: Values = None, max_new_tokens: MaxTokens = None,
    temperature: Temperature = None, top_k: TopK = None, top_p: TopP = None, repetition_penalty: Penalty = None,
    seed: Seed = None, rows: Rows = None, timeout: Timeout = 120.0, runs_dir: RunsOpt = RUNS, json: JsonOpt = False,
) -> dict[str, Any]:  # fmt: skip
    """Send a command to a run that goes on, wait for the answer and print it."""
    from jielong.train.control import asking
    from jielong.train.control.reading import train_folder

    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
               "repetition_penalty": repetition_penalty, "seed": seed, "rows": rows}  # fmt: skip
    wanted = asking.from_words(command, list(values or []), options)
    answer = ask(train_folder(runs_dir, run), run, wanted, timeout)
    if not answer.get("ok"):
        raise RunError(str(answer.get("text")))
    if not json:
        tell(str(answer.get("text", "")))
    return {key: value for key, value in answer.items() if key != "ok"}


def ask(train: Path, name: str, command: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Send a command and wait for its answer. Raises RunError where nobody is there, or nobody answers in time.

    train: the run's folder train/; name: of the run.
    """
    from jielong.train.control.mailbox import POLL_SECONDS, Mailbox
    from jielong.train.control.telling import alive, standing

    box = Mailbox(train)
    if not alive(status := box.status()):
        raise RunError(
            f"{name}: no training to control, {standing(status)}{_locked(train.parent)}; start it: jielong train"
        )
    sent, until = box.send(command), time.monotonic() + seconds
    while True:
        there = alive(status := box.status())  # before the answer is looked for: what ends answers first
        if (answer := box.answered(sent)) is not None:
            return answer
        if not there:
            box.withdraw(sent)
            raise RunError(
                f"{name}: the training ended before it answered, {standing(status)}; start it: jielong train"
            )
        if time.monotonic() > until:
            taken = "it was taken, and an answer may still come" if not box.withdraw(sent) else "it was withdrawn"
            raise RunError(
                f"{name}: no answer in {seconds:g} s, {standing(status)}; {taken}; a step may be longer: raise --timeout"
            )
        time.sleep(POLL_SECONDS / 2)


def _locked(run: Path) -> str:
    """What the run's lock says, where a process holds it."""
    from jielong.runs import holder

    found = holder(run)
    return f"; process {found} is at work on the run, before or after its training" if found else ""


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "watch": (watch, "Watch a training: a dashboard with keys to pause, change and ask it; lines without a terminal."),
    "control": (control, "Tell a training that goes on to pause, resume, save, stop, change, or show something."),
}
