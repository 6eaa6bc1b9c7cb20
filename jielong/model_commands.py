"""Commands that take a recipe, as a stage of it, or a model by itself: evaluate and quantize.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.console import RUNS, FreshOpt, JsonOpt, NameOpt, RunsOpt, SetOpt, tell
from jielong.errors import InputError
from jielong.running import run_recipe


def _context_lengths(
    target: str, lengths: str, data: list[str] | None, scalings: list[str], out: Path, runs_dir: Path, json: bool
) -> dict[str, Any]:
    """Bits per byte and passkey accuracy against the length of the context: a table, a page and a file."""
    from jielong import show
    from jielong.evaluate.lengths import measure_model, parse_lengths, parse_scaling
    from jielong.evaluate.lengths_page import notes, tables, write_page
    from jielong.runs import write_json

    if out.is_file():
        raise InputError(f"--out: a file, got {out}; give a folder")
    wanted, stretched = parse_lengths(lengths), [parse_scaling(text) for text in scalings]
    found = measure_model(target, runs_dir, wanted, data, stretched)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "lengths.json", found)
    write_page(found, out / "lengths.html", target)
    if not json:
        for head, rows in tables(found):
            tell(show.table(head, rows) + "\n")
        tell("\n".join([*notes(found), f"The page, with curves: {out / 'lengths.html'}"]))
    return {**found, "page": str(out / "lengths.html")}


def evaluate(
    target: Annotated[str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or with --data a model.")],
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="GLOB", help="Measure the model on these files (repeatable).")
    ] = None,
    context_lengths: Annotated[
        str | None,
        typer.Option("--context-lengths", metavar="N,N,...", help="Measure a model against the length of its context."),
    ] = None,
    rope_scaling: Annotated[
        list[str] | None,
        typer.Option(
            "--rope-scaling", metavar="TYPE:FACTOR", help="With --context-lengths: under this scaling too (repeatable)."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="With --context-lengths: folder for lengths.html and lengths.json; default: here."),
    ] = None,
    settings: SetOpt = None,
    runs_dir: RunsOpt = RUNS,
    name: NameOpt = "",
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """Bits per byte of a recipe's run, or of a model on files; or figures against the length of the context."""
    if context_lengths is not None:
        if name or fresh or settings:
            raise InputError(
                "--context-lengths: measures a model as it is; --set, --name and --fresh do not go with it"
            )
        return _context_lengths(target, context_lengths, data, rope_scaling or [], out or Path(), runs_dir, json)
    if rope_scaling or out is not None:
        raise InputError("--rope-scaling, --out: belong to --context-lengths; give it, for example 256,512,1024")
    if not data:
        result = run_recipe(target, ["evaluate"], None, settings, runs_dir, name, fresh, json)
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


# ------------------------------------------------------------------------------------------------------- quantize

CompareOpt = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="A,B,...",
        help="Methods (int8, gptq:3, rtn:4:64 = method:bits:group) and folders of models, measured beside the full model.",
    ),
]  # fmt: skip


