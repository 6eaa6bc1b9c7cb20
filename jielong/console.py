"""What all commands share: arguments that mean the same everywhere, results as text or as one JSON object, errors as one
sentence.

Results go to standard output, everything said along the way to standard error; with `--json` the last line of standard
output is one JSON object. A user's mistake ends with one sentence and exit status 2, never with a traceback.
"""

from __future__ import annotations

import functools
import inspect
import json as json_module
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from jielong.errors import JielongError, explain_os_error
from jielong.progress import plain, say

RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped recipe's name.")]
ModelArg = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A run's name, or a Hugging Face folder of a Llama, Qwen, Mistral or Mixtral."
    ),
]
DataOpt = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="GLOB", help="Use these files instead of the recipe's sources (repeatable)."),
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key of the recipe (repeatable)."),
]
RunsOpt = Annotated[Path, typer.Option("--runs-dir", help="Where run folders are.")]
NameOpt = Annotated[str, typer.Option("--name", help="Name of the run folder; default: the recipe's name.")]
FreshOpt = Annotated[bool, typer.Option("--fresh", help="Make it again even if it is up to date.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of standard output.")]
EngineOpt = Annotated[
    str | None,
    typer.Option("--engine", metavar="ENGINE", help="local, or ray: workers on a Ray cluster (short for data.engine)."),
]
ToOpt = Annotated[
    str | None,
    typer.Option(
        "--to", metavar="URL", help="Bring the result to s3://... or another fsspec URL (needs the extra remote)."
    ),
]
RUNS = Path("runs")
json_printed: list[bool] = []  # whether the one JSON object is out


def friendly(command: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
    """Print a command's result as JSON when asked, and its errors as one sentence with exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("json"))
        try:
            result = command(*args, **kwargs)
            if as_json:
                print_json({"ok": True, **(result or {})})
        except KeyboardInterrupt as stop:
            say(f"\n{stop}" if str(stop) else "\nstopped")
            _fail(str(stop) or "stopped", 130, as_json)
        except BrokenPipeError:  # whoever read the results went away; what was made is made
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
            raise typer.Exit(1) from None
        except Exception as error:
            known = error if isinstance(error, JielongError) else explain_os_error(error)
            if known is None:
                raise
            say(f"error: {known}")
            _fail(str(known), known.exit_code, as_json)

    wrapped.__signature__ = inspect.signature(command, eval_str=True)  # type: ignore[attr-defined]
    return wrapped


def _fail(message: str, status: int, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "error": message})
    raise typer.Exit(status) from None


def print_json(value: dict[str, Any]) -> None:
    """Print the one JSON object of a command."""
    import orjson

    try:
        text = orjson.dumps(value, default=str).decode()
    except TypeError:  # a name that is no UTF-8
        text = json_module.dumps(value, default=str)
    print(text, flush=True)
    json_printed.append(True)


def tell(text: str = "", end: str = "\n") -> None:
    """Print a piece of a result."""
    print(plain(text), end=end, flush=True)
