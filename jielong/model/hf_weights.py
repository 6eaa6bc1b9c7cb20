"""The tensors of a model folder: their names on disk, and files that hold no second copy of them in memory.

In memory the experts of a layer are stacked, `mlp.experts.gate_up_proj` (E, 2I, C: gate rows first) and
`mlp.experts.down_proj` (E, C, I), which grouped products need. In the files of Hugging Face's classes every expert has
matrices of its own, under names that transformers 4 gave them and that transformers 5, vLLM and llama.cpp read:

    mixtral     block_sparse_moe.gate.weight    block_sparse_moe.experts.{e}.w1 / w3 / w2 .weight   (gate, up, down)
    qwen*_moe   mlp.gate.weight                 mlp.experts.{e}.gate_proj / up_proj / down_proj .weight

Everything else has the same name on both sides. A class of our own is stored as it is in memory. Reading takes any of these
forms, whatever the class.

Memory: an expert's matrix is a run of rows of the stacked tensor, so what is written are views (safetensors writes them
from where they lie), and only one file's tensors at a time are brought from a GPU. Reading stacks as it goes: each matrix is
copied once from the mapped file to its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jielong.errors import CheckpointError, ModelError
from jielong.model.hf_config import read_config
from jielong.runs import write_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
EXPERT_NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")} | dict.fromkeys(
    ("qwen2_moe", "qwen3_moe"), ("mlp", "gate_proj", "up_proj", "down_proj")
)
STACKED = re.compile(r"(.+\.)mlp\.experts\.(gate_up_proj|down_proj)")
EXPERT = re.compile(
    r"(.+\.)(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(?:(gate_proj|w1)|(up_proj|w3)|down_proj|w2)\.weight"
)
IGNORED = ("rotary_emb.inv_freq", "masked_bias")  # buffers that old checkpoints carry
Take = Callable[[str, Tensor], Tensor]
READABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Place(NamedTuple):
    """Where a tensor of a file belongs in memory: a whole tensor, an expert of a stacked one, or half of that."""

    name: str
    expert: int | None = None
    half: int | None = None  # of gate_up_proj: 0 gate, 1 up

    def of(self, whole: Tensor) -> Tensor:
        """The view of the in-memory tensor that the file's tensor fills."""
        if self.expert is None:
            return whole
        part = whole[self.expert]
        if self.half is None:
            return part
        rows = part.shape[0] // 2
        return part[self.half * rows : (self.half + 1) * rows]


def place_of(name: str) -> Place:
    """Where the tensor that a file calls `name` belongs."""
    if (found := EXPERT.fullmatch(name)) is None:
        return Place(name.replace(".block_sparse_moe.", ".mlp."))
    prefix, expert, gate, up = found[1], int(found[2]), found[3], found[4]
    if gate or up:
        return Place(f"{prefix}mlp.experts.gate_up_proj", expert, 1 if up else 0)
    return Place(f"{prefix}mlp.experts.down_proj", expert)


def named_for_files(state: dict[str, Tensor], model_type: str) -> Iterator[tuple[str, Tensor]]:
    """In-memory tensors under the names of a class's files; those of experts are views."""
    if model_type not in EXPERT_NAMES:
        yield from state.items()
        return
    folder, gate, up, down = EXPERT_NAMES[model_type]
    for name, tensor in state.items():
        if (found := STACKED.fullmatch(name)) is None:
            yield name.replace(".mlp.gate.", f".{folder}.gate."), tensor
            continue
        for expert in range(tensor.shape[0]):
            prefix = f"{found[1]}{folder}.experts.{expert}"
            for part, half in ((gate, 0), (up, 1)) if found[2] == "gate_up_proj" else ((down, None),):
                yield f"{prefix}.{part}.weight", Place(name, expert, half).of(tensor)


# ----------------------------------------------------------------------------------------------------- writing


def write_weights(state: dict[str, Tensor], folder: Path, model_type: str, max_shard_bytes: int) -> None:
    """Write tensors into model.safetensors, or into several files and an index where they exceed max_shard_bytes.

    Weights that were there before are removed first: a model may still be mapped to them, and a reader must not find both.
    """
    for pattern in (SINGLE, INDEX, "model-*-of-*.safetensors"):
        for old in folder.glob(pattern):
            old.unlink()
    files: list[dict[str, Tensor]] = [{}]
    filled = total = 0
    for name, tensor in named_for_files(state, model_type):
        size = tensor.numel() * tensor.element_size()
        if files[-1] and filled + size > max_shard_bytes:
            files.append({})
            filled = 0
        files[-1][name] = tensor
        filled, total = filled + size, total + size
    names = [SINGLE] if len(files) == 1 else [f"model-{i:05d}-of-{len(files):05d}.safetensors" for i in _from_1(files)]
    for name, tensors in zip(names, files, strict=True):
        here = {key: tensor.detach().to("cpu").contiguous() for key, tensor in tensors.items()}
        save_file(here, str(folder / name), metadata={"format": "pt"})
    if len(files) > 1:
        weight_map = {key: name for name, tensors in zip(names, files, strict=True) for key in tensors}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _from_1(items: list[Any]) -> range:
    return range(1, len(items) + 1)