def quantize(
    target: Annotated[
        str, typer.Argument(metavar="RECIPE|MODEL", help="A recipe, or with --out a model: a run's name or a folder.")
    ],
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="int8, int4, rtn, gptq, awq, llm-int8, nf4, torchao-int8, torchao-8da4w, onebit, bitnet; default: int8.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The new folder.")] = None,
    bits: Annotated[int | None, typer.Option("--bits", help="2, 3, 4 or 8, for rtn and gptq.")] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", help="Columns that share a scale; -1: a whole row.")
    ] = None,
    symmetric: Annotated[
        bool | None,
        typer.Option("--symmetric/--asymmetric", help="The same range on both sides of 0, or zeros of their own."),
    ] = None,
    act_order: Annotated[
        bool | None, typer.Option("--act-order", help="gptq: the columns with the largest inputs first.")
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", metavar="PATTERN", help="Layers that stay as they are (repeatable)."),
    ] = None,
    average_bits: Annotated[
        float | None, typer.Option("--average-bits", help="Mixed precision: so many bits a weight on average.")
    ] = None,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            "--calibration",
            metavar="GLOB",
            help="Files of text to look at (repeatable); default: what the run held out.",
        ),
    ] = None,
    compare: CompareOpt = None,
    gguf: Annotated[
        str | None,
        typer.Option(
            "--gguf", metavar="KIND", help="Write a GGUF file for llama.cpp and Ollama: f16, q8_0, q4_0, q4_k, ..."
        ),
    ] = None,
    settings: SetOpt = None,
    runs_dir: RunsOpt = RUNS,
    name: NameOpt = "",
    fresh: FreshOpt = False,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """A recipe's stage, or a model in fewer bits, as a folder, as a GGUF file, or beside other methods."""
    given = {
        "method": method, "bits": bits, "group_size": group_size, "symmetric": symmetric, "act_order": act_order,
        "leave_out": leave_out, "average_bits": average_bits, "calibration": calibration,
    }  # fmt: skip
    if out is None:
        if (wrong := [key for key, value in given.items() if value is not None]) or compare or gguf:
            option = (wrong or ["compare" if compare else "gguf"])[0].replace("_", "-")
            raise InputError(
                f"--{option}: quantizes a model, got no --out; give a new folder, or for a recipe --set quantize.KEY=VALUE"
            )
        return run_recipe(target, ["quantize"], None, settings, runs_dir, name, fresh, json)
    if name or fresh:
        raise InputError("--name, --fresh: are of a recipe's stage, got --out too; remove one of them")
    if out.exists():
        raise InputError(f"--out: is there already, got {out}; give a new folder, or delete it")
    from jielong.infer.models import find_model

    source = find_model(target, runs_dir)
    if gguf is not None:
        return _gguf(source, gguf, out, json, compare is not None or any(value is not None for value in given.values()))
    table = _table(given, settings or [])
    if compare is not None:
        return _compare(target, source, compare, table, out, runs_dir, json)
    from jielong.quantize.config import with_options
    from jielong.quantize.running import quantize as make

    config = with_options(table)
    counts = make(config, source, out, out.with_name(f".{out.name}.work"), 1)
    if not json:
        tell(_told(counts) + f"\n{out}: use it like any model: jielong generate {out} --prompt ...")
    return counts


def _table(given: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """The [quantize] table of options and of --set quantize.KEY=VALUE."""
    from jielong.recipe import overrides_of

    if wrong := [setting for setting in settings if not setting.startswith("quantize.")]:
        raise InputError(f"--set: with --out only quantize.KEY=VALUE, got {wrong[0]}; remove it")
    return overrides_of("quantize", settings) | {key: value for key, value in given.items() if value is not None}


def _told(counts: dict[str, Any]) -> str:
    from jielong.progress import human_bytes

    size = f"{human_bytes(counts['bytes_before'])} of weights became {human_bytes(counts['bytes'])}"
    bits = f", {counts['bits']:g} bits a weight in {counts['layers']} layers" if "bits" in counts else ""
    return f"{counts['method']}: {size}{bits}"


def _gguf(source: Path, kind: str, out: Path, json: bool, more: bool) -> dict[str, Any]:
    from jielong.progress import human_bytes
    from jielong.quantize.gguf.exporting import export_folder

    if more:
        raise InputError(
            "--gguf: is made of the full model, its kind says how; got other options of quantize, too; remove them"
        )
    found: dict[str, Any] = export_folder(source, out, kind)
    if not json:
        tell(f"{found['file']}: {human_bytes(found['bytes'])}, {found['bits_per_weight']:.2f} bits a weight")
        tell("\n".join([*found["notes"], f"with Ollama: ollama create NAME -f {out / 'Modelfile'}"]))
    return found


def _compare(
    target: str, source: Path, wanted: str, table: dict[str, Any], out: Path, runs_dir: Path, json: bool
) -> dict[str, Any]:
    from jielong import show
    from jielong.evaluate.models_compared_page import notes, table_rows
    from jielong.hooks import compare_models
    from jielong.quantize.comparing import compare

    found: dict[str, Any] = compare(target, source, wanted, table, out, runs_dir, compare_models)
    if not json:
        tell(show.table(*table_rows(found)) + "\n")
        tell("\n".join([*notes(found), f"The page, with a picture and what each writes: {out / 'compare.html'}"]))
    return found


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "evaluate": (evaluate, "Stage: measure bits per byte, of a recipe's run or of any model on any text."),
    "quantize": (
        quantize,
        "Stage: the same model in fewer bits, of a recipe's run or of any model; compare methods; GGUF.",
    ),
}
