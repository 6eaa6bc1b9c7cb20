"""From a model folder to a quantized one: the tensors of the one, a matrix at a time, and the files of the other.

Whatever is not quantized (embedding, norms, output layer, layers left out) is written as it was, in its own type. An adapter is folded
into its base first. The folder appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jielong import __version__
from jielong.errors import InputError, ModelError
from jielong.model.adapters import is_adapter
from jielong.model.bases import stops_of
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import from_hf_config, load_folder, read_config, write_checksums, write_configs
from jielong.model.hf_config import class_of, to_hf_config
from jielong.model.hf_weights import named_for_files, tensors_of, weight_files, write_weights
from jielong.model.quantized.files import CONFIG, described
from jielong.runs import publish, write_json
from jielong.tokenizer.folder import TokenizerFolder, copy_folder

SHARD_BYTES = 5_000_000_000


@contextlib.contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """A folder to write a model into, with a hidden name; at the end it gets its checksums and becomes `out`, or is gone after an error.

    Raises InputError where `out` is there already.
    """
    if out.exists():
        raise InputError(f"--out: is there already, got {out}; give a new folder, or delete it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        write_checksums(partial)
        publish(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def shape_of(folder: Path) -> ModelConfig:
    """The shape of a full model. Raises ModelError for one that is quantized already, or that we cannot represent."""
    from jielong.model.adapters import base_of

    place = folder
    while is_adapter(place) and not (place / "config.json").is_file():
        place = base_of(place)
    table = read_config(place)
    if (given := described(table)) is not None:
        raise ModelError(
            f"{folder}: is quantized already ({given.get('quant_method')}); quantize the full model that it was made of"
        )
    return from_hf_config(table, str(place / "config.json"))


def source_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names, as files of its class have them, and tensors of a full model; an adapter's are those of the base with it folded in."""
    if not is_adapter(folder):
        for file in weight_files(folder):
            yield from tensors_of(file)
        return
    model = load_folder(folder)
    state = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    yield from named_for_files(state, class_of(model.config)[0])


def write_folder(
    source: Path, shape: ModelConfig, tokenizer: TokenizerFolder, tensors: Mapping[str, Tensor], quantization: dict[str, Any], out: Path,
    own: bool = False,
) -> None:  # fmt: skip
    """Write a quantized model into an empty folder: its tensors, config.json that says how they are to be read, generation_config.json, tokenizer.

    quantization: what config.json says of it. own: declare our own class: transformers would open weights of a kind that it does not know as
    random ones, with a warning.
    """
    if (source / "config.json").is_file() and not is_adapter(source):
        table = read_config(source)
    else:
        write_configs(shape, "float32", out, tokenizer.end_id, tokenizer.start_id, stops_of(source))
        table = read_config(out)
    if "dtype" not in table and "torch_dtype" not in table:
        table["dtype"] = "float32"
    if own:
        ends = table.get("eos_token_id")
        end = next(iter(ends), tokenizer.end_id) if isinstance(ends, list) else ends
        table = to_hf_config(shape, tokenizer.end_id if end is None else end, table.get("bos_token_id"), own=True)
    write_json(out / "config.json", {**table, CONFIG: quantization | {"quantized_by": f"jielong {__version__}"}})
    generation = source / "generation_config.json"
    if not (out / generation.name).is_file() and generation.is_file():
        write_json(out / generation.name, read_config(source, generation.name))
    copy_folder(tokenizer, out)
    write_weights(dict(tensors), out, "", SHARD_BYTES)
