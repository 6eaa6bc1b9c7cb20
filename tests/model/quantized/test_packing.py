"""Packing: bit streams by hand, AWQ's order by hand, and everything back again."""

from __future__ import annotations

import pytest
import torch

from jielong.model.quantized.packing import AWQ_ORDER, BITS, halve, pack, pack_awq, unpack, unpack_awq, whole


def stream(codes: list[int], bits: int) -> list[int]:
    """The words that hold values one behind the other, low bits first."""
    total = sum(code << (bits * place) for place, code in enumerate(codes))
    words = [(total >> (32 * n)) & 0xFFFFFFFF for n in range(len(codes) * bits // 32)]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in words]


@pytest.mark.parametrize("bits", BITS)
def test_packing_is_a_stream_of_bits(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (64, 3), generator=torch.Generator().manual_seed(bits))
    words = pack(codes, bits)
    for column in range(3):
        assert words[:, column].tolist() == stream(codes[:, column].tolist(), bits)
    assert torch.equal(unpack(words, bits), codes.to(torch.uint8))


def test_awq_has_its_own_order() -> None:
    codes = torch.arange(16).view(1, 16) % 16
    words = pack_awq(codes)
    first = sum(AWQ_ORDER[place] << (4 * place) for place in range(8))
    assert int(words[0, 0]) & 0xFFFFFFFF == first
    assert torch.equal(unpack_awq(words), codes.to(torch.uint8))


def test_halves_lie_in_blocks_of_32() -> None:
    codes = torch.randint(0, 16, (3, 64), dtype=torch.uint8)
    halves = halve(codes)
    assert halves.shape == (3, 32)
    assert int(halves[1, 0]) == int(codes[1, 0]) | int(codes[1, 16]) << 4
    assert int(halves[2, 31]) == int(codes[2, 47]) | int(codes[2, 63]) << 4
    assert torch.equal(whole(halves), codes)
