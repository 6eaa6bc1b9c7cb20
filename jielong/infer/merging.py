"""`jielong merge`: an adapter folded into its base, as a plain model folder that any tool opens.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from jielong.console import RUNS, JsonOpt, ModelArg, RunsOpt, tell
from jielong.errors import InputError

TYPES = ("float32", "bfloat16", "float16")


def merge_into(model: str, out: Path, runs_dir: Path, dtype: str = "auto") -> dict[str, Any]:
    """Write the model that MODEL's adapter and its base are together into the folder `out`, which must not be there.

    dtype: of the weights; auto: that of the base's. Returns what was done. Raises InputError for a model without an adapter.
    """
    import torch

    from jielong.infer.models import config_folder, find_model, open_tokenizer
    from jielong.model.adapters import base_of, is_adapter
    from jielong.model.bases import stops_of
    from jielong.model.hf import load_folder, read_config, save_state
    from jielong.quantize.folders import publishing
    from jielong.tokenizer.folder import copy_folder

    folder = find_model(model, runs_dir)
    if not is_adapter(folder):
        raise InputError(f"MODEL: holds no adapter, got {folder}; it is a plain model already; use it as it is")
    if dtype != "auto" and dtype not in TYPES:
        raise InputError(f"--dtype: unknown, got {dtype!r}; it is auto, {', '.join(TYPES)}; choose one")
    if out.exists():
        raise InputError(f"--out: is there already, got {out}; give a new folder, or delete it")
    base, tokenizer = base_of(folder), open_tokenizer(folder)
    while is_adapter(base):  # tuned on what was tuned: the type is that of the weights below
        base = base_of(base)
    opened, config = load_folder(folder), read_config(config_folder(folder))
    stored = str(read_config(base).get("dtype") or read_config(base).get("torch_dtype"))
    name = next((one for one in (dtype, stored) if one in TYPES), "float32")
    kind: torch.dtype = getattr(torch, name)
    state = {name: tensor.to(kind) for name, tensor in opened.state_dict().items()}
    with publishing(out) as partial:
        save_state(
            opened.config, state, partial, tokenizer.end_id, config.get("bos_token_id"), stop_ids=stops_of(folder)
        )
        copy_folder(tokenizer, partial)
    return {"adapter": str(folder), "base": str(base), "model": str(out), "dtype": name}


def merge(
    model: ModelArg,
    out: Annotated[Path, typer.Option("--out", help="The new model folder.")],
    dtype: Annotated[str, typer.Option("--dtype", help="auto (the base's), float32, bfloat16 or float16.")] = "auto",
    runs_dir: RunsOpt = RUNS,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """The adapter of MODEL folded into its base."""
    found = merge_into(model, out, runs_dir, dtype)
    if not json:
        tell(f"{out}: {found['base']} with {found['adapter']} folded in, {found['dtype']}")
    return found


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any] | None], str]] = {
    "merge": (merge, "Fold an adapter into its base: a plain model folder."),
}
