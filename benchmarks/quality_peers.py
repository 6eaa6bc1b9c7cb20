"""The other sides of quality.py: `transformers.Trainer` as people use it, and the recipe of the small community scripts.

Both get the documents that our side gets, a byte-level BPE of the `tokenizers` library with as many ids as our tokenizer, the same
initial weights as far as shapes agree (they do, the vocabulary being as large), and Hugging Face's model class for them, so
that nothing of our model's code makes them faster or slower.

    Trainer   rows as `group_texts` of run_clm.py makes them: all documents end to end, an end-of-text behind each, cut every
              --length tokens (only the last rest is dropped). TrainingArguments as they are, AdamW without weight decay, gradients
              clipped to 1, but: learning rate as given, warm-up over 3 % of the steps, then linear down to 0 (its default).
    script    a row is a document between two end-of-texts, cut or filled up to --length; filling does not count in the loss. torch's
              AdamW as it is, gradients clipped to 1, no warm-up, rate r * (0.1 + 0.5 * (1 + cos(pi * step / steps))), which is minimind's;
              bfloat16 autocast where the device is fast at it. Documents are shuffled in every pass.

Each has as many tokens in a step as our side, filling included, in micro-batches as large as ours.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
import torch
import transformers
from torch.utils.data import Dataset
from training_sides import Clock, Judge, Mark, TooLongError, Trained
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from jielong.data.documents import iter_texts
from jielong.runs import Run, write_json
from jielong.runtime import choose_device, has_fast_bfloat16
from jielong.tokenizer.shards.reading import Shards

END = "<|endoftext|>"
IGNORE = -100
WARMUP = 0.03


def train_bpe(run: Run, size: int, folder: Path) -> None:
    """A byte-level BPE of `size` ids from the run's training documents, as a tokenizer folder."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(iter_texts(run.stage("data") / "documents", "train", 1000), trainer)
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"eos_token": END, "tokenizer_class": "PreTrainedTokenizerFast"})


class Sitting:
    """What both sides share: model, device, the judge's looks at it, the clock."""

    def __init__(
        self, run: Run, judge: Judge | None, steps: int, points: int, tokens: int, limit: float | None
    ) -> None:
        """tokens: of a step."""
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model: Any = AutoModelForCausalLM.from_pretrained(run.stage("model"), dtype=torch.float32)
        self.judge, self.steps, self.every, self.tokens = judge, steps, max(1, steps // points), tokens
        self.found = Trained(Clock(limit))
        self._before = 0.0
        self._look(0)

    def go(self) -> None:
        """Training begins."""
        self.found.clock.go()

    def stepped(self, step: int) -> None:
        """A step is done. Raises TooLongError beyond the limit."""
        clock = self.found.clock
        clock.halt()
        self.found.marks.append(Mark((0, 0), self.tokens, clock.seconds - self._before))
        self._before = clock.seconds
        if step % self.every == 0 or step == self.steps:
            self._look(step)
        clock.check()
        if step < self.steps:
            clock.go()

    def _look(self, step: int) -> None:
        if self.judge is not None:
            seen = self.judge.look(self.model.state_dict())
            row = {"step": step, "tokens": step * self.tokens, "seconds": self.found.clock.seconds}
            self.found.curve.append(row | {key: seen[key] for key in ("loss", "bits_per_byte")})


# ------------------------------------------------------------------------------------------------------- Trainer


class GroupedTexts(Dataset[dict[str, torch.Tensor]]):
    """All documents end to end, cut into rows."""

    def __init__(self, shards: Shards, length: int) -> None:
        stream = np.concatenate([shards.targets(number) for number in range(shards.documents)])
        self.rows = stream[: len(stream) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = torch.from_numpy(self.rows[index].astype(np.int64))
        return {"input_ids": row, "labels": row}


class Watch(TrainerCallback):
    """Tells the sitting of the Trainer's steps."""

    def __init__(self, sitting: Sitting) -> None:
        self.sitting = sitting

    def on_train_begin(self, *arguments: Any, **named: Any) -> None:
        self.sitting.go()

    def on_step_end(self, arguments: Any, state: Any, control: Any, **named: Any) -> None:
        self.sitting.stepped(state.global_step)


def train_trainer(
    run: Run, request: dict[str, Any], steps: int, judge: Judge | None, points: int, limit: float | None
) -> Trained:
    """See the module's text. request: length, rows (of a step), micro_rows, learning_rate, bf16, seed."""
    sitting = Sitting(run, judge, steps, points, request["rows"] * request["length"], limit)
    cuda, micro = choose_device("auto").type == "cuda", request["micro_rows"]
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=steps, per_device_train_batch_size=micro, gradient_accumulation_steps=request["rows"] // micro,
            learning_rate=request["learning_rate"], warmup_steps=math.ceil(WARMUP * steps), bf16=request["bf16"], use_cpu=not cuda,
            report_to="none", save_strategy="no", logging_steps=10**6, disable_tqdm=True, seed=request["seed"],
            dataloader_pin_memory=cuda,
        )  # fmt: skip
        data = GroupedTexts(Shards(run.stage("tokenizer") / "shards", "train"), request["length"])
        trainer = Trainer(sitting.model, arguments, train_dataset=data, callbacks=[Watch(sitting)])
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.train()
        except TooLongError as error:
            raise TooLongError(sitting.found) from error
    return sitting.found


# -------------------------------------------------------------------------------------------------------- script


def padded_rows(shards: Shards, length: int, count: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and labels (count, length), a document a row, pass after pass, each shuffled."""
    chance, order = np.random.default_rng(seed), np.zeros(0, dtype=np.int64)
    while True:
        while len(order) < count:
            order = np.concatenate([order, chance.permutation(shards.documents)])
        inputs: npt.NDArray[np.int64] = np.full((count, length), shards.end_id, dtype=np.int64)
        labels = np.full((count, length), IGNORE, dtype=np.int64)
        for row, number in enumerate(order[:count]):
            text = shards.targets(int(number))[:length]
            labels[row, : len(text)], inputs[row, 1 : len(text)] = text, text[:-1]
        order = order[count:]
        yield torch.from_numpy(inputs), torch.from_numpy(labels)


def train_script(
    run: Run, request: dict[str, Any], steps: int, judge: Judge | None, points: int, limit: float | None
) -> Trained:
    """See the module's text; `request` as in `train_trainer`, without bf16."""
    length, micro = request["length"], request["micro_rows"]
    sitting, device = Sitting(run, judge, steps, points, request["rows"] * length, limit), choose_device("auto")
    torch.manual_seed(request["seed"])
    model = sitting.model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=request["learning_rate"])
    batches = padded_rows(Shards(run.stage("tokenizer") / "shards", "train"), length, micro, request["seed"])
    half = has_fast_bfloat16(device)
    sitting.go()
    try:
        for step in range(1, steps + 1):
            for group in optimizer.param_groups:
                share = 0.1 + 0.5 * (1 + math.cos(math.pi * step / steps))
                group["lr"] = request["learning_rate"] * share
            parts = request["rows"] // micro
            for _ in range(parts):
                inputs, labels = (part.to(device) for part in next(batches))
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    logits = model(input_ids=inputs).logits
                    loss = torch.nn.functional.cross_entropy(
                        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE
                    )
                (loss / parts).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sitting.stepped(step)
    except TooLongError as error:
        raise TooLongError(sitting.found) from error
    return sitting.found
