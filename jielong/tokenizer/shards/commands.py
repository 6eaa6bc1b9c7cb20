"""`jielong shards ...`: what its commands take and what they call. Plain data comes back; jielong/__main__.py shows it.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.console import RUNS, JsonOpt, RunsOpt

Target = Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run's name, or a folder of shards.")]
Split = Annotated[str, typer.Option("--split", help="train or validation.")]


def inspect(
    target: Target,
    split: Split = "train",
    document: Annotated[int | None, typer.Option("--document", min=0, help="Show this document.")] = None,
    row: Annotated[int | None, typer.Option("--row", min=0, help="Show this row, documents in stored order.")] = None,
    length: Annotated[int, typer.Option("--length", min=1, help="Tokens in a row.")] = 512,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="The tokenizer's folder; default: what lies beside the shards.")
    ] = None,
    runs_dir: RunsOpt = RUNS,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """Counts, files and checksums; under `parts` the document or row that is asked for."""
    from jielong.tokenizer.shards.inspecting import inspect

    return inspect(target, runs_dir, split, row, length, document, tokenizer)


def verify(target: Target, runs_dir: RunsOpt = RUNS, json: JsonOpt = False) -> dict[str, Any]:
    """Counts and files, when every checksum is right."""
    from jielong.tokenizer.shards.inspecting import verify_all

    return verify_all(target, runs_dir)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Token ids end to end, without a header.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="The folder of the tokenizer it was made with.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of shards to write, or to add a split to.")],
    dtype: Annotated[str, typer.Option("--dtype", help="uint16 or uint32.")] = "uint16",
    end_id: Annotated[
        int | None, typer.Option("--end-id", min=0, help="The id that closes documents; default: the tokenizer's.")
    ] = None,
    split: Split = "train",
    shard_tokens: Annotated[int, typer.Option("--shard-tokens", min=1, help="Tokens in one shard.")] = 100_000_000,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """Counts and files of the folder that was written."""
    from jielong.tokenizer.folder import open_folder
    from jielong.tokenizer.shards.flat import import_flat
    from jielong.tokenizer.shards.inspecting import describe

    import_flat(file, dtype, end_id, open_folder(tokenizer), out, split, shard_tokens)
    return describe(out)


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any]], str]] = {
    "inspect": (inspect, "Counts and checksums; with --document or --row, that one as text and ids."),
    "verify": (verify, "Read every byte of the shards and compare the checksums."),
    "import": (import_, "Make shards of a flat .bin of token ids, as other projects write it."),
}
