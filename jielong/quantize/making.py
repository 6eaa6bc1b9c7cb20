"""From a model to a quantized folder, whatever the method: what all of them share, and who does the rest.

Nothing of the source is changed. What can be refused is refused before anything is written.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError, ModelError
from jielong.model.adapters import is_adapter
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder, read_config
from jielong.model.hf_weights import weight_files
from jielong.model.quantized.files import CONFIG
from jielong.progress import Progress, human_bytes, say
from jielong.quantize import libraries
from jielong.quantize.config import CALIBRATED, DISTILLED, ROUNDING, Config, against_model
from jielong.quantize.folders import publishing, shape_of, source_tensors, write_folder
from jielong.quantize.grouped import gptq_config, group_of, rounded_tensors
from jielong.quantize.text import Text
from jielong.runs import write_json
from jielong.tokenizer.folder import TokenizerFolder, copy_folder
from jielong.tokenizer.shards.reading import Shards

if TYPE_CHECKING:
    import numpy.typing as npt

LONGEST_ROW = 512  # of calibration, where none is given


@dataclass(frozen=True)
class Material:
    """What is quantized, and with whose help."""

    source: Path  # the full model's folder
    tokenizer: TokenizerFolder
    calibration: Text | None  # text that methods may look at; None: there is none
    training: Shards | None  # text that models of signs are trained on
    work: Path  # folder that a broken-off distillation goes on in
    seed: int


def check(config: Config, source: Path, calibrated: bool) -> ModelConfig:
    """What can be refused before anything is written; returns the shape. calibrated: whether there is calibration text.

    Raises ModelError, InputError, MissingExtraError.
    """
    shape = shape_of(source)
    if problems := against_model(config, shape):
        raise InputError(f"quantize.{problems[0]}")
    if config.method in libraries.PACKAGES:
        libraries.check(config, shape)
    looks = config.method in CALIBRATED or (config.method in DISTILLED and config.distilled)
    if (looks or config.average_bits is not None) and not calibrated:
        what = f"method {config.method}" if looks else "average_bits"
        raise InputError(
            f"quantize.calibration: {what} looks at text, and the model lies in no run that held some out; give it: --calibration FILE"
        )
    return shape


def make(config: Config, material: Material, out: Path) -> dict[str, Any]:
    """Write the quantized folder `out`, which must not be there; returns the counts."""
    source, tokenizer = material.source, material.tokenizer
    shape = check(config, source, material.calibration is not None)
    with publishing(out) as partial:
        if config.method in ROUNDING:
            counts = _rounded(config, material, shape, partial)
        elif config.method in DISTILLED:
            from jielong.quantize.distilling import distilled

            counts = distilled(config, material, shape, partial)
        else:
            counts = _by_library(config, material, shape, partial)
        copy_folder(tokenizer, partial)
    before, after = (sum(file.stat().st_size for file in weight_files(place)) for place in (_full(source), out))
    say(f"quantize: {config.method}, {human_bytes(before)} of weights became {human_bytes(after)}")
    return {"method": config.method, **counts, "bytes": after, "bytes_before": before, "model": str(out)}


def _full(source: Path) -> Path:
    """The folder whose weights are compared in size: of an adapter its base."""
    from jielong.model.adapters import base_of

    while is_adapter(source):
        source = base_of(source)
    return source


def _rows(config: Config, material: Material, shape: ModelConfig) -> npt.NDArray[Any]:
    assert material.calibration is not None
    length = config.calibration_length or min(LONGEST_ROW, shape.max_position_embeddings)
    return material.calibration.rows(length, config.calibration_tokens)


def _layers(config: Config, material: Material) -> tuple[list[str], list[str]]:
    """Linear layers of the blocks that are quantized, and those that are left out, as files name them. Raises InputError where none remains."""
    names = [name.removesuffix(".weight") for name, tensor in source_tensors(material.source) if tensor.ndim == 2]
    everything = config.model_copy(update={"leave_out": ()})
    made = [name for name in names if config.quantizes(name)]
    left = [name for name in names if everything.quantizes(name) and name not in made]
    if not made:
        raise InputError(
            f"quantize.leave_out: leaves no layer to quantize, got {', '.join(config.leave_out) or 'none'}; a layer's name is like "
            f"{(left or names)[0]}"
        )
    return made, left


def _bits(config: Config, material: Material, shape: ModelConfig, group: int, layers: list[str]) -> dict[str, int]:
    """Bits of each layer."""
    if config.average_bits is None:
        return dict.fromkeys(layers, config.width)
    from jielong.quantize.sensitivity import allot, measure_hurts

    model = load_folder(material.source).eval()
    hurts = measure_hurts(
        model, layers, _rows(config, material, shape), None if group < 0 else group, config.symmetric is not False
    )
    return allot(hurts, {name: model.get_parameter(f"{name}.weight").numel() for name in layers}, config.average_bits)


def _rounded(config: Config, material: Material, shape: ModelConfig, out: Path) -> dict[str, Any]:
    layers, left = _layers(config, material)
    group = group_of(config, shape)
    bits = _bits(config, material, shape, group, layers)
    sizes: dict[str, int] = {}
    with Progress("quantize: rounding", len(layers), "matrices") as bar:

        def done(name: str, weights: int, _: int) -> None:
            sizes[name] = weights
            bar.advance(1)

        tensors = dict(rounded_tensors(source_tensors(material.source), config, group, bits.__getitem__, done))
        write_folder(material.source, shape, material.tokenizer, tensors, gptq_config(config, group, bits, left), out)
    return _counts(bits, sizes, group, left)


def _counts(bits: dict[str, int], sizes: dict[str, int], group: int, left: list[str]) -> dict[str, Any]:
    total = sum(sizes.values())
    average = sum(bits[name] * sizes[name] for name in sizes) / total
    return {
        "layers": len(sizes), "left_out": len(left), "weights": total, "bits": round(average, 4), "group_size": group,
        **({"bits_of_layers": bits} if len(set(bits.values())) > 1 else {}),
    }  # fmt: skip


def _by_library(config: Config, material: Material, shape: ModelConfig, out: Path) -> dict[str, Any]:
    with _as_plain_folder(material, shape) as source:
        if config.method not in CALIBRATED:
            libraries.in_a_process(libraries.with_transformers, source, config, out)
            _complete(source, out)
            return {}
        layers, left = _layers(config, material)
        group = group_of(config, shape)
        bits = _bits(config, material, shape, group, layers)
        rows = _rows(config, material, shape)
        say(f"quantize: {config.method} by gptqmodel on {rows.size:,} tokens of calibration text")
        libraries.in_a_process(libraries.with_gptqmodel, source, config, group, bits, left, rows, out)
        _complete(source, out)
        sizes = {
            name.removesuffix(".weight"): tensor.numel()
            for name, tensor in source_tensors(source)
            if name.removesuffix(".weight") in bits
        }
        return _counts(bits, sizes, group, left)


@contextlib.contextmanager
def _as_plain_folder(material: Material, shape: ModelConfig) -> Iterator[Path]:
    """The source as a folder that transformers opens: itself, or an adapter folded into its base in a temporary one."""
    if not is_adapter(material.source):
        yield material.source
        return
    from jielong.model.hf import save_folder

    with tempfile.TemporaryDirectory() as folder:
        model = load_folder(material.source)
        save_folder(model, Path(folder), material.tokenizer.end_id, material.tokenizer.start_id)
        del model
        copy_folder(material.tokenizer, Path(folder))
        yield Path(folder)


def _complete(source: Path, out: Path) -> None:
    """What a library's folder lacks: fields of config.json that it dropped, generation_config.json."""
    table, before = read_config(out), read_config(source)
    if CONFIG not in table:
        raise ModelError(f"{out}: the library wrote no {CONFIG} into config.json; use another version of it")
    table[CONFIG].get("meta", {}).pop("offload_to_disk_path", None)  # a temporary folder of this machine
    write_json(out / "config.json", {**before, **table})
    if (source / "generation_config.json").is_file():
        shutil.copy2(source / "generation_config.json", out / "generation_config.json")
