"""What each method of alignment changes in a model that answers: before and after, on pairs that it has not seen.

    jielong run tiny
    jielong run sft-zh --data 'conversations/*.jsonl'
    python benchmarks/align.py --model runs/sft-zh --pairs pairs/*.jsonl --out benchmarks/results/...-align-cpu.json

Sides, each a recipe of [align] that runs by itself, all on the same pairs and the same tenth of them held out:

    planted   a reward model on pairs with a planted rule: of the two answers to a prompt one, by lot, begins with 您好！, and is the chosen
              one. Which answer people preferred plays no part, so what it learns is the rule. Held-out accuracy.
    reward    a reward model on the pairs as they are. Held-out accuracy; beside it the share of all pairs whose
              chosen answer is the longer one.
    dpo       held-out margin and accuracy by the implicit reward, before (0 by definition) and after.
    ppo, grpo the reward that REWARD below says, a verifiable one: of sampled answers to the prompts that are learned from, in the first and
              in the last steps; of the likeliest answers to held-out prompts, before and after; and the distance to the model before (KL, nats
              an answer).

No peer: TRL's own trainers make the same losses (tests/align/methods compare them with arithmetic by hand).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import orjson
from training_sides import lines_of, write_result

from jielong.align.config import Source
from jielong.data.reading.readers import Object
from jielong.metrics import read_jsonl
from jielong.runs import Run
from jielong.tune.sources import read_source

SIDES = ("planted", "reward", "dpo", "ppo", "grpo")
GREETING, SEED, LAST = "您好！", 1, 5
REWARD = '''def short(completions, ended, **fields):
    """1 for an answer that ends by itself, with a full stop, and has 10 to 60 characters."""
    return [
        float(end and text.rstrip().endswith("。") and 10 <= len(text.strip()) <= 60)
        for text, end in zip(completions, ended)
    ]
'''
REWARDS = {"epochs": 3, "batch_size": 16, "micro_batch_size": 4, "learning_rate": 3e-4}
SETTINGS: dict[str, dict[str, Any]] = {
    "planted": {"method": "reward", **REWARDS},
    "reward": {"method": "reward", **REWARDS},
    "dpo": {"method": "dpo", "epochs": 1, "batch_size": 16, "micro_batch_size": 4, "learning_rate": 1e-4},
    "ppo": {"method": "ppo", "batch_size": 32, "micro_batch_size": 8, "learning_rate": 2e-4, "passes": 2, "beta": 0.05},
    "grpo": {"method": "grpo", "batch_size": 8, "answers": 8, "micro_batch_size": 16, "learning_rate": 2e-4, "passes": 2},
}  # fmt: skip


def pairs_of(files: list[str]) -> Iterator[dict[str, Any]]:
    """Records with a prompt, a chosen and a rejected answer as text."""
    for name in files:
        for item in read_source(Source(name="pairs", path=name), [Path(name)], lambda *_: None, "align"):
            if isinstance(item, Object):
                record = item.record
                if all(isinstance(record.get(key), str) for key in ("prompt", "chosen", "rejected")):
                    yield record


def plant(files: list[str], into: Path) -> None:
    """The pairs with the rule of `planted`."""
    lot = random.Random(SEED)
    with into.open("wb") as file:
        for record in pairs_of(files):
            answers = [record["chosen"], record["rejected"]]
            lot.shuffle(answers)
            row = {"prompt": record["prompt"], "chosen": GREETING + answers[0], "rejected": answers[1]}
            file.write(orjson.dumps(row) + b"\n")


def toml(value: Any) -> str:
    """A value of a recipe as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return orjson.dumps(value).decode()


def run_side(side: str, options: argparse.Namespace, files: list[str], work: Path) -> Run:
    """A recipe of [align] alone."""
    table: dict[str, Any] = {"base": str(Path(options.model).resolve()), "validation_share": 0.1, **SETTINGS[side]}
    if side in ("ppo", "grpo"):
        table |= {"steps": options.steps, "max_new_tokens": 80, "rewards": [{"function": str(work / "reward.py") + ":short"}]}  # fmt: skip
    table["sources"] = [{"name": f"pairs-{number}", "path": name} for number, name in enumerate(files)]
    text = [f'name = "{side}"', f"seed = {SEED}", "[align]", *(f"{key} = {toml(value)}" for key, value in table.items())]  # fmt: skip
    recipe = work / f"{side}.toml"
    recipe.write_text("\n".join(text) + "\n", encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "jielong", "run", str(recipe)], cwd=work, check=True, stdout=subprocess.DEVNULL
    )
    return Run(work / "runs" / side)


