"""The recipe's [train] table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from jielong.errors import RecipeError
from jielong.model.adapter_config import Adapter
from jielong.recipe import Section, harmless
from jielong.train.mixing import Mix
from jielong.train.phases import BUDGETS, OptimizerName, Phase, ScheduleName, check_phases

if TYPE_CHECKING:
    from jielong.model.config import Config as ModelConfig


class Guard(Section):
    """When a step is not taken, and what follows. The band runs along with the losses and norms of the steps before."""

    enabled: bool = Field(
        True, description="watch losses and gradient norms; false: only what is not finite is refused"
    )
    window: int = Field(64, description="steps whose losses and norms make the band", ge=8, le=100_000)
    loss_deviations: float = Field(
        8.0, description="a loss this many (robust) deviations above the band's median is a spike", gt=0
    )
    norm_ratio: float = Field(10.0, description="a gradient norm this many times the band's median is a spike", gt=1)
    hits: int = Field(
        3, description="so many steps not taken in a row lead to going back to a checkpoint", ge=1, le=1000
    )
    max_rollbacks: int = Field(6, description="going back to one checkpoint more often than this ends the run", ge=1)


class Lisa(Section):
    """Blocks trained in turn (arXiv:2403.17919), with embedding and output layer always."""

    blocks: int = Field(2, description="blocks that are trained at a time, drawn by the seed", ge=1)
    interval: int = Field(20, description="steps until others are drawn", ge=1)


class Loop(Section):
    """What all trainings say, whatever a step is made of: optimizer, schedule, device, and what is done once in a while."""

    learning_rate: float = Field(1e-3, description="peak learning rate", gt=0)
    schedule: ScheduleName = Field(
        "cosine", description="how the learning rate falls after the warm-up; wsd: constant, then down in the last part"
    )
    min_learning_rate_ratio: float = Field(
        0.1, description="the schedule ends at this share of the peak (Chinchilla, arXiv:2203.15556)", ge=0, le=1
    )
    warmup_ratio: float = Field(0.02, description="share of the steps in which the learning rate rises", ge=0, lt=1)
    decay_ratio: float = Field(0.2, description="wsd: share of the steps in which the learning rate falls", gt=0, le=1)
    optimizer: OptimizerName = Field(
        "adamw", description="muon: matrices of the blocks by Muon, the rest by AdamW; lion; adamw8bit: bitsandbytes"
    )
    muon_rate: float = Field(
        1.0, description="muon: learning rate of its matrices, times learning_rate (updates have AdamW's size)", gt=0
    )
    muon_momentum: float = Field(0.95, description="muon: decay of the momentum (Nesterov's)", ge=0, lt=1)
    weight_decay: float = Field(0.1, description="decoupled weight decay on matrices, none on norms and biases", ge=0)
    beta1: float = Field(0.9, description="AdamW's and Lion's decay of the first moment", ge=0, lt=1)
    beta2: float = Field(
        0.95, description="AdamW's decay of the second moment, Lion's of its only one (0.99 is usual there)", ge=0, lt=1
    )
    adam_epsilon: float = Field(1e-8, description="AdamW's epsilon", gt=0)
    adapter: Adapter | None = Field(
        None,
        description="train small matrices beside frozen weights (LoRA and its kin); needs model.base; none: all weights",
    )
    grad_clip: float | None = Field(1.0, description="gradients are scaled down to this norm; none: never", gt=0)
    guard: Guard = harmless(Guard(), "what happens to a step whose loss or gradients are out of the ordinary")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to train")
    precision: Literal["auto", "bfloat16", "float16", "float32", "tf32", "fp8"] = Field(
        "auto",
        description="arithmetic of matrix products; auto: bfloat16 where the device is fast at it, float16 on a V100",
    )
    recompute: bool = harmless(
        False,
        "keep only each block's input for the backward pass and compute the rest again: less memory, a third more work",
    )
    evaluate_every_steps: int | None = harmless(
        100, "validation every so many steps, and at the end; none: at the end", ge=1
    )
    sample_every_steps: int | None = harmless(200, "continue the sample prompts every so many steps; none: never", ge=1)
    sample_tokens: int = harmless(32, "length of a sample, tokens", ge=1)
    sample_prompts: tuple[str, ...] = harmless((), "prompts of the samples; none: infer.prompts", strict=False)
    save_every_minutes: float | None = harmless(3.0, "a checkpoint at least so often; none: by steps only", gt=0)
    save_every_steps: int | None = harmless(None, "a checkpoint every so many steps", ge=1)
    keep_checkpoints: int = harmless(2, "how many of the newest checkpoints are kept", ge=1)
    keep_every_steps: int | None = harmless(None, "save and keep a checkpoint every so many steps, too", ge=1)
    async_checkpoints: bool = harmless(
        True, "write checkpoints beside the training, from a copy in memory; false: training waits for the disk"
    )
    trackers: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = harmless(
        (), "also send metrics there (extra trackers); metrics.jsonl is always written", strict=False
    )
    tracker_project: str = harmless("jielong", "name of the project there")
    tracker_online: bool = harmless(False, "wandb, swanlab: send over the network; false: to files in train/trackers")
    log_every_steps: int = harmless(
        20, "a line on the console every so many steps (every step is in metrics.jsonl)", ge=1
    )


class Config(Loop):
    """How the model is trained. Quantities are in tokens; a step is one optimizer step."""

    rivals: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"epochs", "tokens"}),)

    epochs: float | None = Field(None, description="passes over the training shards; this or tokens, default 1", gt=0)
    tokens: int | None = Field(None, description="token budget; this or epochs", ge=1)
    mix: Mix | None = Field(
        None,
        description="how much of each source is read: weights, tokens, epochs, temperature or phases; none: all, as it lies there",
    )
    phases: tuple[Phase, ...] = Field(
        (),
        description="parts of the run one after the other; what a phase does not say is as in this table",
        strict=False,
    )
    sequence_length: int | None = Field(
        None, description="tokens in a row; none: the model's max_position_embeddings", ge=2
    )
    tokens_per_step: int = Field(
        16_384, description="tokens in one optimizer step, a multiple of sequence_length", ge=1
    )
    tokens_per_step_start: int | None = Field(
        None, description="batch ramp: tokens of the first step, growing to tokens_per_step; none: no ramp", ge=1
    )
    ramp_ratio: float = Field(0.1, description="share of the tokens over which the batch ramp grows", gt=0, le=1)
    micro_batch_tokens: int = harmless(
        8_192, "at most this many tokens go through the model at once; a step accumulates gradients over them", ge=1
    )
    packing: Literal["packed", "whole", "truncated"] = Field(
        "packed",
        description="packed: documents end to end; whole: none is divided, as many in a row as fit; truncated: one a row, cut and padded",
    )
    document_mask: bool = Field(True, description="attention and positions stay inside a document of a packed row")
    ema_decay: float | None = Field(
        None,
        description="checkpoints hold an average of the weights, decaying by this a step; none: the weights",
        gt=0,
        lt=1,
    )
    lisa: Lisa | None = Field(
        None,
        description="train all weights, but only some blocks at a time, drawn anew every so many steps: less memory; none: all",
    )
    z_loss: float = Field(
        0.0, description="weight of log(Z)^2, which keeps logits small (PaLM used 1e-4, arXiv:2204.02311)", ge=0
    )
    engine: Literal["torch", "deepspeed", "hf"] = harmless(
        "torch", "torch; deepspeed: ZeRO; hf: transformers.Trainer; each goes on from the others' checkpoints"
    )
    parallel: Literal["ddp", "fsdp"] = harmless(
        "ddp", "torch on several devices: all weights on each, or fsdp: a share of them"
    )
    zero_stage: int = harmless(
        2,
        "deepspeed: what is divided among devices: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too",
        ge=0,
        le=3,
    )
    cpu_offload: bool = harmless(
        False, "deepspeed: the optimizer's state in the machine's memory; needs zero_stage 1 to 3"
    )
    compile: bool = Field(False, description="torch.compile the model (a minute at the start, faster steps after)")
    validation_tokens: int = harmless(50_000, "validation while training stops after so many tokens", ge=1)
    keep_best: bool = harmless(False, "save and keep the checkpoint with the lowest validation bits per byte, too")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.epochs is not None and self.tokens is not None:
            raise ValueError("epochs: given together with tokens; a run has one budget; remove one of them")
        if self.mix is not None and (self.mix.tokens or self.mix.epochs) and (self.tokens or self.epochs):
            raise ValueError(
                "mix: says the budget by tokens or epochs of each source, and epochs or tokens say it too; remove one of them"
            )
        if self.cpu_offload and (self.engine != "deepspeed" or self.zero_stage == 0):
            raise ValueError(
                f"cpu_offload: needs engine deepspeed and zero_stage 1 to 3, got {self.engine} and {self.zero_stage}; change them"
            )
        mix_budget = "mix" if self.mix is not None and (self.mix.tokens or self.mix.epochs) else None
        budget = next((name for name in BUDGETS[:2] if getattr(self, name) is not None), mix_budget)
        check_phases(self.phases, budget, self.mix is not None)
        for name in ("adapter", "lisa"):
            if getattr(self, name) is not None and (problem := _against(name, self)) is not None:
                raise ValueError(problem)
        lengths = [self.sequence_length or 0, *(phase.sequence_length or 0 for phase in self.phases)]
        if self.micro_batch_tokens < max(lengths):
            raise ValueError(
                f"micro_batch_tokens: less than one row, got {self.micro_batch_tokens}; must be at least sequence_length "
                f"{max(lengths)}; raise it"
            )
        if (
            self.packing != "packed"
            and len({phase.sequence_length or self.sequence_length for phase in self.phases}) > 1
        ):
            raise ValueError(
                f"phases: rows of different lengths, got packing {self.packing}, where rows are of one length; use packed, or "
                "one sequence_length"
            )
        mixed = self.mix is not None or any(phase.weights or phase.temperature for phase in self.phases)
        if self.packing == "whole" and mixed:
            raise ValueError("packing: rows of whole documents have no mix, got whole; use packed, or remove the mix")
        return self

    def in_phase(self, number: int) -> Config:
        """What holds in a phase, counted from 0: the phase's values in place of these. Without phases, phase 0 is the whole run."""
        if not self.phases:
            assert number == 0
            return self
        phase = self.phases[number]
        ramp = phase.tokens_per_step_start or (self.tokens_per_step_start if number == 0 else None)
        budget = {"tokens": phase.tokens, "epochs": phase.epochs} if phase.share is None else {}
        mixed = (
            Mix(weights=phase.weights, temperature=phase.temperature)
            if phase.weights or phase.temperature
            else self.mix
        )
        given = phase.replaced() | budget | {"tokens_per_step_start": ramp, "mix": mixed, "phases": ()}
        return self.model_copy(update=given)

    def parts(self) -> list[tuple[str, Config]]:
        """Each phase as a Config, with its place in the recipe: "train.phases.0"; without phases the run, "train"."""
        if not self.phases:
            return [("train", self)]
        return [(f"train.phases.{number}", self.in_phase(number)) for number in range(len(self.phases))]


