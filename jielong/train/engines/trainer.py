"""The `hf` engine: the same recipe, rows and weights handed to `transformers.Trainer`, which owns its loop.

What it is for: a second opinion. The model is the class of transformers that its config.json names, accumulation, processes
and the backward pass are transformers' and accelerate's, and the losses agree with ours to 1e-4
(tests/train/engines/test_trainer.py). What a run *means* stays the same, so these are ours:

    weights     one set of parameters with two faces: the objects in transformers' model are those of our CausalLM, so that
                validation, samples and checkpoints look at ours, and nothing is ever copied
    rows        our loader's, read by each rank for itself: its share of exactly one optimizer step at a time. The DataLoader
                has no workers and is not given to accelerate, whose wrapper reads one batch ahead: the loader's state is
                that of the step
    documents   `position_ids` that restart in each document, without an attention mask: transformers then isolates documents,
                in sdpa and eager attention, for any number of rows
    loss        transformers' own for causal models, of labels that are already shifted, divided by the labels of all
                micro-batches and ranks. The Trainer counts those in `shift_labels`; a step checks its count against the loader's
    a step      the Trainer holds a `Handle`, an optimizer whose step is the decision of the loop (loop.py): the guard, our
                clipping, then `TorchEngine.step`. Its scheduler moves the Handle's rate, which is the schedule itself
    half        autocast and the loss scale of precision.py: accelerate's float16 needs a GPU, its scale cannot be carried over to
                other engines, and its autocast copies all logits

Going back to a checkpoint ends the Trainer and starts another one for the steps that remain; so does the end of a phase (phases.py),
whose steps may have other numbers of micro-batches. Everything that the Trainer would
write or print is off. Its cost beside the torch engine: gradients are measured twice, because it always measures a norm
itself; on a GPU attention over packed rows takes a mask, where ours has kernels that need none. Mixtures of experts are balanced by
our losses from transformers' router logits; in half precision its routers compute in half, where ours stay in float32.

Not here: models that no class of transformers has, shifted attention, fp8, shares of weights (use the other engines).
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from jielong.errors import RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.model.cross_entropy import IGNORE, with_z_loss
from jielong.model.experts import Routing, auxiliary_loss, expert_use
from jielong.model.faces import face
from jielong.model.hf import reason_for_own_class
from jielong.model.transformer import CausalLM, Losses
from jielong.progress import say
from jielong.runtime import random_state, restore_random_state
from jielong.train.config import Config
from jielong.train.engines.pytorch import LossModule, TorchEngine
from jielong.train.job import Job
from jielong.train.loop import Steps, train
from jielong.train.optimizers.checks import check_engine_of
from jielong.world import World, wait


def train_with_trainer(
    job: Job, model: CausalLM, world: World, stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Train to the end of the plan, from the newest checkpoint if there is one. Returns the counts for the manifest.

    model: with the weights that training goes on from. Raises RecipeError for what `refuse` names, Stopped after SIGTERM and
    SIGINT, when everything is saved.
    """
    refuse(job.config, model.config)
    engine = TrainerEngine(model, job.configs[0], world)
    try:
        with quietly(world):
            arguments = _arguments(job, engine)
            with arguments.main_process_first():
                theirs = face(model)
                if job.config.compile:
                    theirs.compile()
            say(f"train: {engine.describe()}, {type(theirs).__name__}, attention {theirs.config._attn_implementation}")

            def make(steps: Steps) -> None:
                here = job.plan.at(steps.at.step + 1)  # a Trainer makes the steps of one phase
                arguments.max_steps = here.last_step - steps.at.step
                arguments.per_device_train_batch_size = here.rows_per_micro_batch
                arguments.gradient_accumulation_steps = here.micro_batches
                gc.collect()  # what an earlier Trainer's DDP hung on the parameters; the next one brings its own
                _trainer(arguments, Turn(steps, theirs)).train()

            counts = train(job, engine, make, stop)
            wait(world)
            return counts
    finally:
        engine.close()


