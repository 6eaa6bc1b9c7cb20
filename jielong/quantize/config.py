"""The recipe's [quantize] table, which are also the options of `jielong quantize`."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from jielong.model.config import Config as ModelConfig
from jielong.recipe import Section, harmless, parse_section
from jielong.train.config import Config as TrainConfig

Method = Literal[
    "int8", "int4", "rtn", "gptq", "awq", "llm-int8", "nf4", "torchao-int8", "torchao-8da4w", "onebit", "bitnet"
]
ROUNDING = ("int8", "int4", "rtn")  # each weight by itself, without text
GROUPED = (*ROUNDING, "gptq", "awq")  # integers with a scale for each group
CALIBRATED = ("gptq", "awq")  # look at what goes through the model
DISTILLED = ("onebit", "bitnet")  # are trained to say what the full model says
MIXED = ("rtn", "int4", "gptq")  # whose matrices may have different bits
BITS = {"int8": 8, "int4": 4, "rtn": 4, "gptq": 4, "awq": 4}  # where none are given
LAYERS = re.compile(r".*\.(?:(?:q|k|v|o|gate|up|down)_proj|w[123])")  # linear layers of a block, as files name them
WHOLE_ROW = -1
AWQ_ROWS = 64  # outputs that gptqmodel clips together
SIZES = (128, 64, 32)  # of groups, where none is given: the first that divides every matrix


class Distill(TrainConfig):
    """How a model of signs is trained to say what the full model says: every key of [train], some with another default."""

    learning_rate: float = Field(2e-3, description="peak learning rate", gt=0)
    beta2: float = Field(0.99, description="AdamW: decay of the second moment", ge=0, lt=1)
    weight_decay: float = Field(0.0, description="decoupled weight decay on matrices", ge=0)
    divergence_loss: float = Field(
        1.0, description="weight of how far what the model says is from what the full one says (KL)", ge=0
    )
    hidden_loss: float = Field(
        1.0,
        description="weight of the squared distance between the layers' outputs and the full model's, relative to their size",
        ge=0,
    )
    label_loss: float = Field(
        0.0,
        description="weight of the cross-entropy of the text itself; alone it is training with such layers, without a teacher",
        ge=0,
    )
    sample_every_steps: int | None = harmless(None, "steps between samples; none: no samples", ge=1)

    def refused(self) -> list[str]:
        """What of it is not for models of signs: problems, each one sentence."""
        wrong = {
            "adapter": self.adapter is not None,
            "engine": self.engine != "torch",
            "ema_decay": self.ema_decay is not None,
            "compile": self.compile,
            "phases": bool(self.phases),
            "mix": self.mix is not None,
            "packing": self.packing != "packed",
            "lisa": self.lisa is not None,
        }
        problems = [
            f"distill.{name}: not for models of signs; remove the key" for name, given in wrong.items() if given
        ]
        if not (self.divergence_loss or self.hidden_loss or self.label_loss):
            problems.append(
                "distill.divergence_loss: nothing is learned, got 0 for it, hidden_loss and label_loss; raise one"
            )
        return problems


class Config(Section):
    """How the model's matrices are made smaller."""

    method: Method = Field(
        "int8",
        description="int8, int4, rtn: rounding to nearest; gptq, awq: with calibration (gptqmodel); llm-int8, nf4: bitsandbytes; torchao-int8, "
        "torchao-8da4w: torchao; onebit (arXiv:2402.11295), bitnet (b1.58, arXiv:2402.17764): signs, trained on the full model's words",
    )
    bits: Literal[2, 3, 4, 8] | None = Field(None, description="bits of a weight, for rtn and gptq; none: 4")
    group_size: int | None = Field(
        None,
        description="columns of a row that share a scale; -1: all of them; none: all with 8 bits, else the largest of 128, 64, 32 that divides every row",
        ge=-1,
    )
    symmetric: bool | None = Field(
        None,
        description="the same range on both sides of 0; false: each group its own zero; none: as the method has it",
    )
    act_order: bool = Field(False, description="gptq: the columns with the largest inputs first")
    leave_out: tuple[str, ...] = Field(
        (),
        description='layers that stay as they are: patterns of their names, like "*.layers.0.*" or "*.down_proj"',
        strict=False,
    )
    average_bits: float | None = Field(
        None,
        description="mixed precision, for rtn, int4 and gptq: each matrix gets 2, 3, 4 or 8 bits by how much it hurts, so many a weight on average; none: all the same",
        ge=2,
        le=8,
    )
    calibration: tuple[str, ...] = Field(
        (),
        description="files of calibration text; none: documents held out by the run, which are not measured on then",
        strict=False,
    )
    calibration_tokens: int = Field(65_536, description="tokens of calibration text", ge=256)
    calibration_length: int | None = Field(
        None, description="tokens of a row of calibration; none: the model's context, 512 at most", ge=16
    )
    distilled: bool = Field(
        True, description="onebit and bitnet are trained on what the full model says; false: only rounded"
    )
    distill: Distill = Field(Distill(), description="of onebit and bitnet: how they are trained")
    compare: bool = Field(True, description="measure the result beside the full model, as in quantize --compare")
    compare_tokens: int = Field(100_000, description="tokens of held-out text that both are measured on", ge=256)
    device: Literal["auto", "cpu", "cuda"] = harmless("auto", "where it is made")

    @model_validator(mode="after")
    def _check(self) -> Config:
        problems = []
        method = self.method
        if self.bits is not None and self.bits != BITS.get(method) and method not in ("rtn", "gptq"):
            problems.append(
                f"bits: {method} has bits of its own, got {self.bits}; use method rtn or gptq, or remove the key"
            )
        if self.group_size is not None and method not in GROUPED:
            problems.append(f"group_size: {method} has no groups of its own, got {self.group_size}; remove the key")
        if self.group_size is not None and self.group_size != WHOLE_ROW and self.group_size < 8:
            problems.append(f"group_size: too small, got {self.group_size}; at least 8, or -1 for a whole row")
        if self.symmetric is not None and method not in GROUPED:
            problems.append(f"symmetric: {method} knows one way only, got {self.symmetric}; remove the key")
        if self.act_order and method != "gptq":
            problems.append(f"act_order: of gptq alone, got method {method}; remove the key")
        if self.average_bits is not None and method not in MIXED:
            problems.append(
                f"average_bits: for {', '.join(MIXED)}, got method {method}; use one of them, or remove the key"
            )
        if self.average_bits is not None and self.bits is not None:
            problems.append("bits: chosen by average_bits, got both; remove one of them")
        if self.leave_out and method not in (*GROUPED, *DISTILLED):
            problems.append(
                f"leave_out: not for {method}; use one of {', '.join((*GROUPED, *DISTILLED))}, or remove the key"
            )
        if method in DISTILLED:
            problems += self.distill.refused()
        if problems:
            raise ValueError("\nquantize.".join(problems))
        return self

    @property
    def width(self) -> int:
        """Bits of a weight, before a mix."""
        return self.bits or BITS.get(self.method, 4)

    def quantizes(self, layer: str) -> bool:
        """Whether a layer, as the files name it, is made smaller."""
        if LAYERS.fullmatch(layer) is None or ".layers." not in layer:
            return False
        return not any(fnmatch.fnmatchcase(layer, pattern) for pattern in self.leave_out)

    def placed(self, folder: Path) -> Config:
        """Paths made absolute."""
        from jielong.recipe import absolute

        return self.model_copy(update={"calibration": tuple(absolute(path, folder) for path in self.calibration)})

    def result_fields(self) -> dict[str, Any]:
        """Without the places of the files: their content is what counts, and it is hashed; and without what the method does not read."""
        values = super().result_fields()
        values["calibration"] = [Path(path).name for path in values["calibration"]]
        if self.method not in DISTILLED:
            values.pop("distill", None)
        return values


