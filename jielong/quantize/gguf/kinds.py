"""Kinds of GGUF files: which type each tensor gets, and its numbers as bytes of that type.

| kind | matrices | bits a weight |
|---|---|---|
| f32, f16, bf16 | as they are, or rounded to 16 bits | 32, 16, 16 |
| q8_0 | 32 numbers share a scale | 8.5 |
| q5_0, q4_0 | the same with 5 and 4 bits | 5.5, 4.5 |
| q5_1, q4_1 | 32 numbers share a scale and a minimum | 6, 5 |
| q6_k, q4_k | 256 numbers, two levels of scales (kquants.py); q4_k keeps embedding and output layer in q6_k | 6.56, 4.5 |

Norms, biases and the routers of experts stay float32 in all of them, as llama.cpp wants it. The other k- and i-quants are not
here: the gguf package only reads them, and llama.cpp's `llama-quantize` makes them from an f16 file.

A row that is no multiple of the type's block falls back, tensor by tensor: from q4_k to q5_0 and from q6_k to q8_0, as in
llama.cpp, and where 32 does not divide it either to f16.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jielong.errors import InputError, ModelError
from jielong.quantize.gguf.kquants import quantize_q4_k, quantize_q6_k

FILE_TYPES = {  # kind -> gguf's LlamaFileType, the number in general.file_type
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
    "q4_1": "MOSTLY_Q4_1",
    "q5_0": "MOSTLY_Q5_0",
    "q5_1": "MOSTLY_Q5_1",
    "q4_k": "MOSTLY_Q4_K_S",
    "q6_k": "MOSTLY_Q6_K",
}
KINDS = tuple(FILE_TYPES)
FALLBACKS = {"q4_k": "q5_0", "q6_k": "q8_0"} | dict.fromkeys(("q8_0", "q4_0", "q4_1", "q5_0", "q5_1"), "f16")
EMBEDDINGS = ("token_embd.weight", "output.weight")
ROUTERS = ("ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
OURS = {"q4_k": quantize_q4_k, "q6_k": quantize_q6_k}
NUMBERS_AT_ONCE = 1 << 24  # rows are encoded by so many numbers: 64 MB in float32


def check(kind: str) -> None:
    """Raises InputError for a kind that is not one of KINDS."""
    if kind not in KINDS:
        raise InputError(f"--gguf: unknown, got {kind!r}; it is one of {', '.join(KINDS)}; choose one")


def wanted_kind(name: str, shape: tuple[int, ...], kind: str) -> str:
    """The kind of a tensor in a file of `kind`, before rows are looked at. name: GGUF's."""
    if len(shape) < 2 or name.endswith(ROUTERS):
        return "f32"
    return "q6_k" if kind == "q4_k" and name in EMBEDDINGS else kind


def kind_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """The kind that a tensor gets; it differs from `wanted_kind` where its rows are no multiple of the block."""
    found = wanted_kind(name, shape, kind)
    while shape[-1] % _block(found)[0]:
        found = FALLBACKS[found]
    return found


def type_of(kind: str) -> Any:
    """gguf's GGMLQuantizationType of a kind."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType[kind.upper()]


def _block(kind: str) -> tuple[int, int]:
    """Numbers and bytes of a block."""
    from gguf.constants import GGML_QUANT_SIZES

    numbers, size = GGML_QUANT_SIZES[type_of(kind)]
    return int(numbers), int(size)


def byte_shape(shape: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """The shape of a tensor's bytes: its own, but for the rows."""
    numbers, size = _block(kind)
    return (*shape[:-1], shape[-1] // numbers * size)


def encode(name: str, parts: Iterator[Tensor], shape: tuple[int, ...], kind: str) -> NDArray[np.uint8]:
    """The bytes of a tensor, of shape `byte_shape(shape, kind)`, which is given in parts that follow each other (experts, say).

    Memory: the result, one part, and NUMBERS_AT_ONCE numbers in float32. Raises ModelError where float16 cannot hold a number.
    """
    sizes = byte_shape(shape, kind)
    out = np.empty((int(np.prod(sizes[:-1], dtype=np.int64)), sizes[-1]), np.uint8)
    step, at = max(1, NUMBERS_AT_ONCE // shape[-1]), 0
    for part in parts:
        rows = part.reshape(-1, shape[-1])
        for start in range(0, len(rows), step):
            values = rows[start : start + step].to(torch.float32).numpy()
            out[at : at + len(values)] = _encoded(name, values, kind)
            at += len(values)
    assert at == len(out), f"{name}: the parts are the tensor"
    return out.reshape(sizes)


def _encoded(name: str, rows: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    from gguf import quants

    if kind in OURS:
        return OURS[kind](rows)
    if kind == "f16":
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        if np.isinf(halves).any() and np.isfinite(rows).all():
            raise ModelError(
                f"{name}: too large for f16, got {np.abs(rows).max():.4g}; at most 65504; export it as bf16 or f32"
            )
        return halves.view(np.uint8)
    encoded: NDArray[Any] = quants.quantize(np.ascontiguousarray(rows), type_of(kind))
    return encoded.view(np.uint8)
