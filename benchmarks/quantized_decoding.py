"""Tokens per second of decoding with matrices of integers, one text at a time: our compiled step beside torch's packed products and transformers.

    python benchmarks/quantized_decoding.py                               # the default 512 x 8 model, random weights
    python benchmarks/quantized_decoding.py --out benchmarks/results/DATE-quantized-decoding-cpu.json

The weights are rounded to nearest: 8 bits with a scale for each row, 4 bits with a scale and a zero for each group of columns. Embedding and
output layer stay float32 on all sides but one. Every side continues the same prompt (random ids) with always the most probable token, with a cache,
on the CPU; timed is what comes after the prompt's pass: from the first new token to the last. In every repeat the sides go one after the
other; tokens per second are medians, and a ratio is the median of the ratios within a repeat, with their range, because machines are
shared and noisy.

- *compiled, ...*: our compiled step; float32, bfloat16 (weights that are bfloat16 numbers, kept in 16 bits), int8 and int4, read as they lie.
- *torch, ...*: our model's own pass for every token; int8 and int4 as QuantizedLinear has it.
- *torch, ..., bfloat16 inputs*: the same with torch's packed products (`_weight_int8pack_mm`, `_weight_int4pack_mm_for_cpu`) of inputs rounded to
  bfloat16, which is what torch has vector code for.
- *transformers, float32*: `generate(do_sample=False, use_cache=True)`, its dynamic cache, `attn_implementation` "sdpa".

Megabytes are of what a step reads of its weights: matrices, scales and zeros. The logits after the prompt and one token are compared with those of
the same weights' product in float32, in parts of the largest.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from generate import PEER, processor
from torch import Tensor, nn

from jielong.infer.cache import KVCache
from jielong.infer.compiled.decoder import CompiledDecoder
from jielong.infer.compiled.weights import Weights
from jielong.infer.stepping import Stepper, TorchStepper
from jielong.model.config import Config
from jielong.model.hf import save_folder
from jielong.model.quantized.linear import QuantizedLinear, packed_for
from jielong.model.transformer import CausalLM, initialise
from jielong.quantize.rounding import round_to_nearest
from jielong.runs import write_json

SEED = 1
REFERENCE = "compiled, float32"
PEER_SIDE = f"{PEER}, float32"
CPU = torch.device("cpu")


class Side(NamedTuple):
    """What takes turns."""

    name: str
    megabytes: float  # of weights
    difference: float | None  # of its logits from those of the same model's own pass, in parts of the largest
    turn: Callable[[], float]  # seconds a token


def quantized(model: CausalLM, bits: int, group: int | None) -> CausalLM:
    """A copy of a model with integers in place of the matrices of its blocks. group: columns that share a scale; None: a row."""
    model = copy.deepcopy(model)
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, layer in list(parent.named_children()):
                if type(layer) is nn.Linear:
                    size = group or layer.in_features
                    integers = round_to_nearest(layer.weight.detach(), bits, size, symmetric=bits == 8)
                    setattr(parent, name, QuantizedLinear(integers, layer.bias))
    return model


class Packed(nn.Module):
    """torch's packed product of inputs that are rounded to bfloat16."""

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        packed = packed_for(layer.integers)
        assert packed is not None and layer.bias is None, layer
        self.matrix, self.scales = packed[0], packed[1].bfloat16()
        self.bits, self.group = layer.bits, layer.group

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., O)."""
        flat = x.reshape(-1, x.shape[-1]).bfloat16()
        if self.bits == 8:
            out = torch.ops.aten._weight_int8pack_mm(flat, self.matrix, self.scales)
        else:
            out = torch.ops.aten._weight_int4pack_mm_for_cpu(flat, self.matrix, self.group, self.scales)
        return out.view(*x.shape[:-1], -1).to(x.dtype)


def packed(model: CausalLM) -> CausalLM:
    """A copy of a model with `Packed` in place of its layers of integers."""
    model = copy.deepcopy(model)
    for block in model.model.layers:
        for parent in (block.self_attn, block.mlp):
            for name, layer in list(parent.named_children()):
                if isinstance(layer, QuantizedLinear):
                    setattr(parent, name, Packed(layer))
    return model


def begin(model: CausalLM, compiled: bool, frozen: bool, prompt: list[int], new: int) -> tuple[Tensor, Stepper]:
    """The logits after the prompt, and what goes on from there. frozen: weights may be kept in 16 bits."""
    cache = KVCache(model.config, 1, len(prompt) + new, CPU)
    plain = TorchStepper(model, cache, None)
    logits_BV = plain.feed(torch.tensor([prompt]))
    if not compiled:
        return logits_BV, plain
    decoder = CompiledDecoder(model, 1, cache.capacity, cache.keys, cache.values, frozen)
    decoder.load_cache(cache.keys, cache.values, cache.length)
    return logits_BV, decoder


@torch.no_grad()
def ours(name: str, model: CausalLM, prompt: list[int], new: int) -> Side:
    """A side of ours; `name` says which stepper and which weights."""
    compiled, frozen = name.startswith("compiled"), name.endswith("bfloat16")
    expected = model(torch.tensor([[*prompt, 7]]))[:, -1]  # as many rows as are multiplied in float32
    megabytes = Weights(model, frozen).bytes / 1e6
    if name.endswith("inputs"):
        model = packed(model)

    @torch.no_grad()
    def turn() -> float:
        logits_BV, stepper = begin(model, compiled, frozen, prompt, new)
        tokens = [int(logits_BV.argmax())]
        start = time.perf_counter()
        while len(tokens) < new:
            tokens.append(int(stepper.step(torch.tensor(tokens[-1:])).argmax()))
        seconds = time.perf_counter() - start
        stepper.close()
        return seconds / (new - 1)

    found = begin(model, compiled, frozen, prompt, new)[1].step(torch.tensor([7]))
    difference = float((found - expected).abs().max() / expected.abs().max())
    return Side(name, megabytes, difference, turn)


class Times:
    """When a token came; what transformers calls a streamer."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def put(self, ids: Tensor) -> None:
        """The prompt, then each token."""
        self.seconds.append(time.perf_counter())

    def end(self) -> None:
        """No more tokens."""


