"""Tokens per second of training: us beside `transformers.Trainer` and a truncate-and-pad script, in turn, in one run.

    python benchmarks/train.py                       # the default 512 x 8 model, float32 and bfloat16
    python benchmarks/train.py --steps 6 --repeats 5 --out benchmarks/results/2026-11-22-train-cpu.json

Both sides start from one Hugging Face folder, read the same packed rows from the same token shards (tokenised from the
embedded demo corpus, made on the fly), take the same number of tokens a step and use AdamW with the same learning rate.
The Trainer gets plain causal rows, as `run_clm.py`'s `group_texts` makes them. We are measured in two ways: on the same
plain rows (`ours`), and with attention confined to documents (`ours, document mask`: more work, and what our recipes do). The first losses are compared, so that both sides are known to do the same work.

The script is what small projects have: transformers' model, AdamW, one document a row, cut or padded to the length, padding out of the
loss. It is measured in the same precisions; what counts there are useful tokens, those that are predicted.

The machine's own rate of matrix products (two matrices of 2,048 x 2,048, bfloat16 and float32) is measured between the sides; the share
of it that a side reaches counts 6 N + 12 L T C floating-point operations a token (PaLM, arXiv:2204.02311, appendix B; N weights that
are multiplied, L layers, T tokens in a row, C width).

Machines are shared and noisy: the sides take turns within every repeat, times are medians over repeats, and the ratio is
printed with the range of the ratios of single repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from jielong.data.config import Config as DataConfig
from jielong.data.config import Source
from jielong.data.stage import run as run_data
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder
from jielong.model.stage import run as run_model
from jielong.runs import Run, StageContext, write_json
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.stage import run as run_tokenizer
from jielong.train.config import Config as TrainConfig
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.job import Job, plan
from jielong.train.loader import IGNORE, PackedLoader, TruncatedLoader
from jielong.train.loop import train

LEARNING_RATE = 1e-4
SEED = 1


def prepare(folder: Path, model: ModelConfig, text_bytes: int) -> Run:
    """Documents, a 6,400-token tokenizer with shards, and the initial model folder, from the demo corpus."""
    run = Run(folder)
    source = Source(name="people-daily", path="builtin:people-daily-1998")
    stages: list[tuple[str, Callable[..., dict[str, Any]], Any]] = [
        ("data", run_data, DataConfig(sources=(source,))),
        ("tokenizer", run_tokenizer, TokenizerConfig(max_train_bytes=text_bytes)),
        ("model", run_model, model),
    ]
    for name, function, config in stages:
        out = run.stage(name)
        out.mkdir(parents=True)
        counts = function(config, StageContext(run, out, SEED), folder)
        section = config.result_fields()
        manifest = {"fingerprint": "", "section": section, "counts": counts, "outputs": [], "seed": SEED}
        write_json(out / "manifest.json", manifest)
    return run


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The rows that our loader would give, for the Trainer: input_ids of T tokens and labels that it shifts itself."""

    def __init__(self, shards: Shards, length: int, count: int) -> None:
        batch = PackedLoader(shards, length, SEED).next_batch(count)
        # the Trainer's model shifts labels: predicts T - 1 of T tokens; one more token keeps the supervised ones equal
        self.rows = torch.from_numpy(np.concatenate([batch.inputs, batch.labels[:, -1:]], axis=1))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


