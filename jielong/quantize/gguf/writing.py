"""`jielong` to GGUF: one file with weights, tokenizer and chat template, which llama.cpp and Ollama run.

The gguf package writes the container (and quantizes to the older kinds); what to write is decided beside this file: tensors.py and
kinds.py for the weights, metadata.py for the shape, vocabulary.py for the tokenizer, modelfile.py for Ollama. llama.cpp's own
convert_hf_to_gguf.py opens no tokenizer that was trained here: it knows first cuts by the hash of what they do to one text.

Tensors are announced first and written then, one at a time, so that memory holds one of them and never the model. The file has a
hidden name until it is complete and flushed.
"""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jielong.errors import InputError, MissingExtraError
from jielong.quantize.gguf import kinds, metadata, tensors
from jielong.quantize.gguf.vocabulary import read_vocabulary, write_vocabulary
from jielong.quantize.text import run_of
from jielong.runs import sync_folder


def export(folder: Path, out: Path, kind: str) -> dict[str, Any]:
    """Write a Hugging Face model folder as the GGUF file `out`, which must not be there. kind: one of kinds.KINDS.

    Returns what was written: file, kind, bytes, tensors (their number), bits_per_weight, fallen_back (tensor -> its kind, where rows do
    not fit the blocks of the one that was asked for), tokenizer (model, pre, probes, differ) and notes, sentences about what
    llama.cpp does otherwise.

    Raises InputError for a folder that is no plain model, ModelError or TokenizerError for what llama.cpp has no form for,
    CheckpointError for damaged weights, MissingExtraError without the gguf package.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "gguf", "for GGUF files")
    kinds.check(kind)
    if out.exists():
        raise InputError(f"--out: is there already, got {out}; give a new name, or delete it")
    found = metadata.read_model(folder)
    vocabulary = read_vocabulary(folder, found.config.vocabulary)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    try:
        written = _write(folder, partial, kind, found, vocabulary)
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        partial.rename(out)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(out.parent)
    return {
        "file": str(out),
        "kind": kind,
        "bytes": out.stat().st_size,
        **written,
        "tokenizer": vocabulary.report(),
        "notes": [*found.notes, *vocabulary.notes],
    }


def _write(folder: Path, partial: Path, kind: str, found: metadata.Described, vocabulary: Any) -> dict[str, Any]:
    """The whole file; returns its number of tensors, bits a weight, and which tensors fell back."""
    from gguf import GGUFWriter, LlamaFileType

    with tensors.Weights(folder) as weights:
        planned = tensors.plan(found.config, weights, found.architecture)
        if (divisors := metadata.frequency_divisors(found.config)) is not None:
            planned.insert(0, tensors.Planned("rope_freqs.weight", tuple(divisors.shape), lambda: iter([divisors])))
        writer = GGUFWriter(partial, found.architecture)
        try:
            metadata.describe(writer, found, (run_of(folder) or folder.resolve()).name)
            writer.add_file_type(LlamaFileType[kinds.FILE_TYPES[kind]])
            write_vocabulary(writer, vocabulary)
            chosen = {one.name: kinds.kind_of(one.name, one.shape, kind) for one in planned}
            for one in planned:
                sizes = kinds.byte_shape(one.shape, chosen[one.name])
                writer.add_tensor_info(
                    one.name, sizes, np.dtype(np.uint8), math.prod(sizes), kinds.type_of(chosen[one.name])
                )
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for one in planned:
                with torch.no_grad():
                    writer.write_tensor_data(kinds.encode(one.name, one.parts(), one.shape, chosen[one.name]))
        finally:
            writer.close()
    size = sum(math.prod(kinds.byte_shape(one.shape, chosen[one.name])) for one in planned)
    return {
        "tensors": len(planned),
        "bits_per_weight": round(8 * size / sum(math.prod(one.shape) for one in planned), 3),
        "fallen_back": {
            one.name: chosen[one.name]
            for one in planned
            if chosen[one.name] != kinds.wanted_kind(one.name, one.shape, kind)
        },
    }
