"""Numbers before training, from a recipe: size, memory, the largest micro-batch, time, cost, and the size that would suit.

Nothing is trained or allocated. What is known is computed (parameters, FLOPs, bytes: `model/cost.py`, `model/memory.py`, whose
memory is checked against measured peaks); what is not is an assumption, and the report lists each with its value: how much of
the device's peak a run reaches, what an hour costs, how many tokens a corpus has that was not cut into tokens yet.

Compute-optimal: Chinchilla (arXiv:2203.15556, approaches 1 and 2, table 3) puts parameters and tokens in proportion, about 20
tokens a parameter, so that with C = 6 N D FLOPs N = sqrt(C / 120). The rule was fitted from 70 M parameters up on English web
text; for a small model that will be used much, more tokens than that are no waste. The suggested shape is the one on a
grid of widths and depths whose training on 20 tokens a parameter costs nearest to the budget by our own count of FLOPs
(with attention, without the embedding's look-up, so its N differs a little from the rule's). Depth for width is a matter of
taste within wide bounds (arXiv:2001.08361, figure 5): width / depth between 48 and 96.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError, RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.model.cost import (
    active_parameters,
    embedding_parameters,
    flops_per_token,
    inference_flops_per_token,
    parameters,
    product_parameters,
)
from jielong.model.devices import Device
from jielong.model.memory import Inference, Training, Work, inference_memory, training_memory
from jielong.model.memory_of_adapters import adapter_parameters, lean_memory
from jielong.recipe import Section
from jielong.runs import Run
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Config as TrainConfig
from jielong.train.config import check_processes

if TYPE_CHECKING:
    from jielong.train.job import Plan
    from jielong.train.stretches import Stretch

MOST = 10**15  # of tokens, devices, hours or dollars that are asked about
TOKENS_PER_PARAMETER = 20  # Chinchilla
MOST_ROWS = 1 << 20
WIDTH_STEP, LEAST_WIDTH, MOST_WIDTH = 128, 128, 16_384  # of suggested shapes
SIZE_OF_HEAD = 64


@dataclass(frozen=True)
class Known:
    """What a run's earlier stages have settled: rows of the vocabulary, training tokens of each source, documents."""

    vocabulary: int | None = None
    tokens: Mapping[str, int] | None = None
    documents: int = 0


@dataclass(frozen=True)
class Part:
    """A phase of the run, or all of it."""

    first_step: int
    steps: int
    tokens: int
    sequence_length: int
    tokens_per_step: int  # at the end of its ramp, if it has one
    optimizer: str
    schedule: str  # "(run)" behind it: that of the run goes on
    learning_rate: float  # its peak
    hours: float  # of wall-clock time, on all devices together


@dataclass(frozen=True)
class Budget:
    """Tokens of a run, and where the number comes from."""

    tokens: int
    source: str
    steps: int
    tokens_per_step: int  # of the last step
    flops: float
    hours: float  # of wall-clock time, on all devices together
    device_hours: float
    cost: float  # dollars
    parts: tuple[Part, ...] = ()  # a phase each; empty without phases


@dataclass(frozen=True)
class Fit:
    """A micro-batch, and what fits."""

    sequence_length: int
    rows: int  # of the recipe's micro-batch
    memory: Training
    usable: int  # bytes
    largest_rows: int  # of any micro-batch that fits; 0: not even one row
    largest_divisor: int  # of one that divides the step's rows

    @property
    def fits(self) -> bool:
        """Whether the recipe's own micro-batch fits."""
        return self.memory.peak <= self.usable


@dataclass(frozen=True)
class Optimal:
    """The size that Chinchilla's rule gives a number of device hours, and a model of about that size."""

    device_hours: float
    flops: float
    rule_parameters: float
    rule_tokens: float
    shape: ModelConfig
    shape_parameters: int
    shape_tokens: int
    shape_hours: float


@dataclass(frozen=True)
class Generation:
    """Generating `rows` texts up to the longest context, numbers of `item` bytes."""

    rows: int
    context: int
    item: int
    memory: Inference
    flops_per_token: float
    most_tokens_per_second: float  # what the memory's bandwidth allows: weights and cache are read once a token


