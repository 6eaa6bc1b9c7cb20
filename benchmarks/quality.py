"""Quality in equal time: bits per byte on held-out text, after the same minutes on the same device with the same text.

    python benchmarks/quality.py --minutes 10                                   # half an hour and more: three sides
    python benchmarks/quality.py --data 'corpus/*.jsonl.zst' --recipe mine.toml --minutes 30 --trainer-learning-rates 1e-3 2e-3
    python benchmarks/quality.py --set 'train.optimizer="muon"' --sides ours Trainer --repeats 3

Sides (the other two are described in quality_peers.py):

    ours      the recipe's [tokenizer] and [train], for as many tokens as the time allows
    Trainer   transformers.Trainer with packed rows as run_clm.py makes them, at each of --trainer-learning-rates (5e-4 where none is given)
    script    what small community scripts do: a document a row, cut or filled up; AdamW, cosine to a tenth, at 5e-4 or others

All get the documents that the recipe's data stage leaves, the shape of the recipe's model (--shape changes it for all, --set anything
for our side alone) with the same initial weights, tokens a step and micro-batch. Tokenizers are each side's own, of the same size.

Time. In the clock: reading rows, forward and backward, optimizer, records, compiling. Not in it, for all sides alike: the data stage, making
the tokenizer and encoding the text (told in the table's foot), loading, validation, checkpoints, the rehearsal. A schedule must end
when the time does, so its length is needed beforehand: a rehearsal of some steps, thrown away, tells the speed, and the run is planned for
FILL of the time. A run that goes on beyond OVER of the time is broken off, one that ends before UNDER of it is not taken either; both are planned again
from what they showed, up to --attempts times in all. What each side took in the end is in the table.

Judgement. At the end every document of the held-out split, by itself, in float32, by one function for all sides (training_sides.py);
bytes are those of the text, so tokenizers do not matter. `rows` is the same text end to end without a document mask, the way Trainer and
script train: whoever suspects that the first measure favours us looks there. Every side runs in a fresh process; the
sides take turns in --repeats, each with another order of the text.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_sides import (
    Judge,
    TooLongError,
    Trained,
    lines_of,
    picture,
    prepare,
    seconds_for,
    train_ours,
    write_picture,
    write_result,
)

from jielong.charts import Words
from jielong.infer.config import Config as InferConfig
from jielong.infer.generate import continue_prompt
from jielong.progress import human_count
from jielong.recipe import Recipe, load
from jielong.runs import Run, hash_json, write_json
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import open_folder
from jielong.train.config import Config

SIDES = ("ours", "Trainer", "script")
FILL, OVER, UNDER = 0.97, 1.03, 0.9  # of the time: planned, at most, at least
REHEARSED = 0.02  # of the time, at least
RATE = 5e-4  # of Trainer and script, where no other is given
MOST_REHEARSED = 400  # steps
PROMPTS = 3


# -------------------------------------------------------------------------------------- one side, in its own process


def with_tokens(config: Config, tokens: int) -> Config:
    """A [train] table for another budget; phases keep their proportions."""
    phases = [
        {**phase.model_dump(), "tokens": None, "epochs": None, "share": phase.tokens or phase.epochs or phase.share}
        for phase in config.phases
    ]
    given = {"tokens": tokens, "epochs": None, "phases": phases, "log_every_steps": 10**6, "save_every_minutes": None}
    off = {"save_every_steps": None, "keep_every_steps": None, "keep_best": False}
    return Config.model_validate(config.model_dump() | given | off)


def trainer_of(request: dict[str, Any]) -> Callable[[int, Judge | None, float | None], Trained]:
    """What trains the side of a request: (tokens, judge, limit in seconds) -> Trained."""
    run, points = Run(Path(request["run"])), request["points"]
    if request["side"] == "ours":
        config = Config.model_validate_json(request["config"])
        return lambda tokens, judge, limit: train_ours(
            run, with_tokens(config, tokens), judge, points, request["seed"], limit
        )
    from quality_peers import train_script, train_trainer

    train, whole = (
        {"Trainer": train_trainer, "script": train_script}[request["side"]],
        request["rows"] * request["length"],
    )
    return lambda tokens, judge, limit: train(run, request, max(1, tokens // whole), judge, points, limit)


def rehearse(train: Callable[..., Trained], step_tokens: int, seconds: float) -> tuple[float, float]:
    """(seconds once, seconds a token), from a run of some steps that takes at least so long."""
    marks = train(20 * step_tokens, None, None).marks
    while sum(mark.seconds for mark in marks) < seconds and len(marks) < MOST_REHEARSED:
        speed = sum(mark.seconds for mark in marks) / len(marks)
        marks = train(min(MOST_REHEARSED, round(1.2 * seconds / speed) + 1) * step_tokens, None, None).marks
    return seconds_for(marks)


def in_time(
    train: Callable[..., Trained], judge: Judge, budget: float, step_tokens: int, attempts: int
) -> tuple[Trained, dict[str, Any]]:
    """Train for `budget` seconds; and what that took. Raises TooLongError when no attempt ended within twice the time."""
    began = time.perf_counter()
    once, per_token = rehearse(train, step_tokens, REHEARSED * budget)
    told: dict[str, Any] = {"rehearsal_seconds": time.perf_counter() - began, "attempts": []}
    tokens, kept = int((FILL * budget - once) / per_token), None
    for attempt in range(1, attempts + 1):
        limit = (OVER if attempt < attempts else 2) * budget
        try:
            found = kept = train(max(step_tokens, tokens), judge, limit)
            found.weights = judge.weights()
        except TooLongError as error:
            found = error.args[0]
            if attempt == attempts and kept is None:
                raise
        told["attempts"].append({"seconds": found.clock.seconds, "tokens": found.tokens, "whole": found is kept})
        if found is kept and UNDER * budget <= found.clock.seconds <= OVER * budget:
            break
        tokens = int(FILL * budget / found.clock.seconds * found.tokens)
    assert kept is not None
    return kept, told


def samples_of(judge: Judge, run: Run, infer: InferConfig) -> list[dict[str, Any]]:
    """Continuations by the weights that were looked at last."""
    tokenizer = dataclasses.replace(open_folder(run.stage("tokenizer")), start_id=judge.shards.start_id)
    texts = [
        continue_prompt(judge.model, tokenizer, p, infer, infer.seed + n) for n, p in enumerate(infer.prompts[:PROMPTS])
    ]
    return [{"prompt": row.prompt, "text": row.text} for row in texts]


def one_side(request: dict[str, Any]) -> dict[str, Any]:
    """Train and judge the side that a request describes."""
    run, length = Run(Path(request["run"])), request["length"]
    judge = Judge(run, length, request["documents"])
    found, told = in_time(trainer_of(request), judge, request["seconds"], request["rows"] * length, request["attempts"])
    final = judge.look(found.weights, whole=True)
    seconds, cuda = found.clock.seconds, torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "side": request["side"], "learning_rate": request["learning_rate"], "repeat": request["repeat"], "seconds": seconds,
        "in_time": UNDER * request["seconds"] <= seconds <= OVER * request["seconds"], "steps": len(found.marks),
        "tokens": found.tokens, "tokens_per_second": found.tokens / seconds, "peak_megabytes": peak / 1e6,
        **{key: final[key] for key in ("bits_per_byte", "loss", "bytes", "documents")}, "bits_per_byte_rows": judge.rows(),
        "parameters": sum(p.numel() for p in judge.model.parameters()), **told, "curve": found.curve,
        "samples": samples_of(judge, run, InferConfig.model_validate_json(request["infer"])),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- all sides


def prepare_peers(recipe: Recipe, ours: Run, options: argparse.Namespace, work: Path) -> tuple[Run, float]:
    """The same documents with a BPE of our tokenizer's size, and the model for it; and the BPE's seconds of training."""
    from quality_peers import END, train_bpe

    began = time.perf_counter()
    train_bpe(ours, open_folder(ours.stage("tokenizer")).size, work / "bpe")
    took = time.perf_counter() - began
    plain = load(options.recipe, [f"model.{text}" for text in options.shape], options.data)
    given = TokenizerConfig(path=str(work / "bpe"), end_token=END)
    sections = {**plain.sections, "data": recipe.sections["data"], "tokenizer": given}
    if not (work / "peers" / "data").exists():
        shutil.copytree(ours.stage("data"), work / "peers" / "data")
    return prepare(dataclasses.replace(plain, sections=sections), work, "peers"), took


def requests(recipe: Recipe, runs: dict[str, Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A request for each side and learning rate, without what changes from repeat to repeat."""
    train = recipe.section("train", Config)
    infer = recipe.section("infer", InferConfig) if "infer" in recipe.sections else InferConfig()
    shape = json.loads((runs["ours"].stage("model") / "config.json").read_bytes())
    length = options.length or train.sequence_length or shape["max_position_embeddings"]
    rows = max(1, train.tokens_per_step // length)
    most = max(1, train.micro_batch_tokens // length)
    shared = {
        "length": length, "rows": rows, "micro_rows": max(n for n in range(1, min(rows, most) + 1) if rows % n == 0),
        "seconds": options.seconds or 60 * options.minutes, "points": options.points, "documents": options.documents,
        "attempts": options.attempts, "config": train.model_dump_json(), "infer": infer.model_dump_json(),
        "bf16": options.trainer_bf16, "seed": recipe.seed,
    }  # fmt: skip
    rates = {
        "ours": [train.learning_rate],
        "Trainer": options.trainer_learning_rates,
        "script": options.script_learning_rates,
    }
    return [
        {**shared, "side": side, "learning_rate": rate, "run": str(runs["ours" if side == "ours" else "peers"].root)}
        for side in options.sides
        for rate in dict.fromkeys(rates[side])
    ]


def in_fresh_process(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The row of a request, made by a process of its own. Raises CalledProcessError when it fails; it has said why."""
    given, result = folder / "request.json", folder / "result.json"
    write_json(given, request)
    result.unlink(missing_ok=True)
    subprocess.run([sys.executable, __file__, "--request", str(given), "--result", str(result)], check=True)
    row: dict[str, Any] = json.loads(result.read_bytes())
    return row


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each side and learning rate: medians over repeats, and whether it is the side's best rate."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["side"], row["learning_rate"]), []).append(row)
    found = []
    for (side, rate), group in groups.items():
        figures = ("seconds", "tokens", "tokens_per_second", "bits_per_byte", "bits_per_byte_rows", "peak_megabytes")
        medians = {key: statistics.median(row[key] for row in group) for key in figures}
        bits = [row["bits_per_byte"] for row in group]
        found.append({"side": side, "learning_rate": rate, **medians, "range": [min(bits), max(bits)]})
    for row in found:
        row["best"] = row["bits_per_byte"] == min(o["bits_per_byte"] for o in found if o["side"] == row["side"])
    return found


def report(rows: list[dict[str, Any]], notes: dict[str, Any], options: argparse.Namespace) -> None:
    """The table and the continuations; with --out, JSON and the curves of each side's best rate as SVG beside it."""
    assert len({(row["bytes"], row["documents"]) for row in rows}) == 1, "sides were judged on different text"
    found = summary(rows)
    table = [["side", "bits/byte", "range", "rows", "seconds", "tokens", "tokens/s", "peak MB", "best"]]
    for row in found:
        low, high = row["range"]
        table.append([f"{row['side']} at {row['learning_rate']:g}", f"{row['bits_per_byte']:.4f}", f"{low:.4f}-{high:.4f}",
                      f"{row['bits_per_byte_rows']:.4f}", f"{row['seconds']:.1f}", human_count(row["tokens"]),
                      human_count(row["tokens_per_second"]), f"{row['peak_megabytes']:,.0f}", "*" if row["best"] else ""])  # fmt: skip
    print(*lines_of(table), sep="\n")
    print(f"held out: {rows[0]['documents']:,} documents, {rows[0]['bytes']:,} bytes; outside of the clock: "
          + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in notes.items()))  # fmt: skip
    for row in rows:
        if not row["in_time"]:
            print(
                f"{row['side']} at {row['learning_rate']:g}, repeat {row['repeat']}: not in time, {row['seconds']:.1f} s"
            )
    best = [
        next(r for r in rows if (r["side"], r["learning_rate"]) == (f["side"], f["learning_rate"]))
        for f in found
        if f["best"]
    ]
    for row in best:
        print(*(f"{row['side']}: {sample['prompt']}|{sample['text']}" for sample in row["samples"]), sep="\n")
    if options.out is not None:
        curves = {f"{row['side']} at {row['learning_rate']:g}": row["curve"] for row in best}
        title = Words("Validation bits per byte over time of training", "验证集每字节比特与训练时间")
        write_picture(options.out.with_suffix(".svg"), picture("quality", title, curves, "seconds"))
        what = "bits per byte on held-out text after the same time of training; medians over repeats"
        write_result(options.out, what, options, found, runs=rows, outside_seconds=notes)


def main() -> None:
    """Measure and print; with --out, write JSON and SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of training, each side")
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--repeats", type=int, default=1, help="how often the sides take turns")
    parser.add_argument("--recipe", default="tiny", help="of our side; its model's shape is that of all")
    parser.add_argument("--data", action="append", help="globs of text (default: the recipe's)")
    parser.add_argument("--shape", action="append", default=[], help="key=value of [model], for all sides")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for our side alone")
    parser.add_argument("--length", type=int, help="rows of the others and of the judge (default: our longest)")
    parser.add_argument("--trainer-learning-rates", type=float, nargs="+", default=[RATE])
    parser.add_argument("--script-learning-rates", type=float, nargs="+", default=[RATE])
    parser.add_argument(
        "--trainer-bf16", action="store_true", help="bf16=True for the Trainer, where our recipe has it"
    )
    parser.add_argument("--points", type=int, default=12, help="validations of a run, for the curves")
    parser.add_argument(
        "--documents", type=int, help="held-out documents of the curves (default: all; the end: always all)"
    )
    parser.add_argument("--attempts", type=int, default=3, help="how often a run is made to end in time")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for text, models and sides that are measured, to go on there (default: a temporary one)",
    )
    parser.add_argument("--out", type=Path, help="JSON; the picture is written beside it")
    for hidden in ("--request", "--result"):
        parser.add_argument(hidden, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.request is not None:
        write_json(options.result, one_side(json.loads(options.request.read_bytes())))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure_all(options, (options.work or Path(folder)).resolve())


def measure_all(options: argparse.Namespace, work: Path) -> None:
    """Everything is made ready, then the sides take turns."""
    recipe = load(options.recipe, [*(f"model.{text}" for text in options.shape), *options.set], options.data)
    began = time.perf_counter()
    runs = {"ours": prepare(recipe, work, "ours")}
    notes = {"our data, tokenizer and shards": time.perf_counter() - began}
    if set(options.sides) - {"ours"}:
        runs["peers"], notes["training the BPE"] = prepare_peers(recipe, runs["ours"], options, work)
    rows = []
    for repeat, request in (
        (n, request) for n in range(options.repeats) for request in requests(recipe, runs, options)
    ):
        asked = {**request, "repeat": repeat + 1, "seed": request["seed"] + repeat}
        kept = work / "rows" / f"{hash_json({key: value for key, value in asked.items() if key != 'run'})}.json"
        if (
            not kept.is_file()
        ):  # with --work, what another call measured is taken as it is: a side is ten minutes and more
            write_json(kept, in_fresh_process(asked, work))
        row = json.loads(kept.read_bytes())
        rows.append(row)
        print(f"repeat {repeat + 1}: {row['side']} at {row['learning_rate']:g}: {row['bits_per_byte']:.4f} bits/byte in "
              f"{row['seconds']:.1f} s", flush=True)  # fmt: skip
    report(rows, notes, options)


if __name__ == "__main__":
    main()
