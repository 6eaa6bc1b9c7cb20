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
    EngineOpt,
    FreshOpt,
    JsonOpt,
    ModelArg,
    NameOpt,
    RecipeArg,
    RunsOpt,
    SetOpt,
    ToOpt,
    friendly,
    json_printed,
    print_json,
    tell,
)
from jielong.errors import InputError
from jielong.progress import plain, say
from jielong.tokenizer.shards.commands import COMMANDS as SHARDS_COMMANDS

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
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        tell(__version__)
        raise typer.Exit


# ------------------------------------------------------------------------------------------------ recipes and runs


def _run(
    recipe: str, stages: list[str] | None, data: list[str] | None, settings: list[str] | None, runs_dir: Path, name: str,
    fresh: bool, json: bool, to: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Run some stages of a recipe (None: all it names) and print the summary."""
    from jielong import show, workflow
    from jielong.recipe import load
    from jielong.runs import open_run

    loaded = load(recipe, settings, data, name)
    run = open_run(runs_dir, loaded.name)
    wanted = stages if stages is not None else list(loaded.sections)
    chain = workflow.needed(loaded, wanted[-1]) if stages is not None else wanted
    outcomes = workflow.run_stages(loaded, run, chain, tuple(wanted) if fresh else (), to)
    if not json:
        tell(show.summary(run, outcomes, workflow.places(run), workflow.continuations(run) if stages is None else []))
    return {
        "run": str(run.root),
        "up_to_date": all(outcome.state == "up to date" for outcome in outcomes),
        "stages": {o.stage: {"state": o.state, "seconds": o.seconds, "counts": o.counts} for o in outcomes},
        "continuations": workflow.continuations(run) if stages is None else [],
        "places": workflow.places(run),
    }


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
        return _run(recipe, [stage], data, settings, runs_dir, name, fresh, json)

    def data_command(
        recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
        fresh: FreshOpt = False, engine: EngineOpt = None, to: ToOpt = None, json: JsonOpt = False,
    ) -> dict[str, Any]:  # fmt: skip
        if recipe == "presets":
            return _presets(json)
        chosen = [*(settings or []), *([f"data.engine={engine}"] if engine else [])]
        return _run(recipe, [stage], data, chosen, runs_dir, name, fresh, json, to)

    more = {"data": " `data presets` lists known corpora.", "tokenizer": " `tokenizer report A B` compares tokenizers."}
    kind = _TokenizerCommand if stage == "tokenizer" else TyperCommand
    text = f"Stage: {STAGES[stage]}." + more.get(stage, "")
    app.command(name=stage, help=text, cls=kind)(friendly(data_command if stage == "data" else command))


@app.command(help="Run every stage that a recipe names; skip what is up to date.")
@friendly
def run(
    recipe: RecipeArg, data: DataOpt = None, settings: SetOpt = None, runs_dir: RunsOpt = RUNS, name: NameOpt = "",
    fresh: FreshOpt = False, json: JsonOpt = False,
) -> dict[str, Any]:  # fmt: skip
    return _run(recipe, None, data, settings, runs_dir, name, fresh, json)


for _stage in STAGES:
    if _stage != "evaluate":  # below: it also takes a model
        _stage_command(_stage)


@app.command(help="Stage: measure bits per byte, of a recipe's run or of any model on any text.")
@friendly
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or with --data a model.")],
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="GLOB", help="Measure the model on these files (repeatable).")
    ] = None,
    settings: SetOpt = None,
    runs_dir: RunsOpt = RUNS,
    name: NameOpt = "",
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> dict[str, Any]:
    if not data:
        result = _run(target, ["evaluate"], None, settings, runs_dir, name, fresh, json)
        return result | {"results": result["stages"]["evaluate"]["counts"]}
    if name or fresh or any(not setting.startswith("evaluate.") for setting in settings or []):
        raise InputError("--data: measures a model as it is; only --set evaluate.KEY=VALUE goes with it")
    from jielong import show
    from jielong.evaluate.config import Config
    from jielong.evaluate.stage import evaluate_files
    from jielong.infer.models import open_model
    from jielong.recipe import parse_overrides

    config = parse_overrides("evaluate", Config, settings or [])
    model, tokenizer, folder = open_model(target, runs_dir)
    results = evaluate_files(model, tokenizer, data, config)
    if not json:
        tell(show.table(["measure", "value"], [[key, show.number(value)] for key, value in results.items()]))
    return {"model": str(folder), "results": results}


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


# ------------------------------------------------------------------------------------------------------ generation

Prompt = Annotated[list[str] | None, typer.Option("--prompt", help="Text to continue (repeatable).")]
PromptsFile = Annotated[Path | None, typer.Option("--prompts-file", help="A UTF-8 file with one prompt a line.")]
MaxTokens = Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Length limit, tokens.")]
Temperature = Annotated[float | None, typer.Option("--temperature", min=0.0, help="0: greedy.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=0, help="Draw from the k most probable; 0: all.")]
TopP = Annotated[
    float | None, typer.Option("--top-p", min=0.0, max=1.0, help="Draw from this much probability; 1: all.")
]
Penalty = Annotated[float | None, typer.Option("--repetition-penalty", min=0.01, help="Weaken what was said; 1: off.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="The same seed gives the same text.")]
Cache = Annotated[
    str | None, typer.Option("--cache", help="auto, kv, rolling (text without end) or hidden (EL-attention).")
]
CacheTokens = Annotated[int | None, typer.Option("--cache-tokens", min=8, help="Tokens that a rolling cache keeps.")]
Beams = Annotated[int | None, typer.Option("--num-beams", min=1, help="Beam search; sets temperature 0.")]
LengthPenalty = Annotated[float | None, typer.Option("--length-penalty", help="Beams: above 0 favours longer texts.")]
Stop = Annotated[list[str] | None, typer.Option("--stop", help="End before this string (repeatable).")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, help="Prompts that go together, with --json.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]


def _sampling(model: str, runs_dir: Path, **options: Any) -> Any:
    """The [infer] table of the model's run, or the defaults, with the options that were given."""
    from jielong.infer.config import Config
    from jielong.infer.models import find_model, run_sampling
    from jielong.recipe import parse_section

    given = run_sampling(find_model(model, runs_dir))
    given |= {key: value for key, value in options.items() if value is not None}
    if options.get("cache") not in (None, "rolling") and options.get("cache_tokens") is None:
        given["cache_tokens"] = None  # the run's own belongs to a rolling cache
    if (options.get("num_beams") or 1) > 1 and options.get("temperature") is None:
        given["temperature"] = 0.0
    if given.get("top_k") == 0:
        given["top_k"] = None
    if given.get("top_p") in (0, 1):
        given["top_p"] = None
    return parse_section("infer", Config, given)


@app.command(help="Continue prompts with a trained model, streaming.")
@friendly
def generate(
    model: ModelArg, prompt: Prompt = None, prompts_file: PromptsFile = None, max_new_tokens: MaxTokens = None,
    temperature: Temperature = None, top_k: TopK = None, top_p: TopP = None, repetition_penalty: Penalty = None,
    cache: Cache = None, cache_tokens: CacheTokens = None, num_beams: Beams = None,
    length_penalty: LengthPenalty = None, stop: Stop = None, batch_size: BatchSize = None,
    seed: Seed = None, device: Device = "auto", runs_dir: RunsOpt = RUNS, json: JsonOpt = False,
) -> dict[str, Any] | None:  # fmt: skip
    from dataclasses import asdict

    prompts = list(prompt or [])
    if prompts_file is not None:
        prompts += [line for line in prompts_file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if not prompts:
        raise InputError("--prompt: none given; give --prompt TEXT (repeatable) or --prompts-file FILE")
    config = _sampling(model, runs_dir, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                       repetition_penalty=repetition_penalty, cache=cache, cache_tokens=cache_tokens, num_beams=num_beams,
                       length_penalty=length_penalty, stop=stop or None, seed=seed, device=device,
                       batch_size=batch_size)  # fmt: skip
    from jielong.infer.generate import continue_prompt
    from jielong.infer.models import open_model

    opened, tokenizer, folder = open_model(model, runs_dir, config.device, config.precision)
    if json:
        from jielong.infer.batch import continue_prompts

        return {
            "model": str(folder),
            "continuations": [asdict(row) for row in continue_prompts(opened, tokenizer, prompts, config)],
        }
    for number, text in enumerate(prompts):  # every prompt draws with the next seed, as in the infer stage
        tell(text, end="")
        continue_prompt(opened, tokenizer, text, config, config.seed + number, functools.partial(tell, end=""))
        tell("\n" if len(prompts) > 1 else "")
    return None


@app.command(help="Read a prompt at a time and continue it. Empty line or Ctrl-D: leave.")
@friendly
def chat(
    model: ModelArg, max_new_tokens: MaxTokens = None, temperature: Temperature = None, top_k: TopK = None,
    top_p: TopP = None, repetition_penalty: Penalty = None, cache: Cache = None, cache_tokens: CacheTokens = None,
    num_beams: Beams = None, length_penalty: LengthPenalty = None, stop: Stop = None, seed: Seed = None,
    device: Device = "auto", runs_dir: RunsOpt = RUNS,
) -> None:  # fmt: skip
    config = _sampling(model, runs_dir, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                       repetition_penalty=repetition_penalty, cache=cache, cache_tokens=cache_tokens, num_beams=num_beams,
                       length_penalty=length_penalty, stop=stop or None, seed=seed, device=device)  # fmt: skip
    from jielong.infer.generate import continue_prompt
    from jielong.infer.models import open_model

    opened, tokenizer, folder = open_model(model, runs_dir, config.device, config.precision)
    say(f"{folder}: write the start of a text, press Enter; empty line or Ctrl-D to leave")
    turn = 0
    while True:
        try:
            text = input("> " if sys.stdin is not None and sys.stdin.isatty() else "")
        except (EOFError, RuntimeError):  # RuntimeError: there is no standard input at all
            return
        if not text.strip():
            return
        tell(text, end="")
        try:
            continue_prompt(opened, tokenizer, text, config, config.seed + turn, functools.partial(tell, end=""))
        except InputError as error:
            say(f"\nerror: {error}")
        tell()
        turn += 1


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
