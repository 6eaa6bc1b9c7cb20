"""What all commands share: arguments that mean the same everywhere, results as text or as one JSON object, errors as one
sentence.

Results go to standard output, everything said along the way to standard error; with `--json` the last line of standard
output is one JSON object. A user's mistake ends with one sentence and exit status 2, never with a traceback.

Of several processes that run the same command only the first speaks. Another one's mistake is still said, but two seconds later: mostly
all of them have made the same one, the first says it, and whoever started them ends the others in the meantime.
"""

from __future__ import annotations

import functools
import inspect
import json as json_module
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from jielong.errors import InputError, JielongError, TrainingError, explain_os_error
from jielong.progress import be_silent, plain, say
from jielong.world import this_world

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
DevicesOpt = Annotated[
    int, typer.Option("--devices", min=1, max=64, help="Train on so many devices of this machine, one process each.")
]
NodesOpt = Annotated[
    int | None, typer.Option("--nodes", min=1, max=9999, help="With --print-commands: so many machines; default: 2.")
]
PrintOpt = Annotated[
    bool,
    typer.Option(
        "--print-commands", help="Train nothing; print what to run on several machines: torchrun, DeepSpeed, Slurm."
    ),
]
RUNS = Path("runs")
SHARED = ("train", "tune", "run")  # commands that several processes may run together
HEAR_SECONDS = 2.0  # the first rank, and who started us, are heard before another rank
LOST = ("DistBackendError", "DistNetworkError", "DistStoreError")  # of torch.distributed, when a process is gone
json_printed: list[bool] = []  # whether the one JSON object is out


def friendly(command: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
    """Print a command's result (if it has one) as JSON when asked, and its errors as one sentence with exit status 2."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        rank, speak = _rank(), _voice()
        as_json = bool(kwargs.get("json")) and rank == 0
        try:
            result = command(*args, **kwargs)
            if as_json and result is not None:
                print_json({"ok": True, **result})
        except KeyboardInterrupt as stop:
            speak(f"\n{stop}" if str(stop) else "\nstopped")
            status = getattr(stop, "exit_code", 130)
            if status == 0 and as_json:
                print_json({"ok": True, "stopped": str(stop)})
            _fail(str(stop) or "stopped", status, as_json and status != 0)
        except BrokenPipeError:  # whoever read the results went away; what was made is made
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it at its end
            raise typer.Exit(1) from None
        except Exception as error:
            known = error if isinstance(error, JielongError) else explain_os_error(error) or _of_another(error)
            if rank > 0 or _of_another(error) is not None:
                time.sleep(HEAR_SECONDS)
            if rank > 0 and known is not None:
                print(plain(f"error: rank {rank}: {known}"), file=sys.stderr, flush=True)
            if known is None:
                raise
            speak(f"error: {known}")
            _fail(str(known), known.exit_code, as_json)

    wrapped.__signature__ = inspect.signature(command, eval_str=True)  # type: ignore[attr-defined]
    return wrapped


def take_part(command: str | None, json: bool) -> None:
    """Before a command begins in one of several processes: nothing in a single one. json: whether errors are said as JSON, too.

    Raises InputError for a command that several processes cannot run together.
    """
    from jielong.launch import follow

    world = this_world()
    if world.size == 1:
        return
    follow()
    if not world.first:
        be_silent()
        json_printed.append(True)  # by the first rank
    if command not in SHARED:
        raise InputError(
            f"environment: WORLD_SIZE says {world.size} processes, and {command} is for one; only {', '.join(SHARED[:-1])} and {SHARED[-1]} are "
            "started in several; unset WORLD_SIZE, or start it without torchrun"
        )


def _rank() -> int:
    try:
        return this_world().rank
    except InputError:  # take_part says it
        return 0


def _voice() -> Callable[[str], None]:
    """What errors are said with: a process that our own launcher started leaves them to its parent."""
    from jielong.launch import launched

    return (lambda text: None) if launched() else say


def _of_another(error: Exception) -> JielongError | None:
    """One sentence for what torch.distributed raises where another process of the run is gone, or None."""
    text = str(error)
    lost = type(error).__name__ in LOST or (isinstance(error, RuntimeError) and ("by peer" in text or "gloo" in text))
    if not lost or not os.environ.get("WORLD_SIZE"):
        return None
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return TrainingError(
        f"train: cannot go on without the other processes ({reason}); find the one that ended first, and run the same "
        "command again"
    )


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
