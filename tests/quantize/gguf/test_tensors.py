"""Names and rows of tensors, and that they are found in whatever form the files have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from jielong.errors import CheckpointError, ModelError
from jielong.model.hf_weights import write_weights
from jielong.model.transformer import CausalLM
from jielong.quantize.gguf.tensors import Planned, Weights, gguf_name, interleave, plan
from tests.model.test_hf import make
from tests.model.test_hf_config import CONFIGS, config_of


def whole(one: Planned) -> Tensor:
    return torch.cat([part.reshape(-1) for part in one.parts()]).reshape(one.shape)


def loose(model: CausalLM) -> dict[str, Tensor]:
    """The tensors, none of which shares memory with another."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", ["llama-biases", "qwen2", "qwen3", "qwen2-moe"])
def test_names_are_ggufs(name: str) -> None:
    gguf = pytest.importorskip("gguf", reason="the quant extra")
    kind = {"llama-biases": "LLAMA", "qwen2-moe": "QWEN2MOE"}.get(name, name.upper())
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind], 4)
    with torch.device("meta"):
        model = CausalLM(config_of(CONFIGS[name][1] | {"mlp_only_layers": ()}))
    names = [one for one in model.state_dict() if ".experts." not in one]
    for one in names:
        stem, _, last = one.rpartition(".")
        assert gguf_name(one) == f"{table.get_name(stem)}.{last}"


def test_interleave() -> None:
    """Two heads of four rows: (a0 a1 | b0 b1) becomes a0 b0 a1 b1 in each."""
    rows = torch.arange(8)[:, None] * torch.ones(1, 3, dtype=torch.int64)
    assert interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    assert interleave(torch.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("form", ["mixtral", "qwen3_moe", "jielong"])
def test_experts_are_stacked_whatever_their_form(form: str, tmp_path: Path) -> None:
    """One matrix an expert under the names of either class, and stacked as in memory; in many files."""
    model = make(config_of(CONFIGS["mixtral"][1]))
    write_weights(loose(model), tmp_path, form, 20_000)
    with Weights(tmp_path) as weights:
        planned = {one.name: one for one in plan(model.config, weights, "llama")}
        state = model.state_dict()
        gate_up = state["model.layers.1.mlp.experts.gate_up_proj"]
        assert torch.equal(whole(planned["blk.1.ffn_gate_exps.weight"]), gate_up[:, :24])
        assert torch.equal(whole(planned["blk.1.ffn_up_exps.weight"]), gate_up[:, 24:])
        down = state["model.layers.1.mlp.experts.down_proj"]
        assert torch.equal(whole(planned["blk.1.ffn_down_exps.weight"]), down)
        assert torch.equal(whole(planned["blk.1.ffn_gate_inp.weight"]), state["model.layers.1.mlp.gate.weight"])
    assert len(list(tmp_path.glob("*.safetensors"))) > 2


def test_a_tied_head_is_left_out_but_for_qwen2moe(tmp_path: Path) -> None:
    model = make(config_of({}))
    write_weights(loose(model), tmp_path, "llama", 10**9)  # with the head, as some files have it
    with Weights(tmp_path) as weights:
        assert "output.weight" not in {one.name for one in plan(model.config, weights, "llama")}
        found = {one.name: one for one in plan(model.config, weights, "qwen2moe")}
        assert torch.equal(whole(found["output.weight"]), model.state_dict()["model.embed_tokens.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = make(config_of({}))
    write_weights(loose(model), tmp_path, "llama", 10**9)
    with Weights(tmp_path) as weights:
        for layers, message in ((5, r"missing model\.layers\.4"), (3, r"unknown model\.layers\.3")):
            with pytest.raises(ModelError, match=message):
                plan(model.config.model_copy(update={"num_hidden_layers": layers}), weights, "llama")
        wider = plan(model.config.model_copy(update={"intermediate_size": 640}), weights, "llama")
        with pytest.raises(ModelError, match=r"mlp\.\w+\.weight has shape \(\d+, \d+\), config\.json says"):
            list(next(one for one in wider if "ffn_up" in one.name).parts())
    write_weights({"model.norm.weight": torch.ones(32, dtype=torch.int32)}, tmp_path, "llama", 10**9)
    with Weights(tmp_path) as weights, pytest.raises(ModelError, match="holds int32; must be float32"):
        weights.take(next(iter(weights._where)), (32,))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read as safetensors"):
        Weights(tmp_path)