def peer(folder: Path, megabytes: float, prompt: list[int], new: int) -> Side:
    """transformers on the same checkpoint in float32."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    model.generation_config = GenerationConfig()  # no penalties, no stop ids from the folder
    ids_BT = torch.tensor([prompt])

    def turn() -> float:
        times = Times()
        model.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=new, do_sample=False, use_cache=True,
            pad_token_id=0, streamer=times,
        )  # fmt: skip
        assert len(times.seconds) == new + 1
        return (times.seconds[-1] - times.seconds[1]) / (new - 1)

    return Side(PEER_SIDE, megabytes, None, turn)


def make_sides(options: argparse.Namespace, scratch: Path) -> list[Side]:
    """All of them, over the same random weights."""
    shape = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    model = CausalLM(Config.model_validate({"vocab_size": 6400} | shape))
    initialise(model, SEED)
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(SEED)
    prompt = torch.randint(0, model.config.vocabulary, (options.prompt,), generator=generator).tolist()
    models = {
        "float32": model,
        "bfloat16": copy.deepcopy(model).to(torch.bfloat16).float(),
        "int8": quantized(model, 8, None),
        "int4": quantized(model, 4, options.group or None),
    }
    names = [f"compiled, {kind}" for kind in models] + [f"torch, {kind}" for kind in ("float32", "int8", "int4")]
    names += [f"torch, {kind}, bfloat16 inputs" for kind in ("int8", "int4") if options.group]
    sides = [ours(name, models[name.split(", ")[1]], prompt, options.new) for name in names]
    save_folder(model, scratch, 0)
    return [*sides, peer(scratch, sides[0].megabytes, prompt, options.new)]


def measure(options: argparse.Namespace, sides: list[Side]) -> list[dict[str, Any]]:
    """Let the sides take turns; a row for each."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for repeat in range(-1, options.repeats):  # the first turn warms up
        for side in sides:
            took = side.turn()
            if repeat >= 0:
                seconds[side.name].append(took)
                print(f"repeat {repeat + 1}: {side.name}: {1 / took:,.0f} tokens/s", flush=True)
    rows = []
    for side in sides:
        row: dict[str, Any] = {
            "side": side.name,
            "tokens_per_second": 1 / statistics.median(seconds[side.name]),
            "milliseconds_a_token": 1000 * statistics.median(seconds[side.name]),
            "megabytes_of_weights": side.megabytes,
            "logits_difference": side.difference,
        }
        for key, other in (("over_reference", REFERENCE), ("over_transformers", PEER_SIDE)):
            ratios = [theirs / own for theirs, own in zip(seconds[other], seconds[side.name], strict=True)]
            row[key] = statistics.median(ratios)
            row[f"{key}_range"] = [min(ratios), max(ratios)]
        rows.append(row)
    return rows


def report(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print the table and write the JSON."""
    print(f"\n{'side':32} {'tokens/s':>9} {'ms':>7} {'MB':>7}  over {REFERENCE:22} over {PEER_SIDE}")
    for row in rows:
        ratios = [
            f"{row[key]:6.2f} ({row[f'{key}_range'][0]:5.2f} to {row[f'{key}_range'][1]:5.2f})"
            for key in ("over_reference", "over_transformers")
        ]
        print(
            f"{row['side']:32} {row['tokens_per_second']:>9,.0f} {row['milliseconds_a_token']:>7.2f} "
            f"{row['megabytes_of_weights']:>7.1f}  {ratios[0]:27} {ratios[1]}"
        )
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "tokens per second of greedy decoding after the prompt, one text, medians; ratios: medians of the repeats' ratios",
                "model": options.set or "default 512 x 8, vocabulary 6,400, random",
                "options": {k: v for k, v in vars(options).items() if k != "out"},
                "versions": {name: version(name) for name in ("torch", "transformers", "numba")},
                "machine": {"processor": processor(), "threads": options.threads, "gpu": None},
                "rows": rows,
            },
        )


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], help="key=value of the model's config (repeatable)")
    parser.add_argument("--group", type=int, default=128, help="columns that share a scale of the 4 bits; 0: a row")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=128, help="new tokens")
    parser.add_argument("--repeats", type=int, default=7, help="how often the sides take turns")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(options, make_sides(options, Path(scratch)))
    report(options, rows)


if __name__ == "__main__":
    main()
