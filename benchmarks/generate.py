"""Tokens per second of generation and its memory: us beside `transformers.generate`, the same checkpoint, in turn, in one run.

    python benchmarks/generate.py                                # the default 512 x 8 model, batch 1 and 16
    python benchmarks/generate.py --stored bfloat16              # weights that are bfloat16 numbers, as most checkpoints' are
    python benchmarks/generate.py --folder runs/NAME/train/checkpoints/step-1000 --out benchmarks/results/DATE-generate-cpu.json

Every side takes the same prompts (random ids) and always the most probable token, with a cache, float32 on the CPU, and ends after --new tokens: no stop id is heeded. transformers runs with `attn_implementation` "sdpa".
Each side lives in a process of its own, which loads the folder, generates once to warm up, and then waits for its turn; seconds
are those of a whole generation, the prompt's pass included. In every repeat the sides go one after the other; tokens per second are medians,
and a ratio is the median of the ratios within a repeat, with their range, because machines are shared and noisy.

- *transformers*: `generate(do_sample=False, use_cache=True)`, its dynamic cache.
- *transformers, static* and *transformers, static, compiled* (on CUDA): its static cache, without and with torch.compile.
- *ours*: what `jielong generate` does, through `generate_ours`: the compiled decoder on the CPU, CUDA graphs on CUDA.
- *ours, torch*: our model's own pass for every token, the slow twin of the former.

Peaks: the resident set at its highest (VmHWM; libraries and the loaded checkpoint in it), on CUDA what torch allocated.
Tokens are compared with those of transformers: how many rows are equal to the last token. Where two tokens are equally probable
to the last digit either is right; on a random model of this size that does not happen in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

SEED = 1
PEER = "transformers"
SIDES = {
    "cpu": (PEER, "ours", "ours, torch"),
    "cuda": (PEER, "transformers, static", "transformers, static, compiled", "ours", "ours, torch"),
}
GOAL = 3.0  # ours over transformers, batch 1, CPU
Generate = Callable[[Any, int], Any]  # prompts (B, T), new tokens -> ids (B, new tokens)


# ------------------------------------------------------------------------------------------- a side, in its own process


def load_peer(folder: Path, device: str, side: str) -> Generate:
    """`generate` of transformers."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").to(device).eval()
    )
    static = {"cache_implementation": "static", "disable_compile": "compiled" not in side} if "static" in side else {}
    model.generation_config = GenerationConfig()  # no penalties, no stop ids from the folder

    def generate(ids_BT: Any, count: int) -> Any:
        found = model.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=count, do_sample=False,
            use_cache=True, pad_token_id=0, **static,
        )  # fmt: skip
        return found[:, ids_BT.shape[1] :]

    return generate


def load_ours(folder: Path, device: str, side: str) -> Generate:
    """Our generation; `ours, torch`: the model's own pass for every token."""
    import torch

    from jielong.infer.cache import KVCache
    from jielong.model.hf import load_folder

    model = load_folder(folder).to(device).eval().requires_grad_(False)  # as `open_model` leaves it

    @torch.no_grad()
    def generate_torch(ids_BT: Any, count: int) -> Any:
        cache = KVCache(model.config, len(ids_BT), ids_BT.shape[1] + count, torch.device(device))
        new, feed = [], ids_BT
        while len(new) < count:
            hidden_BTC, _ = model.model(feed, cache=cache)
            new.append(model.lm_head(hidden_BTC[:, -1]).argmax(dim=-1))
            feed = new[-1][:, None]
        return torch.stack(new, dim=1)

    if side == "ours, torch":
        return generate_torch
    return generate_ours(model)


def generate_ours(model: Any) -> Generate:
    """What `jielong generate` does for several prompts (`stepping.begin` chooses how): always greedy, without stop ids."""
    import torch

    from jielong.infer.batch import generate_batch
    from jielong.infer.config import Config

    def generate(ids_BT: Any, count: int) -> Any:
        greedy = Config(
            max_new_tokens=count, temperature=0.0, repetition_penalty=1.0, cache="kv", batch_size=len(ids_BT)
        )
        return torch.tensor(generate_batch(model, ids_BT.tolist(), greedy, frozenset(), [SEED] * len(ids_BT)))

    return generate