def _against(name: str, train: Config) -> str | None:
    """What does not go with `adapter` or `lisa`, where not all weights have gradients and state."""
    what = {"adapter": "an adapter", "lisa": "LISA"}[name]
    optimizers = {train.optimizer, *(phase.optimizer for phase in train.phases)}
    problems = {
        f'engine: {what} is trained by the engine torch, got "{train.engine}"; use torch': train.engine != "torch",
        f'parallel: nothing is divided with {what}, got "{train.parallel}"; use ddp': train.parallel != "ddp",
        f'optimizer: Muon is for whole weights, not for {what}, got "muon"; use adamw, lion or adamw8bit': "muon"
        in optimizers,
        f'precision: fp8 does not go with {what}, got "fp8"; use auto': train.precision == "fp8",
        f"ema_decay: no average is kept with {what}, got {train.ema_decay}; remove it": train.ema_decay is not None,
        "lisa: draws blocks of whole weights, and there is an adapter; remove one of them": None
        not in (train.adapter, train.lisa),
    }
    return next((f"{text}, or remove {name}" for text, wrong in problems.items() if wrong), None)


def check_processes(train: Config, longest: int, processes: int) -> None:
    """Raises RecipeError where a step's rows cannot be divided among processes. longest: model.max_position_embeddings."""
    for place, part in train.parts():
        length = part.sequence_length or longest
        for name in ("tokens_per_step", "tokens_per_step_start"):
            tokens = getattr(part, name)
            if tokens is not None and (rows := tokens // length) % processes:
                raise RecipeError(
                    f"{place}.{name}: a step of {rows} rows cannot be divided among {processes} processes, got "
                    f"{tokens}; for example {max(1, round(rows / processes)) * processes * length}"
                )


def check_together(sections: dict[str, Section]) -> list[str]:
    """Rows must fit the model, steps must be whole rows, and the stages before must be there."""
    from jielong.model.config import Config as ModelConfig
    from jielong.train.optimizers.checks import check_engine_of

    train, model = sections["train"], sections.get("model")
    assert isinstance(train, Config)
    problems = _unknown_sources(train, sections.get("data"))
    try:
        check_engine_of(train)
    except RecipeError as error:
        problems.append(str(error))
    problems += [
        f"train: needs the stage {stage}; add a [{stage}] table" for stage in ("model",) if stage not in sections
    ]
    if isinstance(model, ModelConfig):
        if train.adapter is not None and model.base is None:
            problems.append(
                "train.adapter: stands beside the weights of a trained model, and there is none; give model.base"
            )
        for place, part in train.parts() if model.is_settled else ():
            problems += [text for text in _unfit(place, part, model) if text not in problems]
    return problems


def _unfit(place: str, train: Config, model: ModelConfig) -> list[str]:
    """What does not fit the model in a phase."""
    problems, longest = list[str](), model.max_position_embeddings
    length = train.sequence_length or longest
    if length > longest:
        problems.append(
            f"{place}.sequence_length: too long, got {length}; must be at most model.max_position_embeddings {longest}; "
            "change one of them"
        )
    group = model.shifted_attention
    if group is not None and (group >= length or length % group):
        fits = [size for size in range(2, length, 2) if length % size == 0]
        advice = f"for example {min(fits, key=lambda size: abs(size - group))}" if fits else "change one of them"
        problems.append(
            f"model.shifted_attention: must divide the sequence length {length} and be less than it, got {group}; {advice}"
        )
    for name in ("tokens_per_step", "tokens_per_step_start"):
        tokens = getattr(train, name)
        if tokens is not None and tokens % length:
            problems.append(
                f"{place}.{name}: must be a multiple of the sequence length {length}, got {tokens}; "
                f"for example {max(1, round(tokens / length)) * length}"
            )
    start = train.tokens_per_step_start
    if start is not None and start > train.tokens_per_step:
        problems.append(
            f"{place}.tokens_per_step_start: above tokens_per_step, got {start}; must be at most {train.tokens_per_step}; lower it"
        )
    return problems


def _unknown_sources(train: Config, data: Section | None) -> list[str]:
    """A mix, and the weights of phases, name sources of the recipe."""
    from jielong.data.config import Config as DataConfig

    if not isinstance(data, DataConfig):
        return []
    known = [source.name for source in data.sources]
    named = [("train.mix", name) for name in (train.mix.named() if train.mix is not None else ())]
    named += [(f"train.phases.{n}.weights", name) for n, phase in enumerate(train.phases) for name in phase.weights]
    return [
        f"{place}: unknown source, got {name}; the sources are {', '.join(known)}; correct it"
        for place, name in named
        if name not in known
    ]
