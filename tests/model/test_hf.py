"""Model folders: ours open in Hugging Face with equal logits, theirs open in ours, damage is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from jielong.errors import CheckpointError, ModelError
from jielong.model.config import Config
from jielong.model.hf import load_folder, read_config, save_folder, to_hf_config, write_checksums
from jielong.model.hf_config import CLASSES
from jielong.model.transformer import CausalLM, initialise
from tests.model.test_hf_config import CONFIGS, OWN_CONFIGS, SCALINGS, config_of

LOGITS = 1e-4  # as in tests/model/test_transformer.py
LLAMA = config_of({})
TRAINED, STRETCHED = 32, 128  # lengths of the scaled configs
CLASS_OF = {one.model_type: one.architecture for one in CLASSES}


@torch.no_grad()
def disturb(model: nn.Module) -> None:
    """Norms and biases away from their start, matrices large enough that a mistake shows."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise * 0.15 if parameter.ndim >= 2 else parameter + noise * 0.3)


def make(config: Config) -> CausalLM:
    model = CausalLM(config)
    initialise(model, 0)
    disturb(model)
    return model.eval()


def ids(length: int = 24, rows: int = 2) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(length))


def open_theirs(folder: Path) -> PreTrainedModel:
    theirs: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return theirs


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@torch.no_grad()
def assert_equal_logits(theirs: nn.Module, ours: CausalLM, length: int = 24) -> None:
    expected = theirs(ids(length), use_cache=False).logits
    assert (expected - ours(ids(length))).abs().max() < LOGITS and expected.abs().max() > 0.1


@torch.no_grad()
def greedy(model: CausalLM, prompt: Tensor, count: int) -> Tensor:
    for _ in range(count):
        prompt = torch.cat((prompt, model(prompt)[:, -1].argmax(dim=-1)[:, None]), dim=1)
    return prompt


# ---------------------------------------------------------------------------------- parity, both directions


@pytest.mark.parametrize("name", CONFIGS)
def test_ours_opens_in_hugging_face_and_comes_back_identical(name: str, tmp_path: Path) -> None:
    """Equal logits and greedy tokens; saved again by transformers and read by us it is what it was."""
    model_type, fields = CONFIGS[name]
    model = make(config_of(fields))
    save_folder(model, tmp_path / "ours", end_id=0)
    theirs = open_theirs(tmp_path / "ours")
    assert type(theirs).__name__ == CLASS_OF[model_type]
    assert_equal_logits(theirs, model)
    theirs.generation_config.eos_token_id = None
    asked = {"attention_mask": torch.ones(2, 9, dtype=torch.long), "max_new_tokens": 12, "do_sample": False}
    assert torch.equal(theirs.generate(ids(9), **asked), greedy(model, ids(9), 12))
    theirs.save_pretrained(tmp_path / "theirs")
    assert equal(folder_tensors(tmp_path / "theirs"), folder_tensors(tmp_path / "ours"))
    for folder in ("ours", "theirs"):
        again = load_folder(tmp_path / folder)
        assert equal(again.state_dict(), model.state_dict())
        assert to_hf_config(again.config, 0) == to_hf_config(model.config, 0)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "llama-training"])
