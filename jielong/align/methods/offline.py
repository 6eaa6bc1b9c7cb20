"""Methods that learn from examples that are there: DPO and its kin, KTO, reward models. The losses are TRL's.

What a policy is to stay near is the adapter switched off, or a second copy of the base (references.py). simpo and orpo need none.

A row of pairs has prompt_ids, chosen_ids, rejected_ids, and perhaps a margin; one of marked answers has prompt_ids, completion_ids, label.
KTO compares each answer with those to other prompts of its micro-batch, so a micro-batch has two at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.align.config import Config
from jielong.align.methods.interface import Figures, Row, parts
from jielong.align.methods.references import Reference
from jielong.align.methods.trl_trainers import (
    arguments,
    on_one_device,
    open_tokenizer,
    silently,
    taken,
    tamed,
    unwarned,
)
from jielong.model.faces import face
from jielong.model.transformer import Losses
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loop import Steps

DPO_LOSSES = {"dpo": "sigmoid", "ipo": "ipo", "robust": "robust"}
IGNORE = -100  # of labels, in TRL


class Offline:
    """See the module's text; a Method."""

    def __init__(
        self,
        config: Config,
        method: str,
        engine: TorchEngine,
        tokenizer: Path,
        pad_id: int,
        base: Path,
        folder: Path,
        seed: int,
    ) -> None:
        """tokenizer: the folder of the tokenizer. pad_id: an id that ends no answer. base: where training began."""
        self.engine, self.method, self.config = engine, method, config
        self.theirs = face(engine.model, scored=method == "reward")
        self._figures, self._pad = Figures(), pad_id
        self._margins = False  # whether some pair has one: the others have 0 then
        with silently():
            self.trainer = self._open(tokenizer, folder, seed)
        if config.recompute:
            self.theirs.gradient_checkpointing_enable({"use_reentrant": False})
        self._collate: Callable[[list[Row]], dict[str, Any]] = (
            self._collated if method in ("simpo", "orpo") else self.trainer.data_collator
        )
        if method in ("dpo", "ipo", "robust", "kto"):
            self.trainer.precompute_ref_logps = False
            reference = Reference(engine.model, self.theirs, base, engine.device)
            if reference.theirs is not self.theirs:
                from trl.trainer.utils import add_fused_lm_head

                add_fused_lm_head(reference.theirs)
            self.trainer.ref_model = reference

    def _open(self, tokenizer: Path, folder: Path, seed: int) -> Any:
        """TRL's trainer of the method."""
        import datasets

        config, theirs = self.config, self.theirs
        given = arguments(folder, self.engine.device, config.micro_batch_size, seed) | {"max_length": None}
        more: dict[str, Any] = {"model": theirs, "processing_class": open_tokenizer(tokenizer, self._pad)}
        pair = {"prompt_ids": [1], "chosen_ids": [1], "rejected_ids": [1]}
        if self.method in DPO_LOSSES:
            from trl import DPOConfig, DPOTrainer

            # the reference is ours: without these words TRL would look for the base by its name
            own = given | {
                "loss_type": [DPO_LOSSES[self.method]],
                "beta": config.pull,
                "precompute_ref_log_probs": True,
            }
            own |= {"label_smoothing": config.label_smoothing} if self.method == "robust" else {}
            kind: Any = tamed(DPOTrainer)
            kind._precompute_ref_logps = lambda trainer, dataset, *rest: dataset
            return kind(args=on_one_device(DPOConfig(**own)), train_dataset=datasets.Dataset.from_list([pair]), **more)
        if self.method == "kto":
            from trl import KTOConfig, KTOTrainer

            own = given | {"beta": config.pull, "precompute_ref_log_probs": True}
            own |= {"desirable_weight": config.desirable_weight, "undesirable_weight": config.undesirable_weight}
            own |= {"per_device_train_batch_size": max(2, config.micro_batch_size)}
            row = {"prompt_ids": [1], "completion_ids": [1], "KL_completion_ids": [1], "label": True}
            kind = tamed(KTOTrainer)
            kind._precompute_ref_logps = lambda trainer, dataset, *rest: dataset
            return kind(
                args=on_one_device(KTOConfig(**own)), train_dataset=datasets.Dataset.from_list([row, row]), **more
            )
        if self.method == "reward":
            from trl import RewardConfig, RewardTrainer

            own = given | {"center_rewards_coefficient": config.center or None}
            return tamed(RewardTrainer)(
                args=on_one_device(RewardConfig(**own)), train_dataset=datasets.Dataset.from_list([pair]), **more
            )
        words = datasets.Dataset.from_list([{"prompt": "问", "chosen": "答", "rejected": "不"}])
        if self.method == "simpo":
            from trl.experimental.cpo import CPOConfig, CPOTrainer

            own = given | {
                "loss_type": "simpo",
                "beta": config.pull,
                "simpo_gamma": config.margin * config.pull,
                "cpo_alpha": 0.0,
            }
            return tamed(CPOTrainer)(
                args=on_one_device(CPOConfig(**own | {"max_length": 512})), train_dataset=words, **more
            )
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        own = given | {"beta": config.pull, "max_length": 512}
        return tamed(ORPOTrainer)(args=on_one_device(ORPOConfig(**own)), train_dataset=words, **more)

    def _collated(self, rows: list[Row]) -> dict[str, Any]:
        """Pairs as TRL's older trainers want them: filled up on the right, labels where an answer is."""
        found: dict[str, Any] = {"prompt_input_ids": torch.zeros(len(rows), 1, dtype=torch.int64)}
        for side in ("chosen", "rejected"):
            width = max(len(row["prompt_ids"]) + len(row[f"{side}_ids"]) for row in rows)
            ids, labels = torch.full((len(rows), width), self._pad), torch.full((len(rows), width), IGNORE)
            mask = torch.zeros(len(rows), width, dtype=torch.int64)
            for number, row in enumerate(rows):
                whole, given = [*row["prompt_ids"], *row[f"{side}_ids"]], len(row["prompt_ids"])
                ids[number, : len(whole)] = torch.tensor(whole)
                labels[number, given : len(whole)] = torch.tensor(whole[given:])
                mask[number, : len(whole)] = 1
            found |= {f"{side}_input_ids": ids, f"{side}_labels": labels, f"{side}_attention_mask": mask}
        return found

    # ---------------------------------------------------------------------------------------------------- losses

    def _loss(self, rows: Sequence[Row]) -> Tensor:
        """The mean loss of some rows; the figures are those of the trainer."""
        inputs = self._collate(self._given(list(rows)))
        inputs = {
            name: value.to(self.engine.device) if isinstance(value, Tensor) else value for name, value in inputs.items()
        }
        with self.engine.autocast(), unwarned():
            loss: Tensor = self.trainer.compute_loss(self.theirs, inputs)
        return loss

    def _given(self, rows: list[Row]) -> list[Row]:
        """Rows with what TRL asks for beside what they hold."""
        if (
            self.method == "kto"
        ):  # each prompt also with the answer to the one before: how far the policy has gone, in general
            return [
                {"prompt_ids": row["prompt_ids"], "completion_ids": row["completion_ids"], "label": row["label"],
                 "KL_completion_ids": rows[number - 1]["completion_ids"]}
                for number, row in enumerate(rows)
            ]  # fmt: skip
        names = ["prompt_ids", "chosen_ids", "rejected_ids"]
        if self.method != "reward":
            return [{name: row[name] for name in names} for row in rows]
        known = self._margins
        return [
            {
                "chosen_ids": [*row["prompt_ids"], *row["chosen_ids"]],
                "rejected_ids": [*row["prompt_ids"], *row["rejected_ids"]],
            }
            | ({"margin": float(row["margin"] or 0.0)} if known else {})
            for row in rows
        ]

    def see(self, rows: Iterable[Row]) -> None:
        """Look through the examples once, before the first step."""
        self._margins = self.method == "reward" and any(row.get("margin") is not None for row in rows)

    def make(self, steps: Steps) -> None:
        """One step: TRL's loss of each micro-batch, weighted by its share of the rows."""
        rows: Any = steps.begin()
        for number, batch in enumerate(rows.batches, 1):
            loss = self._loss(batch)
            self.engine.backward(loss * (len(batch) / rows.labels), number == len(rows.batches))
            steps.add(Losses(loss.detach() * len(batch), torch.zeros((), device=loss.device), None))
            self._figures.add(taken(self.trainer), len(batch))
        steps.tell(**self._figures.take())
        steps.decide(steps.job.learning_rate(steps.at.step + 1))
        steps.finish()

    @torch.no_grad()
    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """Loss and figures of held-out examples."""
        figures, training = Figures(), self.theirs.training
        self.theirs.eval()
        mode = "train" if self.method in ("simpo", "orpo") else "eval"
        try:
            for batch in parts(rows, max(2, self.config.micro_batch_size)):
                loss = self._loss(batch)
                figures.add({"loss": float(loss), **taken(self.trainer, mode)}, len(batch))
        finally:
            self.theirs.train(training)
        found = figures.take()
        kept = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "kl")
        return {name: found[name] for name in kept if name in found}
