"""Names of tensors on disk, stacking of experts, and files of bounded size."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file

from jielong.errors import ModelError
from jielong.model.hf_weights import Place, named_for_files, place_of, read_weights, write_weights

EXPERTS, WIDTH, HIDDEN = 3, 4, 6


def sparse_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "model.embed_tokens.weight": (10, HIDDEN),
        "model.layers.0.mlp.gate_proj.weight": (8, HIDDEN),  # a dense layer, to be left alone
        "model.layers.1.mlp.gate.weight": (EXPERTS, HIDDEN),
        "model.layers.1.mlp.experts.gate_up_proj": (EXPERTS, 2 * WIDTH, HIDDEN),
        "model.layers.1.mlp.experts.down_proj": (EXPERTS, HIDDEN, WIDTH),
        "model.layers.1.mlp.shared_expert_gate.weight": (1, HIDDEN),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def shapes_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_names_by_hand() -> None:
    """Mixtral's w1, w3, w2 are gate, up and down; Qwen's have these names; anything else stays."""
    place = Place("model.layers.1.mlp.experts.gate_up_proj", 12, 0)
    assert place_of("model.layers.1.block_sparse_moe.experts.12.w1.weight") == place
    assert place_of("model.layers.1.mlp.experts.12.gate_proj.weight") == place
    assert place_of("model.layers.1.block_sparse_moe.experts.12.w3.weight") == place._replace(half=1)
    assert place_of("model.layers.1.mlp.experts.12.up_proj.weight") == place._replace(half=1)
    down = Place("model.layers.1.mlp.experts.down_proj", 12)
    assert place_of("model.layers.1.block_sparse_moe.experts.12.w2.weight") == down
    assert place_of("model.layers.1.mlp.experts.12.down_proj.weight") == down
    assert place_of("model.layers.1.block_sparse_moe.gate.weight") == Place("model.layers.1.mlp.gate.weight")
    for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.experts.down_proj"):
        assert place_of(name) == Place(name)


@pytest.mark.parametrize(
    ("model_type", "gate", "matrices"),
    [("mixtral", "block_sparse_moe.gate", ("w1", "w3", "w2")), ("qwen2_moe", "mlp.gate", ("gate_proj", "up_proj", "down_proj"))],
)  # fmt: skip
def test_experts_are_written_apart_as_views(model_type: str, gate: str, matrices: tuple[str, ...]) -> None:
    state = sparse_state()
    files = dict(named_for_files(state, model_type))
    assert len(files) == 4 + 3 * EXPERTS and f"model.layers.1.{gate}.weight" in files
    stacked = state["model.layers.1.mlp.experts.gate_up_proj"]
    prefix = f"model.layers.1.{gate.split('.')[0]}.experts.2."
    parts = [files[f"{prefix}{name}.weight"] for name in matrices]
    assert torch.equal(parts[0], stacked[2, :WIDTH]) and torch.equal(parts[1], stacked[2, WIDTH:])
    assert torch.equal(parts[2], state["model.layers.1.mlp.experts.down_proj"][2])
    assert parts[1].untyped_storage().data_ptr() == stacked.untyped_storage().data_ptr() and parts[1].is_contiguous()


def test_a_class_of_our_own_is_stored_as_it_is() -> None:
    state = sparse_state()
    assert equal(dict(named_for_files(state, "jielong")), state)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe", "jielong"])
@pytest.mark.parametrize("bound", [10**9, 300, 1])
def test_every_form_is_read_back(model_type: str, bound: int, tmp_path: Path) -> None:
    state = sparse_state()
    write_weights(state, tmp_path, model_type, bound)
    again, kind = read_weights(tmp_path, shapes_of(state), None)
    assert equal(again, state) and kind == torch.float32


def test_files_stay_below_the_bound(tmp_path: Path) -> None:
    """Each file holds at most 300 bytes of tensors, unless one alone is larger; the index tells where each is."""
    state = sparse_state()
    write_weights(state, tmp_path, "jielong", 10**9)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    write_weights(state, tmp_path, "mixtral", 300)
    index = orjson.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    found = {}
    files = sorted(tmp_path.glob("*.safetensors"))
    for path in files:
        tensors = load_file(path)
        sizes = [tensor.numel() * 4 for tensor in tensors.values()]
        assert sum(sizes) <= 300 or len(sizes) == 1
        found |= dict.fromkeys(tensors, path.name)
    assert index["weight_map"] == found
    assert index["metadata"]["total_size"] == sum(tensor.numel() * 4 for tensor in state.values())
    assert files[1].name == f"model-00002-of-{len(files):05d}.safetensors"
    assert len({path.name[:5] for path in tmp_path.iterdir()}) == 1 and not (tmp_path / "model.safetensors").exists()
    write_weights(state, tmp_path, "mixtral", 10**9)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((torch.bfloat16, torch.bfloat16), torch.bfloat16),
        ((torch.float16, torch.float16), torch.float16),
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float64, torch.float64), torch.float32),
    ],
)
def test_the_type_on_disk_is_told(kinds: tuple[torch.dtype, ...], expected: torch.dtype, tmp_path: Path) -> None:
    state = sparse_state()
    state = {name: tensor.to(kinds[i % 2]) for i, (name, tensor) in enumerate(state.items())}
    write_weights(state, tmp_path, "mixtral", 10**9)
    again, kind = read_weights(tmp_path, shapes_of(state), None)
    assert kind == expected and equal(again, {name: tensor.float() for name, tensor in state.items()})


def test_what_is_missing_or_unknown_is_named(tmp_path: Path) -> None:
    state = sparse_state()
    write_weights(state, tmp_path, "qwen2_moe", 10**9)
    path = tmp_path / "model.safetensors"
    names = load_file(path)
    expert = "model.layers.1.mlp.experts.{}.up_proj.weight"
    save_file({name: tensor for name, tensor in names.items() if name != expert.format(1)}, path)
    with pytest.raises(ModelError, match=r"missing experts of model\.layers\.1\.mlp\.experts\.gate_up_proj"):
        read_weights(tmp_path, shapes_of(state), None)
    save_file(names | {expert.format(EXPERTS): torch.zeros(WIDTH, HIDDEN)}, path)
    with pytest.raises(ModelError, match=r"unknown model\.layers\.1\.mlp\.experts\.3\.up_proj"):
        read_weights(tmp_path, shapes_of(state), None)
    save_file(names | {expert.format(0): torch.zeros(1, 1)}, path)
    with pytest.raises(ModelError, match=r"0\.up_proj\.weight has shape \(1, 1\), config\.json says \(4, 6\)"):
        read_weights(tmp_path, shapes_of(state), None)
    save_file(names | {expert.format(0): torch.zeros(WIDTH, HIDDEN, dtype=torch.int8)}, path)
    with pytest.raises(ModelError, match="holds int8"):
        read_weights(tmp_path, shapes_of(state), None)


def test_a_tied_head_is_left_out_and_old_buffers_are_ignored(tmp_path: Path) -> None:
    state = sparse_state()
    shapes = shapes_of(state) | {"lm_head.weight": torch.Size((10, HIDDEN))}
    extra = {"lm_head.weight": torch.ones(10, HIDDEN), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    for more in ({}, extra):
        save_file(state | more, tmp_path / "model.safetensors")
        assert equal(read_weights(tmp_path, shapes, "lm_head.weight")[0], state)
