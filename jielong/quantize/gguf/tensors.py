"""The tensors of a GGUF file: their names, where each comes from, and the order of their rows.

Names are llama.cpp's: blk.0.attn_q.weight for model.layers.0.self_attn.q_proj.weight; the experts of a layer are one tensor,
(E, I, C). In the files of the architecture `llama` the rows of q and k have another order. Hugging Face turns the pairs (i, i + D/2)
of a head, llama.cpp the pairs (2i, 2i + 1) there, so that the rows of a head (first half, second half) are interleaved. The
other architectures turn pairs as Hugging Face does.

Tensors are read when they are written, one at a time (of experts, one matrix), whatever file and form of names they have.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jielong.errors import CheckpointError, ModelError
from jielong.model.config import Config
from jielong.model.hf_weights import IGNORED, READABLE, Place, place_of, weight_files
from jielong.model.transformer import CausalLM

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TOP = {EMBEDDING: "token_embd.weight", "model.norm.weight": "output_norm.weight", HEAD: "output.weight"}
IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
}
LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
EXPERTS = re.compile(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up_proj|down_proj)")
TURNED = ("attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias")


@dataclass(frozen=True)
class Planned:
    """A tensor of the file that is to be written."""

    name: str
    shape: tuple[int, ...]  # outermost first, as in PyTorch; GGUF writes it the other way round
    parts: Callable[[], Iterator[Tensor]]  # its values, in the order of the rows


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor that is not of experts. name: the one in memory, as in a CausalLM's state_dict."""
    if name in TOP:
        return TOP[name]
    found = LAYER.fullmatch(name)
    assert found is not None and found[2] in IN_LAYER, f"{name}: a tensor of no supported class"
    return f"blk.{found[1]}.{IN_LAYER[found[2]]}.{found[3]}"


def interleave(rows: Tensor, heads: int) -> Tensor:
    """The rows of q or k (or of their bias) in the order of llama.cpp's architecture `llama`."""
    half = rows.shape[0] // heads // 2
    return rows.reshape(heads, 2, half, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


class Weights:
    """The tensors of a model folder, by the place that they have in memory. Use it as a context: it holds files open."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError for a damaged file, ModelError where there are no weights."""
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._where: dict[Place, tuple[Any, str]] = {}
        try:
            for file in weight_files(folder):
                with _named(file):
                    opened = self._stack.enter_context(safe_open(str(file), framework="pt"))
                    for name in opened.keys():  # noqa: SIM118 - not a dict
                        self._where[place_of(name)] = (opened, name)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, place: Place) -> bool:
        return place in self._where or self._whole(place) is not None

    @property
    def names(self) -> set[str]:
        """Of the tensors in memory that something is there for."""
        return {place.name for place, (_, name) in self._where.items() if not name.endswith(IGNORED)}

    def take(self, place: Place, shape: tuple[int, ...]) -> Tensor:
        """The tensor of a place. Raises ModelError for one of another shape or type."""
        whole = self._whole(place)
        opened, name = self._where[place if whole is None else whole]
        with _named(self.folder):
            tensor: Tensor = opened.get_tensor(name)
        if whole is not None:
            tensor = place.of(tensor)
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self.folder}: {name} has shape {tuple(tensor.shape)}, config.json says {shape}; get the folder again"
            )
        if tensor.dtype not in READABLE:
            raise ModelError(
                f"{self.folder}: {name} holds {str(tensor.dtype).removeprefix('torch.')}; must be float32, bfloat16 or float16; "
                "export the model that is not quantized"
            )
        return tensor

    def _whole(self, place: Place) -> Place | None:
        """Where the experts of a layer are one tensor in the file too."""
        whole = Place(place.name)
        return whole if place.expert is not None and place not in self._where and whole in self._where else None


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as safetensors ({error}); get the file again") from None


def plan(config: Config, weights: Weights, architecture: str) -> list[Planned]:
    """The tensors to write, in the order of the layers. architecture: llama.cpp's.

    Raises ModelError for tensors that are missing, or that the config knows nothing of.
    """
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in CausalLM(config).state_dict().items()}
    # llama.cpp takes the embedding for a missing output layer, but not of qwen2moe
    copied = config.tie_word_embeddings and architecture == "qwen2moe"
    if config.tie_word_embeddings:
        del shapes[HEAD]
    found: list[Planned] = []
    missing: list[str] = []
    for name, shape in shapes.items():
        if EXPERTS.fullmatch(name):
            found += _experts(name, shape, weights, missing)
        elif Place(name) not in weights:
            missing.append(name)
        else:
            found.append(_single(gguf_name(name), Place(name), shape, weights, config, architecture))
            if copied and name == EMBEDDING:
                found.append(_single(TOP[HEAD], Place(name), shape, weights, config, architecture))
    unknown = weights.names - shapes.keys() - {HEAD}
    if missing or unknown:
        named = [f"missing {x}" for x in sorted(missing)[:3]] + [f"unknown {x}" for x in sorted(unknown)[:3]]
        raise ModelError(f"{weights.folder}: weights do not fit config.json ({', '.join(named)}); get the folder again")
    return found


def _single(
    name: str, place: Place, shape: tuple[int, ...], weights: Weights, config: Config, architecture: str
) -> Planned:
    heads = config.num_key_value_heads if ".attn_k." in name else config.num_attention_heads
    turned = architecture == "llama" and name.endswith(TURNED)
    flat = name.endswith("ffn_gate_inp_shexp.weight")  # one row, which llama.cpp has as a vector

    def parts() -> Iterator[Tensor]:
        tensor = weights.take(place, shape)
        yield interleave(tensor, heads or 0) if turned else tensor

    return Planned(name, shape[1:] if flat else shape, parts)


def _experts(name: str, shape: tuple[int, ...], weights: Weights, missing: list[str]) -> Iterator[Planned]:
    """gate_up_proj (E, 2I, C) as gate and up, (E, I, C) each; down_proj (E, C, I)."""
    found = EXPERTS.fullmatch(name)
    assert found is not None
    count, rows, columns = shape
    halves: dict[str, int | None] = {"gate": 0, "up": 1} if found[2] == "gate_up_proj" else {"down": None}
    rows //= len(halves)
    for part, half in halves.items():
        places = [Place(name, expert, half) for expert in range(count)]
        missing += [f"expert {place.expert} of {name}" for place in places if place not in weights][:1]

        def parts(places: list[Place] = places) -> Iterator[Tensor]:
            yield from (weights.take(place, (rows, columns)) for place in places)

        yield Planned(f"blk.{found[1]}.ffn_{part}_exps.weight", (count, rows, columns), parts)
