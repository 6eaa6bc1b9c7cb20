"""The tune stage: conversations to token shards with a mask, then the same training as in [train], on answers.

tune/
  tokenizer/       the base's, with the chat template that was used
  data/            shards/, rejects/, conversations.json and report.html (preparing.py); there, or not at all
  checkpoints/, metrics.jsonl, samples.jsonl, history.jsonl      as in train/
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from jielong.errors import RecipeError
from jielong.progress import say
from jielong.runs import StageContext, publish, write_json, write_text
from jielong.tokenizer.chat.templates import ChatTemplate, template_of
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.tune.config import Config

if TYPE_CHECKING:
    from jielong.train.job import Generate, Sample, Validate

FORMAT = 1
TOKENIZER, DATA = "tokenizer", "data"
COUNTED = (
    "read",
    "train",
    "validation",
    "rejected",
    "shortened",
    "tokens",
    "learned_tokens",
)  # of conversations.json, for the manifest


def inputs(config: Config, folder: Path) -> list[tuple[str, Any]]:
    """Files outside the run that determine the result: the conversations, a template, a base."""
    from jielong.tune import sources

    found: list[tuple[str, Any]] = list(sources.inputs(config, folder))
    if config.base is not None:
        from jielong.model.bases import base_files

        base = Path(config.base)
        names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
        found += [*base_files(base), *((f"base/{name}", base / name) for name in names if (base / name).is_file())]
    return found


def run(
    config: Config, context: StageContext, folder: Path, validate: Validate, sample: Sample,
    generate: Generate | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Tune in context.out; return the counts for the manifest."""
    from jielong.model.bases import stops_of
    from jielong.model.hf import from_hf_config, read_config
    from jielong.train.checkpoints import require_newest
    from jielong.train.stage import Material, train_on
    from jielong.tune.preparing import prepare

    config = config.settled()
    base = Path(config.base) if config.base is not None else require_newest(context.run.checkpoints)
    shape = from_hf_config(read_config(base), str(base / "config.json"))
    given = open_folder(base)
    template = open_template(config, given)
    place, data = context.out / TOKENIZER, context.out / DATA
    length = config.sequence_length or shape.max_position_embeddings

    def make() -> None:
        if not place.is_dir():
            write_tokenizer(given, template, place)
        if not data.is_dir():
            prepare(config, open_folder(place), length, data, context.seed)
        for split in ("train", "validation"):
            Shards(data / "shards", split).verify()

    def opened() -> TokenizerFolder:
        found = open_folder(place)
        stops = frozenset((*stops_of(base), *ChatTemplate(found).stops))
        return dataclasses.replace(found, start_id=read_config(base).get("bos_token_id"), stop_ids=stops)

    built = context.run.manifest("model")
    attention = built["section"]["attention"] if built is not None and config.base is None else "auto"
    say(f"tune: {base} goes on from here")
    material = Material(base, data / "shards", opened, attention, make, config.neftune_alpha)
    counts = train_on(config, context, material, validate, sample, generate)
    report = orjson.loads((data / "conversations.json").read_bytes())
    told = {key: value for key, value in report.items() if key in COUNTED}
    return counts | {"base": str(base.resolve()), "conversations": told}


def open_template(config: Any, tokenizer: TokenizerFolder, table: str = "tune") -> ChatTemplate:
    """The template that conversations are written with, as the table of a stage says. Raises RecipeError where its tokens are not in the
    vocabulary.
    """
    from jielong.tune.sources import template_text

    template = ChatTemplate(tokenizer, template_text(config, Path.cwd(), table))
    if not template.ends:
        raise RecipeError(
            f"{table}.template: the tokenizer has none of the template's special tokens as one, so that no answer would have an end; "
            f"give a template for {tokenizer.path}, or extend it"
        )
    return template


def write_tokenizer(tokenizer: TokenizerFolder, template: ChatTemplate, out: Path) -> None:
    """A tokenizer's folder with the template in it; published whole."""
    partial = out.with_name(f".{out.name}.partial")
    copy_folder(tokenizer, partial)
    if template_of(open_folder(partial)) != template.source:
        path = partial / "tokenizer_config.json"
        table = orjson.loads(path.read_bytes())
        table.pop("chat_template", None)  # the file is read first, by us and by transformers
        write_json(path, table)
        write_text(partial / "chat_template.jinja", template.source)
    publish(partial, out)
