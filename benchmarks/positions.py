"""Which positions reach beyond the length that a model was trained at: sequences read backwards, scheme against scheme.

    python benchmarks/positions.py                                     # a quarter of an hour on two cores
    python benchmarks/positions.py --out benchmarks/results/DATE-positions-cpu.json
    python benchmarks/positions.py --smoke                             # a few seconds: does it run

A row is `a b c ... | ... c b a`: n different symbols, a separator, the same symbols in reverse. A model is trained on n = 16, 32
and 64, and is asked for 128, 256 and 512. Only the reversed half counts.

Why this task. What must be said next is the left neighbour of the symbol said last, and since no symbol stands twice in a row, it
can be found by looking for that symbol: one layer that notes each left neighbour, one that looks up. Such a solution has
no length in it, so what fails at 128 are the positions, not the idea. And it strains both things that positions are for: a
neighbour is one step away, while the places that must be looked up are up to 2n - 1 tokens away, far beyond what was trained
on. (With a small alphabet, so that symbols repeat, places would have to be counted. Two layers do not learn that within
minutes, by any scheme, and no scheme would reach beyond.)

Schemes. The first group is one trained model, rope, with its frequencies stretched at test time only; the factor t is
how many times longer a row is (dynamic: its usual factor of 2, which stretches by 2t - 1).

    rope                       as trained
    rope + linear, ntk, dynamic, yarn, llama3
    rope, random positions     trained and tested with the positions of a text of the longest length: as many of its
                               places, drawn and sorted, as the row has tokens (arXiv:2305.16843)
    clex                       the learned stretch, which is trained on such positions by itself; its network learns
                               at a hundredth of the rate, else its frequencies run away
    rope, windowed layer       the first layer sees 16 tokens, so it never meets a distance that it was not trained at
    alibi                      a bias that falls with distance
    none                       no positions; order is seen by the causal mask alone

Two accuracies, each the share of symbols of the reversed half that are right at their place: *told*, where the right symbols
before it are given (one pass), and *free*, where the model goes on from its own (greedy, over the cache); after one slip it
may be lost. The ranking is by *told*, averaged over the lengths beyond those of training, and over the seeds. Models, data,
steps and seeds are the same for all; a row whose model did not learn the trained lengths says so. Trainings are spread
over --processes, each with one thread.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jielong.evaluate.lengths import with_scaling
from jielong.infer.cache import KVCache
from jielong.model.config import Config, RopeScaling
from jielong.model.transformer import IGNORE, CausalLM, initialise
from jielong.runs import write_json

SEPARATOR = 0
LEARNED = 0.9  # accuracy at the longest trained length below which a model has not learned the task
WINDOW = 16  # tokens, of the windowed layer
TEST_SEED = 10**6
WARMUP_STEPS = 40
FREQUENCY_RATE = (
    0.01  # of clex's network, times the learning rate of the rest: at 1 its frequencies run away within 150 steps
)
COOLDOWN = 0.3  # the share of the steps at the end in which the learning rate falls to zero


class Scheme(NamedTuple):
    """A row of the table: which model is trained for it, and what is done to its frequencies at test time."""

    name: str
    trained: str
    stretch: str | None = None


SCHEMES = (
    Scheme("rope", "rope"),
    *(Scheme(f"rope + {kind}", "rope", kind) for kind in ("linear", "ntk", "dynamic", "yarn", "llama3")),
    Scheme("rope, random positions", "random"),
    Scheme("clex", "clex"),
    Scheme("rope, windowed layer", "window"),
    Scheme("alibi", "alibi"),
    Scheme("none", "none"),
)


# ------------------------------------------------------------------------------------------------------ the task


def rows_of(count: int, length: int, alphabet: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and labels (count, 2 x length): different symbols, the separator, the symbols in reverse."""
    symbols = torch.rand(count, alphabet, generator=generator).argsort(dim=1)[:, :length] + 1
    separator = torch.full((count, 1), SEPARATOR)
    ids = torch.cat((symbols, separator, symbols.flip(1)), dim=1)
    labels = ids[:, 1:].clone()
    labels[:, :length] = IGNORE  # the first half cannot be foretold
    return ids[:, :-1], labels


def random_positions(count: int, length: int, longest: int, generator: torch.Generator) -> Tensor:
    """For each row, sorted places of a text of `longest` tokens, (count, length)."""
    return torch.rand(count, longest, generator=generator).argsort(dim=1)[:, :length].sort(dim=1).values