class Clock(TrainerCallback):
    """Times of the ends of the Trainer's steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *arguments: Any, **named: Any) -> None:
        self.ends.append(time.perf_counter())


def time_trainer(run: Run, shards: Shards, options: argparse.Namespace, bfloat16: bool) -> tuple[float, list[float]]:
    """Seconds a step (median, first step left out) and the losses of `transformers.Trainer`."""
    rows = options.tokens_per_step // options.length
    micro = max(1, min(rows, options.micro_batch_tokens // options.length))
    model = AutoModelForCausalLM.from_pretrained(run.stage("model"), dtype=torch.float32)
    cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=options.steps, per_device_train_batch_size=micro, gradient_accumulation_steps=rows // micro,
            learning_rate=LEARNING_RATE, lr_scheduler_type="constant", weight_decay=0.1, max_grad_norm=1.0, bf16=bfloat16,
            use_cpu=not cuda, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, seed=SEED,
            dataloader_pin_memory=cuda, train_sampling_strategy="sequential",
        )  # fmt: skip
        clock = Clock()
        data = Rows(shards, options.length, rows * options.steps)
        trainer = Trainer(model, arguments, train_dataset=data, callbacks=[clock])
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return statistics.median(np.diff(clock.ends).tolist()), losses


def time_script(
    run: Run, shards: Shards, options: argparse.Namespace, bfloat16: bool
) -> tuple[float, list[float], float]:
    """Seconds a step (median, first step left out), losses, and the share of its tokens that are useful."""
    rows = options.tokens_per_step // options.length
    micro = max(1, min(rows, options.micro_batch_tokens // options.length))
    model = AutoModelForCausalLM.from_pretrained(run.stage("model"), dtype=torch.float32).train()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    loader, ends, losses, useful = TruncatedLoader(shards, options.length, SEED), [], [], 0
    for _ in range(options.steps):
        total = 0.0
        for _ in range(rows // micro):
            batch = loader.next_batch(micro)
            useful += int((batch.labels != IGNORE).sum())
            ids, labels = (torch.from_numpy(part).to(device) for part in (batch.inputs, batch.labels))
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(input_ids=ids, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE
            )
            (loss * micro / rows).backward()
            total += float(loss.detach()) * micro / rows
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        ends.append(time.perf_counter())
    return statistics.median(np.diff(ends).tolist()), losses, useful / (options.steps * options.tokens_per_step)


def product_rate(bfloat16: bool, size: int = 2048, seconds: float = 1.0) -> float:
    """Floating-point operations a second of plain matrix products."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    float((a @ b)[0, 0])
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        float((a @ b)[0, 0])  # waits for a GPU
        count += 1
    return 2.0 * size**3 * count / (time.perf_counter() - began)


