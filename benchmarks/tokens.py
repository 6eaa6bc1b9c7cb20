"""Tokens to a loss: how much of AdamW's text our settings need to reach AdamW's validation loss.

    python benchmarks/tokens.py --model tiny --tokens 2000000                  # minutes on two cores
    python benchmarks/tokens.py --model 25m --tokens 100000000 --learning-rates 1e-3,2e-3,4e-3 muon_rate=1 learning_rate=2e-3
    python benchmarks/tokens.py 'optimizer="muon"' 'phases=[{share=0.4,sequence_length=128},{share=0.6}]'

AdamW first, with a sweep over --learning-rates: warm-up, then a cosine down to a tenth, over N tokens; each rate is shown, and the
lowest final loss is the goal. Then ours, the same but for what is given as key=value of the [train] table (default: optimizer="muon" at
AdamW's best rate), with each of --fractions of N, each a run of its own with its own whole schedule. Same shards, same tokenizer,
same initial weights, same seed, so the first rows are the same rows. Validation is on all held-out documents, in rows of --length.

What is told: the smallest fraction whose final loss is at most the goal, and the fraction at which a straight line over
the logarithm of tokens between the neighbours crosses it (none where no fraction, or every one, is below the goal). A seed
is one seed: losses of two seeds of the same setting differ by a few thousandths, and --seeds runs all of it for each.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from training_sides import (
    MODELS,
    QUIET,
    Judge,
    lines_of,
    picture,
    prepare,
    settings,
    train_ours,
    write_picture,
    write_result,
)

from jielong.charts import Words
from jielong.progress import human_count
from jielong.recipe import load
from jielong.runs import Run

BASE = [
    'optimizer="adamw"',
    'schedule="cosine"',
    "min_learning_rate_ratio=0.1",
    "warmup_ratio=0.05",
    "weight_decay=0.1",
]
TOKENS = {"tiny": 2_000_000, "25m": 100_000_000}
OURS = ['optimizer="muon"']
PRECISION = 1e-4  # nats: losses nearer than this are one loss


def crossing(goal: float, found: list[tuple[float, float]]) -> float | None:
    """The fraction at which (fraction, loss) in ascending order first come down to `goal`; None outside of what was measured."""
    for (before, above), (after, below) in pairwise(found):
        if above > goal >= below:
            way = (above - goal) / (above - below)
            return math.exp(math.log(before) + way * math.log(after / before))
    return None


def smallest(goal: float, found: list[tuple[float, float]]) -> float | None:
    """The smallest fraction whose loss is at most `goal`."""
    return next((fraction for fraction, loss in found if loss <= goal + PRECISION), None)


def one(
    run: Run, judge: Judge, texts: list[str], tokens: int, options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train once; its row."""
    given = [*BASE, *MODELS[options.model][1], *options.both, *texts, f"tokens={tokens}", *QUIET]
    trained = train_ours(run, settings(given), judge, options.points, seed)
    last = trained.curve[-1]
    return {"settings": texts, "tokens": trained.tokens, "loss": last["loss"], "bits_per_byte": last["bits_per_byte"],
            "seconds": last["seconds"], "lengths": trained.lengths, "seed": seed, "curve": trained.curve}  # fmt: skip


