"""Lines that begin with a slash: what they are called, what they ask for, and what is a message after all.

A message that begins with / is written with two. Nothing here knows a model: `parse` reads a line, `set_key` a KEY=VALUE.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from typing import Any

from jielong.errors import InputError
from jielong.infer.config import Config, with_options
from jielong.recipe import SUGGESTION_CUTOFF

COMMANDS = {
    "help": ("", "this list"),
    "retry": ("", "answer the last message again, with the next seed"),
    "undo": ("", "take back the last question and its answer"),
    "reset": ("", "forget all turns; the system prompt stays"),
    "system": ("TEXT", "the system prompt from now on; without TEXT: none"),
    "set": ("KEY=VALUE", "change a key of the [infer] table, say temperature=0.5; alone: show them"),
    "history": ("", "show the turns"),
    "save": ("FILE", "append the conversation to FILE, in the form that is tuned on"),
    "exit": ("", "leave, as an empty line does"),
}
OF_TURNS = ("undo", "reset", "system", "history", "save")  # there are none where text is continued
SETTLED = ("prompts", "batch_size", "device", "precision")  # keys of [infer] that change nothing once a model is open


@dataclass(frozen=True)
class Slash:
    """A command, and what stands behind its name."""

    name: str
    rest: str


def parse(line: str) -> Slash | str:
    """A command, or the message that is meant. Raises InputError for a command that does not exist."""
    if not line.startswith("/"):
        return line
    if line.startswith("//"):
        return line[1:]
    name, _, rest = line[1:].partition(" ")
    if name in COMMANDS:
        return Slash(name, rest.strip())
    near = difflib.get_close_matches(name.lower(), COMMANDS, n=1, cutoff=SUGGESTION_CUTOFF)
    hint = f"did you mean /{near[0]}?" if near else f"known: {', '.join(f'/{known}' for known in COMMANDS)};"
    raise InputError(f"/{name}: unknown command; {hint} a message that begins with / is written with //")


def help_text(turns: bool) -> str:
    """The commands, one a line. turns: whether there are any."""
    rows = [(f"/{name} {what}".rstrip(), does) for name, (what, does) in COMMANDS.items()
            if turns or name not in OF_TURNS]  # fmt: skip
    width = max(len(command) for command, _ in rows)
    return "\n".join(
        [
            *(f"{command:<{width}}  {does}" for command, does in rows),
            f"{'//...':<{width}}  a message that begins with /",
            f"{'...' + chr(92):<{width}}  the message goes on in the next line",
        ]
    )


def set_key(config: Config, text: str) -> Config:
    """A config with KEY=VALUE, the value in TOML form or a bare word. Raises InputError or RecipeError."""
    key, sign, value = (part.strip() for part in text.partition("="))
    if not sign or not key:
        raise InputError(f"/set: must be KEY=VALUE, got {text!r}; for example /set temperature=0.5")
    if key in SETTLED:
        raise InputError(
            f"infer.{key}: settled when the chat begins, got {value}; leave, and start it again with another"
        )
    return with_options(config.model_dump(), {key: _value(value)})


def _value(text: str) -> Any:
    """A value in TOML form; what is none is a string."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def keys_text(config: Config) -> str:
    """The keys that /set changes and their values, one a line."""
    table = config.model_dump(exclude=set(SETTLED))
    return "\n".join(f"{key} = {'none' if value is None else _shown(value)}" for key, value in table.items())


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str) else f"{value}"
