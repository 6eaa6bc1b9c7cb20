"""As much of Go's text/template as a chat template for Ollama needs, to render one in a test.

Actions: {{ pipeline }}, if, else if, else, range with two variables or none, end; `-` beside a brace trims white space. Functions: and, or, eq,
ne, gt, len, slice. (The language's documentation: pkg.go.dev/text/template.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[()]|[^\s()]+')
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "eq": lambda first, second: first == second,
    "ne": lambda first, second: first != second,
    "gt": lambda first, second: first > second,
    "len": len,
    "slice": lambda value, start: value[start:],
}


def render(template: str, **root: Any) -> str:
    """The text of a template for the fields of its dot."""
    parts: list[tuple[str, str]] = []
    at, trim = 0, False
    for found in ACTION.finditer(template):
        text = template[at : found.start()]
        text = text.lstrip() if trim else text
        parts += [("text", text.rstrip() if found[1] else text), ("action", found[2])]
        at, trim = found.end(), bool(found[3])
    parts.append(("text", template[at:].lstrip() if trim else template[at:]))
    out: list[str] = []
    rest = _run(parts, 0, root, {"$": root}, out, True)
    assert rest == len(parts), "an end too many"
    return "".join(out)


def _run(parts: list[tuple[str, str]], at: int, dot: Any, names: dict[str, Any], out: list[str], live: bool) -> int:
    """Render up to the `end` or `else` that belongs here; returns its place."""
    while at < len(parts):
        kind, text = parts[at]
        word = text.partition(" ")[0]
        if kind == "text":
            out += [text] if live else []
        elif word in ("end", "else"):
            return at
        elif word == "if":
            at = _if(parts, at, text[3:], dot, names, out, live)
        elif word == "range":
            variables, _, source = text[6:].rpartition(":=")
            first, second = (name.strip() for name in (variables or "$_, $_").split(","))
            body = at
            at = _run(parts, body + 1, dot, names, out, False)
            for number, item in enumerate(_value(source, dot, names) or [] if live else []):
                _run(parts, body + 1, item, {**names, first: number, second: item}, out, True)
        elif live:
            value = _value(text, dot, names)
            out.append(
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            )
        at += 1
    return at


def _if(
    parts: list[tuple[str, str]], at: int, test: str, dot: Any, names: dict[str, Any], out: list[str], live: bool
) -> int:
    done = False
    while True:
        taken = live and not done and bool(_value(test, dot, names))
        done |= taken
        at = _run(parts, at + 1, dot, names, out, taken)
        text = parts[at][1]
        if text == "end":
            return at
        test = text.removeprefix("else").strip().removeprefix("if").strip() or "true"


def _value(text: str, dot: Any, names: dict[str, Any]) -> Any:
    words = WORD.findall(text)

    def one() -> Any:
        word = words.pop(0)
        if word == "(":
            value = call()
            assert words.pop(0) == ")"
            return value
        if word[0] == '"' or word in ("true", "false") or word.isdigit():
            return json.loads(word)
        stem, *fields = word.split(".")
        value = names[stem] if stem else dot
        for field in fields:
            value = value.get(field) if field else value
        return value

    def call() -> Any:
        if words[0] not in FUNCTIONS:
            return one()
        function, values = FUNCTIONS[words.pop(0)], []
        while words and words[0] != ")":
            values.append(one())
        return function(*values)

    return call()
