"""What the loader costs: microseconds a row and tokens per second, beside a training step of the default model.

    python benchmarks/loader.py                      # 48 MB of text, rows of 512, a step of 2,048 tokens
    python benchmarks/loader.py --text corpus/*.jsonl --out benchmarks/results/2026-11-23-loader-cpu.json

The shards are made on the fly: a tokenizer of 6,400 from a part of the text, documents of every file as a source of their own,
in files of about a million tokens. What is timed, in turn within every repeat:

- *compiled*: `step` of our loaders, in the natural order and with a mix of all sources, for one process and for the first of 8, which
  passes over the rows of the other 7 (a row is one of its own);
- *plain*: the same rows by the slow twin in Python, which is how they were laid before;
- *cold*: compiled, a copy of the shards of which the system's cache holds nothing (what really came from the disk is said);
- *DataLoader*: torch's, shuffled, over a map-style dataset (our `HfDataset`, whose rows are a slice of the memory map, copied
  twice on their way into a batch), in this process and with worker processes;
- *step*: forward, backward and AdamW of the default model (512 wide, 8 layers) on this machine, with attention confined to documents.

The share is the loader's time for a row over the step's time for a row, medians, and its range over repeats; the last column is
what it would be of a device that trains --device-rate tokens per second. Every side has run once before.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM, initialise
from jielong.runs import write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import HfDataset
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.loader import Loader, open_loader, plain_rows
from jielong.train.mixing import Mix

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pretrain"
MEGABYTE = 1_000_000
SEED = 1
STEP = "training step"
Side = Callable[[], float]  # seconds a row


def read_texts(files: list[Path], megabytes: float) -> dict[str, list[str]]:
    """The beginning of each file of JSON lines (.zst or plain), as a source each; without files, the embedded corpora."""
    found: dict[str, list[str]] = {}
    if not files:
        from jielong.data.reading.corpora import BUILTIN, builtin_files, read_builtin

        for name in BUILTIN:
            found[name] = [record.text for file in builtin_files(name) for record in read_builtin(name, file)]
    for file in files:
        rows, size = found.setdefault(file.name.split(".")[0], []), 0
        with file.open("rb") as raw:
            stream: Any = raw
            if file.suffix == ".zst":
                import zstandard

                stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                rows.append(json.loads(line)["text"])
                size += len(rows[-1].encode("utf-8"))
                if size >= megabytes * MEGABYTE / len(files):
                    break
    return {name: rows for name, rows in found.items() if rows}


def make_shards(folder: Path, texts: dict[str, list[str]], vocab_size: int, shard_tokens: int) -> Shards:
    """Tokenize: a tokenizer from every tenth text, and shards of all of them, sources one after the other."""
    config = TokenizerConfig()
    part = [text for rows in texts.values() for text in rows[::10]]
    bpe.save(bpe.train(part, vocab_size, config.specials, config.min_frequency, config.split_digits), folder)
    tokenizer = open_folder(folder)
    scheme = Scheme(tokenizer.size, tokenizer.end_id)
    with ShardWriter(folder / "shards", "train", scheme, shard_tokens, tuple(texts)) as writer:
        for name, rows in texts.items():
            for start in range(0, len(rows), 1000):
                some = rows[start : start + 1000]
                writer.add(some, tokenizer.encode(some), [name] * len(some))
    write_manifest(folder / "shards", scheme, {"train": writer.summary()})
    return Shards(folder / "shards", "train")


def timed(rows: int, work: Callable[[], object]) -> float:
    """Seconds a row of some work."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) / rows


