"""The align stage: examples with their tokens, a reward model where one is asked for, then the policy, and what came of it.

align/
  tokenizer/       the base's, with the chat template that was used
  data/            train.arrow, validation.arrow, rejects/, preferences.json and report.html (preparing.py); there, or not at all
  reward/          of [align.reward]: data/ and checkpoints/, metrics.jsonl, history.jsonl as below
  checkpoints/, metrics.jsonl, samples.jsonl, history.jsonl      as in train/
  judged.json      the model beside its base, on held-out prompts
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from jielong.align.config import ONLINE, Config, Examples, RewardModel
from jielong.errors import DataError, InputError, MissingExtraError, RecipeError
from jielong.progress import say
from jielong.runs import StageContext, write_json, writes
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tune.stage import open_template, write_tokenizer

if TYPE_CHECKING:
    from jielong.align.methods.interface import Write
    from jielong.train.job import Generate, Sample

FORMAT = 1
TOKENIZER, DATA, REWARD, JUDGED = "tokenizer", "data", "reward", "judged.json"
COUNTED = ("read", "train", "validation", "rejected")  # of preferences.json, for the manifest
CUTTING = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")  # of a model's folder
PACKAGES = {"trl": "by the align stage", "peft": "for adapters"}

Answered = Callable[
    [Path, list[list[int]], int, frozenset[int]], list[list[int]]
]  # (model, prompts, length, stops) -> answers


def inputs(config: Config, folder: Path) -> list[tuple[str, Any]]:
    """Files outside the run that determine the result: examples, a template, a base, functions and models of rewards."""
    from jielong.align import sources

    found: list[tuple[str, Any]] = list(sources.inputs(config, folder))
    if config.reward is not None:
        found += [(f"reward/{label}", file) for label, file in sources.inputs(config.reward, folder, "align.reward")]
    if config.template is not None:
        found.append(("template", Path(config.template)))
    given = {f"rewards/{reward.label}": reward for reward in config.rewards}
    functions = {label: reward.function for label, reward in given.items()} | {"judge": config.judge}
    for label, function in functions.items():
        if function is not None and ".py:" in function:
            file = Path(function.rpartition(":")[0])
            if not file.is_file():
                raise InputError(
                    f"align.{label.partition('/')[0]}: no such file, got {file}; give FILE.py:NAME of one that is there"
                )
            found.append((label, file))
    models = {"base": config.base} | {
        label: reward.model for label, reward in given.items() if reward.model != "reward"
    }
    if config.judge is not None and ":" not in config.judge:
        models["judge"] = config.judge
    for label, model in models.items():
        if model is not None:
            from jielong.model.bases import base_files

            found += [(f"{label}/{name}", file) for name, file in base_files(Path(model))]
            found += [(f"{label}/{name}", file) for name in CUTTING if (file := Path(model) / name).is_file()]
    return found


def run(
    config: Config, context: StageContext, folder: Path, write: Write, sample: Sample, generate: Generate | None = None,
    answered: Answered | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Align in context.out; return the counts for the manifest.

    write: answers of a model that is trained. answered: answers of a model folder, for the judge.
    """
    from jielong.align.training import check_table, one_process
    from jielong.model.bases import stops_of
    from jielong.model.hf import from_hf_config, read_config
    from jielong.trackers import check_trackers
    from jielong.train.loop import graceful_stop
    from jielong.world import this_world

    config = config.settled()
    one_process(this_world())
    check_packages(config)
    check_trackers(config.trackers)
    base = base_of(config, context)
    shape = from_hf_config(read_config(base), str(base / "config.json"))
    check_table(config, config, config.method, base, shape)
    if config.reward is not None:
        check_table(config, config.reward, "reward", base, shape)
    if config.method != "reward" and not writes(base):
        raise RecipeError(f"align.base: a reward model, which writes no text, got {base}; give a language model")
    given = open_folder(base)
    template = open_template(config, given, "align")
    rewards = opened_rewards(config, context.out)  # what a recipe's mistake would end later on is opened now
    with graceful_stop() as stop:
        context.begin()
        place = context.out / TOKENIZER
        if not place.is_dir():
            write_tokenizer(given, template, place)
        found = open_folder(place)
        stops = frozenset(ChatTemplate(found).stops)
        own = dataclasses.replace(
            found, start_id=read_config(base).get("bos_token_id"), stop_ids=frozenset((*stops_of(base), *stops))
        )
        ask = _Training(config, context, base, own, stops, attention_of(context, config), write, sample, generate, stop)
        say(f"align: {base} goes on from here")
        counts = dict[str, Any]()
        if config.reward is not None:
            reward = config.reward.settled()
            assert isinstance(reward, RewardModel)
            made = ask.train(reward, "reward", context.out / REWARD, [])
            counts["reward"] = {
                key: made[key] for key in made if key.startswith("validation_") or key in ("steps", "examples")
            }
        counts |= ask.train(config, config.method, context.out, rewards())
        counts |= {"base": str(base.resolve()), "examples_prepared": ask.prepared}
        if config.method != "reward" and answered is not None and config.judged_prompts and not stop():
            counts["judged"] = judged(config, context.out, base, own, stops, answered, rewards())
    return counts


