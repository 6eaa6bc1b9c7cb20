"""The recipe's [align] table: by which method a tuned model is aligned, on what, and what answers are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from jielong.recipe import Section, absolute, harmless
from jielong.runs import model_folder, scorer_folder
from jielong.train.config import Loop

Method = Literal["dpo", "ipo", "robust", "simpo", "orpo", "kto", "reward", "ppo", "grpo", "rloo"]
Kind = Literal["pairs", "unpaired", "prompts"]
EPOCHS = 1.0  # where no budget is given

# what each method learns from
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("dpo", "ipo", "robust", "simpo", "orpo", "reward"), "pairs"),
    "kto": "unpaired",
    **dict.fromkeys(("ppo", "grpo", "rloo"), "prompts"),
}
ONLINE = ("ppo", "grpo", "rloo")  # the model writes the answers that it learns from
BETAS = {
    "dpo": 0.1,
    "ipo": 0.1,
    "robust": 0.1,
    "simpo": 2.0,
    "orpo": 0.1,
    "kto": 0.1,
    "ppo": 0.05,
    "grpo": 0.02,
    "rloo": 0.05,
}


class Source(Section):
    """One named source of preferences or prompts."""

    name: str = Field(description="name of the source, in counts and rejects", min_length=1)
    path: str = Field(
        description="a file, a folder (searched below), a glob, builtin:arithmetic-zh, builtin:arithmetic-zh-easy; also a URL, a dataset (hf:owner/name, "
        "modelscope:owner/name); relative to the recipe's folder",
        min_length=1,
    )
    fields: dict[str, str] = Field(
        {},
        description="which fields of the records hold prompt, chosen, rejected, completion, label, margin where they have other names, "
        'for example { prompt = "question", chosen = "good" }',
    )
    encoding: str = Field("auto", description="encoding of the files, for example gb18030; auto: by the bytes of each")
    max_documents: int | None = Field(None, description="records read, from the first on; none: all", ge=1)
    validation: bool = Field(False, description="hold all of it out for validation")


class Reward(Section):
    """What an answer is worth: one of `function`, `model` and `built_in`. Several are added up by their weights."""

    name: str = Field(
        "", description="its name in metrics and messages; empty: that of the function, or of what is built in"
    )
    function: str | None = Field(
        None,
        description="Python: FILE.py:NAME, or module:NAME, called as NAME(prompts=[...], completions=[...], **columns) -> a number for each",
        min_length=1,
    )
    model: str | None = Field(
        None,
        description="folder of a reward model; reward: the one that this recipe trains by [align.reward]",
        min_length=1,
    )
    built_in: Literal["length", "ends", "matches", "answer"] | None = Field(
        None,
        description="length: 1 between min_characters and max_characters; ends: 1 where the answer stops by itself and ends with one of "
        "`endings`; matches: 1 where `pattern` is found; answer: 1 where the last number is that of the record's field `answer`, or its text",
    )
    weight: float = Field(1.0, description="what it is multiplied by")
    min_characters: int = Field(1, description="length: at least so many characters", ge=0)
    max_characters: int = Field(200, description="length: at most so many characters", ge=1)
    endings: tuple[str, ...] = Field(("。", "！", "？"), description="ends: what an answer may end with", strict=False)
    pattern: str = Field("", description="matches: a regular expression (Python's)")

    @model_validator(mode="after")
    def _check(self) -> Reward:
        given = [key for key in ("function", "model", "built_in") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"function, model, built_in: one of them says what a reward is, got {', '.join(given) or 'none'}; give one"
            )
        if self.function is not None and ":" not in self.function:
            raise ValueError(
                f"function: no name in it, got {self.function!r}; write FILE.py:NAME, for example rewards.py:polite"
            )
        if self.built_in == "length" and self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters: above max_characters, got {self.min_characters}; must be at most {self.max_characters}; lower it"
            )
        if self.built_in == "matches":
            _check_pattern(self.pattern)
        return self

    @property
    def label(self) -> str:
        """Its name in metrics and messages."""
        own = (self.function or "").rpartition(":")[2]
        return self.name or own or self.built_in or f"model {Path(self.model or '').name}"


def _check_pattern(pattern: str) -> None:
    import re

    if not pattern:
        raise ValueError("pattern: empty, and the reward looks for it; give a regular expression")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern: no regular expression ({error}), got {pattern!r}; correct it") from None


class Examples(Loop):
    """What all of this stage's trainings say: where the examples are, how long they may be, and how many make a step."""

    rivals: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"epochs", "steps"}),)

    sources: tuple[Source, ...] = Field(description="where the preferences or prompts are", strict=False, min_length=1)
    validation_share: float = Field(
        0.05,
        description="share of the examples held out, chosen by a hash of their prompt, at least one; sources that are held out whole "
        "are not counted",
        ge=0,
        lt=0.5,
    )
    max_turn_characters: int = Field(50_000, description="an example with a longer turn is set aside", ge=1)
    max_length: int | None = Field(
        None,
        description="tokens of a prompt with its answer; longer ones are set aside; none: the model's context",
        ge=8,
    )
    epochs: float | None = Field(None, description=f"passes over the examples; this or steps, default {EPOCHS:g}", gt=0)
    steps: int | None = Field(None, description="optimizer steps; this or epochs", ge=1)
    batch_size: int = Field(32, description="pairs, answers or prompts in one optimizer step", ge=1)
    micro_batch_size: int = harmless(
        8, "at most so many of them go through the model at once; a step accumulates gradients over them", ge=1
    )
    learning_rate: float = Field(
        1e-5, description="peak learning rate; for all weights about 1e-6 to 1e-5, for an adapter ten times that", gt=0
    )
    warmup_ratio: float = Field(0.1, description="share of the steps in which the learning rate rises", ge=0, lt=1)
    weight_decay: float = Field(0.0, description="decoupled weight decay on matrices, none on norms and biases", ge=0)
    evaluate_every_steps: int | None = harmless(
        20, "held-out examples are measured every so many steps, and at the end; none: at the end", ge=1
    )
    sample_every_steps: int | None = harmless(20, "answer the sample prompts every so many steps; none: never", ge=1)
    validation_examples: int = harmless(200, "held-out examples that are measured, at most", ge=1)

    def settled(self) -> Any:
        """With the budget that holds where the recipe names none: EPOCHS passes."""
        return self if self.epochs or self.steps else self.model_copy(update={"epochs": EPOCHS})

    def check_sources(self) -> None:
        """Raises ValueError."""
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
        if self.epochs is not None and self.steps is not None:
            raise ValueError("epochs: given together with steps; a run has one budget; remove one of them")

    def result_fields(self) -> dict[str, Any]:
        """Without the places of the files: their content is what counts, and it is hashed."""
        values = super().result_fields()
        for row in values["sources"]:
            row["path"] = (
                row["path"] if row["path"].startswith(("hf:", "modelscope:", "builtin:")) else Path(row["path"]).name
            )
        return values


