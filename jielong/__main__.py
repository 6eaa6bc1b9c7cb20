"""The command line: one command a stage, in order, and a few more. It wires functions together and holds no logic.

What all commands share stands in console.py. Everything heavy is imported inside the command that needs it:
`jielong --help` answers in a fraction of a second.
"""

from __future__ import annotations

import functools
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jielong import STAGES, __version__
from jielong.console import (
    RUNS,
    DataOpt,
    DevicesOpt,
    EngineOpt,
    FreshOpt,
    JsonOpt,
    NameOpt,
    NodesOpt,
    PrintOpt,
    RecipeArg,
    RunsOpt,
    SetOpt,
    ToOpt,
    friendly,
    json_printed,
    print_json,
    take_part,
    tell,
)
from jielong.errors import InputError
from jielong.infer.commands import COMMANDS as INFER_COMMANDS
from jielong.model_commands import COMMANDS as MODEL_COMMANDS
from jielong.progress import plain, say
from jielong.running import check_recipe_processes, commands_for, options_of, run_recipe
from jielong.tokenizer.shards.commands import COMMANDS as SHARDS_COMMANDS
from jielong.train.control.commands import COMMANDS as CONTROL_COMMANDS

app = typer.Typer(
    name="jielong",
    help="接龙: from a folder of raw Chinese text to a language model that continues it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        tell(__version__)
        raise typer.Exit
    friendly(take_part)(context.invoked_subcommand, json="--json" in sys.argv)


# ------------------------------------------------------------------------------------------------ recipes and runs


def _presets(json: bool) -> dict[str, Any]:
    """The corpora whose published form is known."""
    from jielong import show
    from jielong.data.reading.presets import rows as preset_rows

    rows = preset_rows()
    if not json:
        tell(show.presets(rows))
    return {"presets": rows}


reports = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@reports.command(
    name="report", help="Compare tokenizers on texts: compression, vocabulary, cost, speed, cuts; as a page too."
)
@friendly
def _tokenizer_report(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER...", help="Tokenizer folders or files, or names of runs.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text", metavar="GLOB", help="Measure on these files (repeatable); default: a few built-in texts."
        ),
    ] = None,
    max_megabytes: Annotated[
        float, typer.Option("--max-megabytes", min=0.001, help="Read at most this of a text, MB.")
    ] = 20,
    hidden: Annotated[
        str | None,
        typer.Option(
            "--hidden", metavar="WIDTHS", help="Model widths for the cost, e.g. 512,768; default: usual models."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the page is written.")] = Path("tokenizers.html"),
    runs_dir: RunsOpt = RUNS,
    json: JsonOpt = False,
) -> dict[str, Any]:
    from jielong import show
    from jielong.tokenizer.reporting.comparing import compare
    from jielong.tokenizer.reporting.page import write_page
    from jielong.tokenizer.reporting.tables import notes, tables

    if out.is_dir():
        raise InputError(f"--out: a folder, got {out}; give the name of a file, for example {out / 'tokenizers.html'}")
    report = compare(tokenizers, text or [], runs_dir, max_megabytes, hidden)
    write_page(report, out)
    if not json:
        for title, head, rows in tables(report):
            tell(f"{title}\n{show.table(head, rows)}\n")
        tell("\n".join([*notes(report), f"The page, with coloured cuts: {out}"]))
    return {**report, "page": str(out)}


class _TokenizerCommand(TyperCommand):
    """`tokenizer report ...` is a command of its own; anything else after `tokenizer` is a recipe."""

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        if args and args[0] == "report":
            command = typer.main.get_command(reports)
            return command.make_context(f"{info_name} report", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _stage_command(stage: str) -> None:
    """Register the command of one stage: it and what it needs, up to date."""

    def command(
        recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
        fresh: FreshOpt = False, json: JsonOpt = False,
    ) -> dict[str, Any]:  # fmt: skip
        return run_recipe(recipe, [stage], data, settings, runs_dir, name, fresh, json)

    def data_command(
        recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
        fresh: FreshOpt = False, engine: EngineOpt = None, to: ToOpt = None, json: JsonOpt = False,
    ) -> dict[str, Any]:  # fmt: skip
        if recipe == "presets":
            return _presets(json)
        chosen = [*(settings or []), *([f"data.engine={engine}"] if engine else [])]
        return run_recipe(recipe, [stage], data, chosen, runs_dir, name, fresh, json, to)

    def train_command(
        recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
        fresh: FreshOpt = False, devices: DevicesOpt = 1, print_commands: PrintOpt = False, nodes: NodesOpt = None,
        json: JsonOpt = False,
    ) -> dict[str, Any]:  # fmt: skip
        if stage == "tune" and (print_commands or nodes is not None):
            raise InputError(
                "--print-commands, --nodes: are of jielong train; start jielong tune by torchrun in the same way"
            )
        if print_commands:
            from jielong.recipe import load

            if fresh:
                raise InputError("--fresh: not together with --print-commands; run jielong model RECIPE --fresh first")
            loaded = load(recipe, settings, data, name)
            check_recipe_processes(loaded, (nodes or 2) * devices)
            return commands_for(
                loaded.name, options_of(recipe, data, settings, runs_dir, name), nodes or 2, devices, json
            )
        if nodes is not None:
            raise InputError("--nodes: several machines are started from outside; add --print-commands to see how")
        return run_recipe(recipe, [stage], data, settings, runs_dir, name, fresh, json, devices=devices)

    kinds: dict[str, Callable[..., dict[str, Any]]] = {
        "data": data_command,
        "train": train_command,
        "tune": train_command,
    }
    more = {"data": " `data presets` lists known corpora.", "tokenizer": " `tokenizer report A B` compares tokenizers."}
    kind = _TokenizerCommand if stage == "tokenizer" else TyperCommand
    text = f"Stage: {STAGES[stage]}." + more.get(stage, "")
    app.command(name=stage, help=text, cls=kind)(friendly(kinds.get(stage, command)))


@app.command(help="Run every stage that a recipe names; skip what is up to date.")
@friendly
def run(
    recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
    fresh: FreshOpt = False, devices: DevicesOpt = 1, json: JsonOpt = False,
) -> dict[str, Any]:  # fmt: skip
    return run_recipe(recipe, None, data, settings, runs_dir, name, fresh, json, devices=devices)


for _stage in STAGES:
    if _stage in MODEL_COMMANDS:  # they also take a model
        _command, _help = MODEL_COMMANDS[_stage]
        app.command(name=_stage, help=_help)(friendly(_command))
    else:
        _stage_command(_stage)


@app.command(help="Numbers before training: parameters, FLOPs, memory, micro-batch, time, cost, compute-optimal size.")
@friendly
def plan(
    recipe: RecipeArg,
    device: Annotated[
        str,
        typer.Option(
            "--device", help="rtx-3090, rtx-4090, v100-32g, a100-80g, h100, h200, cpu; default: this machine's."
        ),
    ] = "",
    devices: Annotated[int, typer.Option("--devices", metavar="N", help="How many of them.")] = 1,
    tokens: Annotated[int | None, typer.Option("--tokens", help="Token budget, instead of the recipe's.")] = None,
    hours: Annotated[
        float | None,
        typer.Option("--hours", help="Device hours to find the compute-optimal size for; default: the plan's."),
    ] = None,
    price: Annotated[float | None, typer.Option("--price", help="Dollars an hour of one device.")] = None,
    settings: SetOpt = None,
    runs_dir: RunsOpt = RUNS,
    name: NameOpt = "",
    json: JsonOpt = False,
) -> dict[str, Any]:
    from jielong import show
    from jielong.model.devices import find_device, this_device
    from jielong.recipe import load
    from jielong.runs import open_run
    from jielong.train.plan_tables import notes, plan_tables
    from jielong.train.planning import known_of, plan_run

    loaded = load(recipe, settings, None, name)
    chosen = find_device(device) if device else this_device()
    known = known_of(open_run(runs_dir, loaded.name), loaded.sections)
    report = plan_run(loaded.sections, chosen, devices, tokens, hours, price, known)
    if not json:
        for title, head, rows in plan_tables(report):
            tell(f"{title}\n{show.table(head, rows)}\n")
        tell("\n".join(notes(report)))
    return report.to_json()


@app.command(
    help="Show the runs, or one run's stages: up to date, stale, not finished or not started, and their figures."
)
@friendly
def status(
    run: Annotated[str, typer.Argument(metavar="[RUN]", help="A run's name; default: all runs.")] = "",
    runs_dir: RunsOpt = RUNS,
    json: JsonOpt = False,
) -> dict[str, Any]:
    from jielong import show

    rows = show.status_rows(runs_dir, run)
    if not json:
        tell(show.status_table(rows, runs_dir))
    return {"runs": rows}


@app.command(help="Write a new recipe, every key explained, ready to edit.")
@friendly
def new(
    path: Annotated[str, typer.Argument(metavar="NAME", help="Name or path of the new recipe file.")],
    base: Annotated[str, typer.Option("--from", help="Recipe to start from: a shipped name or a file.")] = "tiny",
    data: DataOpt = None,
    json: JsonOpt = False,
) -> dict[str, Any]:
    from jielong.recipe import write_new

    file = write_new(path, base, data)
    if not json:
        tell(f"{file} written; edit it, then: jielong run {file}")
    return {"recipe": str(file)}


@app.command(help="Decode and parse every line of raw files; list bad ones; write the good ones apart.")
@friendly
def check(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders or globs.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the clean copies and rejects.jsonl.")] = Path(
        "checked"
    ),
    no_write: Annotated[bool, typer.Option("--no-write", help="Only look; write nothing.")] = False,
    text_field: Annotated[str | None, typer.Option("--text-field", help="Field that holds the text.")] = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Encoding of text files, e.g. gb18030.")] = "utf-8",
    preview: Annotated[int, typer.Option("--preview", min=0, help="Documents to show.")] = 3,
    json: JsonOpt = False,
) -> dict[str, Any]:
    from jielong import show
    from jielong.data.check import check as check_paths

    result = check_paths(paths, None if no_write else out, text_field, encoding, preview)
    if not json:
        tell(show.check_report(result, None if no_write else out))
    return result


# ---------------------------------------------------------------------------------------------------------- shards

shards = typer.Typer(
    no_args_is_help=True, help="Look at token shards, check every byte of them, or import a flat file."
)
app.add_typer(shards, name="shards")


def _shards_command(command: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A command of jielong/tokenizer/shards/commands.py, its result shown as text unless JSON is asked for."""

    @functools.wraps(command)
    def wrapped(**given: Any) -> dict[str, Any]:
        from jielong import show

        found = command(**given)
        for line, colour in [] if given["json"] else show.shards(found):
            typer.secho(plain(line), fg=colour)
        return found

    return wrapped


for _name, (_command, _help) in SHARDS_COMMANDS.items():
    shards.command(name=_name, help=_help)(friendly(_shards_command(_command)))


for _name, (_function, _help) in (INFER_COMMANDS | CONTROL_COMMANDS).items():
    app.command(name=_name, help=_help)(friendly(_function))


def main() -> None:
    """Entry point of the `jielong` command."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # Chinese text whatever the locale says
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")
    as_json = "--json" in sys.argv
    for argument in sys.argv[1:]:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            message = f"argument: not UTF-8, got {argument!r}; write it in UTF-8 (is the locale a UTF-8 one?)"
            say(f"error: {message}")
            if as_json:
                print_json({"ok": False, "error": message})
            sys.exit(2)
    try:
        app()
    except SystemExit as end:
        # an option that is missing, unknown or out of its bounds is refused before any command begins
        if as_json and end.code not in (None, 0) and not json_printed:
            print_json({"ok": False, "error": "usage: the command line is not valid; standard error says how"})
        raise


if __name__ == "__main__":
    main()