class _Training:
    """What the trainings of the stage share."""

    def __init__(
        self, config: Config, context: StageContext, base: Path, tokenizer: TokenizerFolder, stops: frozenset[int], attention: str,
        write: Write, sample: Sample, generate: Generate | None, stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.config, self.context, self.base, self.tokenizer, self.stops = config, context, base, tokenizer, stops
        self.attention, self.write, self.sample, self.generate, self.stop = attention, write, sample, generate, stop
        self.prepared: dict[str, Any] = {}

    def train(self, examples: Examples, method: str, folder: Path, rewards: list[Any]) -> dict[str, Any]:
        """One training, its examples first."""
        from jielong.align.config import KINDS
        from jielong.align.preparing import prepare
        from jielong.align.training import Material, train_method
        from jielong.model.hf import from_hf_config, read_config

        folder.mkdir(parents=True, exist_ok=True)
        data, kind = folder / DATA, KINDS[method]
        if not data.is_dir():
            length = (
                examples.max_length or from_hf_config(read_config(self.base), str(self.base)).max_position_embeddings
            )
            room = self.config.max_new_tokens if method in ONLINE else 0
            template, table = ChatTemplate(self.tokenizer), "align" if folder == self.context.out else "align.reward"
            prepare(examples, kind, template, length - room, data, self.context.seed, self.config.system, table)
        check_fields(rewards, data)
        report = orjson.loads((data / "preferences.json").read_bytes())
        told = {key: value for key, value in report.items() if key in COUNTED}
        self.prepared |= told if folder == self.context.out else {"reward": told}
        silent = method == "reward"
        material = Material(
            self.base, data, self.tokenizer, self.stops, self.attention, self.write, rewards,
            self.sample, None if silent else self.generate,
        )  # fmt: skip
        return train_method(self.config, examples, method, self.context, folder, material, self.stop)


def check_fields(rewards: list[Any], data: Path) -> None:
    """Raises DataError where a reward needs a field of the records that the first prompt has not."""
    from jielong.align.examples import Examples as Stored

    for reward in rewards:
        there = orjson.loads(Stored(data, "train").row(0)["columns"])
        for name in reward.needs:
            if name not in there:
                raise DataError(
                    f"align.rewards: {reward.label} needs the field {name!r} in every record, got {', '.join(there) or 'none'}; add it, or "
                    "take another reward"
                )


def base_of(config: Config, context: StageContext) -> Path:
    """The model folder that is aligned: what the recipe names, else what was tuned, else what was trained."""
    from jielong.train.checkpoints import require_newest

    if config.base is not None:
        return Path(config.base)
    before = "tune" if "tune" in context.upstream else "train"
    return require_newest(context.run.stage(before) / "checkpoints")


def attention_of(context: StageContext, config: Config) -> str:
    """The kernel that the recipe's [model] names, where the model is of this run."""
    built = context.run.manifest("model")
    return str(built["section"]["attention"]) if built is not None and config.base is None else "auto"


def check_packages(config: Config) -> None:
    """Raises MissingExtraError for what is not installed."""
    import importlib.util

    wanted = [] if config.method == "ppo" and config.reward is None else ["trl"]
    wanted += ["peft"] if config.adapter is not None else []
    for package in wanted:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "align", PACKAGES[package])


def opened_rewards(config: Config, folder: Path) -> Callable[[], list[Any]]:
    """The recipe's rewards: functions are opened now, so that what is wrong with them is said at once; models when they are there."""
    from jielong.align.judging import judge_by
    from jielong.align.rewards import open_rewards
    from jielong.align.scoring import check_scorer, open_scorer
    from jielong.train.checkpoints import require_newest

    def score(model: str) -> Any:
        return open_scorer(
            require_newest(folder / REWARD / "checkpoints") if model == "reward" else Path(model), config.device
        )

    models = [reward.model for reward in config.rewards if reward.model not in (None, "reward")]
    for model in [*models, *([config.judge] if config.judge is not None and ":" not in config.judge else [])]:
        check_scorer(Path(str(model)))
    early = tuple(reward for reward in config.rewards if reward.model is None)
    open_rewards(early, None)
    if config.judge is not None and ":" in config.judge:
        judge_by(config.judge, [], config.device)
    return lambda: open_rewards(config.rewards, score)


def judged(
    config: Config,
    folder: Path,
    base: Path,
    tokenizer: TokenizerFolder,
    stops: frozenset[int],
    answered: Answered,
    rewards: list[Any],
) -> dict[str, Any]:
    """The model's answers to held-out prompts beside the base's, by the judge or by the rewards; written to judged.json.

    Without either nothing is judged: {}.
    """
    from jielong.align.examples import Examples as Stored
    from jielong.align.judging import compare, judge_by
    from jielong.train.checkpoints import require_newest

    judge = judge_by(config.judge, rewards, config.device)
    if judge is None:
        return {}
    stored = Stored(folder / DATA, "validation")
    rows = [stored.row(number) for number in range(min(len(stored), config.judged_prompts))]
    prompts = [row["prompt_ids"] for row in rows]
    models = {"after": require_newest(folder / "checkpoints"), "before": base}
    ids = {name: answered(model, prompts, config.max_new_tokens, stops) for name, model in models.items()}
    texts = {name: [tokenizer.decode(answer) for answer in found] for name, found in ids.items()}
    ended = {name: [bool(answer) and answer[-1] in stops for answer in found] for name, found in ids.items()}
    conversations = [orjson.loads(row["messages"]) for row in rows]
    columns = [orjson.loads(row["columns"]) if "columns" in row else {} for row in rows]
    names = dict.fromkeys(name for found in columns for name in found)
    verdicts = compare(
        judge, conversations, texts["after"], texts["before"], {name: [found.get(name) for found in columns] for name in names},
        ended["after"], ended["before"],
    )  # fmt: skip
    found = verdicts.to_json()
    answers = [
        {"messages": asked, "after": after, "before": before, **verdict}
        for asked, after, before, verdict in zip(
            conversations, texts["after"], texts["before"], found.pop("verdicts"), strict=True
        )
    ]
    write_json(folder / JUDGED, {**found, "rows": answers})
    return found