# ----------------------------------------------------------------------------------------------------- reading


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises ModelError when there are none, or only pickles."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        weight_map = read_config(folder, INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(f"{folder / INDEX}: holds no weight_map of file names; get the file again")
        return sorted({folder / name for name in weight_map.values()})
    if any(folder.glob("*.bin")):
        raise ModelError(f"{folder}: weights are pickles (*.bin), which are never opened; convert them to safetensors")
    raise ModelError(f"{folder}: holds no model.safetensors; give a Hugging Face model folder")


def read_weights(
    folder: Path, shapes: dict[str, torch.Size], tied: str | None, take: Take = lambda name, tensor: tensor.float(),
    tensors: Iterable[tuple[str, Tensor]] | None = None,
) -> tuple[dict[str, Tensor], torch.dtype]:  # fmt: skip
    """The tensors of `shapes`, float32, and the type that they had on disk: bfloat16 or float16 if all of them, else float32.

    tied: name of a tensor that may be missing, and that is left out where it is there. take: what is kept of each, in place of float32
    (frozen.py); it gets its name and the tensor of the file, experts stacked. tensors: names and tensors, in place of the files' own.
    Raises CheckpointError for a file that is damaged, ModelError for tensors that are not the ones asked for.
    """
    state: dict[str, Tensor] = {}
    filled: dict[str, set[Place]] = {}
    unknown: list[str] = []
    kinds: set[torch.dtype] = set()
    given = (pair for file in weight_files(folder) for pair in tensors_of(file)) if tensors is None else tensors
    for name, tensor in given:
        place = place_of(name)
        if name.endswith(IGNORED) or place.name == tied:
            continue
        if place.name not in shapes or (place.expert is not None and place.expert >= shapes[place.name][0]):
            unknown.append(name)
            continue
        _check(name, tensor, place.of(torch.empty(shapes[place.name], device="meta")).shape, folder)
        kinds.add(tensor.dtype)
        if place.expert is None:
            state[place.name] = take(place.name, tensor)
            continue
        if place.name not in state:
            state[place.name] = torch.empty(shapes[place.name], dtype=torch.float32)
        place.of(state[place.name]).copy_(tensor)
        filled.setdefault(place.name, set()).add(place)
    missing = [name for name in shapes if name not in state and name != tied]
    for name, places in filled.items():
        if len(places) < shapes[name][0] * (2 if name.endswith("gate_up_proj") else 1):
            missing.append(f"experts of {name}")
    if missing or unknown:
        named = [f"missing {name}" for name in sorted(missing)[:3]] + [
            f"unknown {name}" for name in sorted(unknown)[:3]
        ]
        raise ModelError(f"{folder}: weights do not fit config.json ({', '.join(named)}); get the folder again")
    for name in filled:
        state[name] = take(name, state[name])
    kind = kinds.pop() if len(kinds) == 1 else torch.float32
    return state, kind if kind in (torch.bfloat16, torch.float16) else torch.float32


def names_of(file: Path) -> list[str]:
    """The names of a safetensors file's tensors. Raises CheckpointError for a damaged one."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error}); get the file again") from None


def tensors_of(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of a safetensors file, one at a time. Raises CheckpointError for a damaged one."""
    try:
        with safe_open(str(file), framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                yield name, opened.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read as safetensors ({error}); get the file again") from None


def _check(name: str, tensor: Tensor, shape: torch.Size, folder: Path) -> None:
    if tensor.shape != shape:
        raise ModelError(
            f"{folder}: {name} has shape {tuple(tensor.shape)}, config.json says {tuple(shape)}; get the folder again"
        )
    if tensor.dtype not in READABLE:
        raise ModelError(
            f"{folder}: {name} holds {str(tensor.dtype).removeprefix('torch.')}; must be float32, bfloat16 or float16; "
            "use a model that is not quantized"
        )