@pytest.mark.parametrize("shards", ["1GB", "30KB"], ids=["one-file", "many-files"])
def test_theirs_opens_in_ours(name: str, shards: str, tmp_path: Path) -> None:
    table = to_hf_config(config_of(CONFIGS[name][1]), 0)
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**table)).eval()
    disturb(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors").exists() == (shards == "1GB")
    assert_equal_logits(theirs, load_folder(tmp_path).eval())


@pytest.mark.parametrize("kind", ["llama", "qwen2-moe"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_scaled_positions_agree_at_the_trained_and_at_four_times_the_length(
    kind: str, scaling: str, tmp_path: Path
) -> None:
    theta = {"llama": 10_000.0, "qwen2-moe": 50_000.0}[kind]
    model = make(config_of(CONFIGS[kind][1] | {"rope_scaling": SCALINGS[scaling], "rope_theta": theta}))
    save_folder(model, tmp_path, end_id=0)
    theirs, again = open_theirs(tmp_path), load_folder(tmp_path).eval()
    for length in (TRAINED, STRETCHED):
        assert_equal_logits(theirs, model, length)
        with torch.no_grad():
            assert torch.equal(again(ids(length)), model(ids(length)))
    theirs.save_pretrained(tmp_path / "theirs")
    assert to_hf_config(load_folder(tmp_path / "theirs").config, 0) == to_hf_config(model.config, 0)


@pytest.mark.parametrize("scaling", [name for name in SCALINGS if name != "ntk"])
def test_the_scheme_changes_the_logits(scaling: str) -> None:
    """So that the parity above means something: at four times the length every scheme differs from plain rope."""
    model, plain = make(config_of({"rope_scaling": SCALINGS[scaling]})), make(LLAMA)
    with torch.no_grad():
        assert (model(ids(STRETCHED)) - plain(ids(STRETCHED))).abs().max() > 100 * LOGITS


@pytest.mark.parametrize("name", OWN_CONFIGS)
def test_a_class_of_our_own_comes_back_identical(name: str, tmp_path: Path) -> None:
    model = make(config_of(OWN_CONFIGS[name][0]))
    save_folder(model, tmp_path, 0)
    again = load_folder(tmp_path).eval()
    assert equal(again.state_dict(), model.state_dict()) and read_config(tmp_path)["model_type"] == "jielong"
    with torch.no_grad():
        assert (again(ids()) - model(ids())).abs().max() < LOGITS  # the kernel may differ: it is not in the folder


# ------------------------------------------------------------------------------------------- files and types


def test_large_models_are_split(tmp_path: Path) -> None:
    model = make(config_of(CONFIGS["mixtral"][1]))
    save_folder(model, tmp_path, 0, max_shard_bytes=40_000)
    files = [path.name for path in sorted(tmp_path.glob("*.safetensors"))]
    assert len(files) > 2 and files[1] == f"model-00002-of-{len(files):05d}.safetensors"
    assert_equal_logits(open_theirs(tmp_path), model)
    assert equal(load_folder(tmp_path).state_dict(), model.state_dict())


def test_a_model_can_be_saved_where_it_came_from(tmp_path: Path) -> None:
    """Its weights may be mapped to the very file that is written."""
    save_folder(make(LLAMA), tmp_path, 0)
    model = load_folder(tmp_path)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_folder(model, tmp_path, 0)
    assert equal(load_folder(tmp_path).state_dict(), before) and equal(model.state_dict(), before)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_the_type_on_disk_is_remembered(kind: torch.dtype, tmp_path: Path) -> None:
    model = make(LLAMA).to(kind)
    save_folder(model, tmp_path, 0)
    assert read_config(tmp_path)["dtype"] == str(kind).removeprefix("torch.")
    again = load_folder(tmp_path)
    assert again.stored_dtype == kind and {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert equal(again.state_dict(), {name: tensor.float() for name, tensor in model.state_dict().items()})


def test_a_loaded_model_can_be_trained_and_keeps_its_tie(tmp_path: Path) -> None:
    save_folder(make(LLAMA), tmp_path, 0)
    model = load_folder(tmp_path, attention="eager")
    assert model.config.attention == "eager" and model.lm_head.weight is model.model.embed_tokens.weight
    model(ids()).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


# ----------------------------------------------------------------------------------------------------- damage


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_folder(make(LLAMA), folder, 0)
    write_checksums(folder)
    load_folder(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged, its checksum differs"):
        load_folder(folder)
    weights.write_bytes(data[:100])
    (folder / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_folder(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_folder(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1}}', encoding="utf-8")
    with pytest.raises(ModelError, match="holds no weight_map"):
        load_folder(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="never opened"):
        load_folder(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_folder(folder)
    with pytest.raises(ModelError, match="no such file"):
        load_folder(tmp_path / "nowhere")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_folder(make(LLAMA), tmp_path, 0, max_shard_bytes=40_000)
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-0000\d\.safetensors: cannot be read"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 5}, r"weights do not fit config\.json \(missing model\.layers\.4"),
        ({"num_hidden_layers": 3}, r"weights do not fit config\.json \(unknown model\.layers\.3"),
        ({"intermediate_size": 640}, r"has shape .*, config\.json says"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_folder(make(LLAMA), tmp_path, 0)
    path = tmp_path / "config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | change))
    with pytest.raises(ModelError, match=message):
        load_folder(tmp_path)
