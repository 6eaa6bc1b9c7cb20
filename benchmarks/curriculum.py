"""What a curriculum of row lengths and a change of optimizer bring: validation over tokens and over seconds.

    python benchmarks/curriculum.py --model tiny --tokens 2000000
    python benchmarks/curriculum.py --model 25m --tokens 50000000 --out r.json --pictures docs/pictures

Two questions, each with the same text, seed, initial weights, tokens a step and tokens in all:

    lengths      rows of 512 all the time | 128, then 256, then 512 (--lengths-shares of the tokens)
    optimizers   AdamW alone | Muon alone | AdamW for --switch of the tokens, then Muon

Every run has one schedule over all of its tokens (warm-up, then cosine to a tenth); a phase is a stretch of it. Both runs of the
first question use --lengths-optimizer. Short rows are cheaper a token (attention is quadratic in them), and
say less about far context, so both axes count: tokens tell what was learned from the same text, seconds what was
learned in the same time. The clock stands still while validating. Validation is always in rows of the full length,
on all held-out documents, whatever the rows trained at are. Where a side comes to the final loss of the first one of its question
is interpolated between validations.
"""

from __future__ import annotations

import argparse
import tempfile
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

BASE = ['schedule="cosine"', "min_learning_rate_ratio=0.1", "warmup_ratio=0.05", "weight_decay=0.1"]
TOKENS = {"tiny": 2_000_000, "25m": 50_000_000}
TITLES = {
    "lengths": (Words("Rows of growing length", "逐渐加长的训练行"), "curriculum-lengths.svg"),
    "optimizers": (Words("AdamW first, Muon later", "先 AdamW，后 Muon"), "curriculum-optimizers.svg"),
}


def sides(options: argparse.Namespace) -> list[tuple[str, str, list[str]]]:
    """(question, name, key=value of [train]) of every run."""
    whole = options.length
    lengths = [whole // 4, whole // 2, whole]
    stairs = ", ".join(
        f"{{share = {share!r}, sequence_length = {length}}}"
        for share, length in zip(options.lengths_shares, lengths, strict=True)
    )
    change = (
        f'{{share = {options.switch!r}, optimizer = "adamw"}}, {{share = {1 - options.switch!r}, optimizer = "muon"}}'
    )
    steady = f'optimizer="{options.lengths_optimizer}"'
    found = [
        ("lengths", f"constant {whole}", [steady]),
        ("lengths", " -> ".join(map(str, lengths)), [steady, f"phases=[{stairs}]"]),
        ("optimizers", "AdamW", ['optimizer="adamw"']),
        ("optimizers", "Muon", ['optimizer="muon"']),
        ("optimizers", "AdamW -> Muon", ['optimizer="adamw"', f"phases=[{change}]"]),
    ]
    return [side for side in found if side[0] in options.questions]


def reached(curve: list[dict[str, Any]], goal: float, x: str) -> float | None:
    """Where on `x` a curve first comes down to `goal`, on a straight line between validations; None: never."""
    before = curve[0]
    for row in curve:
        if row["loss"] <= goal:
            if row is before or row["loss"] == before["loss"]:
                return float(row[x])
            way = (before["loss"] - goal) / (before["loss"] - row["loss"])
            return float(before[x] + way * (row[x] - before[x]))
        before = row
    return None


def main() -> None:
    """Measure and print the table; with --out write JSON, with --pictures two SVG files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", choices=sorted(TITLES), default=list(TITLES))
    parser.add_argument("--model", choices=sorted(MODELS), default="tiny", help="shape; 25m: 512 wide, 8 layers")
    parser.add_argument("--tokens", type=int, help="of each run (default: 2M for tiny, 50M for 25m)")
    parser.add_argument("--length", type=int, default=512, help="longest row; the shorter are a quarter and a half")
    shares = parser.add_argument("--lengths-shares", type=lambda text: [float(part) for part in text.split(",")])
    shares.default, shares.help = [0.4, 0.3, 0.3], "of the tokens, for each length (default: 0.4,0.3,0.3)"
    parser.add_argument("--lengths-optimizer", default="adamw", help="of both runs of the question lengths")
    parser.add_argument("--switch", type=float, default=0.2, help="share of the tokens with AdamW before Muon")
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="peak, of every run")
    parser.add_argument("--both", action="append", default=[], help="further key=value of [train], of every run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--points", type=int, default=25, help="validations of a run")
    parser.add_argument("--data", action="append", help="globs of text (default: what the recipe tiny takes)")
    parser.add_argument("--set", action="append", default=[], help="section.key=value of data, tokenizer, model")
    parser.add_argument("--work", type=Path, help="folder to keep text, shards and model in (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON")
    parser.add_argument("--pictures", type=Path, help="folder for curriculum-lengths.svg and curriculum-optimizers.svg")
    options = parser.parse_args()
    options.tokens = options.tokens or TOKENS[options.model]
    shape, step = MODELS[options.model]
    common = [*BASE, *step, f"learning_rate={options.learning_rate!r}", *options.both]
    longest = [f"model.max_position_embeddings={options.length}", *(f"train.{text}" for text in step)]
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        recipe = load("tiny", [*shape, *longest, f"seed={options.seed}", *options.set], options.data)
        run = prepare(recipe, options.work or Path(folder), options.model)
        judge = Judge(run, options.length)
        for question, name, texts in sides(options):
            config = settings(common, texts, [f"tokens={options.tokens}"], QUIET)
            trained = train_ours(run, config, judge, options.points, options.seed)
            last = trained.curve[-1]
            row = {"question": question, "side": name, "settings": texts, "lengths": trained.lengths,
                   **{key: last[key] for key in ("tokens", "seconds", "loss", "bits_per_byte")}, "curve": trained.curve}  # fmt: skip
            rows.append(row)
            print(f"{question}: {name}: {row['loss']:.4f} nats a token in {row['seconds']:.1f} s", flush=True)
    report(rows, options)


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table, the JSON and the pictures."""
    table = [["question", "side", "tokens", "loss", "bits/byte", "seconds", "the first's loss at", "and at"]]
    for row in rows:
        first = next(other for other in rows if other["question"] == row["question"])
        row["first_side"] = first["side"]
        row |= {f"{x}_to_first": reached(row["curve"], first["loss"], x) for x in ("tokens", "seconds")}
        tokens, seconds = row["tokens_to_first"], row["seconds_to_first"]
        told = ["never", ""] if tokens is None else [f"{human_count(tokens)} tokens", f"{seconds:.1f} s"]
        table.append([row["question"], row["side"], human_count(row["tokens"]), f"{row['loss']:.4f}",
                      f"{row['bits_per_byte']:.4f}", f"{row['seconds']:.1f}", *told])  # fmt: skip
    print(*lines_of(table), sep="\n")
    if options.pictures is not None:
        for question in options.questions:
            title, name = TITLES[question]
            curves = {row["side"]: row["curve"] for row in rows if row["question"] == question}
            headed = Words(f"{title.en}: validation bits per byte", f"{title.zh}：验证集每字节比特")
            charts = [picture(f"{question}-{x}", headed, curves, x, size=(760, 300)) for x in ("tokens", "seconds")]
            write_picture(options.pictures / name, *charts)
    if options.out is not None:
        what = "validation of a curriculum of row lengths, and of AdamW followed by Muon, beside runs without"
        write_result(options.out, what, options, rows)


if __name__ == "__main__":
    main()