@torch.no_grad()
def told(model: CausalLM, inputs: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
    """Whether each symbol of the reversed half is right, the ones before it given: (rows, length)."""
    length = inputs.shape[1] // 2
    said: Tensor = model(inputs, positions)[:, length:].argmax(dim=-1)
    return said == labels[:, length:]


@torch.no_grad()
def free(model: CausalLM, inputs: Tensor, labels: Tensor, positions: Tensor | None = None) -> Tensor:
    """The same, each symbol after those that the model said itself."""
    rows, length = inputs.shape[0], inputs.shape[1] // 2
    cache = KVCache(model.config, rows, 2 * length, inputs.device)
    feed, said = inputs[:, : length + 1], []
    for _ in range(length):
        places = None if positions is None else positions[:, cache.length : cache.length + feed.shape[1]]
        logits = model.lm_head(model.model(feed, places, cache=cache)[0][:, -1])
        feed = logits.argmax(dim=-1, keepdim=True)
        said.append(feed)
    return torch.cat(said, dim=1) == labels[:, length:]


# ------------------------------------------------------------------------------------------------- one training


def config_of(trained: str, options: argparse.Namespace) -> Config:
    """The model that is trained for a scheme."""
    reach, longest = 2 * max(options.train_lengths), 2 * max(options.test_lengths)
    table: dict[str, Any] = {
        "vocab_size": options.alphabet + 1, "hidden_size": options.width, "num_hidden_layers": options.layers,
        "num_attention_heads": options.heads, "num_key_value_heads": options.heads, "intermediate_size": options.width,
        "max_position_embeddings": reach, "initializer_range": options.deviation,
    }  # fmt: skip
    if trained in ("alibi", "none"):
        table["position"] = trained
    if trained == "clex":
        scaling = {"rope_type": "clex", "factor": longest / reach, "original_max_position_embeddings": reach}
        table |= {"max_position_embeddings": longest, "rope_scaling": scaling}
    if trained == "window":
        kinds = ["sliding_attention", *["full_attention"] * (options.layers - 1)]
        table |= {"sliding_window": WINDOW, "layer_types": kinds}
    return Config.model_validate(table)


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """Up in WARMUP_STEPS (a quarter of few), constant, down to zero."""
    up, down = (step + 1) / min(WARMUP_STEPS, options.steps / 4), (options.steps - step) / (options.steps * COOLDOWN)
    return float(options.learning_rate * min(1.0, up, down))


def train(trained: str, seed: int, options: argparse.Namespace) -> tuple[CausalLM, float]:
    """A model and its last loss, nats a symbol. The batches are the same for all schemes of a seed."""
    model = CausalLM(config_of(trained, options))
    initialise(model, seed)
    torch.manual_seed(seed)  # of clex's draws
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if ("frequencies" in name) == own], "rate": rate}
        for own, rate in ((False, 1.0), (True, FREQUENCY_RATE))
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], betas=(0.9, 0.98), weight_decay=0.0)
    data, places = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    longest, mean = 2 * max(options.test_lengths), float("nan")
    for step in range(options.steps):
        length = options.train_lengths[step % len(options.train_lengths)]
        count = max(1, options.tokens_per_step // (2 * length))
        inputs, labels = rows_of(count, length, options.alphabet, data)
        positions = random_positions(count, 2 * length, longest, places) if trained == "random" else None
        loss = model.loss_sum(inputs, labels, positions, None) / (count * length)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options) * group["rate"]
        optimizer.step()
        mean = float(loss.detach())
    return model.eval(), mean


def stretched(model: CausalLM, kind: str | None, length: int) -> CausalLM:
    """The model with its frequencies stretched to rows of 2 x length tokens; as it is up to the trained length."""
    factor = 2 * length / model.config.max_position_embeddings
    if kind is None or factor <= 1:
        return model
    table = {"rope_type": kind, "factor": 2.0 if kind == "dynamic" else factor}
    return with_scaling(model, RopeScaling.model_validate(table))


