"""The evaluate stage: bits per byte and per character of the trained model on the validation documents; of a model that went on from
another one, beside what it was before."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.evaluate.config import Config
from jielong.progress import Progress
from jielong.runs import StageContext, trained_stage, write_json
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.temporary import shards_of_files

if TYPE_CHECKING:
    from jielong.model.transformer import CausalLM

FORMAT = 2
LONGEST_ROW = 4096  # tokens; a model with a longer context is measured in rows of this, so that memory stays bounded


def inputs(config: Config, folder: Path) -> list[tuple[str, Any]]:
    """Files outside the run that determine the result: general texts."""
    from jielong.data.reading.readers import expand

    return [(f"general/{file.name}", file) for path in config.general for file in expand(path, folder)]


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write results.json into context.out; return its content as the counts."""
    from jielong.data.documents import split_files
    from jielong.evaluate.before_after import ANSWERS, DOMAIN, base_of, compare
    from jielong.infer.models import choose_type
    from jielong.model.hf import load_folder
    from jielong.runtime import choose_device
    from jielong.train.checkpoints import require_newest

    stage = trained_stage(context.upstream)
    tuned, checkpoint = stage != "train", require_newest(context.run.stage(stage) / "checkpoints")
    found = {}
    if "tokenizer" in context.upstream:
        found[DOMAIN] = Shards(context.run.stage("tokenizer") / "shards", "validation")
    if "tune" in context.upstream:
        found[ANSWERS] = Shards(context.run.stage("tune") / "data" / "shards", "validation")
    for shards in found.values():
        shards.verify()
    first = next(iter(found))  # the figure of the run: documents, and answers where there are none
    model, device = (
        load_folder(checkpoint),
        choose_device("auto"),
    )  # in the type of its file where the device is fast at it
    results = evaluate(model.to(device, choose_type("auto", device, model.stored_dtype)), found[first], config)
    del model
    base = base_of(context)
    if base is not None:

        def measure(model: CausalLM, tokenizer: TokenizerFolder) -> dict[str, float]:
            texts = {
                f"general: {name}": [path] for name, path in zip(_names(config.general), config.general, strict=True)
            }
            rows = {}
            for name, shards in found.items():
                if shards.vocab_size == tokenizer.size:
                    measured = evaluate(model, shards, config)
                    rows[name] = measured["bits_per_byte"]
                    if name == DOMAIN and len(measured["by_source"]) > 1:
                        rows |= {f"{name}: {one}": row["bits_per_byte"] for one, row in measured["by_source"].items()}
                elif name == DOMAIN:  # cut by another tokenizer, one that was extended since: the text is cut anew
                    texts[name] = [
                        str(path) for path in split_files(context.run.stage("data") / "documents", "validation")
                    ]
            return rows | {
                name: evaluate_files(model, tokenizer, paths, config)["bits_per_byte"] for name, paths in texts.items()
            }

        system = (context.run.manifest(stage) or {"section": {}})["section"].get("system") if tuned else None
        results["compared"] = compare(base, checkpoint, measure, config, tuned, system or "")
    write_json(context.out / "results.json", results)
    return results


def _names(paths: tuple[str, ...]) -> list[str]:
    """Short names of paths, as long as it takes to tell them apart."""
    longest = max((len(Path(path).parts) for path in paths), default=1)
    found = (["/".join(Path(path).parts[-count:]) for path in paths] for count in range(1, longest + 1))
    return next((names for names in found if len(set(names)) == len(names)), list(paths))


def evaluate_files(model: CausalLM, tokenizer: TokenizerFolder, paths: list[str], config: Config) -> dict[str, Any]:
    """Measures of a model on raw files (any form that the data stage reads): every readable document of them.

    Records that cannot be read are counted under `rejected`, by reason.
    """
    with shards_of_files(paths, tokenizer, "evaluate: tokenising") as (shards, rejected):
        return evaluate(model, shards, config, tokenizer.start_id) | {"rejected": rejected}


def evaluate(model: CausalLM, shards: Shards, config: Config, start_id: int | None = None) -> dict[str, Any]:
    """Measures of a model on one split, as plain numbers; on the model's device and in its precision.

    start_id: the token before a document's first one (None: that of the shards).
    """
    from jielong.evaluate.bits import measure

    longest = model.config.max_position_embeddings
    length = min(config.sequence_length or LONGEST_ROW, longest)
    rows = max(1, config.batch_tokens // length)
    by_source: dict[str, dict[str, float]] = {}
    with Progress("evaluate: measuring", min(config.max_tokens or shards.tokens, shards.tokens), "tokens") as bar:
        for name, numbers in _covered(shards, config.max_tokens).items():
            bar.note(name)
            by_source[name] = measure(
                model, shards, length, rows, start_id=start_id, progress=bar.advance, documents=numbers
            )
    total = {key: sum(row[key] for row in by_source.values()) for key in ("bits", "tokens", "bytes", "documents")}
    whole = total["documents"] == shards.documents
    return {
        "bits_per_byte": total["bits"] / total["bytes"],
        "bits_per_character": total["bits"] / shards.characters if whole else None,
        "loss": total["bits"] * math.log(2) / total["tokens"],
        "tokens": int(total["tokens"]),
        "bytes": int(total["bytes"]),
        "characters": shards.characters if whole else None,
        "documents": int(total["documents"]),
        "sequence_length": length,
        "by_source": {
            name: {"bits_per_byte": row["bits_per_byte"], "loss": row["loss"], "documents": int(row["documents"])}
            for name, row in by_source.items()
        },
    }


def _covered(shards: Shards, max_tokens: int | None) -> dict[str, list[int]]:
    """The documents in stored order until `max_tokens` are covered, those of each source together."""
    covered = shards.documents
    if max_tokens is not None:
        sizes = itertools.accumulate(len(document) for document in shards)
        covered = 1 + sum(1 for _ in itertools.takewhile(lambda size: size < max_tokens, sizes))
    found = {name: shards.numbers_of(name) for name in shards.by_source}
    return {name: part for name, numbers in found.items() if (part := numbers[numbers < covered].tolist())}