def measured(run: Run, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The sweep, the goal, the fractions and what comes of them, for one seed."""
    judge = Judge(run, options.length)
    sweep = []
    for rate in options.learning_rates:
        row = one(run, judge, [f"learning_rate={rate!r}"], options.tokens, options, seed)
        sweep.append({"side": "adamw", "learning_rate": rate, **row})
        print(f"seed {seed}: adamw at {rate:g}: {row['loss']:.4f} nats a token", flush=True)
    best = min(sweep, key=lambda row: row["loss"])
    if best["learning_rate"] in (options.learning_rates[0], options.learning_rates[-1]) and len(sweep) > 1:
        print("the best learning rate is at the end of the list: give more on that side", flush=True)
    ours = []
    for fraction in options.fractions:
        texts = [f"learning_rate={best['learning_rate']!r}", *options.settings]
        row = one(run, judge, texts, round(fraction * options.tokens), options, seed)
        ours.append({"side": "ours", "fraction": fraction, **row})
        print(f"seed {seed}: ours with {fraction:g} of the tokens: {row['loss']:.4f}", flush=True)
    pairs = [(row["fraction"], row["loss"]) for row in ours]
    goal = best["loss"]
    return {"seed": seed, "goal": goal, "smallest": smallest(goal, pairs), "crossing": crossing(goal, pairs),
            "rows": [*sweep, *ours], "best": best["learning_rate"]}  # fmt: skip


def report(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table; with --out, JSON and an SVG of the curves of the first seed beside it."""
    table = [["side", "seed", "tokens", "loss", "bits/byte", "seconds", "reaches it"]]
    for result in results:
        for row in result["rows"]:
            name = f"adamw at {row['learning_rate']:g}" if row["side"] == "adamw" else f"ours, {row['fraction']:g}"
            reaches = "" if row["side"] == "adamw" else "yes" if row["loss"] <= result["goal"] + PRECISION else "no"
            table.append([name, str(row["seed"]), human_count(row["tokens"]), f"{row['loss']:.4f}", f"{row['bits_per_byte']:.4f}",
                          f"{row['seconds']:.1f}", reaches])  # fmt: skip
    print(*lines_of(table), sep="\n")
    for result in results:
        told = ["none" if result[key] is None else f"{result[key]:.3g}" for key in ("smallest", "crossing")]
        print(
            f"seed {result['seed']}: smallest fraction that reaches {result['goal']:.4f}: {told[0]}; interpolated: {told[1]}"
        )
    if options.out is None:
        return
    first = results[0]
    curves = {
        f"AdamW, {first['best']:g}": next(r["curve"] for r in first["rows"] if r.get("learning_rate") == first["best"])
    }
    curves |= {f"{row['fraction']:g} x": row["curve"] for row in first["rows"] if row["side"] == "ours"}
    title = Words("Validation bits per byte over tokens", "验证集每字节比特")
    write_picture(options.out.with_suffix(".svg"), picture("tokens", title, curves, "tokens"))
    crossings = [result["crossing"] for result in results if result["crossing"] is not None]
    summary = [{key: result[key] for key in ("seed", "goal", "best", "smallest", "crossing")} for result in results]
    write_result(
        options.out,
        "share of AdamW's tokens that our settings need for AdamW's final validation loss",
        options,
        [row for result in results for row in result["rows"]],
        summary=summary,
        mean_crossing=statistics.fmean(crossings) if len(crossings) == len(results) else None,
    )


def numbers(text: str) -> list[float]:
    """ "0.5,0.6" -> [0.5, 0.6], ascending."""
    return sorted(float(part) for part in text.split(","))


def main() -> None:
    """Measure and print; with --out, write JSON and SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help='of our side: key=value of [train] (default: optimizer="muon")')
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny", help="shape; 25m: 512 wide, 8 layers")
    parser.add_argument("--tokens", type=int, help="N, AdamW's (default: 2M for tiny, 100M for 25m)")
    parser.add_argument("--length", type=int, default=256, help="longest row, and the judge's")
    parser.add_argument("--learning-rates", type=numbers, default=[1e-3, 2e-3, 4e-3, 8e-3], help="AdamW's sweep")
    parser.add_argument("--fractions", type=numbers, default=[0.5, 0.6, 0.7], help="of N, for ours")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1])
    parser.add_argument("--points", type=int, default=20, help="validations of a run")
    parser.add_argument("--data", action="append", help="globs of text (default: what the recipe tiny takes)")
    parser.add_argument(
        "--set", action="append", default=[], help="section.key=value of data, tokenizer, model; all sides"
    )
    parser.add_argument("--both", action="append", default=[], help="key=value of [train] for both sides")
    parser.add_argument("--work", type=Path, help="folder to keep text, shards and model in (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON; the picture is written beside it")
    options = parser.parse_args()
    options.tokens = options.tokens or TOKENS[options.model]
    options.settings = options.settings or OURS
    shape, step = MODELS[options.model]
    length = [f"model.max_position_embeddings={options.length}", *(f"train.{text}" for text in (*step, *options.both))]
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for seed in options.seeds:  # the seed is that of the initial weights, too
            recipe = load("tiny", [*shape, *length, f"seed={seed}", *options.set], options.data)
            run = prepare(recipe, options.work or Path(folder), f"{options.model}-{seed}")
            results.append(measured(run, options, seed))
    report(results, options)


if __name__ == "__main__":
    main()