@dataclass(frozen=True)
class Report:
    """The answer of `jielong plan`."""

    device: Device
    devices: int
    precision: str
    vocabulary: int
    parameters: int
    embedding_parameters: int
    active_parameters: int
    flops_per_token: float
    budget: Budget
    fit: Fit
    optimal: Optimal
    generation: tuple[Generation, ...]
    assumptions: tuple[str, ...]
    held: str = "float32"  # the weights, in training

    def to_json(self) -> dict[str, Any]:
        """Plain data, with what is derived in it."""
        value = dataclasses.asdict(self)
        memory = value["fit"]["memory"] | {"peak": self.fit.memory.peak, "moment": self.fit.memory.moment}
        value["fit"] |= {"memory": memory, "fits": self.fit.fits}
        value["optimal"]["shape"] = self.optimal.shape.model_dump(mode="json", exclude_defaults=True)
        return value


def plan_run(
    sections: Mapping[str, Section],
    device: Device,
    count: int = 1,
    tokens: int | None = None,
    hours: float | None = None,
    price: float | None = None,
    known: Known | None = None,
) -> Report:
    """Plan the training of a recipe's model on `count` devices.

    tokens: budget, instead of the recipe's. hours: device hours of the compute-optimal size; None: those that the budget takes.
    price: dollars an hour of one device. known: what the run's tokenizer stage has settled, if it was run.
    Raises RecipeError or InputError for a recipe without a model, a vocabulary that is not known, a precision that the device
    does not have.
    """
    model = sections.get("model")
    if not isinstance(model, ModelConfig):
        raise RecipeError("model: the recipe has no [model] table, and a plan is about its model; add one")
    _check_options(count, tokens, hours, price)
    train = sections.get("train")
    train = train if isinstance(train, TrainConfig) else TrainConfig()
    known = known or Known()
    config = settle_vocabulary(model, sections.get("tokenizer"), known)
    precision = device.best_precision() if train.precision == "auto" else train.precision
    device.peak(precision)  # refuses what the device has not
    device = device if price is None else dataclasses.replace(device, price=price)
    notes = [
        f"a run reaches {device.utilisation:.0%} of {device.peak(precision) / 1e12:,.3g} TFLOP/s ({precision})",
        f"an hour of one {device.name} costs ${device.price:,.2f}" + ("" if price is None else " (given)"),
        f"tensors may take {device.usable:.0%} of {device.memory / (1 << 30):,.1f} GiB",
    ]
    if count > 1:
        notes.append(f"{count} devices are {count} times as fast as one; each holds the whole model")
        if train.parallel == "fsdp" or (train.engine == "deepspeed" and train.zero_stage > 0):
            notes[-1] += ", though fsdp and ZeRO need less (docs/en/train.md, Which engine)"
        check_processes(train, config.max_position_embeddings, count)
    if train.adapter is not None:
        trained = adapter_parameters(config, train.adapter)
        notes.append(
            f"an adapter of {trained:,} parameters is trained; time is that of training all weights, and takes less"
        )
    if train.compile:
        notes.append("memory is that of a model that is not compiled; train.compile takes less")
    source, run = _arithmetic(config, train, tokens, known)
    budget = _budget(config, train, run, source, device, count, precision)
    if budget.source.startswith("assumed"):
        notes.append(
            f"tokens: {TOKENS_PER_PARAMETER} a parameter, because the corpus is not cut into tokens yet (--tokens)"
        )
    fits = [_fit(config, train, stretch, device, precision) for stretch in run.stretches]
    longest = run.stretches[-1].sequence_length
    each = flops_per_token(config, longest) if len(run.stretches) == 1 else budget.flops / budget.tokens
    generation = tuple(
        _generation(config, device, rows, item)
        for rows, item in ((1, 4), (16, 4), (1, 2), (16, 2))
        if item == 4 or device.kind == "cuda"
    )
    return Report(
        device, count, precision, config.vocabulary, parameters(config), embedding_parameters(config),
        active_parameters(config), each, budget, max(fits, key=lambda fit: fit.memory.peak),
        optimal_size(config, longest, device, precision, hours or budget.device_hours), generation, tuple(notes),
        _held(train, precision),
    )  # fmt: skip


def _held(train: TrainConfig, precision: str) -> str:
    """How weights lie in memory while they are trained, or frozen."""
    if train.adapter is None:
        return "float32"
    half = precision in ("bfloat16", "float16")
    held = {"auto": precision if half else "float32"}.get(train.adapter.base_weights, train.adapter.base_weights)
    return f"{held}, frozen" + (f"; embeddings in {precision}" if half and held in ("nf4", "int8") else "")


