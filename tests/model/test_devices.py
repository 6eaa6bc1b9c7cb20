from __future__ import annotations

import pytest
import torch

from jielong.errors import InputError
from jielong.model import devices
from jielong.model.devices import GIB, NAMES, PRESETS, find_device, from_cuda, this_device


def test_every_name_is_found_and_makes_sense() -> None:
    for name in NAMES:
        device = find_device(name)
        assert device.name == name
        assert 0 < device.usable_bytes < device.memory
        assert 0 < device.utilisation < 1
        assert device.peak(device.best_precision()) >= device.float32
        assert device.bandwidth > 0 and device.price > 0


def test_faster_generations_are_faster() -> None:
    a100, h100, h200 = (PRESETS[name] for name in ("a100-80g", "h100", "h200"))
    assert a100.peak("bfloat16") < h100.peak("bfloat16") == h200.peak("bfloat16")
    assert h100.bandwidth < h200.bandwidth and h100.memory < h200.memory
    assert [device.name for device in PRESETS.values() if device.capability == 9] == ["h100", "h200"]


def test_a_device_without_bfloat16() -> None:
    volta = find_device("v100-32g")
    assert volta.best_precision() == "float16"
    assert volta.peak("float16") > volta.peak("float32")
    with pytest.raises(
        InputError, match=r"train\.precision: v100-32g has no bfloat16 arithmetic, got 'bfloat16'; use auto"
    ):
        volta.peak("bfloat16")


def test_tf32_and_fp8_are_where_the_hardware_has_them() -> None:
    assert [device.name for device in PRESETS.values() if device.fp8] == ["rtx-4090", "h100", "h200"]
    assert PRESETS["h100"].peak("fp8") > PRESETS["h100"].peak("bfloat16") > PRESETS["h100"].peak("tf32")
    with pytest.raises(InputError, match="a100-80g has no fp8 arithmetic"):
        PRESETS["a100-80g"].peak("fp8")


def test_an_unknown_device() -> None:
    with pytest.raises(InputError, match="--device: unknown, got 'rtx-9090'; must be one of rtx-3090,"):
        find_device("rtx-9090")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 3090", "rtx-3090"),
        ("Tesla V100-SXM2-32GB", "v100-32g"),
        ("NVIDIA A100-SXM4-80GB", "a100-80g"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_cards_are_known_by_what_the_driver_calls_them(title: str, name: str) -> None:
    device = from_cuda(title, 10 * GIB, (9, 0))
    assert device.name == name and device.memory == 10 * GIB


def test_an_unknown_card_says_what_is_assumed() -> None:
    new, old = from_cuda("NVIDIA L4", 22 * GIB, (8, 9)), from_cuda("Tesla T4", 15 * GIB, (7, 5))
    assert new.name == "NVIDIA L4 (speeds of rtx-3090 assumed)" and new.bfloat16 is not None
    assert old.bfloat16 is None and old.memory == 15 * GIB


@pytest.mark.parametrize("flags", ["flags: avx512_bf16", "flags: sse2"])
def test_a_processor_counts_bfloat16_only_where_it_is_fast(flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_processor_flags", lambda: flags)
    assert devices.cpu().best_precision() == ("bfloat16" if "bf16" in flags else "float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a machine without a CUDA card")
def test_a_machine_without_a_card_is_a_cpu() -> None:
    assert this_device().kind == "cpu"


@pytest.mark.gpu
def test_a_machine_with_a_card() -> None:
    device = this_device()
    assert device.kind == "cuda" and device.memory == torch.cuda.get_device_properties(0).total_memory
