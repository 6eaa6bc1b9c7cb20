"""Peak memory of tuning all weights, LoRA, and LoRA on 4-bit weights: us beside peft with transformers.Trainer, in one run.

    python benchmarks/adapter_memory.py                                   # 0.2 B on the CPU, some minutes
    python benchmarks/adapter_memory.py --set hidden_size=2048 num_hidden_layers=16 --out benchmarks/results/...-cuda.json

Measured are bytes of tensors: weights, what a step leaves behind for the backward pass, gradients, the optimizer's state. On the CPU torch's
profiler tells every allocation of the second step (jielong/train/peaks.py says why resident memory is no measure); on CUDA it is
max_memory_allocated. Each side runs in a fresh process on the same model folder (stored in bfloat16, random weights), with AdamW, one row of
--length tokens, bfloat16 arithmetic. peft's side is what people write: AutoModelForCausalLM in bfloat16, get_peft_model,
prepare_model_for_kbit_training for 4 bits (which recomputes activations), Trainer. All weights of Trainer are float32, as ours are.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from training_sides import lines_of, write_result

from jielong.model.config import Config as ModelConfig

MODES = ("full", "lora", "qlora")
RANK, ALPHA = 8, 16
SHAPE = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 16_384,
}


def make_model(folder: Path, shape: dict[str, Any], length: int) -> None:
    """A model folder with random weights in bfloat16."""
    from jielong.model.hf import save_folder
    from jielong.model.transformer import CausalLM, initialise

    model = CausalLM(ModelConfig(**(SHAPE | shape), max_position_embeddings=length))
    initialise(model, 1)
    save_folder(model.to(torch.bfloat16), folder, end_id=0)


def alive() -> int:
    """Bytes of all tensors that there are, shared storage once."""
    gc.collect()
    found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor) and not one.is_meta]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in found}.values())


class Meter:
    """The most bytes of tensors between `begin` and `end`."""

    def begin(self) -> None:
        """The measured step begins."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the profiler does not see releases by threads of others
        self._before = alive()
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
        self._profile.start()

    def end(self) -> int:
        """It is over."""
        if torch.cuda.is_available():
            return int(torch.cuda.max_memory_allocated())
        self._profile.stop()
        torch.set_num_threads(self._threads)
        assert self._profile.profiler is not None and self._profile.profiler.kineto_results is not None
        events: Any = self._profile.profiler.kineto_results.events()
        changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
        sums = np.cumsum([change for _, change in changes]) if changes else np.zeros(1)
        return self._before + max(0, int(sums.max()))


def ours(folder: Path, mode: str, length: int, recompute: bool) -> tuple[int, int]:
    """(peak bytes, trained parameters) of our side."""
    from jielong.model.hf import load_folder
    from jielong.runtime import choose_device
    from jielong.train.adapting import open_adapted
    from jielong.train.config import Config
    from jielong.train.engines.pytorch import TorchEngine
    from jielong.train.loader import Batch

    adapter = {"rank": RANK, "alpha": ALPHA, "base_weights": "nf4" if mode == "qlora" else "auto"}
    config = Config.model_validate(
        {"precision": "bfloat16", "recompute": recompute, "adapter": adapter if mode != "full" else None}
    )
    if config.adapter is None:
        model = load_folder(folder)
    else:
        model, _ = open_adapted(config, config.adapter, folder, None, None, 1, choose_device("auto"))
    engine = TorchEngine(model, config)
    ids = np.random.default_rng(1).integers(1, model.config.vocabulary, (1, length))
    batch = Batch(ids, np.roll(ids, -1, axis=1), np.arange(length)[None], np.zeros_like(ids))
    meter = Meter()
    for step in range(2):
        if step == 1:
            meter.begin()
        losses = engine.forward(batch)
        engine.backward(losses.cross_entropy / length)
        del losses
        engine.step(1e-4)
    peak = meter.end()
    return peak, sum(one.numel() for one in model.parameters() if one.requires_grad)


def theirs(folder: Path, mode: str, length: int) -> tuple[int, int]:
    """The same of peft and Trainer."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    cuda = torch.cuda.is_available()
    if mode == "full":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

        four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                  bnb_4bit_compute_dtype=torch.bfloat16)  # fmt: skip
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=four if mode == "qlora" else None
        )
        if mode == "qlora":
            model = prepare_model_for_kbit_training(model)
        model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.05, target_modules="all-linear",
                                                 task_type="CAUSAL_LM"))  # fmt: skip
    meter, peak = Meter(), [0]

    class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
        def on_step_begin(self, arguments: Any, state: Any, *given: Any, **named: Any) -> None:
            if state.global_step == 1:
                meter.begin()

        def on_step_end(self, arguments: Any, state: Any, *given: Any, **named: Any) -> None:
            if state.global_step == 2:
                peak[0] = meter.end()

    ids = np.random.default_rng(1).integers(1, 1000, (2, length))
    data = [{"input_ids": torch.from_numpy(row), "labels": torch.from_numpy(row)} for row in ids]
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArguments(out, max_steps=2, per_device_train_batch_size=1, bf16=True, use_cpu=not cuda, report_to="none",
                                      save_strategy="no", disable_tqdm=True, dataloader_pin_memory=cuda)  # fmt: skip
        Trainer(model, arguments, train_dataset=data, callbacks=[Watch()]).train()
    return peak[0], sum(one.numel() for one in model.parameters() if one.requires_grad)


def main() -> None:
    """Measure every side in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--set", nargs="+", default=[], help="key=value of the model's config")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        who, mode, *more = options.side.split(",")
        found = (
            theirs(options.folder, mode, options.length)
            if who == "peft"
            else ours(options.folder, mode, options.length, bool(more))
        )
        print(json.dumps(found))
        return
    shape = {key: json.loads(value) for key, _, value in (text.partition("=") for text in options.set)}
    sides = {f"{who}, {mode}": f"{who},{mode}" for mode in MODES for who in ("peft", "ours")}
    sides["ours, qlora, recompute"] = "ours,qlora,recompute"
    rows, table = [], [["side", "peak MB", "trained"]]
    with tempfile.TemporaryDirectory() as place:
        make_model(Path(place), shape, options.length)
        for name, side in sides.items():
            command = [sys.executable, __file__, "--side", side, "--folder", place, "--length", str(options.length)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            peak, count = json.loads(done.stdout.splitlines()[-1])
            rows.append({"side": name, "peak_bytes": peak, "trained_parameters": count})
            table.append([name, f"{peak / 1e6:,.0f}", f"{count / 1e6:,.1f} M"])
            print(*lines_of([table[-1]]), sep="\n", flush=True)
    print(*lines_of(table), sep="\n")
    if options.out is not None:
        what = "peak bytes of tensors in a training step: all weights, LoRA, LoRA on 4-bit weights"
        del options.side, options.folder
        write_result(options.out, what, options, rows, model=SHAPE | shape)


if __name__ == "__main__":
    main()
