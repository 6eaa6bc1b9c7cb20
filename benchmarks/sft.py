"""Useful tokens per second of supervised fine-tuning: us beside TRL's SFTTrainer, in turn, in one run.

    python benchmarks/sft.py                                             # conversations made of the embedded demo corpus
    python benchmarks/sft.py --data 'conversations/*.jsonl' --steps 8 --repeats 5 --out benchmarks/results/...-sft-cpu.json

Sides, the same model folder, tokenizer, chat template, conversations, precision (bfloat16) and AdamW:

    TRL            SFTTrainer as it comes: a conversation a row, batches padded to their longest
    TRL, packed    SFTTrainer(packing=True): best fit, the rows of a batch laid end to end, positions restart
    ours           packing = "whole": best fit in rows of --length, attention inside a conversation

Answers alone are learned on all sides (TRL's completion_only_loss). Useful tokens are those of conversations, given or learned: all
but filling. A step takes --tokens-per-step tokens with filling, in micro-batches of as many; TRL as it comes takes the
conversations that would fill them unpadded on average. The first step of a measurement is left out; medians over steps and repeats,
ratios are those of single repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from training_sides import lines_of, write_result

from jielong.data.reading.corpora import builtin_files, read_builtin
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.runtime import choose_device
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Config as TrainConfig
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.whole import WholeLoader
from jielong.tune.config import Config as TuneConfig
from jielong.tune.preparing import prepare

CORPUS, LONGEST = "people-daily-1998", 600  # characters of an answer
LEARNING_RATE, SEED = 1e-4, 1


def conversations() -> Iterator[dict[str, Any]]:
    """Questions and answers of real text: the headline of an article, and how the article begins."""
    for file in builtin_files(CORPUS):
        for number, record in enumerate(read_builtin(CORPUS, file)):
            head, _, body = record.text.partition("\n")
            if body.strip():
                length = 40 + (number * 7919) % LONGEST
                yield {"messages": [{"role": "user", "content": f"请写一篇报道，题目是：{head}"},
                                    {"role": "assistant", "content": body[:length]}]}  # fmt: skip


def make_ready(options: argparse.Namespace, folder: Path) -> None:
    """Conversations, tokenizer and model in a folder."""
    if options.data:
        rows = [
            json.loads(line) for path in options.data for line in Path(path).read_text(encoding="utf-8").splitlines()
        ]
    else:
        rows = list(conversations())
    rows = rows[: options.conversations]
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "conversations.jsonl").write_text(text, encoding="utf-8")
    contents = [message["content"] for row in rows for message in row["messages"]]
    bpe.save(bpe.train(contents, 6400, TokenizerConfig().specials, 2, True), folder / "model")
    tokenizer = open_folder(folder / "model")
    shape = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    model = CausalLM(ModelConfig(vocab_size=tokenizer.size, max_position_embeddings=options.length, **shape))
    initialise(model, SEED)
    save_folder(model, folder / "model", tokenizer.end_id)
    config = TuneConfig.model_validate({"sources": [{"name": "c", "path": str(folder / "conversations.jsonl")}]})
    with contextlib.redirect_stderr(io.StringIO()):
        prepare(config, tokenizer, options.length, folder / "shards", SEED)


def time_ours(folder: Path, options: argparse.Namespace) -> tuple[list[float], list[int], float]:
    """Seconds and useful tokens of each step, and the first loss a label."""
    shards = Shards(folder / "shards" / "shards", "train")
    config = TrainConfig(
        packing="whole", precision="bfloat16", learning_rate=LEARNING_RATE, tokens_per_step=options.tokens_per_step
    )
    engine = TorchEngine(load_folder(folder / "model"), config)
    loader, rows = WholeLoader(shards, options.length, SEED), options.tokens_per_step // options.length
    seconds, useful, first = [], [], 0.0
    for number in range(options.steps):
        began, before = time.perf_counter(), loader.state
        step = loader.step(rows, max(1, options.micro_batch_tokens // options.length))
        total = 0.0
        for batch in step.batches:
            losses = engine.forward(batch)
            engine.backward((losses.cross_entropy + losses.auxiliary) / step.labels)
            total += float(losses.cross_entropy.detach())
        engine.step(LEARNING_RATE)
        seconds.append(time.perf_counter() - began)
        useful.append(sum(span.end - span.begin for span in loader.spans(before, rows)))
        first = first or total / step.labels
        assert number or first
    engine.close()
    return seconds, useful, first


def time_trl(folder: Path, options: argparse.Namespace, packed: bool) -> tuple[list[float], list[int], float]:
    """Seconds and useful tokens of each step of TRL's trainer, and its first loss."""
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    transformers.utils.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    tokenizer.pad_token = tokenizer.eos_token
    rows = [
        json.loads(line)["messages"]
        for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    data = Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])
    shards = Shards(folder / "shards" / "shards", "train")
    mean = shards.tokens / shards.documents
    micro = options.micro_batch_tokens // options.length if packed else max(1, round(options.micro_batch_tokens / mean))
    times, useful = [time.perf_counter()], list[int]()
    counted = [0]

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
        def on_step_begin(self, *given: Any, **named: Any) -> None:
            times[-1] = time.perf_counter() if not useful else times[-1]

        def on_step_end(self, *given: Any, **named: Any) -> None:
            times.append(time.perf_counter())
            useful.append(counted[0])
            counted[0] = 0

    with (
        tempfile.TemporaryDirectory() as out,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        settings = SFTConfig(
            out, max_steps=options.steps, per_device_train_batch_size=micro,
            gradient_accumulation_steps=max(1, options.tokens_per_step // options.micro_batch_tokens), learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant", weight_decay=0.0, bf16=True, use_cpu=not torch.cuda.is_available(), report_to="none",
            save_strategy="no", logging_steps=1, disable_tqdm=True, seed=SEED, packing=packed, max_length=options.length,
            gradient_checkpointing=False, dataloader_pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()])
        collate = trainer.data_collator

        def counting(examples: Any) -> Any:
            batch = collate(examples)
            mask = batch.get("attention_mask")
            counted[0] += int(mask.sum()) if mask is not None else batch["input_ids"].numel()
            return batch

        trainer.data_collator = counting
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return np.diff(times).tolist(), useful, losses[0]


def main() -> None:
    """Measure and print; with --out, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", action="append", help="jsonl files in the form messages, one exchange each (default: the demo corpus)"
    )
    parser.add_argument("--conversations", type=int, default=2000, help="at most so many")
    parser.add_argument("--steps", type=int, default=6, help="of one measurement; the first is left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--set", action="append", default=[], help="key=value of the model's config (repeatable)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    choose_device("auto")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_ready(options, folder)
        sides: dict[str, Callable[[], tuple[list[float], list[int], float]]] = {
            "TRL": lambda: time_trl(folder, options, False),
            "TRL, packed": lambda: time_trl(folder, options, True),
            "ours": lambda: time_ours(folder, options),
        }
        rates: dict[str, list[float]] = {name: [] for name in sides}
        losses: dict[str, float] = {}
        for repeat in range(options.repeats):
            for name, side in sides.items():
                seconds, useful, losses[name] = side()
                pairs = list(zip(seconds, useful, strict=True))[1:]
                rates[name].append(statistics.median(tokens / took for took, tokens in pairs))
                print(f"repeat {repeat + 1}: {name}: {rates[name][-1]:,.0f} useful tokens/s", flush=True)
    rows, table = [], [["side", "useful tokens/s", "ours is", "range", "first loss"]]
    for name, found in rates.items():
        ratios = sorted(mine / theirs for mine, theirs in zip(rates["ours"], found, strict=True))
        rows.append({"side": name, "useful_tokens_per_second": statistics.median(found), "first_loss": losses[name],
                     "ours_is": {"median": statistics.median(ratios), "range": [ratios[0], ratios[-1]]}})  # fmt: skip
        table.append([name, f"{statistics.median(found):,.0f}", f"{statistics.median(ratios):.2f} times",
                      f"{ratios[0]:.2f} to {ratios[-1]:.2f}", f"{losses[name]:.4f}"])  # fmt: skip
    print(*lines_of(table), sep="\n")
    if options.out is not None:
        write_result(
            options.out,
            "useful tokens per second of supervised fine-tuning; medians, ratios of single repeats",
            options,
            rows,
        )


if __name__ == "__main__":
    main()
