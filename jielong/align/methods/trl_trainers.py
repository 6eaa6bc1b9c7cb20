"""TRL's trainers, made for what they know: the loss of a method. Rows, steps, files and the watch stay the run's own (train/loop.py).

A trainer is given our model as its class of transformers (model/faces.py), so what it computes has gradients in our parameters. It is never
told to train, save or report. Its tables of arguments say nothing that the loop does; telemetry and model cards are off.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jielong.train.engines.trainer import quietly
from jielong.world import World

# TRL's names of figures, and ours; what is not named is left out
FIGURES = {
    "loss": "loss",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "accuracy": "accuracy",
    "margin": "margin",
    "mean_reward": "reward",
    "logps/chosen": "chosen_log_probability",
    "logps/rejected": "rejected_log_probability",
    "nll_loss": "likelihood_loss",
    "log_odds_ratio": "log_odds_ratio",
    "kl": "kl",
    "entropy": "entropy",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "groups_alike",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "unended",
    "clip_ratio/region_mean": "clipped",
}


@contextlib.contextmanager
def silently() -> Iterator[None]:
    """Nothing is printed that a person could not use, nothing is sent, and nothing is looked for on a network."""
    names = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        with quietly(World()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import datasets

            datasets.disable_progress_bars()
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """What TRL's losses say of transformers' coming versions is not for the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def arguments(folder: Path, device: torch.device, micro: int, seed: int) -> dict[str, Any]:
    """What every trainer is told: where it is, that it keeps its hands still, and that arithmetic is the engine's."""
    return {
        "output_dir": str(folder), "use_cpu": device.type == "cpu", "bf16": False, "fp16": False, "report_to": "none",
        "per_device_train_batch_size": micro, "per_device_eval_batch_size": micro, "gradient_checkpointing": False,
        "save_strategy": "no", "logging_strategy": "no", "eval_strategy": "no", "disable_tqdm": True, "seed": seed,
        "dataloader_pin_memory": False, "remove_unused_columns": False, "max_steps": 1, "log_level": "error",
        "log_level_replica": "error",
    }  # fmt: skip


def on_one_device(settings: Any) -> Any:
    """A trainer's arguments, for one device where there are more: TRL would refuse to use them all."""
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def open_tokenizer(folder: Path, pad_id: int) -> Any:
    """The tokenizer as transformers has it, with a padding token of ours: any that ends no answer, because a score is read at the last
    token that is none.
    """
    from transformers import AutoTokenizer

    found: Any = AutoTokenizer.from_pretrained(folder)
    found.pad_token = found.convert_ids_to_tokens(pad_id)
    return found


def tamed(kind: type[Any]) -> type[Any]:
    """A trainer's class that takes its rows as they are, and sends nothing."""

    class Tamed(kind):  # type: ignore[misc]  # known at run time only
        def _send_telemetry(self) -> None:
            pass

        def _prepare_dataset(self, dataset: Any, *given: Any) -> Any:
            return dataset

    Tamed.__name__ = kind.__name__
    return Tamed


def taken(trainer: Any, mode: str = "train") -> dict[str, float]:
    """The figures of what a trainer has just computed, under our names."""
    store = trainer._metrics[mode] if hasattr(trainer, "_metrics") else trainer._stored_metrics[mode]
    found = {
        ours: sum(values) / len(values)
        for theirs, ours in FIGURES.items()
        if (values := [value for value in store.get(theirs, []) if value is not None])
    }
    store.clear()
    return found