def refuse(config: Config, model: ModelConfig) -> None:
    """Raises RecipeError for what the Trainer would not train as the other engines do."""
    if (reason := reason_for_own_class(model)) is not None:
        raise RecipeError(f"train.engine: hf trains classes of transformers only, and {reason}; use torch or deepspeed")
    if model.shifted_attention is not None:
        raise RecipeError(
            f"train.engine: hf has no shifted attention, got model.shifted_attention = {model.shifted_attention}; use torch"
        )
    check_engine_of(config)


# ------------------------------------------------------------------------------------------- one model, two faces


class TrainerEngine(TorchEngine):
    """Device, precision, optimizer and state of our model; the Trainer runs the passes, and ranks exchange gradients there."""

    def _parallel(self, module: LossModule, config: Config) -> nn.Module:
        return module

    def describe(self) -> str:
        """One line for a person."""
        return f"transformers.Trainer, {super().describe()}"

    @property
    def scale(self) -> float:
        """What the loss is multiplied by before the backward pass."""
        return self._precision.scale.value


# --------------------------------------------------------------------------------------------------- what is ours


class Turn:
    """A step as the Trainer asks for it: `rows`, `loss` of each micro-batch, `decide`; then the loop's `Steps.finish`."""

    def __init__(self, steps: Steps, theirs: Any) -> None:
        self.steps, self.theirs = steps, theirs
        self.counted = torch.zeros(())

    def rows(self) -> Iterator[dict[str, Any]]:
        """This rank's micro-batches, one step after the other. `shift_labels` is where the Trainer counts labels."""
        job, at = self.steps.job, self.steps.at
        last = job.plan.at(at.step + 1).last_step
        more = {"output_router_logits": True} if job.model.num_experts is not None else {}
        while (now := at.step) < last:
            for batch in self.steps.begin().batches:
                assert at.step == now, "a batch was read ahead of its step"
                labels = torch.from_numpy(batch.labels)
                inputs = {"input_ids": torch.from_numpy(batch.inputs), "labels": labels, "shift_labels": labels} | more
                if job.config.document_mask:
                    inputs["position_ids"] = torch.from_numpy(batch.positions)
                yield inputs

    def loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
        """What the backward pass of a micro-batch begins with: its share of the step's loss. The Trainer multiplies it by the number
        of ranks, over which DDP averages.
        """
        found = self._losses(outputs, labels)
        self.counted = num_items_in_batch
        self.steps.add(found)
        return (found.cross_entropy + found.auxiliary) / num_items_in_batch * self.engine.scale

    @property
    def engine(self) -> TrainerEngine:
        """That of the steps."""
        assert isinstance(self.steps.engine, TrainerEngine)
        return self.steps.engine

    def _losses(self, outputs: Any, labels_BT: Tensor) -> Losses:
        """Sums over labels, as CausalLM.losses, from what transformers' model gave."""
        weight, config = self.steps.job.config.z_loss, self.steps.job.model
        if weight:
            cross_entropy, auxiliary = with_z_loss(outputs.logits.flatten(0, 1), labels_BT.flatten(), weight)
        else:
            size = config.vocabulary
            cross_entropy = self.theirs.loss_function(
                outputs.logits, None, vocab_size=size, num_items_in_batch=1, shift_labels=labels_BT
            )
            auxiliary = torch.zeros_like(cross_entropy)
        if config.num_experts is None:
            return Losses(cross_entropy, auxiliary, None)
        routings = []
        for logits_NE in outputs.router_logits:
            scores_NE = logits_NE.float().softmax(dim=-1)
            chosen_NK = scores_NE.detach().topk(config.num_experts_per_tok, dim=-1).indices
            routings.append(Routing(logits_NE.float(), scores_NE, chosen_NK))
        balance = auxiliary_loss(routings, config, len(labels_BT)) * (labels_BT != IGNORE).sum()
        return Losses(cross_entropy, auxiliary + balance, expert_use(routings))

    def decide(self, learning_rate: float) -> None:
        """Gradients are there, summed over ranks: step, or not."""
        assert int(self.counted) == self.steps.rows.labels, "the Trainer divides by another number of labels"
        self.steps.decide(learning_rate)