def time_ours(
    run: Run, shards: Shards, options: argparse.Namespace, precision: str, document_mask: bool
) -> tuple[float, list[float]]:
    """Seconds a step (median, first step left out) and the losses of our loop, checkpointing included at its end."""
    from jielong.tokenizer.folder import open_folder

    config = TrainConfig(
        tokens=options.steps * options.tokens_per_step, tokens_per_step=options.tokens_per_step,
        micro_batch_tokens=options.micro_batch_tokens, sequence_length=options.length, learning_rate=LEARNING_RATE,
        min_learning_rate_ratio=1.0, warmup_ratio=0.0, precision=precision, document_mask=document_mask, compile=options.compile,
        evaluate_every_steps=None, sample_every_steps=None, save_every_minutes=None, log_every_steps=10**6,
    )  # fmt: skip
    model = load_folder(run.stage("model"))
    engine = TorchEngine(model, config)
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()):
        job = Job(
            config, plan(config, options.length, shards.available()), model.config, Path(out), shards,
            open_folder(run.stage("tokenizer")), SEED, "benchmark",
            lambda model, autocast: {"loss": 0.0, "bits_per_byte": 0.0}, lambda model, step: [],
        )  # fmt: skip
        train(job, engine)
        rows = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = [row["seconds"] for row in rows]
    return statistics.median(np.diff(ends).tolist()), [row["loss"] for row in rows]


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=6, help="optimizer steps of one measurement; the first is left out"
    )
    parser.add_argument("--repeats", type=int, default=5, help="how often the sides take turns")
    parser.add_argument("--length", type=int, default=512, help="tokens in a row")
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile our model")
    parser.add_argument("--set", action="append", default=[], help="key=value of the model's config (repeatable)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    shape = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    transformers.utils.logging.set_verbosity_error()

    with tempfile.TemporaryDirectory() as folder:
        run = prepare(Path(folder), ModelConfig(max_position_embeddings=options.length, **shape), 5_000_000)
        shards = Shards(run.stage("tokenizer") / "shards", "train")
        sides: dict[str, Callable[[], tuple[Any, ...]]] = {}
        for precision in options.precisions.split(","):
            half = precision == "bfloat16"
            sides[f"Trainer, {precision}"] = lambda half=half: time_trainer(run, shards, options, half)
            for mask in (False, True):
                name = f"ours, {precision}" + (", document mask" if mask else "")
                sides[name] = lambda p=precision, m=mask: time_ours(run, shards, options, p, m)
            sides[f"script, {precision}"] = lambda half=half: time_script(run, shards, options, half)
        flops = flops_of(run, options.length)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        shares: dict[str, list[float]] = {name: [] for name in sides}
        losses: dict[str, list[float]] = {}
        useful = dict.fromkeys(sides, 1.0)
        for repeat in range(options.repeats):
            for name, side in sides.items():
                half = "bfloat16" in name
                before = product_rate(half)
                took, losses[name], *more = side()
                useful[name] = more[0] if more else 1.0
                seconds[name].append(took)
                rate = (before + product_rate(half)) / 2
                shares[name].append(flops * options.tokens_per_step / took / rate)
                print(f"repeat {repeat + 1}: {name}: {options.tokens_per_step / took:,.0f} tokens/s, "
                      f"{shares[name][-1]:.2f} of {rate / 1e9:,.0f} GFLOP/s", flush=True)  # fmt: skip
    report(options, seconds, losses, shape, shares, useful)


def flops_of(run: Run, length: int) -> float:
    """Floating-point operations that training a token takes."""
    model = load_folder(run.stage("model"))
    config = model.config
    weights = sum(parameter.numel() for parameter in model.parameters())
    if not config.tie_word_embeddings:
        weights -= model.model.embed_tokens.weight.numel()
    return 6.0 * weights + 12.0 * config.num_hidden_layers * config.num_attention_heads * config.size_of_head * length


def report(
    options: argparse.Namespace, seconds: dict[str, list[float]], losses: dict[str, list[float]], shape: dict[str, Any],
    shares: dict[str, list[float]], useful: dict[str, float],
) -> None:  # fmt: skip
    """Print the table and write the JSON. Ratios are those of single repeats, of useful tokens; the median, and the range."""
    rows = []
    sides = {name: [options.tokens_per_step * useful[name] / one for one in took] for name, took in seconds.items()}
    print(f"\n{'side':34} {'useful tokens/s':>15} {'of products':>11}   ratios to the others: median (range)")
    for name, rates in sides.items():
        ratios = {
            other: sorted(mine / theirs for mine, theirs in zip(rates, sides[other], strict=True))
            for other in sides
            if not other.startswith("ours") and other != name
        }
        row = {
            "side": name,
            "useful_tokens_per_second": statistics.median(rates),
            "useful_share": useful[name],
            "share_of_product_rate": statistics.median(shares[name]),
            "ratios": {
                other: {"median": statistics.median(found), "range": [found[0], found[-1]]}
                for other, found in ratios.items()
            },
            "first_losses": losses[name][:3],
        }
        rows.append(row)
        texts = [f"{other} {statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for other, r in ratios.items()]
        print(f"{name:34} {row['useful_tokens_per_second']:>15,.0f} {row['share_of_product_rate']:>11.2f}   "
              + ("; ".join(texts) if name.startswith("ours") else ""))  # fmt: skip
        print(f"{'':34} first losses {', '.join(f'{loss:.4f}' for loss in losses[name][:3])}")
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "useful tokens per second of training, medians; ratios of single repeats; share of the rate of matrix products",
                "model": shape or "default 512 x 8, vocabulary 6,400",
                "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k != "out"},
                "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "threads": torch.get_num_threads(),
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                },
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
