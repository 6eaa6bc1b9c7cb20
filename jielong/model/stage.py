"""The model stage: settle the vocabulary, initialise the weights or take those of a base, write them as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jielong.errors import ModelError
from jielong.model.config import Config
from jielong.model.cost import embedding_parameters, flops_per_token, parameters
from jielong.progress import say
from jielong.runs import StageContext
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.shards.manifest import read_manifest

FORMAT = 1


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: those of a base."""
    if config.base is None:
        return []
    from jielong.model.bases import base_files

    return base_files(Path(config.base))


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write the initial model folder into context.out; return the counts for the manifest."""
    from jielong.model.hf import reason_for_own_class, save_folder
    from jielong.model.transformer import CausalLM, initialise

    tokenizer = open_folder(context.run.stage("tokenizer"))
    scheme, _ = read_manifest(context.run.stage("tokenizer") / "shards")  # what documents will begin with in training
    if config.base is not None:
        from jielong.model.bases import adopt

        base, config = config.base, adopt(config, tokenizer, scheme.row_start, context.out)
        return _finish(config, tokenizer, context.out) | {"base": base}
    config = config.with_vocab(tokenizer.size)
    if config.vocabulary < tokenizer.size:
        raise ModelError(
            f"model.vocab_size: too small, got {config.vocabulary}; the tokenizer has {tokenizer.size} ids; "
            "raise it or leave it out"
        )
    if (reason := reason_for_own_class(config)) is not None:
        say(f"model: saved under our own model_type, which other tools do not open: {reason}")
    model = CausalLM(config)
    initialise(model, context.seed)
    save_folder(model, context.out, tokenizer.end_id, scheme.row_start)
    return _finish(config, tokenizer, context.out)


def _finish(config: Config, tokenizer: TokenizerFolder, out: Path) -> dict[str, Any]:
    """The tokenizer beside the weights, and checksums; returns the counts."""
    from jielong.model.hf import class_of, write_checksums

    copy_folder(tokenizer, out)
    write_checksums(out)
    return {
        "parameters": parameters(config),
        "embedding_parameters": embedding_parameters(config),
        "flops_per_token": flops_per_token(config, config.max_position_embeddings),
        "hf_class": class_of(config)[1],
        "tied": config.tie_word_embeddings,
        "vocab_size": config.vocabulary,
    }