class RewardModel(Examples):
    """A reward model, trained on pairs before the policy: [align.reward]."""

    center: float = Field(
        0.01,
        description="weight of the square of a pair's two rewards, which keeps them around 0 (arXiv:2312.09244)",
        ge=0,
    )

    @model_validator(mode="after")
    def _check(self) -> RewardModel:
        self.check_sources()
        return self


class Config(Examples):
    """A method of alignment. Quantities are in examples; a step is one optimizer step."""

    method: Method = Field(
        description="from pairs: dpo (arXiv:2305.18290), ipo (2310.12036), robust (2403.00409), simpo (2405.14734), orpo (2403.07691), "
        "reward (a reward model); from answers marked good or bad: kto (2402.01306); from prompts: ppo, grpo (2402.03300), rloo (2402.14740)"
    )
    base: str | None = Field(
        None,
        description="a model folder (Hugging Face's, or a run's folder: its newest checkpoint) to align; none: what [tune] made, or [train]",
        min_length=1,
    )
    template: str | None = Field(
        None, description="file of a chat template (Jinja) in place of the tokenizer's own", min_length=1
    )
    system: str | None = Field(None, description="system message for examples that have none", min_length=1)
    beta: float | None = Field(
        None,
        description="how much staying near the reference weighs; none: "
        + ", ".join(f"{method} {value:g}" for method, value in BETAS.items()),
        ge=0,
    )
    label_smoothing: float = Field(
        0.1, description="robust: share of pairs whose order is taken to be wrong", ge=0, lt=0.5
    )
    margin: float = Field(
        0.5, description="simpo: by how much a chosen answer is to be better, as a share of beta", ge=0
    )
    desirable_weight: float = Field(1.0, description="kto: weight of good answers", gt=0)
    undesirable_weight: float = Field(1.0, description="kto: weight of bad answers", gt=0)
    center: float = Field(
        0.01, description="reward: weight of the square of a pair's two rewards, which keeps them around 0", ge=0
    )
    rewards: tuple[Reward, ...] = Field(
        (), description="ppo, grpo, rloo: what an answer is worth, added up", strict=False
    )
    reward: RewardModel | None = Field(
        None, description='a reward model that is trained first, for a reward with model = "reward"'
    )
    answers: int = Field(8, description="grpo, rloo: answers that are compared, to each prompt", ge=2, le=256)
    max_new_tokens: int = Field(128, description="ppo, grpo, rloo: length of an answer, tokens", ge=1)
    temperature: float = Field(1.0, description="ppo, grpo, rloo: of the answers that are learned from", gt=0)
    passes: int = Field(1, description="ppo, grpo, rloo: passes over the same answers", ge=1, le=64)
    clip: float = Field(
        0.2, description="ppo, grpo, rloo: a probability may change by this share before its gradient ends", gt=0, lt=1
    )
    gae_lambda: float = Field(
        0.95, description="ppo: decay of the advantage's later terms (arXiv:1506.02438)", ge=0, le=1
    )
    discount: float = Field(1.0, description="ppo: of later rewards, a token", gt=0, le=1)
    value_weight: float = Field(0.1, description="ppo: of the value's squared error", ge=0)
    no_end_reward: float | None = Field(
        None, description="ppo, grpo, rloo: the reward of an answer that does not end by itself; none: as any other"
    )
    judge: str | None = Field(
        None,
        description="what compares the model's answers to held-out prompts with the base's in the end: FILE.py:NAME, or the folder of a "
        "reward model; none: the rewards, where there are some",
        min_length=1,
    )
    judged_prompts: int = harmless(50, "held-out prompts that both answer in the end; 0: none", ge=0)
    sample_prompts: tuple[str, ...] = harmless(
        (), "prompts of the samples; none: the first held-out ones", strict=False
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        self.check_sources()
        if self.method in ONLINE and not self.rewards:
            raise ValueError(
                f'rewards: none given, and {self.method} learns from them; add rewards = [{{ built_in = "length" }}], say'
            )
        if self.method not in ONLINE and self.rewards:
            raise ValueError(
                f"rewards: {self.method} learns from examples, got {len(self.rewards)} rewards; remove them"
            )
        if self.beta == 0 and self.method in ("dpo", "ipo", "robust", "simpo", "kto"):
            raise ValueError(f"beta: nothing would be learned, got 0 with {self.method}; must be above 0; raise it")
        labels = [reward.label for reward in self.rewards]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"rewards: two have the same name, got {', '.join(twice)}; give each its own name")
        wanted = any(reward.model == "reward" for reward in self.rewards)
        if wanted and self.reward is None:
            raise ValueError(
                'reward: no such table, and a reward has model = "reward"; add [align.reward] with its sources'
            )
        if self.reward is not None and not wanted:
            raise ValueError(
                'reward: trained for nobody, as no reward has model = "reward"; add one, or remove [align.reward]'
            )
        if self.adapter is not None and self.optimizer == "muon":
            raise ValueError(
                'optimizer: Muon is for whole weights, not for an adapter, got "muon"; use adamw, or remove adapter'
            )
        return self

    @property
    def kind(self) -> Kind:
        """What the method learns from."""
        return KINDS[self.method]

    @property
    def pull(self) -> float:
        """`beta`, or what is usual for the method."""
        return self.beta if self.beta is not None else BETAS.get(self.method, 0.0)

    def placed(self, folder: Path) -> Config:
        """Paths made absolute: those of sources, template, base, rewards and judge."""
        base = None if self.base is None else (folder / Path(self.base).expanduser()).resolve()
        found = None if base is None else str(model_folder(base) or base)
        rewards = tuple(
            reward.model_copy(
                update={"function": _placed(reward.function, folder), "model": _model_placed(reward.model, folder)}
            )
            for reward in self.rewards
        )
        reward = (
            None if self.reward is None else self.reward.model_copy(update={"sources": _sources(self.reward, folder)})
        )
        return self.model_copy(
            update={
                "sources": _sources(self, folder),
                "template": None if self.template is None else str(Path(folder, Path(self.template).expanduser())),
                "base": found,
                "rewards": rewards,
                "reward": reward,
                "judge": _placed(self.judge, folder)
                if self.judge and ":" in self.judge
                else _model_placed(self.judge, folder),
            }
        )

    def result_fields(self) -> dict[str, Any]:
        """Without the places of the files: their content is what counts, and it is hashed."""
        values = super().result_fields()
        for name in ("template", "base", "judge"):
            values[name] = None if values[name] is None else Path(values[name]).name
        for row in values["rewards"]:
            row |= {key: None if row[key] is None else Path(row[key]).name for key in ("function", "model")}
        if self.reward is not None:
            values["reward"] = self.reward.result_fields()
        return values


def _sources(config: Examples, folder: Path) -> tuple[Source, ...]:
    return tuple(one.model_copy(update={"path": absolute(one.path, folder)}) for one in config.sources)


def _placed(function: str | None, folder: Path) -> str | None:
    """FILE.py:NAME with its file made absolute; module:NAME as it is."""
    if function is None:
        return None
    file, _, name = function.rpartition(":")
    return f"{Path(folder, Path(file).expanduser())}:{name}" if file.endswith(".py") else function


def _model_placed(model: str | None, folder: Path) -> str | None:
    if model is None or model == "reward":
        return model
    place = (folder / Path(model).expanduser()).resolve()
    return str(scorer_folder(place) or place)


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be a model to align."""
    align = sections["align"]
    assert isinstance(align, Config)
    if align.base is None and not {"train", "tune"} & sections.keys():
        return ["align: needs a model to begin with; give align.base, or add a [tune] table"]
    return []
