"""How small integers lie in 32-bit words: GPTQ's and AWQ's files, and ours in memory.

GPTQ packs along its first dimension, one value's bits behind the other's, low bits first; with 3 bits a value may lie in two words. AWQ
("gemm") packs eight columns of 4 bits into a word, in the order 0 2 4 6 1 3 5 7. In memory two values lie in a byte, a block of 32 columns
in 16 bytes: the first sixteen are the low halves, the last sixteen the high ones, so that a vector of bytes is two vectors of values.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BITS = (2, 3, 4, 8)
BLOCK = 32  # columns whose halves lie side by side in memory
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack(codes_NM: Tensor, bits: int) -> Tensor:
    """(N, M) integers of `bits` bits -> (N x bits / 32, M) int32. N x bits must be a multiple of 32."""
    assert codes_NM.shape[0] * bits % 32 == 0, (codes_NM.shape, bits)
    rows = np.ascontiguousarray(codes_NM.to(torch.uint8).numpy().T)
    stream = np.unpackbits(rows[..., None], axis=-1, count=bits, bitorder="little").reshape(len(rows), -1)
    words = np.packbits(stream, axis=-1, bitorder="little").view("<i4")
    return torch.from_numpy(np.ascontiguousarray(words.T).astype(np.int32))


def unpack(words_RM: Tensor, bits: int) -> Tensor:
    """The reverse of `pack`: (R, M) int32 -> (R x 32 / bits, M) uint8."""
    rows = np.ascontiguousarray(words_RM.to(torch.int32).numpy().T).view(np.uint8)
    if bits == 8:
        return torch.from_numpy(np.ascontiguousarray(rows.T))
    stream = np.unpackbits(rows, axis=-1, bitorder="little").reshape(len(rows), -1, bits)
    codes = np.packbits(stream, axis=-1, bitorder="little")[..., 0]
    return torch.from_numpy(np.ascontiguousarray(codes.T))


def pack_awq(codes_NM: Tensor) -> Tensor:
    """(N, M) integers of 4 bits -> (N, M / 8) int32, as AWQ's gemm files have them. M must be a multiple of 8."""
    grouped = codes_NM.to(torch.int64).view(len(codes_NM), -1, 8)[..., list(AWQ_ORDER)]
    words = sum(grouped[..., place] << (4 * place) for place in range(8))
    assert isinstance(words, Tensor)
    return words.to(torch.int32).contiguous()


def unpack_awq(words_NR: Tensor) -> Tensor:
    """The reverse of `pack_awq`: (N, R) int32 -> (N, 8 R) uint8."""
    places = torch.tensor([AWQ_ORDER.index(column) for column in range(8)])
    codes = (words_NR.to(torch.int64)[..., None] >> (4 * places)) & 15
    return codes.flatten(1).to(torch.uint8)


def halve(codes_OC: Tensor) -> Tensor:
    """(O, C) values below 16 -> (O, C / 2) bytes, as they lie in memory. C must be a multiple of BLOCK."""
    blocks = codes_OC.view(len(codes_OC), -1, 2, BLOCK // 2)
    return (blocks[:, :, 0] | (blocks[:, :, 1] << 4)).flatten(1).contiguous()


def whole(halves_OH: Tensor) -> Tensor:
    """The reverse of `halve`: (O, H) bytes -> (O, 2 H) values."""
    blocks = halves_OH.view(len(halves_OH), -1, BLOCK // 2)
    return torch.stack([blocks & 15, blocks >> 4], dim=2).flatten(1)