def with_options(options: dict[str, Any]) -> Config:
    """A [quantize] table of options (None: not given). Raises RecipeError listing every problem."""
    return parse_section("quantize", Config, {key: value for key, value in options.items() if value is not None})


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be a model to make smaller, of a kind that the method knows."""
    quantize, model = sections["quantize"], sections.get("model")
    assert isinstance(quantize, Config)
    problems = []
    if not {"train", "tune"} & sections.keys() and getattr(sections.get("align"), "method", "reward") == "reward":
        problems.append(
            "quantize: needs a stage that makes a model which writes, train, tune or align; add a [train] table"
        )
    if isinstance(model, ModelConfig) and model.base is None:
        problems += [f"quantize.{problem}" for problem in against_model(quantize, model)]
    return problems


def against_model(config: Config, model: ModelConfig) -> list[str]:
    """What of the table does not go with a model's shape: problems, each one sentence beginning with the field's name."""
    problems = []
    if model.num_experts is not None and config.method not in ROUNDING:
        problems.append(f"method: {config.method} is for dense models, got one with experts; use int8, int4 or rtn")
    if model.num_experts is not None and config.average_bits is not None:
        problems.append("average_bits: for dense models, got one with experts; remove the key")
    outputs = (model.hidden_size, model.num_attention_heads * model.size_of_head, model.num_key_value_heads * model.size_of_head,
               model.feed_forward_size)  # fmt: skip
    if config.method == "awq" and (odd := [size for size in outputs if size % AWQ_ROWS]):
        problems.append(
            f"method: gptqmodel's awq takes matrices whose rows are a multiple of {AWQ_ROWS}, got one of {odd[0]}; use gptq"
        )
    if config.method == "bitnet" and (odd := [size for size in outputs if size % 4]):
        problems.append(f"method: bitnet packs four rows into one, got a matrix of {odd[0]} rows; use onebit")
    if config.group_size not in (None, WHOLE_ROW):
        sizes = sorted({model.hidden_size, model.num_attention_heads * model.size_of_head, model.feed_forward_size})
        bad = [size for size in sizes if size % config.group_size]
        if bad:
            problems.append(
                f"group_size: does not divide the rows of every matrix, got {config.group_size} for rows of "
                f"{', '.join(map(str, bad))}; take one that does, or -1 for a whole row"
            )
    return problems