def _check_options(count: int, tokens: int | None, hours: float | None, price: float | None) -> None:
    for name, value, least in (("devices", count, 1), ("tokens", tokens, 1)):
        if value is not None and not least <= value <= MOST:
            raise InputError(
                f"--{name}: out of bounds, got {str(value)[:20]}; must be from {least} to {MOST:.0e}; change it"
            )
    if hours is not None and not 0 < hours <= MOST:
        raise InputError(f"--hours: out of bounds, got {hours:g}; must be above 0 and at most {MOST:.0e}; change it")
    if price is not None and not 0 <= price <= MOST:
        raise InputError(f"--price: out of bounds, got {price:g}; must be from 0 to {MOST:.0e}; change it")


def known_of(run: Run, sections: Mapping[str, Section]) -> Known:
    """What a run's tokenizer stage has settled; nothing, if it is not finished or was made for another recipe."""
    for stage in ("data", "tokenizer"):
        manifest = run.manifest(stage)
        if stage not in sections or manifest is None or manifest.get("section") != sections[stage].result_fields():
            return Known()
    shards = Shards(run.stage("tokenizer") / "shards", "train")
    return Known(shards.vocab_size, shards.available(), shards.documents)


def settle_vocabulary(model: ModelConfig, tokenizer: Section | None, known: Known) -> ModelConfig:
    """The model with its vocabulary: its own, that of a tokenizer that is there, or the size of the one to be trained.

    Raises RecipeError when nothing says how large it is.
    """
    if model.vocab_size is not None:
        return model
    if known.vocabulary is not None:
        return model.with_vocab(known.vocabulary)
    if not isinstance(tokenizer, TokenizerConfig):
        raise RecipeError("model.vocab_size: not known without a tokenizer, got none; give model.vocab_size")
    if tokenizer.path is None:
        return model.with_vocab(tokenizer.vocab_size)
    if not Path(tokenizer.path).exists():
        raise RecipeError(
            f"model.vocab_size: not known, because the tokenizer is not there, got {tokenizer.path}; give model.vocab_size, for "
            "example --set model.vocab_size=32000"
        )
    from jielong.tokenizer.folder import open_folder

    size = open_folder(Path(tokenizer.path), tokenizer.end_token, tokenizer.pattern).size
    return model.with_vocab(size + (tokenizer.extend_count or 0))


def _arithmetic(config: ModelConfig, train: TrainConfig, tokens: int | None, known: Known) -> tuple[str, Plan]:
    """Where the tokens of the run come from, and its steps: the loop's own arithmetic."""
    from jielong.train.job import plan

    mixed = train.mix is not None and (train.mix.tokens or train.mix.epochs)
    longest, first = config.max_position_embeddings, train.in_phase(0)
    if tokens is not None:
        source = "given"
    elif train.phases and first.tokens is not None and train.tokens is None:
        source, tokens = "train.phases", sum(phase.tokens or 0 for phase in train.phases)
    elif train.tokens is not None:
        source, tokens = "train.tokens", train.tokens
    elif known.tokens is not None:
        passes = math.fsum(phase.epochs or 0.0 for phase in train.phases) or train.epochs or 1.0
        source = "train.mix" if mixed else f"{passes:g} passes over the corpus"
    elif train.mix is not None and train.mix.tokens:
        source, tokens = "train.mix.tokens", sum(train.mix.tokens.values())
    else:
        source, tokens = "assumed", TOKENS_PER_PARAMETER * parameters(config)
    if tokens is None:
        return source, plan(
            train, longest, dict(known.tokens or {}), rows=known.documents * (train.packing == "truncated")
        )
    shares: dict[str, Any] = {"tokens": None, "epochs": None, "weights": {}, "temperature": None}
    phases = tuple(
        phase.model_copy(update=shares | {"share": phase.tokens or phase.epochs or phase.share})
        for phase in train.phases
    )
    settled = train.model_copy(update={"tokens": tokens, "epochs": None, "mix": None, "phases": phases})
    return source, plan(settled, longest, {"all": tokens})


def _budget(
    config: ModelConfig, train: TrainConfig, run: Plan, source: str, device: Device, count: int, precision: str
) -> Budget:
    """Tokens, steps, time and cost of the run and of its phases."""
    speed = device.peak(precision) * device.utilisation * 3600
    costs = [stretch.tokens * flops_per_token(config, stretch.sequence_length) for stretch in run.stretches]
    flops = sum(costs)
    device_hours = flops / speed
    parts = []
    for (_, here), stretch, cost in zip(train.parts(), run.stretches, costs, strict=True) if train.phases else ():
        own = train.phases[stretch.phase].schedule is not None
        parts.append(
            Part(
                stretch.first_step, stretch.steps, stretch.tokens, stretch.sequence_length, stretch.tokens_per_step,
                here.optimizer, here.schedule if own else f"{here.schedule} (run)", here.learning_rate,
                cost / speed / count,
            )
        )  # fmt: skip
    return Budget(
        run.tokens, source, run.total_steps, run.stretches[-1].tokens_per_step, flops, device_hours / count, device_hours,
        device_hours * device.price, tuple(parts),
    )  # fmt: skip


