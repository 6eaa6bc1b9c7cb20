"""What stages that train take from stages to their right: validation, samples, answers to whoever watches.

Called by workflow.py when a training begins, and by it alone.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError
from jielong.recipe import Recipe, parse_section
from jielong.runs import Run

SAMPLED = 3  # held-out prompts that are answered where the recipe names none

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from jielong.infer.config import Config as InferConfig
    from jielong.model.transformer import CausalLM
    from jielong.quantize.text import Text


def training_hooks(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What the train stage takes: validate, sample, generate."""
    from jielong.evaluate.bits import measure
    from jielong.infer.config import Config as InferConfig
    from jielong.infer.generate import continue_prompt
    from jielong.model.config import Config as ModelConfig
    from jielong.runtime import choose_device
    from jielong.tokenizer.folder import open_folder
    from jielong.tokenizer.shards.reading import Shards
    from jielong.train.config import Config as TrainConfig

    train, model = recipe.section("train", TrainConfig), recipe.section("model", ModelConfig)
    infer = recipe.section("infer", InferConfig) if "infer" in recipe.sections else InferConfig()
    if train.adapter is not None:  # EL-attention reads weights of layers that have an adapter beside them
        infer = infer.model_copy(update={"cache": "kv" if infer.cache == "hidden" else infer.cache})
    short = infer.model_copy(update={"max_new_tokens": train.sample_tokens})
    shards = Shards(run.stage("tokenizer") / "shards", "validation")
    shards.verify()
    tokenizer = replace(open_folder(run.stage("tokenizer")), start_id=shards.start_id)
    if "infer" in recipe.sections:
        choose_device(infer.device, "infer.device")  # what would be refused after the training is refused before it
    prompts = train.sample_prompts or infer.prompts
    for prompt in prompts:
        ids, longest = len(tokenizer.encode_prompt(prompt)), model.max_position_embeddings
        if ids >= longest and infer.cache != "rolling" and model.position == "rope":
            raise InputError(
                f"infer.prompts: too long, got {ids} tokens for {prompt[:20]!r}; must be less than "
                f"model.max_position_embeddings {longest}; shorten it"
            )

    def validate(current: CausalLM, autocast: AbstractContextManager[Any]) -> dict[str, float]:
        length = train.sequence_length or model.max_position_embeddings
        rows = max(1, train.micro_batch_tokens // length)
        found = measure(current, shards, length, rows, train.validation_tokens, autocast)
        return {key: found[key] for key in ("loss", "bits_per_byte")}

    def sample(current: CausalLM, step: int) -> list[dict[str, Any]]:
        texts = [continue_prompt(current, tokenizer, p, short, short.seed + n) for n, p in enumerate(prompts)]
        return [{"prompt": row.prompt, "text": row.text} for row in texts]

    def generate(current: CausalLM, texts: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
        config = _with_settings(infer, settings)
        written = [continue_prompt(current, tokenizer, text, config, config.seed + n) for n, text in enumerate(texts)]
        return [asdict(row) for row in written]

    return {"validate": validate, "sample": sample, "generate": generate}


def tuning_hooks(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What the tune stage takes: the loss of held-out answers, answers to the sample questions, answers to whoever watches."""
    from jielong.evaluate.bits import measure
    from jielong.infer.answering import answer_questions
    from jielong.infer.config import Config as InferConfig
    from jielong.runtime import choose_device
    from jielong.tokenizer.folder import TokenizerFolder, open_folder
    from jielong.tokenizer.shards.reading import Shards
    from jielong.tune.config import Config as TuneConfig
    from jielong.tune.stage import DATA, TOKENIZER

    tune = recipe.section("tune", TuneConfig)
    infer = recipe.section("infer", InferConfig) if "infer" in recipe.sections else InferConfig()
    short = infer.model_copy(update={"max_new_tokens": tune.sample_tokens, "cache": "kv", "cache_tokens": None})
    if "infer" in recipe.sections:
        choose_device(infer.device, "infer.device")
    folder = run.stage("tune")

    def tokenizer() -> TokenizerFolder:  # made by the stage, after these were given to it
        return open_folder(folder / TOKENIZER)

    def validate(current: CausalLM, autocast: AbstractContextManager[Any]) -> dict[str, float]:
        length = tune.sequence_length or current.config.max_position_embeddings
        rows = max(1, tune.micro_batch_tokens // length)
        shards = Shards(folder / DATA / "shards", "validation")
        found = measure(current, shards, length, rows, tune.validation_tokens, autocast)
        return {key: found[key] for key in ("loss", "bits_per_byte")}

    def asked(current: CausalLM, questions: list[str], config: InferConfig) -> list[dict[str, Any]]:
        return [asdict(row) for row in answer_questions(current, tokenizer(), questions, config, tune.system or "")]

    def sample(current: CausalLM, step: int) -> list[dict[str, Any]]:
        return [
            {"prompt": row["prompt"], "text": row["text"]} for row in asked(current, list(tune.sample_prompts), short)
        ]

    def generate(current: CausalLM, texts: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
        return asked(current, texts, _with_settings(infer, settings))

    return {"validate": validate, "sample": sample, "generate": generate}


def aligning_hooks(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What the align stage takes: answers to learn from, answers to the sample questions beside those of the base, answers to whoever
    watches, and answers of a folder's model for the judge.
    """

    from jielong.align.config import Config as AlignConfig
    from jielong.align.examples import Examples
    from jielong.align.stage import DATA, TOKENIZER
    from jielong.infer.answering import answer_questions
    from jielong.infer.config import Config as InferConfig
    from jielong.infer.models import open_model
    from jielong.infer.rollouts import rollouts
    from jielong.metrics import read_jsonl
    from jielong.runtime import choose_device
    from jielong.tokenizer.folder import TokenizerFolder, open_folder
    from jielong.train.logbook import SAMPLES

    align = recipe.section("align", AlignConfig)
    infer = recipe.section("infer", InferConfig) if "infer" in recipe.sections else InferConfig()
    short = infer.model_copy(update={"max_new_tokens": align.sample_tokens, "cache": "kv", "cache_tokens": None})
    if "infer" in recipe.sections:
        choose_device(infer.device, "infer.device")
    folder = run.stage("align")

    def tokenizer() -> TokenizerFolder:  # made by the stage, after these were given to it
        return open_folder(folder / TOKENIZER)

    def questions() -> list[str]:
        return list(align.sample_prompts) or Examples(folder / DATA, "validation").questions(SAMPLED)

    def asked(current: CausalLM, texts: list[str], config: InferConfig) -> list[dict[str, Any]]:
        return [asdict(row) for row in answer_questions(current, tokenizer(), texts, config, align.system or "")]

    def sample(current: CausalLM, step: int) -> list[dict[str, Any]]:
        rows = [{"prompt": row["prompt"], "text": row["text"]} for row in asked(current, questions(), short)]
        before = (
            {row["prompt"]: row["text"] for row in read_jsonl(folder / SAMPLES) if row["step"] == 0} if step else {}
        )
        return [row | ({"reference": before[row["prompt"]]} if row["prompt"] in before else {}) for row in rows]

    def generate(current: CausalLM, texts: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
        return asked(current, texts, _with_settings(infer, settings))

    def answered(model: Path, prompts: list[list[int]], length: int, stops: frozenset[int]) -> list[list[int]]:
        opened, _, _ = open_model(str(model), model.parent, align.device, "auto")
        return rollouts(opened, prompts, [0] * len(prompts), 0.0, length, stops)

    return {"write": rollouts, "sample": sample, "generate": generate, "answered": answered}


def _with_settings(infer: InferConfig, settings: dict[str, Any]) -> InferConfig:
    """The [infer] table with settings in place of some of its values. Raises RecipeError for what is out of bounds."""
    given = {**infer.model_dump(), **settings}
    given |= {key: None for key, off in (("top_k", 0), ("top_p", 1)) if given[key] == off}  # as on the command line
    return parse_section("infer", type(infer), given)


def compare_models(models: dict[str, Path], text: Text, folder: Path, tokens: int) -> dict[str, Any]:
    """What the quantize stage takes: models by name, the full one first, measured on a text, with a page and a file in `folder`."""
    from jielong.evaluate.models_compared import COMPARED_TOKENS, ROW, compare
    from jielong.evaluate.models_compared_page import write_page
    from jielong.infer.models import config_folder
    from jielong.model.hf import read_config
    from jielong.runs import write_json

    full = next(iter(models.values()))
    longest = read_config(config_folder(full)).get("max_position_embeddings", ROW)
    rows = text.rows(min(ROW, longest, text.tokens), COMPARED_TOKENS)
    found = compare(models, text.shards, text.documents, rows, tokens)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "compare.json", found)
    write_page(found, folder / "compare.html", full.name)
    return found


def quantizing_hooks(recipe: Recipe, run: Run) -> dict[str, Any]:
    """What the quantize stage takes: the full and the small model measured beside each other."""
    return {"compare": compare_models}
