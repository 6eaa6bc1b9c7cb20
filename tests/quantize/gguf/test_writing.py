"""A GGUF file holds the model: every tensor, the logits that transformers computes of it, the ids, and what it says of itself."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from jielong.errors import InputError, MissingExtraError, ModelError
from jielong.model.hf import load_folder, save_folder
from jielong.model.hf_config import read_config
from jielong.model.transformer import CausalLM
from jielong.quantize.gguf.kinds import KINDS
from jielong.quantize.gguf.writing import export
from jielong.tokenizer.folder import open_folder
from tests.model.test_hf import LOGITS, greedy, ids
from tests.model.test_hf_config import CONFIGS, SCALINGS
from tests.quantize.gguf.folders import CHINESE, ENGLISH, change, model_folder

gguf = pytest.importorskip("gguf", reason="the quant extra")
WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}


def tensors(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """GGUF name -> kind and values, dequantized by gguf."""
    return {
        one.name: (one.tensor_type.name.lower(), gguf.dequantize(one.data, one.tensor_type))
        for one in gguf.GGUFReader(path).tensors
    }


def fields(path: Path) -> dict[str, Any]:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def unturned(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """q and k as Hugging Face has them, as transformers undoes llama.cpp's order."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def expected(folder: Path, turned: bool) -> dict[str, Tensor]:
    """GGUF name -> values of the folder, by gguf's own table of names."""
    model = load_folder(folder)
    architecture = gguf.MODEL_ARCH.LLAMA if turned else gguf.MODEL_ARCH.QWEN2
    names = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {f"{names.get_name(n.rpartition('.')[0])}.{n.rpartition('.')[2]}": tensor for n, tensor in state.items()}


@pytest.mark.parametrize("name", ["llama", "llama-biases", "qwen2"])
@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)])
def test_every_tensor_is_exact(name: str, kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", CONFIGS[name][1], dtype)
    report = export(folder, tmp_path / "new" / "m.gguf", kind)
    found, wanted = tensors(tmp_path / "new" / "m.gguf"), expected(folder, name != "qwen2")
    assert found.keys() == wanted.keys() and report["tensors"] == len(found) and report["fallen_back"] == {}
    for key, (stored, values) in found.items():
        assert stored == ("f32" if values.ndim == 1 else kind)
        if name != "qwen2" and ("attn_q" in key or "attn_k." in key):
            values = unturned(values, 4 if "attn_q" in key else 2)
        assert np.array_equal(values, wanted[key].numpy()), key
    assert ("output.weight" in found) == (name == "llama-biases")
    assert report["bytes"] == (tmp_path / "new" / "m.gguf").stat().st_size
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "f" not in kind])
def test_quantized_tensors_are_near(kind: str, tmp_path: Path) -> None:
    """By the root mean square of what is lost, beside that of the numbers."""
    folder = model_folder(tmp_path / "model", WIDE)
    report = export(folder, tmp_path / "m.gguf", kind)
    most, found = {"8": 0.01, "6": 0.02, "5": 0.06, "4": 0.12}[kind[1]], tensors(tmp_path / "m.gguf")
    for key, values in expected(folder, True).items():
        stored, back = found[key]
        wanted = "q6_k" if (kind, key) == ("q4_k", "token_embd.weight") else kind
        assert stored == ("f32" if values.ndim == 1 else wanted)
        if ".attn_q." in key or ".attn_k." in key:
            back = unturned(back, 4 if "attn_q" in key else 2)
        assert np.sqrt(((back - values.numpy()) ** 2).mean()) <= most * values.square().mean().sqrt(), key
    assert int(kind[1]) + 0.5 <= report["bits_per_weight"] < int(kind[1]) + 1.5