def peak_megabytes(device: str) -> float:
    """The most memory that this process has had: resident, on CUDA what torch allocated there."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    rows = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM:")) * 1024 / 1e6


def serve(what: dict[str, Any]) -> None:
    """A side: load, warm up, then one generation for each line that comes in; a line of JSON for each."""
    import torch

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")  # libraries may print; what they print is no answer
    os.dup2(2, 1)
    torch.set_num_threads(what["threads"])
    device = what["device"]
    load = load_peer if what["side"].startswith(PEER) else load_ours
    generate = load(Path(what["folder"]), device, what["side"])
    ids_BT = torch.tensor(what["prompts"], device=device)
    for line in chain(["warm up"], iter(sys.stdin.readline, "")):
        start = time.perf_counter()
        new_BT = generate(ids_BT, what["new"])
        tokens = new_BT.tolist()  # waits for the device
        seconds = time.perf_counter() - start
        print(
            json.dumps({"turn": line.strip(), "seconds": seconds, "tokens": tokens, "peak_megabytes": peak_megabytes(device)}),
            file=answers, flush=True,
        )  # fmt: skip


# --------------------------------------------------------------------------------------------------- taking turns


class Side:
    """One side's process."""

    def __init__(self, what: dict[str, Any]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(what)]
        self.name = what["side"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self.answer()

    def answer(self) -> dict[str, Any]:
        """Of the turn that is being taken."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name}: ended with status {self._process.wait()}; its message is above")
        found: dict[str, Any] = json.loads(line)
        return found

    def turn(self) -> dict[str, Any]:
        """One generation."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self.answer()

    def end(self) -> None:
        """No more turns."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def make_folder(folder: Path, shape: dict[str, Any], stored: str) -> None:
    """A model folder with random weights."""
    import torch

    from jielong.model.config import Config
    from jielong.model.hf import save_folder
    from jielong.model.transformer import CausalLM, initialise

    model = CausalLM(Config.model_validate({"vocab_size": 6400} | shape))
    initialise(model, SEED)
    save_folder(model.to(getattr(torch, stored)), folder, 0)


def describe(folder: Path, rows: int, length: int) -> tuple[int, list[list[int]]]:
    """Number of parameters, and random prompts."""
    import torch

    from jielong.model.hf import load_folder

    model = load_folder(folder)
    generator = torch.Generator().manual_seed(SEED)
    prompts: list[list[int]] = torch.randint(0, model.config.vocabulary, (rows, length), generator=generator).tolist()
    return sum(parameter.numel() for parameter in model.parameters()), prompts


def measure(options: argparse.Namespace, folder: Path, batch: int) -> list[dict[str, Any]]:
    """All sides at one batch size."""
    parameters, prompts = describe(folder, batch, options.prompt)
    what = {
        "folder": str(folder),
        "device": options.device,
        "threads": options.threads,
        "prompts": prompts,
        "new": options.new,
    }
    sides = [Side(what | {"side": name}) for name in options.sides]
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    last: dict[str, dict[str, Any]] = {}
    for repeat in range(options.repeats):
        for side in sides:
            last[side.name] = side.turn()
            seconds[side.name].append(last[side.name]["seconds"])
            print(
                f"batch {batch}, repeat {repeat + 1}: {side.name}: {batch * options.new / seconds[side.name][-1]:,.0f} tokens/s",
                flush=True,
            )
    for side in sides:
        side.end()
    rows = []
    for side in sides:
        took, answer = seconds[side.name], last[side.name]
        ratios = [theirs / ours for theirs, ours in zip(seconds[PEER], took, strict=True)]
        rows.append(
            {
                "side": side.name,
                "batch": batch,
                "parameters": parameters,
                "tokens_per_second": batch * options.new / statistics.median(took),
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "peak_megabytes": answer["peak_megabytes"],
                "first_seconds": side.first["seconds"],
                "equal_rows": sum(a == b for a, b in zip(answer["tokens"], last[PEER]["tokens"], strict=True)),
            }
        )
    return rows


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print the table and write the JSON."""
    print(
        f"\n{'side':32} {'batch':>5} {'tokens/s':>9} {'ratio':>6}   range          {'peak MB':>8}  equal rows  first s"
    )
    for row in rows:
        low, high = row["ratio_range"]
        print(
            f"{row['side']:32} {row['batch']:>5} {row['tokens_per_second']:>9,.0f} {row['ratio']:>6.2f}   "
            f"{low:5.2f} to {high:5.2f} {row['peak_megabytes']:>8,.0f}  {row['equal_rows']:>10}  {row['first_seconds']:>7.2f}"
        )
    goals = [
        {"goal": f"ours {GOAL:g} times {PEER}, batch 1, CPU", "found": row["ratio"], "met": row["ratio"] >= GOAL}
        for row in rows
        if row["side"] == "ours" and row["batch"] == 1 and options.device == "cpu"
    ]
    for goal in goals:
        print(f"goal: {goal['goal']}: {goal['found']:.2f}, {'met' if goal['met'] else 'NOT met'}")
    if options.out is not None:
        import torch

        from jielong.runs import write_json

        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": f"tokens per second of greedy generation, medians; ratio: over {PEER}, median of the repeats' ratios",
                "model": str(options.folder) if options.folder else options.set or "default 512 x 8, vocabulary 6,400, random",
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in ("out", "child")},
                "versions": {name: version(name) for name in ("torch", "transformers", "numba")},
                "machine": {
                    "processor": processor(),
                    "threads": options.threads,
                    "gpu": torch.cuda.get_device_name() if options.device == "cuda" else None,
                },
                "rows": rows,
                "goals": goals,
            },
        )  # fmt: skip


def processor() -> str:
    """Its name."""
    try:
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        rows = []
    named = (row.partition(":")[2].strip() for row in rows if row.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a model folder; none: random weights, made on the fly")
    parser.add_argument(
        "--set", action="append", default=[], help="key=value of the random model's config (repeatable)"
    )
    parser.add_argument(
        "--stored", default="float32", choices=["float32", "bfloat16", "float16"], help="of random weights"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="prompts together")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=128, help="new tokens of each row")
    parser.add_argument("--repeats", type=int, default=7, help="how often the sides take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sides", nargs="+", help=f"{PEER} and others; none: all that the device has")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        serve(options.child)
        return
    options.sides = options.sides or list(SIDES[options.device])
    if options.sides[0] != PEER:
        parser.error(f"--sides begins with {PEER}: the others are compared with it")
    shape = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder
        if folder is None:
            folder = Path(scratch)
            make_folder(folder, shape, options.stored)
        rows = [row for batch in options.batch for row in measure(options, folder, batch)]
    report(options, rows)


if __name__ == "__main__":
    main()