def told(side: str, run: Run) -> dict[str, Any]:
    """What there is to say of a side."""
    stage = run.stage("align")
    counts = orjson.loads((stage / "manifest.json").read_bytes())["counts"]
    report = orjson.loads((stage / "data" / "preferences.json").read_bytes())
    records = read_jsonl(stage / "metrics.jsonl")
    row = {"side": side, "settings": SETTINGS[side], "train": report["train"], "held_out": report["validation"],
            "steps": counts["steps"], "seconds": counts["train_seconds"]}  # fmt: skip
    if side in ("ppo", "grpo"):
        length = [record["answer_tokens"] if side == "grpo" else 1.0 for record in records]
        kl = [record["kl"] * tokens for record, tokens in zip(records, length, strict=True)]  # grpo's is a token's
        worth = counts["judged"]["mean_worth"]
        return row | {
            "reward_first_step": records[0]["reward"],
            "reward_last_steps": statistics.fmean(record["reward"] for record in records[-LAST:]),
            "held_out_before": worth["b"], "held_out_after": worth["a"], "win_rate": counts["judged"]["win_rate"],
            "win_rate_interval": counts["judged"]["interval"], "kl_last_steps": statistics.fmean(kl[-LAST:]), "kl_highest": max(kl),
            "answer_tokens": [records[0]["answer_tokens"], records[-1]["answer_tokens"]],
        }  # fmt: skip
    return row | {key.removeprefix("validation_"): value for key, value in counts.items() if key.startswith("validation_")}  # fmt: skip


def longer(files: list[str]) -> float:
    """The share of pairs in which the chosen answer is the longer one."""
    found = [len(record["chosen"]) > len(record["rejected"]) for record in pairs_of(files)]
    return sum(found) / len(found)


def main() -> None:
    """Run the sides and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run's folder or a model folder that answers")
    parser.add_argument("--pairs", required=True, nargs="+", help="files of pairs: prompt, chosen, rejected")
    parser.add_argument("--sides", nargs="+", choices=SETTINGS, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=30, help="of ppo and grpo")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = [str(Path(name).resolve()) for name in options.pairs]
    with tempfile.TemporaryDirectory() as folder:
        work, rows = Path(folder), list[dict[str, Any]]()
        (work / "reward.py").write_text(REWARD, encoding="utf-8")
        plant(files, work / "planted.jsonl")
        for side in options.sides:
            began = time.perf_counter()
            run = run_side(side, options, [str(work / "planted.jsonl")] if side == "planted" else files, work)
            rows.append(told(side, run) | {"seconds_in_all": time.perf_counter() - began})
            print(rows[-1], flush=True)
            for sample in read_jsonl(run.stage("align") / "samples.jsonl")[
                -3:
            ]:  # of the user's prompts: shown, not kept
                print({key: sample.get(key) for key in ("prompt", "text", "reference")}, flush=True)
    share = longer(files)
    table = [["side", "held out", "seconds", "found"]]
    for row in rows:
        if "reward_first_step" in row:
            text = (f"reward {row['reward_first_step']:.2f} -> {row['reward_last_steps']:.2f}, held-out {row['held_out_before']:.2f} -> "
                    f"{row['held_out_after']:.2f}, KL {row['kl_last_steps']:.1f} nats an answer (highest {row['kl_highest']:.1f})")  # fmt: skip
        else:
            text = f"accuracy {row['accuracy']:.2f}, margin {row['margin']:.2f}"
        table.append([row["side"], str(row["held_out"]), f"{row['seconds_in_all']:.0f}", text])
    print("\n".join(lines_of(table)))
    print(f"the chosen answer is the longer one in {share:.2f} of the pairs")
    if options.out is not None:
        options.model, options.pairs = Path(options.model).name, [Path(name).name for name in files]
        write_result(
            options.out, "alignment on held-out pairs and prompts, before and after", options, rows, longer=share
        )


if __name__ == "__main__":
    main()