def test_rows_that_do_not_fit_fall_back(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {"hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 1})
    fallen = export(folder, tmp_path / "m.gguf", "q4_k")["fallen_back"]
    assert fallen["token_embd.weight"] == "q8_0" and fallen["blk.0.attn_q.weight"] == "q5_0"
    assert fallen["blk.0.ffn_down.weight"] == "f16" and "blk.0.attn_norm.weight" not in fallen
    assert {key: stored for key, (stored, _) in tensors(tmp_path / "m.gguf").items() if stored != "f32"} == fallen


def test_what_the_file_says(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "a-name", {"rope_scaling": SCALINGS["llama3"], "hidden_size": 64})
    tokenizer = open_folder(folder)
    report = export(folder, tmp_path / "m.gguf", "q8_0")
    table = fields(tmp_path / "m.gguf")
    assert table["general.architecture"] == "llama" and table["general.name"] == "a-name"
    assert table["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q8_0 and table["general.quantization_version"] == 2
    assert table["llama.context_length"] == 128 and table["llama.vocab_size"] == tokenizer.size + 5
    assert len(table["tokenizer.ggml.tokens"]) == len(table["tokenizer.ggml.token_type"]) == tokenizer.size + 5
    assert table["tokenizer.ggml.pre"] == report["tokenizer"]["pre"] == "qwen2"
    assert (table["tokenizer.ggml.eos_token_id"], table["tokenizer.ggml.add_bos_token"]) == (tokenizer.end_id, False)
    stored, divisors = tensors(tmp_path / "m.gguf")["rope_freqs.weight"]
    assert (
        stored == "f32" and divisors.shape == (8,) and divisors[0] == 1 and math.isclose(divisors[-1], 4, rel_tol=1e-5)
    )
    assert report["tokenizer"]["differ"] == 0 and report["tokenizer"]["probes"] >= 300
    assert report["kind"] == "q8_0" and Path(report["file"]) == tmp_path / "m.gguf"


# ------------------------------------------------------------------------------------------- in other programs

# shapes that transformers does not read from the file, so they must be its defaults
THEIRS = {
    "llama": ("llama", {}),
    "untied": ("llama", {"tie_word_embeddings": False, "rope_theta": 5e5}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"head_dim": 8}),
    "qwen3": ("qwen3", {"head_dim": 128}),
    "qwen2-moe": (
        "qwen2-moe",
        {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632, "mlp_only_layers": (), "num_hidden_layers": 1},
    ),
    "qwen3-moe": ("qwen3-moe", {"moe_intermediate_size": 768, "mlp_only_layers": (), "num_hidden_layers": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_transformers_computes_the_same(name: str, tmp_path: Path) -> None:
    """Equal logits of the f32 file, and the same ids."""
    base, more = THEIRS[name]
    shape = {key: value for key, value in CONFIGS[base][1].items() if key != "sliding_window"} | more
    folder = model_folder(tmp_path / "model", shape)
    export(folder, folder / "m.gguf", "f32")
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file="m.gguf", dtype=torch.float32).eval()
    with torch.no_grad():
        found, wanted = theirs(ids(), use_cache=False).logits, load_folder(folder).eval()(ids())
    assert (found - wanted).abs().max() < LOGITS and wanted.abs().max() > 0.1
    if name == "llama":
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file="m.gguf")
        assert [tokenizer(text)["input_ids"] for text in (*CHINESE, ENGLISH)] == open_folder(folder).encode(
            [*CHINESE, ENGLISH]
        )


LLAMA_CPP = {
    "llama": {},
    "llama-biases": {},
    "llama3": {"rope_scaling": SCALINGS["llama3"]},
    "yarn": {"rope_scaling": SCALINGS["yarn"]},
    "linear": {"rope_scaling": SCALINGS["linear"]},
    "mistral": {"sliding_window": 64},
    "qwen2": {"head_dim": 8},
    "qwen3": {},
    "mixtral": {},
    "qwen2-moe": {"mlp_only_layers": ()},
    "qwen3-moe": {"mlp_only_layers": ()},
}


def shape_for_llama_cpp(name: str) -> dict[str, Any]:
    """Rows of 256, so that every kind fits."""
    shape = (
        CONFIGS.get(name, ("", {}))[1]
        | LLAMA_CPP[name]
        | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    )
    return {key: 256 if key.endswith("intermediate_size") else value for key, value in shape.items()}


def decoded(path: Path, model: CausalLM) -> CausalLM:
    """The model with the weights that a file of the architecture llama holds, so that what remains is llama.cpp's arithmetic."""
    found, names = tensors(path), gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            stem, _, last = name.rpartition(".")
            _, values = found[f"{names.get_name(stem)}.{last}"]
            if "q_proj" in name or "k_proj" in name:
                values = unturned(values, 4 if "q_proj" in name else 2)
            parameter.copy_(torch.tensor(values))
    return model.eval()


def in_llama_cpp(path: Path, exact: bool = False) -> Any:
    """exact: the cache in float32."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="a binding of llama.cpp, which is built from source")
    cache = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32} if exact else {}
    return llama_cpp.Llama(str(path), n_ctx=128, n_threads=1, logits_all=True, verbose=False, **cache)


@torch.no_grad()
def distance(llama: Any, ours: CausalLM, prompt: list[int]) -> float:
    """Of llama.cpp's logits from ours, as a share of ours."""
    llama.eval(prompt)
    found, wanted = torch.tensor(np.array(llama.scores[: len(prompt)])), ours(torch.tensor([prompt]))[0]
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", LLAMA_CPP)
def test_llama_cpp_says_the_same(name: str, tmp_path: Path) -> None:
    """The same ids of texts, the logits of float32, and in float16 the same greedy tokens."""
    folder = model_folder(tmp_path / "model", shape_for_llama_cpp(name), torch.float16)
    ours, tokenizer = load_folder(folder).eval(), open_folder(folder)
    prompt = tokenizer.encode([CHINESE[0]])[0]
    for kind, far in (("f32", 1e-3), ("f16", 1e-2)):
        export(folder, tmp_path / f"{kind}.gguf", kind)
        assert distance(in_llama_cpp(tmp_path / f"{kind}.gguf", exact=kind == "f32"), ours, prompt) < far, kind
    llama = in_llama_cpp(tmp_path / "f16.gguf")
    for text in (*CHINESE, ENGLISH):
        assert llama.tokenize(text.encode("utf-8"), add_bos=False, special=False) == tokenizer.encode([text])[0]
    said = list(itertools.islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), 16))
    assert said == greedy(ours, torch.tensor([prompt]), 16)[0, len(prompt) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_every_kind(kind: str, tmp_path: Path) -> None:
    """Logits of the weights in the file; of the quantized kinds llama.cpp rounds the activations to 8 bits as well."""
    folder = model_folder(tmp_path / "model", shape_for_llama_cpp("llama"))
    export(folder, tmp_path / "m.gguf", kind)
    ours = decoded(tmp_path / "m.gguf", load_folder(folder))
    prompt = open_folder(folder).encode([CHINESE[0]])[0]
    assert distance(in_llama_cpp(tmp_path / "m.gguf"), ours, prompt) < {"f32": 0.01, "f16": 0.01, "bf16": 0.05}.get(
        kind, 0.1
    )


# ---------------------------------------------------------------------------------------------------- refused


def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = model_folder(tmp_path / "model", {}), tmp_path / "m.gguf"
    with pytest.raises(InputError, match="--gguf: unknown, got 'q3_k'"):
        export(folder, out, "q3_k")
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"--out: is there already, got .*m\.gguf; give a new name, or delete it"):
        export(folder, out, "f16")
    assert out.read_bytes() == b"mine"
    change(folder / "config.json", num_hidden_layers=5)
    with pytest.raises(ModelError, match=r"weights do not fit config\.json"):
        export(folder, tmp_path / "other.gguf", "f16")
    assert not list(tmp_path.glob("*other.gguf*")) and read_config(folder)["num_hidden_layers"] == 5
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gguf: not installed, needed for GGUF files; .*jielong\[gguf\]"):
        export(folder, tmp_path / "other.gguf", "f16")


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    """Too large for float16 in the middle of the file."""
    folder = model_folder(tmp_path / "model", {"initializer_range": 0.02})
    model = load_folder(folder)
    model.model.norm.weight.data.fill_(1e6)
    model.model.layers[2].mlp.up_proj.weight.data.fill_(1e6)
    save_folder(model, folder, 0)
    with pytest.raises(ModelError, match=r"blk\.2\.ffn_up\.weight: too large for f16"):
        export(folder, tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.glob("*m.gguf*")) and export(folder, tmp_path / "m.gguf", "bf16")["tensors"]
