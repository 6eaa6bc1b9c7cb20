"""The commands that a run understands, their arguments and bounds: from the words of a person to an object, and its check.

Checked twice: where it is typed, so that a slip is said at once, and by the run, because anybody may write a file. What depends on
the model (a prompt that is too long) only the run knows.
"""

from __future__ import annotations

import math
import re
from typing import Any

from jielong.errors import InputError

COMMANDS = {
    "pause": "after this step, until resume; nothing is lost, and other commands are answered meanwhile",
    "resume": "go on after a pause",
    "save": "write a checkpoint now, and answer when it is there",
    "stop": "save after this step and end; the same command goes on from there",
    "learning-rate": "VALUE: the next step's rate, and the schedule in proportion; xFACTOR: times what it is now",
    "prompts": "TEXT...: other sample prompts, shown now and from here on",
    "generate": "PROMPT: continued by the weights in memory",
    "batch": "the rows of the last step as text, document by document",
    "status": "where the run stands",
}
INTERVENTIONS = ("pause", "resume", "save", "stop", "learning-rate", "prompts")  # written to the history
SETTINGS: dict[str, type] = {
    "max_new_tokens": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "repetition_penalty": float,
    "seed": int,
}
MOST_PROMPTS = 64
ROWS = 4  # of a batch that are shown, unless more are asked for
ARGUMENTS = {"learning-rate": {"value"}, "prompts": {"prompts"}, "generate": {"prompt", *SETTINGS}, "batch": {"rows"}}
FACTOR = re.compile(r"[x×*](.+)")


def check(command: dict[str, Any]) -> None:
    """Raises InputError, one sentence, for what is not a command."""
    name = command.get("command")
    if not isinstance(name, str) or name not in COMMANDS:
        raise InputError(f"command: unknown, got {str(name)[:40]!r}; must be one of {', '.join(COMMANDS)}; correct it")
    allowed = ARGUMENTS.get(name, set())
    for key in command.keys() - {"command"} - allowed:
        known = f"it takes {', '.join(sorted(allowed))}" if allowed else "it takes nothing"
        raise InputError(f"{name}: unknown argument, got {key[:40]!r}; {known}; remove it")
    if name == "learning-rate":
        factor_or_value(command.get("value"))
    elif name == "prompts":
        _check_prompts(command.get("prompts"))
    elif name == "generate":
        if not isinstance(command.get("prompt"), str):
            raise InputError(f"generate: needs a prompt, got {command.get('prompt')!r}; give a text")
        for key, kind in SETTINGS.items():
            _check_setting(key, kind, command.get(key))
    elif name == "batch":
        rows = command.get("rows", ROWS)
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise InputError(f"rows: not a number of rows, got {rows!r}; must be at least 1; change it")


def _check_prompts(prompts: Any) -> None:
    if (
        not isinstance(prompts, list)
        or not all(isinstance(text, str) and text for text in prompts)
        or not 1 <= len(prompts) <= MOST_PROMPTS
    ):
        raise InputError(
            f"prompts: must be texts, got {str(prompts)[:60]}; 1 to {MOST_PROMPTS} of them, none empty; correct them"
        )


def _check_setting(key: str, kind: type, value: Any) -> None:
    """The type; bounds are those of the [infer] table, which the run checks."""
    good = value is None or (not isinstance(value, bool) and isinstance(value, (int, kind)))
    if not good or (isinstance(value, float) and not math.isfinite(value)):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{key}: must be {what}, got {str(value)[:40]!r}; correct it")


def factor_or_value(value: Any) -> tuple[bool, float]:
    """ "x0.5" -> (True, 0.5), a factor; "3e-4" or 3e-4 -> (False, 3e-4), a rate. Raises InputError."""
    match = FACTOR.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(match[1] if match else value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        raise InputError(
            f"learning-rate: not a rate, got {str(value)[:40]!r}; must be above 0 like 3e-4, or a factor like x0.5; correct it"
        )
    return match is not None, found


def settings_of(text: str) -> dict[str, Any]:
    """ "temperature=0.8 top_p=0.9" -> {"temperature": 0.8, "top_p": 0.9}. Raises InputError."""
    found: dict[str, Any] = {}
    for part in text.replace(",", " ").split():
        key, sign, value = part.partition("=")
        key = key.replace("-", "_")
        if not sign or key not in SETTINGS:
            raise InputError(f"settings: got {part!r}; must be KEY=VALUE with one of {', '.join(SETTINGS)}; correct it")
        try:
            found[key] = SETTINGS[key](value)
        except ValueError:
            found[key] = value
        _check_setting(key, SETTINGS[key], found[key])
    return found


def from_words(name: str, values: list[str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """A command from a command line: its name, the words behind it, and options that were given. Raises InputError."""
    command: dict[str, Any] = {"command": name}
    if name == "learning-rate" and len(values) == 1:
        command["value"] = values[0]
    elif name == "prompts":
        command["prompts"] = values
    elif name == "generate" and len(values) == 1:
        command["prompt"] = values[0]
    elif name in COMMANDS and (values or name in ARGUMENTS) and name != "batch":
        takes, advice = {
            "learning-rate": ("one value", "write it like 3e-4 or x0.5"),
            "generate": ("one prompt", "put a text with spaces in quotes"),
        }.get(name, ("nothing", "remove what is behind it"))
        raise InputError(f"{name}: takes {takes}, got {len(values)} word{'' if len(values) == 1 else 's'}; {advice}")
    elif name == "batch" and values:
        raise InputError(f"batch: takes no words, got {values[0][:40]!r}; --rows says how many rows")
    given = {key: value for key, value in (options or {}).items() if value is not None}
    command |= given
    check(command)
    return command