# ---------------------------------------------------------------------------------------------- what is the Trainer's


class Handle(torch.optim.Optimizer):
    """What the Trainer and accelerate hold for an optimizer: it has no state, and its step is `Turn.decide`.

    The real one is the engine's: accelerate would put it into another wrapper, and reload its state.
    """

    def __init__(self, turn: Turn) -> None:
        super().__init__([p for p in turn.engine.model.parameters() if p.requires_grad], {"lr": 1.0})
        self.turn = turn

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # nobody here gives or wants a loss
        """Step, or do not."""
        self.turn.decide(self.param_groups[0]["lr"])


class Rows(torch.utils.data.IterableDataset[dict[str, Any]]):
    """What the Trainer reads: micro-batches of this rank, from where the run stands."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.turn.rows()


def _arguments(job: Job, engine: TrainerEngine) -> Any:
    """The Trainer's settings; its steps and their micro-batches are set when a Trainer is made."""
    from transformers import Trainer, TrainingArguments

    assert Trainer is not None  # imported now, which takes seconds, and not in the first step
    arguments = TrainingArguments(
        str(job.folder), max_steps=1, max_grad_norm=0.0, average_tokens_across_devices=True,
        use_cpu=engine.device.type == "cpu", seed=job.seed, dataloader_pin_memory=False, ddp_find_unused_parameters=False,
        logging_nan_inf_filter=False, logging_strategy="no", save_strategy="no",
        eval_strategy="no", report_to="none", disable_tqdm=True, log_level="error", log_level_replica="error",
    )  # fmt: skip
    assert arguments.world_size == engine.world.size, "accelerate counts other processes"
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process is one device, where more GPUs are there, too
    return arguments


def _trainer(arguments: Any, turn: Turn) -> Any:
    """A Trainer from where the run stands."""
    from transformers import PrinterCallback, Trainer, TrainerCallback

    device, start, rows = turn.engine.device, turn.steps.at.step, Rows(turn)
    random = random_state(device)  # which Trainer's seed would overwrite

    class After(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            restore_random_state(random, device)

        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            if turn.steps.finish():
                control.should_training_stop = True

    class OwnRows(Trainer):
        def get_train_dataloader(self) -> Any:
            # a generator of its own: the seed that a DataLoader draws for workers would come from the run's
            return torch.utils.data.DataLoader(rows, batch_size=None, generator=torch.Generator())

        def compute_loss_context_manager(self) -> Any:
            return turn.engine.autocast()

    handle = Handle(turn)
    total = turn.steps.job.plan.total_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        handle, lambda done: turn.steps.job.learning_rate(min(start + done + 1, total))
    )
    trainer = OwnRows(
        turn.theirs, arguments, train_dataset=rows, compute_loss_func=turn.loss, callbacks=[After()],
        optimizers=(handle, schedule),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # prints to standard output
    return trainer


@contextlib.contextmanager
def quietly(world: World) -> Iterator[None]:
    """The environment as accelerate is to see it, whoever started us, and as it was when this is left; no chatter."""
    with contextlib.redirect_stdout(sys.stderr):  # deepspeed, where it is installed, is imported too and says so
        import transformers

        chatter: Any = transformers.logging
        before, level = dict(os.environ), chatter.get_verbosity()
        ours = {"RANK": world.rank, "WORLD_SIZE": world.size, "LOCAL_RANK": world.local_rank}
        for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_")) or name in ours]:
            del os.environ[name]
        os.environ.setdefault(
            "DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu"
        )  # it says what it found otherwise
        if world.size > 1:
            os.environ.update({name: str(value) for name, value in ours.items()})
        chatter.set_verbosity_error()
        try:
            yield
        finally:
            chatter.set_verbosity(level)
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