class Sides:
    """All that is timed, by name."""

    def __init__(self, options: argparse.Namespace, shards: Shards) -> None:
        self.options, self.shards, self.read_from_disk = options, shards, list[float]()
        self.table: dict[str, Side] = {}
        for name, packing, mix in (
            ("natural order", "packed", None),
            ("mix", "packed", Mix(temperature=2)),
            ("truncated", "truncated", None),
        ):
            loader = open_loader(packing, shards, options.length, SEED, mix=mix)
            for world in (1, 8):
                self.table[f"compiled, {name}, 1 of {world}"] = self.compiled(loader, world)
            self.table[f"plain, {name}"] = self.plain(loader)
        self.table["cold, natural order, 1 of 1"] = self.cold
        for workers in options.workers:
            self.table[f"DataLoader, {workers} workers"] = self.data_loader(workers)
        self.table[STEP] = self.training_step()

    def compiled(self, loader: Loader, world: int) -> Side:
        """`step`, again and again, for the first of some processes."""
        rows, steps = self.options.step_rows, max(1, self.options.rows // self.options.step_rows)

        def side() -> float:
            loader.step(rows * world, rows, 0, world)  # the processor comes from other work
            return timed(rows * steps, lambda: [loader.step(rows * world, rows, 0, world) for _ in range(steps)])

        return side

    def plain(self, loader: Loader) -> Side:
        """The slow twin."""
        rows = max(1, self.options.rows // 8)
        return lambda: timed(rows, lambda: plain_rows(loader, loader.state, rows))

    def cold(self) -> float:
        """A copy of the shards with nothing of it in memory (what is mapped stays there), and its first rows."""
        rows, own, before = self.options.rows, self.options.step_rows, 0
        with tempfile.TemporaryDirectory(dir=self.shards.folder.parent) as scratch:
            folder = Path(shutil.copytree(self.shards.folder, Path(scratch) / "shards"))
            for path in folder.iterdir():
                number = os.open(path, os.O_RDONLY)
                os.fsync(number)
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(number)
            loader = open_loader("packed", Shards(folder, "train"), self.options.length, SEED)
            before = _from_disk()
            took = timed(rows, lambda: [loader.step(own, own) for _ in range(rows // own)])
            self.read_from_disk.append((_from_disk() - before) / MEGABYTE)
        return took

    def data_loader(self, workers: int) -> Side:
        """torch's DataLoader over rows by number; its processes live from batch to batch, and are started before the clock."""
        data: Any = HfDataset(self.shards, self.options.length)
        size = self.options.batch
        count = max(1, min(len(data) - size, self.options.rows) // size - 1)

        def side() -> float:
            batches = iter(torch.utils.data.DataLoader(data, size, shuffle=True, num_workers=workers))
            next(batches)
            return timed(count * size, lambda: [next(batches) for _ in range(count)])

        return side

    def training_step(self) -> Side:
        """Forward, backward and AdamW on rows that lie in memory."""
        options = self.options
        rows = max(1, options.tokens_per_step // options.length)
        shape = ModelConfig.model_validate(
            {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
        )
        model = CausalLM(shape.with_vocab(self.shards.vocab_size)).to(options.device)
        initialise(model, SEED)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        batch = open_loader("packed", self.shards, options.length, SEED).next_batch(rows)
        tensors = [
            torch.from_numpy(part).to(options.device)
            for part in (batch.inputs, batch.labels, batch.positions, batch.documents)
        ]

        def step() -> None:
            with torch.autocast(options.device, torch.bfloat16, options.precision == "bfloat16"):
                loss = model.loss_sum(*tensors) / batch.labels.size
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()  # the device is done

        return lambda: timed(rows, step)


def _from_disk() -> int:
    """Bytes that this process has had read from a disk; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", help="files of JSON lines with a field text (.zst or plain)")
    parser.add_argument("--megabytes", type=float, default=48, help="of text, the same of every file")
    parser.add_argument("--vocabulary", type=int, default=6400)
    parser.add_argument("--shard-tokens", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--rows", type=int, default=2048, help="read in one measurement of a loader")
    parser.add_argument("--step-rows", type=int, default=128, help="of a step, those of one process")
    parser.add_argument("--batch", type=int, default=8, help="rows in a batch of DataLoader")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="processes of DataLoader")
    parser.add_argument("--tokens-per-step", type=int, default=2048)
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of the training step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device-rate", type=float, default=400_000, help="tokens per second of the imagined device")
    parser.add_argument("--set", action="append", default=[], help="key=value of the model's config (repeatable)")
    parser.add_argument("--repeats", type=int, default=7, help="how often the sides take turns")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    options = arguments()
    torch.set_num_threads(options.threads)
    given = options.text or (sorted(SHARED.glob("*.jsonl.zst")) if SHARED.is_dir() else [])
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(
            Path(folder), read_texts(given, options.megabytes), options.vocabulary, options.shard_tokens
        )
        about = (
            f"{shards.documents:,} documents, {shards.tokens:,} tokens, {len(shards.by_source)} sources, "
            f"{len(shards.files)} files of {shards.scheme.dtype}{'' if given else ' (embedded demo corpora)'}"
        )
        print(f"shards: {about}", flush=True)
        started = time.perf_counter()
        open_loader("packed", shards, options.length, SEED).next_batch(1)
        first = time.perf_counter() - started
        sides = Sides(options, shards)
        for side in sides.table.values():
            side()
        seconds: dict[str, list[float]] = {name: [] for name in sides.table}
        for _ in range(options.repeats):
            for name, side in sides.table.items():
                seconds[name].append(side())
        report(options, about, first, seconds, statistics.median(sides.read_from_disk))


def report(options: argparse.Namespace, about: str, first: float, seconds: dict[str, list[float]], disk: float) -> None:
    """Print the table and write the JSON."""
    rows = []
    print(
        f"\n{'side':36} {'us a row':>10} {'range':>20} {'tokens/s':>14} {'of a step':>10} {'range':>17} {'of a device':>12}"
    )
    for name, took in seconds.items():
        shares = [ours / step for ours, step in zip(took, seconds[STEP], strict=True)]
        median = statistics.median(took)
        row = {
            "side": name,
            "microseconds_per_row": median * 1e6,
            "microseconds_range": [min(took) * 1e6, max(took) * 1e6],
            "tokens_per_second": options.length / median,
            "share_of_step": median / statistics.median(seconds[STEP]),
            "share_range": [min(shares), max(shares)],
            "share_of_device": median * options.device_rate / options.length,
        }
        rows.append(row)
        low, high = row["microseconds_range"]
        print(
            f"{name:36} {median * 1e6:>10,.2f} {f'{low:,.2f} to {high:,.2f}':>20} {row['tokens_per_second']:>14,.0f} "
            f"{row['share_of_step']:>10.4%} {f'{min(shares):.4%} to {max(shares):.4%}':>17} "
            + (f"{row['share_of_device']:>12.3%}" if name != STEP else "")
        )
    print(f"\nfirst rows of this process (compiled code is made, or read from disk): {first:.2f} s")
    print(f"cold: {disk:.1f} MB came from the disk for {options.rows * options.length * 2 / MEGABYTE:.1f} MB of ids")
    print(f"of a device: one that trains {options.device_rate:,.0f} tokens per second")
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "microseconds a row of the loader, medians; share: of a training step for a row on this machine",
                "shards": about,
                "options": {
                    name: [str(item) for item in value] if name == "text" and value else value
                    for name, value in vars(options).items()
                    if name != "out"
                },
                "versions": {name: version(name) for name in ("torch", "numba", "numpy")}
                | {"python": platform.python_version()},
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "cores": os.cpu_count(),
                    "threads": torch.get_num_threads(),
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                },
                "first_rows_seconds": first,
                "cold_megabytes_from_disk": disk,
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
