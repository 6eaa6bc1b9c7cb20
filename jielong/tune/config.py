"""The recipe's [tune] table: where the conversations are and what of them is learned; how, is said as in [train]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from jielong.recipe import Section, absolute, harmless
from jielong.runs import model_folder
from jielong.train.config import Config as TrainConfig
from jielong.train.config import check_together as check_train

EPOCHS = 3.0  # where no budget is given; Stanford's Alpaca was read three times, too


class Source(Section):
    """One named source of conversations."""

    name: str = Field(description="name of the source, in counts and rejects", min_length=1)
    path: str = Field(
        description="a file, a folder (searched below), a glob; also a URL, a dataset (hf:owner/name, modelscope:owner/name); "
        "relative to the recipe's folder",
        min_length=1,
    )
    pair: tuple[str, str] | None = Field(
        None,
        description="fields or columns that hold question and answer; none: the form is found by the names of the fields",
        strict=False,
    )
    encoding: str = Field("auto", description="encoding of the files, for example gb18030; auto: by the bytes of each")
    max_documents: int | None = Field(None, description="records read, from the first on; none: all", ge=1)
    validation: bool = Field(False, description="hold all of it out for validation")


class Config(TrainConfig):
    """Conversations, and how a model is tuned on them: every key of [train], some with another default, and these."""

    base: str | None = Field(
        None,
        description="a model folder (Hugging Face's, or a run's folder: its newest checkpoint) to tune; none: what [train] made",
        min_length=1,
    )
    sources: tuple[Source, ...] = Field(description="where the conversations are", strict=False, min_length=1)
    validation_share: float = Field(
        0.02,
        description="share of the conversations held out, chosen by a hash of their first question, at least one; sources that are "
        "held out whole are not counted",
        ge=0,
        lt=0.5,
    )
    learned: Literal["answers", "last"] = Field(
        "answers", description="answers: every answer is learned; last: only the last one of each conversation"
    )
    template: str | None = Field(
        None, description="file of a chat template (Jinja) in place of the tokenizer's own", min_length=1
    )
    system: str | None = Field(None, description="system message for conversations that have none", min_length=1)
    max_turn_characters: int = Field(50_000, description="a conversation with a longer turn is set aside", ge=1)
    min_answer_characters: int = Field(
        1,
        description="a conversation that teaches a shorter answer is set aside, characters without white space around",
        ge=1,
    )
    neftune_alpha: float | None = Field(
        None,
        description="noise on the embeddings while tuning (NEFTune, arXiv:2310.05914; 5 is usual); none: no noise",
        gt=0,
    )
    epochs: float | None = Field(
        None, description=f"passes over the conversations; this or tokens, default {EPOCHS:g}", gt=0
    )
    packing: Literal["packed", "whole", "truncated"] = Field(
        "whole",
        description="whole: as many conversations in a row as fit, none is divided; nothing else is possible here",
    )
    learning_rate: float = Field(
        3e-5, description="peak learning rate; for all weights about 3e-5, for an adapter about 1e-4", gt=0
    )
    warmup_ratio: float = Field(0.03, description="share of the steps in which the learning rate rises", ge=0, lt=1)
    weight_decay: float = Field(0.0, description="decoupled weight decay on matrices, none on norms and biases", ge=0)

    sample_prompts: tuple[str, ...] = harmless(
        ("你好，你是谁？", "为什么天空是蓝色的？", "请写一首关于春天的短诗。"), "questions of the samples", strict=False
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        """In place of [train]'s own, which follows: a problem with conversations is told as one."""
        if self.packing != "whole":
            raise ValueError(
                f"packing: conversations are never divided, got {self.packing}; must be whole; remove the key"
            )
        if self.mix is not None:
            raise ValueError(
                "mix: conversations have no mix, all of them are read; got one; remove it, or remove a source"
            )
        for number, phase in enumerate(self.phases):
            if phase.weights or phase.temperature:
                key = "weights" if phase.weights else "temperature"
                raise ValueError(
                    f"phases.{number}.{key}: conversations have no mix, all of them are read; got one; remove it"
                )
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"sources: two sources have the same name, got {', '.join(twice)}; give each its own name")
        if all(source.validation for source in self.sources):
            raise ValueError(
                "sources: all of them are held out, got nothing to learn from; add one without validation = true"
            )
        if not self.validation_share and not any(source.validation for source in self.sources):
            raise ValueError(
                "validation_share: nothing is held out, got 0; must be above 0 where no source has validation = true; raise it"
            )
        further: Any = super()._check  # the method, whatever pydantic's plugin takes it for
        further()
        return self

    def settled(self) -> Config:
        """With the budget that holds where the recipe names none: EPOCHS passes."""
        named = self.epochs or self.tokens or (self.phases and self.phases[0].share is None)
        return self if named else self.model_copy(update={"epochs": EPOCHS})

    def parts(self) -> list[tuple[str, TrainConfig]]:
        """Each phase as a Config, with its place in the recipe: "tune.phases.0"; without phases the run, "tune"."""
        return [(re.sub("^train", "tune", place), part) for place, part in super().parts()]

    def placed(self, folder: Path) -> Config:
        """Paths made absolute: those of the sources, of the template and of the base."""
        sources = tuple(one.model_copy(update={"path": absolute(one.path, folder)}) for one in self.sources)
        template = None if self.template is None else str(Path(folder, Path(self.template).expanduser()))
        base = None if self.base is None else (folder / Path(self.base).expanduser()).resolve()
        found = None if base is None else str(model_folder(base) or base)
        return self.model_copy(update={"sources": sources, "template": template, "base": found})

    def result_fields(self) -> dict[str, Any]:
        """Without the places of the files: their content is what counts, and it is hashed."""
        values = super().result_fields()
        for row in values["sources"]:
            row["path"] = row["path"] if row["path"].startswith(("hf:", "modelscope:")) else Path(row["path"]).name
        for name in ("template", "base"):
            values[name] = None if values[name] is None else Path(values[name]).name
        return values


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be a model to tune; rows must fit it and steps be whole rows, as in [train]."""
    tune = sections["tune"]
    assert isinstance(tune, Config)
    if tune.base is None and "train" not in sections:
        return ["tune: needs a model to begin with; give tune.base, or add a [train] table"]
    model = sections.get("model")
    if tune.base is not None:
        model = None
        if (Path(tune.base) / "config.json").is_file():  # else it is told when the stage is made
            from jielong.model.hf_config import from_hf_config, read_config

            model = from_hf_config(read_config(Path(tune.base)), tune.base)
    plain = tune.model_copy(update={"adapter": None})  # it stands beside what [train] made, or beside the base
    found = check_train({**({"model": model} if model is not None else {}), "train": plain})
    return [re.sub("^train", "tune", problem) for problem in found if not problem.startswith("train: needs the stage")]
