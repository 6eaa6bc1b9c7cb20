"""EL-attention's cache beside the key-value cache: memory, and tokens per second of generation, in one run.

    python benchmarks/caches.py                                    # some minutes on two cores
    python benchmarks/caches.py --contexts 1024 4096 --rows 1 8 --out benchmarks/results/DATE-caches-cpu.json
    python benchmarks/caches.py --smoke                            # a second: does it run

A key-value cache keeps 2 x G x D numbers for a token and layer (G key-value heads of size D), EL-attention's (arXiv:2105.04779)
the layer's input, C numbers (hidden_size), from which every head reads. What it saves depends on the shape alone:

    wide heads    768 wide, 12 layers, 12 heads of 128: 2 x 12 x 128 = 3,072 numbers against 768, a quarter
    no groups     512 wide, 8 layers, 8 heads of 64: 1,024 against 512, half
    grouped       512 wide, 8 layers, 16 heads sharing 8 key-value heads of 32 (the default): 512 against 512, nothing

It pays with arithmetic: a new token multiplies its queries with Wk and the result with Wv (H x D x C each, as much as the
projections that it is spared), and scores and sums are over C numbers a head where the key-value cache has D.

Positions must not touch the keys, so all models have ALiBi; weights are random, since speed depends on none. For timing a
cache is filled with noise up to --contexts less the measured tokens, then tokens are generated one at a time, --rows at once. The
two take turns; medians, and the ratio with the range of the ratios of single turns. Before, both get the same
short text and their logits are compared (largest difference, relative to the largest logit).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.infer.cache import HiddenCache, KVCache
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise
from jielong.runs import write_json

SEED = 1
SHAPES: dict[str, dict[str, Any]] = {
    "wide heads": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12,
                   "head_dim": 128},
    "no groups": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8},
    "grouped": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 16, "num_key_value_heads": 8},
}  # fmt: skip
CACHES: dict[str, Callable[..., KVCache | HiddenCache]] = {"kv": KVCache, "hidden": HiddenCache}
AGREE_TOKENS, AGREE_STEPS = 24, 4


def numbers_a_token(config: Config) -> dict[str, int]:
    """Numbers that each cache keeps of a token, in all layers."""
    keys = 2 * config.num_key_value_heads * config.size_of_head
    return {"kv": config.num_hidden_layers * keys, "hidden": config.num_hidden_layers * config.hidden_size}


@torch.no_grad()
def difference(model: CausalLM, device: torch.device) -> float:
    """Largest difference of the logits of a short text through both caches, relative to the largest logit."""
    generator = torch.Generator().manual_seed(SEED)
    ids = torch.randint(0, model.config.vocabulary, (2, AGREE_TOKENS), generator=generator).to(device)
    found: list[Tensor] = []
    for make in CACHES.values():
        cache = make(model.config, 2, AGREE_TOKENS, device)
        parts = torch.split(ids, [AGREE_TOKENS - AGREE_STEPS, *[1] * AGREE_STEPS], dim=1)
        found.append(torch.cat([model(part, cache=cache) for part in parts], dim=1))
    return float((found[0] - found[1]).abs().max() / found[0].abs().max())


@torch.no_grad()
def seconds_a_token(model: CausalLM, cache: KVCache | HiddenCache, context: int, rows: int, tokens: int) -> float:
    """Seconds of a step in which every row gets one token, mean over the last `tokens` of the context."""
    device = next(model.parameters()).device
    ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
    cache.length = context - tokens - 1  # the first step is a warm-up
    for step in range(tokens + 1):
        if step == 1:
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
        ids = model.lm_head(model.model(ids, cache=cache)[0][:, -1]).argmax(dim=-1, keepdim=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / tokens


def filled(kind: str, config: Config, rows: int, context: int, device: torch.device) -> KVCache | HiddenCache:
    """A cache full of noise."""
    cache = CACHES[kind](config, rows, context, device)
    for store in (cache.keys, cache.values) if isinstance(cache, KVCache) else (cache.inputs,):
        store.normal_()
    return cache


def measure(name: str, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """The rows of one shape."""
    longest = max(options.contexts)
    config = Config.model_validate(
        {"vocab_size": options.vocabulary, "position": "alibi", "max_position_embeddings": longest, **SHAPES[name]}
    )
    model = CausalLM(config)
    initialise(model, SEED)
    model.to(device).eval()
    apart, kept, rows = difference(model, device), numbers_a_token(config), []
    for context in options.contexts:
        for count in options.rows:
            took: dict[str, list[float]] = {kind: [] for kind in CACHES}
            size: dict[str, int] = {}
            for _ in range(options.repeats):
                for kind in CACHES:
                    cache = filled(kind, config, count, context, device)
                    size[kind] = cache.bytes()
                    took[kind].append(seconds_a_token(model, cache, context, count, options.tokens))
                    del cache
            ratios = [kv / hidden for kv, hidden in zip(took["kv"], took["hidden"], strict=True)]
            rows.append(
                {
                    "shape": name, "context": context, "rows": count,
                    "bytes_a_token": {kind: 4 * n for kind, n in kept.items()},
                    "megabytes": {kind: n / 1e6 for kind, n in size.items()},
                    "memory_ratio": size["hidden"] / size["kv"],
                    "tokens_per_second": {kind: count / statistics.median(times) for kind, times in took.items()},
                    "speed_ratio": statistics.median(ratios), "speed_ratio_range": [min(ratios), max(ratios)],
                    "logits_difference": apart,
                }
            )  # fmt: skip
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    low, high = row["speed_ratio_range"]
    memory, speed, a_token = row["megabytes"], row["tokens_per_second"], row["bytes_a_token"]
    return (
        f"{row['shape']:11} {row['context']:>7} {row['rows']:>4} {a_token['kv']:>8,} {a_token['hidden']:>8,} {memory['kv']:>9.1f} "
        f"{memory['hidden']:>9.1f} {row['memory_ratio']:>6.2f} {speed['kv']:>8.1f} {speed['hidden']:>8.1f} {row['speed_ratio']:>6.2f} "
        f"({low:.2f} to {high:.2f}) {row['logits_difference']:.0e}"
    )


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--contexts", nargs="+", type=int, default=[1024, 4096], help="tokens in the cache")
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8], help="texts at once")
    parser.add_argument("--tokens", type=int, default=16, help="generated in one measurement")
    parser.add_argument("--repeats", type=int, default=5, help="how often the two take turns")
    parser.add_argument("--vocabulary", type=int, default=6400)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="tiny: only to see that it runs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.smoke:
        small = {"contexts": [32], "rows": [2], "tokens": 2, "repeats": 1, "vocabulary": 64}
        vars(options).update(small)
    if min(options.contexts) < options.tokens + 2:
        parser.error("--contexts: must be longer than --tokens")
    device = torch.device(options.device)
    print(f"{'shape':11} {'context':>7} {'rows':>4} {'bytes a token':>17} {'MB':>13} {'':>5} {'ratio':>6} {'tokens/s':>14} {'':>2} "
          f"{'ratio':>6} (range)        logits")  # fmt: skip
    print(f"{'':24} {'kv':>8} {'hidden':>8} {'kv':>9} {'hidden':>9} {'':6} {'kv':>8} {'hidden':>8}")
    rows = [row for name in options.shapes for row in measure(name, options, device)]
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "EL-attention's cache over the key-value cache: memory_ratio (less is smaller), speed_ratio (more is faster)",
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"},
                "versions": {"torch": torch.__version__},
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "threads": torch.get_num_threads(),
                    "gpu": torch.cuda.get_device_name() if device.type == "cuda" else None,
                },
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