def one_training(trained: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train for one seed; test every scheme that uses this model."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    model, loss = train(trained, seed, options)
    seconds, found = time.perf_counter() - began, []
    for scheme in SCHEMES:
        if scheme.trained != trained or scheme.name not in options.schemes:
            continue
        result: dict[str, Any] = {"scheme": scheme.name, "seed": seed, "loss": loss, "seconds": seconds}
        result |= {"told": {}, "free": {}, "whole": {}}
        for length in (*options.train_lengths, *options.test_lengths):
            generator = torch.Generator().manual_seed(TEST_SEED + length)
            rows = rows_of(options.rows, length, options.alphabet, generator)
            tested, positions = stretched(model, scheme.stretch, length), None
            if trained == "random":
                positions = random_positions(options.rows, 2 * length, 2 * max(options.test_lengths), generator)
            said = free(tested, *rows, positions).float()
            result["told"][str(length)] = float(told(tested, *rows, positions).float().mean())
            result["free"][str(length)] = float(said.mean())
            result["whole"][str(length)] = float(said.amin(dim=1).mean())
        found.append(result)
    return found


# ------------------------------------------------------------------------------------------------------- tables


def ranked(found: list[dict[str, Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each scheme, means over the seeds, the farthest reaching first."""
    rows: list[dict[str, Any]] = []
    for scheme in SCHEMES:
        runs = [run for run in found if run["scheme"] == scheme.name]
        if not runs:
            continue

        def beyond(run: dict[str, Any], kind: str) -> float:
            return statistics.fmean(run[kind][str(length)] for length in options.test_lengths)

        means = {
            kind: {length: statistics.fmean(run[kind][length] for run in runs) for length in runs[0][kind]}
            for kind in ("told", "free", "whole")
        }
        told_beyond = [beyond(run, "told") for run in runs]
        rows.append(
            {
                "scheme": scheme.name,
                "beyond": statistics.fmean(told_beyond),
                "beyond_range": [min(told_beyond), max(told_beyond)],
                "beyond_free": statistics.fmean(beyond(run, "free") for run in runs),
                "learned": means["told"][str(max(options.train_lengths))] >= LEARNED,
                "loss": statistics.fmean(run["loss"] for run in runs),
                "seconds": statistics.fmean(run["seconds"] for run in runs),
                **means,
                "seeds": runs,
            }
        )
    rows.sort(key=lambda row: (row["beyond"], row["beyond_free"]), reverse=True)
    return [{"rank": rank, **row} for rank, row in enumerate(rows, 1)]


def lines(rows: list[dict[str, Any]], options: argparse.Namespace) -> Iterator[str]:
    """The table, for a terminal."""
    lengths = [str(max(options.train_lengths)), *map(str, options.test_lengths)]
    yield f"{'':3} {'scheme':24} {'beyond':>7} {'(seeds)':>13}   told {'':{8 * len(lengths) - 5}}   free"
    yield f"{'':52}{''.join(f'{n:>8}' for n in lengths)}   {''.join(f'{n:>8}' for n in lengths)}"
    for row in rows:
        low, high = row["beyond_range"]
        cells = ["".join(f"{row[kind][n]:8.1%}" for n in lengths) for kind in ("told", "free")]
        note = "" if row["learned"] else "   (the trained lengths are not learned)"
        yield (
            f"{row['rank']:>3} {row['scheme']:24} {row['beyond']:7.1%} {f'{low:.1%}-{high:.1%}':>13}    {'   '.join(cells)}{note}"
        )


def numbers(text: str) -> list[int]:
    """ "16,32" -> [16, 32]."""
    return sorted(int(part) for part in text.split(","))


def main() -> None:
    """Train, test, print the ranking; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-lengths", type=numbers, default=[16, 32, 64], help="symbols of a sequence")
    parser.add_argument("--test-lengths", type=numbers, default=[128, 256, 512], help="longer ones")
    parser.add_argument("--alphabet", type=int, default=512, help="symbols; at least the longest test length")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--deviation", type=float, default=0.02, help="standard deviation of the initial weights")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--tokens-per-step", type=int, default=1536)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=16, help="test sequences of each length")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schemes", nargs="+", default=[s.name for s in SCHEMES], help="only these rows")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--smoke", action="store_true", help="tiny: only to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.smoke:
        small = {"train_lengths": [2, 4], "test_lengths": [8], "alphabet": 8, "width": 16, "heads": 2, "steps": 4, "rows": 2,
                 "tokens_per_step": 64, "seeds": 1, "processes": 1}  # fmt: skip
        vars(options).update(small)
    if options.alphabet < max(options.test_lengths):
        parser.error("--alphabet: symbols may not repeat, so it must be at least the longest of --test-lengths")
    if unknown := set(options.schemes) - {scheme.name for scheme in SCHEMES}:
        parser.error(f"--schemes: not known: {', '.join(sorted(unknown))}")

    began = time.perf_counter()
    kinds = dict.fromkeys(scheme.trained for scheme in SCHEMES if scheme.name in options.schemes)
    jobs = [(kind, seed) for seed in range(1, options.seeds + 1) for kind in kinds]
    found: list[dict[str, Any]] = []
    # fresh processes: a forked one would inherit torch's threads, which do not survive it
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(one_training, *job, options): job for job in jobs}
        for future in as_completed(waiting):
            results, (trained, seed) = future.result(), waiting[future]
            found += results
            told_of = ", ".join(
                f"{run['scheme']} {' '.join(format(x, '.0%') for x in run['told'].values())}" for run in results
            )
            loss, seconds = results[0]["loss"], results[0]["seconds"]
            print(f"{trained}, seed {seed}: loss {loss:.3f}, {seconds:.0f} s; told: {told_of}", flush=True)
    found.sort(key=lambda run: run["seed"])
    rows = ranked(found, options)
    print()
    for line in lines(rows, options):
        print(line)
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "sequences read backwards: accuracy at lengths beyond those of training, by position scheme",
                "seconds": time.perf_counter() - began,
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"},
                "versions": {"torch": torch.__version__},
                "machine": {"processor": platform.processor() or platform.machine(), "processes": options.processes},
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
