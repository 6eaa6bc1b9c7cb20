"""Which type each tensor gets, and that its bytes are gguf's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jielong.errors import InputError, ModelError
from jielong.quantize.gguf import kinds

gguf = pytest.importorskip("gguf", reason="the quant extra")


def test_kinds_are_ggufs() -> None:
    for kind, name in kinds.FILE_TYPES.items():
        assert kinds.type_of(kind).name.lower() == kind and name in gguf.LlamaFileType.__members__
    kinds.check("q4_k")
    with pytest.raises(InputError, match=r"--gguf: unknown, got 'q9'; it is one of f32, f16, .*; choose one"):
        kinds.check("q9")


@pytest.mark.parametrize(
    ("name", "shape", "kind", "expected"),
    [
        ("blk.0.attn_norm.weight", (64,), "q8_0", "f32"),
        ("blk.0.attn_q.bias", (64,), "f16", "f32"),
        ("blk.0.ffn_gate_inp.weight", (4, 256), "q8_0", "f32"),
        ("blk.0.attn_q.weight", (8, 64), "q8_0", "q8_0"),
        ("blk.0.attn_q.weight", (8, 48), "q8_0", "f16"),
        ("blk.0.attn_q.weight", (8, 48), "f16", "f16"),
        ("blk.0.attn_q.weight", (8, 512), "q4_k", "q4_k"),
        ("blk.0.attn_q.weight", (8, 96), "q4_k", "q5_0"),
        ("blk.0.attn_q.weight", (8, 40), "q4_k", "f16"),
        ("token_embd.weight", (8, 512), "q4_k", "q6_k"),
        ("output.weight", (8, 96), "q4_k", "q8_0"),
        ("blk.0.ffn_up_exps.weight", (4, 8, 256), "q6_k", "q6_k"),
    ],
)
def test_kind_of(name: str, shape: tuple[int, ...], kind: str, expected: str) -> None:
    assert kinds.kind_of(name, shape, kind) == expected


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_encode_is_the_same_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(4, 6, 256, generator=torch.Generator().manual_seed(1))
    whole = kinds.encode("x", iter([values]), (4, 6, 256), kind)
    assert whole.shape == kinds.byte_shape((4, 6, 256), kind) and whole.dtype == np.uint8
    monkeypatch.setattr(kinds, "NUMBERS_AT_ONCE", 600)
    assert np.array_equal(kinds.encode("x", iter(values), (4, 6, 256), kind), whole)
    back = gguf.dequantize(whole.reshape(-1, whole.shape[-1]), kinds.type_of(kind)).reshape(4, 6, 256)
    bits = {"f32": 30, "f16": 11, "bf16": 8}.get(kind) or int(kind[1]) - 1  # significant ones
    assert np.abs(back - values.numpy()).max() <= np.abs(values.numpy()).max() * 2.0 ** -(bits - 1)


def test_what_float16_cannot_hold() -> None:
    with pytest.raises(ModelError, match=r"x: too large for f16, got 1e\+05; at most 65504; export it as bf16 or f32"):
        kinds.encode("x", iter([torch.full((2, 32), 1e5)]), (2, 32), "f16")
    assert kinds.encode("x", iter([torch.full((2, 32), 1e5)]), (2, 32), "bf16").any()
