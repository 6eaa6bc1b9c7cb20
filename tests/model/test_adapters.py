"""Adapters: what moves, what merged weights say, and that peft reads and writes the same folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from jielong.errors import ModelError
from jielong.model.adapter_config import Adapter
from jielong.model.adapters import (
    CONFIG,
    WEIGHTS,
    Adapted,
    attach,
    base_of,
    fill,
    identity,
    is_adapter,
    merge,
    read_adapter,
    read_tensors,
    save_adapter,
    trained,
)
from jielong.model.config import Config
from jielong.model.hf import load_folder, save_folder, write_configs
from jielong.model.transformer import CausalLM
from tests.model.test_hf import ids, make
from tests.model.test_hf_config import CONFIGS, config_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # peft asks so
KINDS = ("lora", "rslora", "dora", "pissa")
SAME = 1e-5  # logits merged and unmerged, as the issue that brought adapters asks; logits are of size 1


def base_folder(folder: Path, name: str = "llama") -> Path:
    """A model folder with random weights, of a Hugging Face class."""
    save_folder(make(config_of(CONFIGS[name][1])), folder, end_id=0)
    return folder


def adapter_of(kind: str = "lora", **settings: Any) -> Adapter:
    return Adapter.model_validate({"kind": kind, "rank": 4, "dropout": 0.0} | settings)


def train_some(model: CausalLM, steps: int = 3) -> None:
    """A few steps of AdamW on random tokens."""
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    model.train()
    for step in range(steps):
        tokens = ids(24, 2 + step)
        model.loss_sum(tokens[:, :-1], tokens[:, 1:].contiguous(), None, None).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def adapted(folder: Path, kind: str = "lora", **settings: Any) -> tuple[CausalLM, Adapted]:
    """A base with an adapter that was trained a little."""
    adapter, model = adapter_of(kind, **settings), load_folder(folder)
    first = attach(model, adapter, seed=1)
    train_some(model)
    return model, Adapted(adapter, folder, identity(folder), model.config.tie_word_embeddings, first)


def save(model: CausalLM, found: Adapted, folder: Path) -> Path:
    save_adapter(trained(model), found, folder)
    write_configs(model.config, "float32", folder, 0, None)
    return folder


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found = model(ids())
    return found if isinstance(found, Tensor) else found.logits


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_until_it_is_trained_and_only_the_adapter_moves(kind: str, tmp_path: Path) -> None:
    model = load_folder(base_folder(tmp_path / "base"))
    before = logits(model.eval())
    attach(model, adapter_of(kind), seed=1)
    assert (logits(model.eval()) - before).abs().max() < SAME
    frozen = {name: one.detach().clone() for name, one in model.named_parameters() if not one.requires_grad}
    moving = {name: tensor.clone() for name, tensor in trained(model).items()}
    assert moving and all(".lora_" in name for name in moving)
    train_some(model)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert all(not torch.equal(after[name], tensor) for name, tensor in moving.items())
    assert (logits(model) - before).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_merged_saved_and_opened_again_says_the_same(kind: str, name: str, tmp_path: Path) -> None:
    """Unmerged, merged in memory, opened from its folder (which merges), and written as a plain model: the same logits."""
    model, found = adapted(base_folder(tmp_path / "base", name), kind)
    expected = logits(model)
    folder = save(model, found, tmp_path / "adapter")
    assert is_adapter(folder) and base_of(folder) == tmp_path / "base"
    assert (logits(load_folder(folder).eval()) - expected).abs().max() < SAME
    plain = merge(model)
    assert not any(".lora_" in key or "base_layer" in key for key in plain.state_dict())
    assert (logits(plain) - expected).abs().max() < SAME
    save_folder(plain, tmp_path / "plain", end_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32).eval()
    assert (logits(theirs) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_peft_opens_what_is_saved(kind: str, tmp_path: Path) -> None:
    model, found = adapted(base_folder(tmp_path / "base"), kind)
    folder = save(model, found, tmp_path / "adapter")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    opened = PeftModel.from_pretrained(theirs, folder).eval()
    assert (logits(opened) - logits(model)).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_an_adapter_of_peft_opens_here(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(base_folder(tmp_path / "base"), dtype=torch.float32)
    torch.manual_seed(3)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False,
                        task_type="CAUSAL_LM", **settings)  # fmt: skip
    wrapped = get_peft_model(theirs, config).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    table = orjson.loads((tmp_path / "adapter" / CONFIG).read_bytes())
    table["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / CONFIG).write_bytes(orjson.dumps(table))
    ours = load_folder(tmp_path / "adapter").eval()
    assert (logits(ours) - logits(wrapped)).abs().max() < 1e-4 and logits(wrapped).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")  # and so it is saved for both
@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_and_norms_as_a_whole(tied: bool, tmp_path: Path) -> None:
    """They move, are saved beside the adapter, and come back; peft takes them as modules_to_save, the output layer by itself."""
    base = tmp_path / "base"
    save_folder(
        make(Config.model_validate(config_of(CONFIGS["llama"][1]).model_dump() | {"tie_word_embeddings": tied})),
        base,
        end_id=0,
    )
    model, found = adapted(base, whole=["embeddings", "norms"])
    names = {name for name in trained(model) if ".lora_" not in name}
    assert "model.embed_tokens.weight" in names and "model.norm.weight" in names
    folder = save(model, found, tmp_path / "adapter")
    assert (logits(load_folder(folder).eval()) - logits(model)).abs().max() < SAME
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert (logits(PeftModel.from_pretrained(theirs, folder).eval()) - logits(model)).abs().max() < 1e-4


def test_the_base_of_a_run_that_was_moved_is_found_there(tmp_path: Path) -> None:
    """Its own one, not another model of the same shape that lies nearer."""
    base = base_folder(tmp_path / "run" / "train" / "checkpoints" / "step-00000010")
    model, found = adapted(base)
    save(model, found, tmp_path / "run" / "tune" / "checkpoints" / "step-00000005")
    (tmp_path / "run").rename(tmp_path / "moved")
    save_folder(CausalLM(model.config), tmp_path / "moved" / "model", end_id=0)
    folder = tmp_path / "moved" / "tune" / "checkpoints" / "step-00000005"
    assert base_of(folder) == tmp_path / "moved" / "train" / "checkpoints" / "step-00000010"
    assert (logits(load_folder(folder).eval()) - logits(model)).abs().max() < SAME


def test_resumed_pissa_goes_on_from_its_own_half(tmp_path: Path) -> None:
    model, found = adapted(base_folder(tmp_path / "base"), "pissa")
    folder = save(model, found, tmp_path / "adapter")
    assert read_tensors(folder)["model.layers.0.self_attn.q_proj.lora_A.default.weight"].shape[0] == 8
    again = load_folder(tmp_path / "base")
    attach(again, found.adapter, seed=1)
    fill(again, read_tensors(folder, found.adapter), folder)
    assert (logits(again.eval()) - logits(model)).abs().max() < SAME


def test_the_same_seed_gives_the_same_adapter(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    found = []
    for seed, draws in ((1, 0), (1, 5), (2, 0)):
        torch.rand(draws)  # what was drawn before is no matter
        before = torch.get_rng_state()
        model = load_folder(base)
        attach(model, adapter_of(), seed)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(trained(model)["model.layers.0.self_attn.q_proj.lora_A.default.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_half_precision_holds_what_is_frozen(tmp_path: Path) -> None:
    model = load_folder(base_folder(tmp_path / "base"))
    attach(model, adapter_of(), 1, torch.bfloat16)
    kinds = {name: one.dtype for name, one in model.named_parameters()}
    assert all(kinds[name] == torch.float32 for name in kinds if ".lora_" in name or "norm" in name)
    assert kinds["model.layers.0.self_attn.q_proj.base_layer.weight"] == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        model.losses(ids()[:, :-1], ids()[:, 1:].contiguous(), None, None).cross_entropy.backward()  # type: ignore[no-untyped-call]
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


def test_what_is_refused(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    model, found = adapted(base)
    folder = save(model, found, tmp_path / "adapter")
    with pytest.raises(ModelError, match="none of them, got gate_proj"):
        attach(CausalLM(Config(vocab_size=97, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                               num_experts=2, num_experts_per_tok=1)), adapter_of(targets=["gate_proj"]), 1)  # fmt: skip
    table = orjson.loads((folder / CONFIG).read_bytes())

    def changed(**more: Any) -> Path:
        (folder / CONFIG).write_bytes(orjson.dumps(table | more))
        return folder

    with pytest.raises(ModelError, match="its base is not there, got /nowhere"):
        base_of(changed(base_model_name_or_path="/nowhere"))
    with pytest.raises(ModelError, match="peft_type not supported, got 'LOHA'"):
        read_adapter(changed(peft_type="LOHA"))
    with pytest.raises(ModelError, match="rank_pattern not supported"):
        read_adapter(changed(rank_pattern={"q_proj": 2}))
    other = base_folder(tmp_path / "other", "qwen3")
    with pytest.raises(ModelError, match="its base has other weights than those it was trained on, got"):
        load_folder(changed(base_model_name_or_path=str(other)))
    (folder / "base.json").unlink()  # as others write it
    with pytest.raises(ModelError, match="does not fit the model"):
        load_folder(changed(base_model_name_or_path=str(other)))
    with pytest.raises(ModelError, match="init_lora_weights not supported, got 'pissa'"):
        read_adapter(changed(init_lora_weights="pissa"))
    with pytest.raises(ModelError, match=r"adapter\.rank: above what pissa finds in a target, got 20; at most 16"):
        attach(load_folder(base), adapter_of("pissa", rank=20), 1)
    changed()
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"holds no {WEIGHTS}"):
        load_folder(folder)