def _fit(config: ModelConfig, train: TrainConfig, stretch: Stretch, device: Device, precision: str) -> Fit:
    """The recipe's micro-batch (the loop's rule: the largest divisor of the step's rows), and the largest that fits."""
    step_rows, length = stretch.rows_per_step, stretch.sequence_length
    most = max(1, train.micro_batch_tokens // length)
    rows = _divisor(step_rows, most)
    usable = device.usable_bytes

    def memory(rows: int) -> Training:
        several, card = rows < step_rows, device.capability
        work = Work(rows, length, precision, device.kind, train.document_mask, several, card, train.compile)
        names = {train.optimizer, *(phase.optimizer for phase in train.phases if phase.optimizer)}
        if train.adapter is not None or train.recompute:
            found = [lean_memory(config, work, name, train.adapter, train.recompute) for name in sorted(names)]
        else:
            found = [training_memory(config, work, name, train.ema_decay is not None) for name in sorted(names)]
        return max(found, key=lambda memory: memory.peak)  # of phases with several optimizers, the one that takes most

    def fits(rows: int) -> bool:
        return memory(rows).peak <= usable

    low, high = 0, 1
    while high < MOST_ROWS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Fit(length, rows, memory(rows), usable, low, _divisor(step_rows, low) if low else 0)


def _divisor(rows: int, most: int) -> int:
    """The largest divisor of `rows` that is at most `most`."""
    return max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)


def _generation(config: ModelConfig, device: Device, rows: int, item: int) -> Generation:
    context = config.max_position_embeddings
    memory = inference_memory(config, rows, context, item)
    once, idle = product_parameters(config), parameters(config) - active_parameters(config)
    read = item * min(rows * once, once + idle) + memory.kv_cache  # many rows go through all experts together
    return Generation(
        rows, context, item, memory, inference_flops_per_token(config, context), rows * device.bandwidth / read
    )


def optimal_size(config: ModelConfig, length: int, device: Device, precision: str, device_hours: float) -> Optimal:
    """What `device_hours` on a device are best spent on, by Chinchilla's rule; vocabulary and positions as in `config`."""
    speed = device.peak(precision) * device.utilisation
    flops = device_hours * 3600 * speed
    size = math.sqrt(flops / (6 * TOKENS_PER_PARAMETER))
    shape = suggest_shape(config, length, flops)
    tokens = TOKENS_PER_PARAMETER * parameters(shape)
    took = tokens * flops_per_token(shape, length) / speed / 3600
    rule = (size, TOKENS_PER_PARAMETER * size)
    return Optimal(device_hours, flops, *rule, shape, parameters(shape), tokens, took)


def suggest_shape(config: ModelConfig, length: int, flops: float) -> ModelConfig:
    """The dense shape whose training on 20 tokens a parameter costs nearest to `flops`.

    Width in steps of 128, heads of 64, half as many key-value heads, width / depth from 48 to 96, feed-forward by Llama's rule.
    """

    def cost(shape: ModelConfig) -> float:
        return TOKENS_PER_PARAMETER * parameters(shape) * flops_per_token(shape, length)

    found: list[tuple[float, ModelConfig]] = []
    for width in range(LEAST_WIDTH, MOST_WIDTH + 1, WIDTH_STEP):
        depths = range(max(2, math.ceil(width / 96)), max(2, width // 48) + 1)
        shapes = [_shape(config, width, depth) for depth in depths]
        found += [(abs(math.log(cost(shape) / flops)), shape) for shape in shapes]
        if cost(shapes[0]) > flops:  # wider ones cost more still
            break
    return min(found, key=lambda pair: pair[0])[1]


def _shape(config: ModelConfig, width: int, depth: int) -> ModelConfig:
    heads = width // SIZE_OF_HEAD
    return ModelConfig(
        vocab_size=config.vocab_size, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
        num_key_value_heads=heads // 2, max_position_embeddings=config.max_position_embeddings, position=config.position,
        tie_word_embeddings=config.tie_word_embeddings, qk_norm=config.qk_norm, rope_theta=config.rope_theta,
    )  # fmt: skip
