"""Seconds that training stands still for a checkpoint: ours written beside the training, ours without a thread, and the peer.

    python benchmarks/checkpoints.py                     # the default 512 x 8 model, 5 repeats
    python benchmarks/checkpoints.py --out benchmarks/results/2026-11-23-checkpoints-cpu.json

All three save the same weights and the same AdamW state after a real step. The peer does what `transformers.Trainer` does for a
checkpoint: `save_pretrained`, and `torch.save` of the optimizer's state_dict, in the training's own thread. Ours flushes every file to the
disk, writes checksums and renames a folder that is whole; the peer does not, which is to its advantage. `beside` is the
time in which the call returns, with nothing else on its way; `until it is on disk` is how long its thread works on.

The sides take turns within every repeat; medians over repeats, and the ratio with the range of single repeats.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

from jielong.model.config import Config as ModelConfig
from jielong.model.hf import save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.runs import write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.keeping import Keeper
from jielong.train.loader import Batch

TEXTS = [f"第{n}条新闻：中国人民今天很高兴，因为天气不错，温度是{n}度。" for n in range(60)]
STATE = {"fingerprint": "benchmark", "loader": {}, "seconds": 0.0}


def stepped(model: CausalLM) -> TorchEngine:
    """An engine whose optimizer has a state."""
    engine = TorchEngine(model, Config(precision="float32"))
    ids = torch.arange(32).reshape(2, 16)
    batch = Batch(ids.numpy(), ids.numpy(), (ids % 16).numpy(), torch.zeros_like(ids).numpy())
    engine.backward(engine.forward(batch).cross_entropy / 32)
    engine.step(1e-4)
    return engine


def ours(engine: TorchEngine, tokenizer: TokenizerFolder, beside: bool) -> Callable[[int], tuple[float, float]]:
    """Save the checkpoint of a step; returns the seconds until the call is back, and until it is on disk."""
    folder = Path(tempfile.mkdtemp())
    keeper = Keeper(Config(keep_checkpoints=1, async_checkpoints=beside), engine.model.config, tokenizer, folder)

    def save(step: int) -> tuple[float, float]:
        started = time.perf_counter()
        keeper.save(engine.snapshot, step, STATE, lambda: None)
        back = time.perf_counter() - started
        keeper.wait()
        return back, time.perf_counter() - started

    return save


def trainer(model: Any, engine: TorchEngine) -> Callable[[int], tuple[float, float]]:
    """What transformers.Trainer does for a checkpoint."""
    folder = Path(tempfile.mkdtemp())

    def save(step: int) -> tuple[float, float]:
        started = time.perf_counter()
        model.save_pretrained(folder / f"checkpoint-{step}")
        torch.save(engine.optimizer.state_dict(), folder / f"checkpoint-{step}" / "optimizer.pt")
        took = time.perf_counter() - started
        return took, took

    return save


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        tempfile.tempdir = place
        vocabulary = Path(place) / "tokenizer"
        bpe.save(bpe.train(TEXTS, 300, TokenizerConfig().specials, 2, True), vocabulary)
        tokenizer = open_folder(vocabulary)
        model = CausalLM(ModelConfig(hidden_size=options.hidden, num_hidden_layers=options.layers).with_vocab(6400))
        initialise(model, 1)
        save_folder(model, Path(place) / "model", tokenizer.end_id)
        theirs = AutoModelForCausalLM.from_pretrained(Path(place) / "model", dtype=torch.float32)
        engine = stepped(model)
        sides = {"ours, beside the training": ours(engine, tokenizer, True), "ours, without a thread": ours(engine, tokenizer, False),
                 "as transformers.Trainer": trainer(theirs, engine)}  # fmt: skip
        for save in sides.values():  # memory is taken, files are made
            save(0)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for repeat in range(1, options.repeats + 1):
            for name, save in sides.items():
                found[name].append(save(repeat))
        weights = sum(parameter.numel() for parameter in model.parameters())
    report(options, found, weights)


def report(options: argparse.Namespace, found: dict[str, list[tuple[float, float]]], weights: int) -> None:
    """Print the table and write the JSON."""
    peer = [back for back, _ in found["as transformers.Trainer"]]
    rows = []
    print(f"{weights / 1e6:.1f} M weights, {12 * weights / 1e6:.0f} MB a checkpoint")
    print(f"{'side':28} {'stands still, s':>16} {'on disk, s':>11} {'of the peer':>12}   range")
    for name, times in found.items():
        ratios = [back / theirs for (back, _), theirs in zip(times, peer, strict=True)]
        row = {
            "side": name,
            "stands_still_seconds": statistics.median(back for back, _ in times),
            "on_disk_seconds": statistics.median(done for _, done in times),
            "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)],
        }
        rows.append(row)
        print(f"{name:28} {row['stands_still_seconds']:>16.3f} {row['on_disk_seconds']:>11.3f} {row['ratio']:>12.2f}   "
              f"{min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip
    if options.out is not None:
        table = {
            "date": time.strftime("%Y-%m-%d"),
            "what": "seconds that training stands still for a checkpoint, medians",
            "weights": weights,
            "options": {"hidden": options.hidden, "layers": options.layers, "repeats": options.repeats},
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "rows": rows,
        }
        write_json(options.out, table)


if __name__ == "__main__":
    main()
