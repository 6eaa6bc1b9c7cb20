"""Adapters: attached to a model by peft, saved as peft's folders, folded into the weights.

peft puts its layers into our model as into any other, because its linear layers are `nn.Linear` and have Hugging Face's names; a
folder written here is opened by `PeftModel.from_pretrained` on the base in its Hugging Face form, and folders of others (LLaMA-Factory's,
say) are read and merged here.

    adapter_config.json          peft's LoraConfig, with the path of the base
    adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight ...
    base.json                    a hash of the base's weights, so that others are not taken for them
    config.json                  the base's shape: whoever only wants to know it need not open the base

PiSSA changes the weights below the adapter: W = W' + s B0 A0 with B0, A0 from the largest singular vectors. What is saved is a LoRA of twice the
rank on the weights as they were, s (B A - B0 A0), as peft does; training goes on from the first half.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from jielong.errors import MissingExtraError, ModelError
from jielong.model.adapter_config import Adapter
from jielong.model.frozen import halved
from jielong.model.heads import SCORE, add_head
from jielong.model.hf_config import read_config
from jielong.model.hf_weights import tensors_of, weight_files
from jielong.model.transformer import CausalLM
from jielong.runs import hash_file, hash_json, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base.json"  # which weights those of the base were
PREFIX = "base_model.model."
NAME = "default"  # of the adapter, among those that peft could hold side by side
PART = re.compile(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class Adapted:
    """What a checkpoint of an adapted model says beside its tensors."""

    adapter: Adapter
    base: Path  # the model folder that it belongs to
    weights: str = ""  # their `identity`
    tied: bool = False  # whether the output layer is the embedding
    first: Mapping[str, Tensor] = field(default_factory=dict)  # PiSSA's A and B before training


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / CONFIG).is_file()


# ----------------------------------------------------------------------------------------------------- attaching


def attach(model: CausalLM, adapter: Adapter, seed: int, kind: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Put an adapter into a model, in place: only it asks for gradients afterwards, and what is trained as a whole beside it.

    kind: of matrix products; half precision holds the frozen matrices so, too. The same seed gives the same adapter. Returns PiSSA's first A
    and B by name, and nothing for the other kinds. Raises ModelError for a model without a target.
    """
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "tune", "for adapters")
    from peft import LoraConfig, inject_adapter_in_model

    found = {name.rpartition(".")[2] for name, _ in model.model.layers.named_modules()}
    if not found & set(adapter.targets):
        raise ModelError(
            f"adapter.targets: the model has none of them, got {', '.join(adapter.targets)}; name linear layers of its blocks"
        )
    if adapter.kind == "pissa":
        least = min(
            min(one.weight.shape) for name, one in model.model.layers.named_modules() if name.endswith(adapter.targets)
        )
        if adapter.rank > least:
            raise ModelError(
                f"adapter.rank: above what pissa finds in a target, got {adapter.rank}; at most {least}; lower it"
            )
    model.requires_grad_(False)
    settings = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha, lora_dropout=adapter.dropout,  # type: ignore[arg-type]  # alpha may be a fraction
        target_modules=sorted(found & set(adapter.targets)), use_rslora=adapter.kind == "rslora",
        use_dora=adapter.kind == "dora", init_lora_weights="pissa" if adapter.kind == "pissa" else True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=_cuda_of(model)):
        torch.manual_seed(seed)
        inject_adapter_in_model(settings, model, NAME)
    for name, parameter in model.named_parameters():
        small = ".lora_" in name
        if small and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
        if small or _is_whole(name, adapter):
            parameter.requires_grad_(True)
    first = {name: tensor.clone() for name, tensor in trained(model).items()} if adapter.kind == "pissa" else {}
    if kind != torch.float32:
        halved(model, kind)
        for layer in _layers(model):
            layer.cast_input_dtype_enabled = False  # autocast does it, without a float32 copy of every input
    model.adapted = True
    return first


def _cuda_of(model: CausalLM) -> list[torch.device]:
    device = next(model.parameters()).device
    return [device] if device.type == "cuda" else []


def _is_whole(name: str, adapter: Adapter) -> bool:
    return ("embeddings" in adapter.whole and name in EMBEDDINGS) or (
        "norms" in adapter.whole and name.endswith("norm.weight")
    )


def _layers(model: CausalLM) -> Iterator[Any]:
    """peft's layers in a model."""
    from peft.tuners.lora.layer import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


def trained(model: CausalLM) -> dict[str, Tensor]:
    """The parameters that training changes, by name; a tied one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def fill(model: CausalLM, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put an adapter's tensors in their places. Raises ModelError where they are not those of the model's adapter."""
    places = dict(model.named_parameters())
    if model.config.tie_word_embeddings:
        tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    wrong = sorted(name for name in tensors if name not in places or places[name].shape != tensors[name].shape)
    missing = sorted(name for name, place in places.items() if ".lora_" in name and name not in tensors)
    if wrong or missing:
        named = f"{wrong[0]} has no place of its shape" if wrong else f"{missing[0]} is missing"
        raise ModelError(f"{folder}: the adapter does not fit the model ({named}); give the base that it was made for")
    for name, tensor in tensors.items():
        places[name].copy_(tensor)


# ------------------------------------------------------------------------------------------------------- folders


def save_adapter(tensors: Mapping[str, Tensor], adapted: Adapted, folder: Path) -> None:
    """Write an adapter as peft does (not atomic: publish the folder). tensors: those of `trained`."""
    adapter, rank, kept = adapted.adapter, adapted.adapter.rank, dict[str, Tensor]()
    for name, tensor in tensors.items():
        if adapted.first and ".lora_" in name:
            other = adapted.first[name].to(tensor.device)
            side = 0 if ".lora_A." in name else 1
            tensor = torch.cat([tensor, other if side == 0 else -other], dim=side)
        short = name.replace(f".{NAME}", "") if ".lora_" in name else name
        kept[PREFIX + short.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")] = tensor
    embedding = f"{PREFIX}model.embed_tokens.weight"
    if adapted.tied and embedding in kept:  # peft trains and restores the two by themselves
        kept[f"{PREFIX}lm_head.weight"] = kept[embedding].clone()
    doubled = 2 if adapted.first else 1
    whole = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in kept if ".lora_" not in name})
    table = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if any(name.endswith(SCORE) for name in kept) else "CAUSAL_LM",
        "base_model_name_or_path": str(adapted.base),
        "inference_mode": True,
        "r": doubled * rank,
        "lora_alpha": doubled * adapter.alpha,
        "lora_dropout": adapter.dropout,
        "target_modules": sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors if ".lora_" in name}),
        "modules_to_save": whole or None,
        "use_rslora": adapter.kind == "rslora",
        "use_dora": adapter.kind == "dora",
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, table)
    if adapted.weights:
        write_json(folder / BASE, {"path": str(adapted.base), "weights": adapted.weights})
    here = {name: tensor.detach().to("cpu").contiguous() for name, tensor in kept.items()}
    save_file(here, str(folder / WEIGHTS), metadata={"format": "pt"})


def read_tensors(folder: Path, adapter: Adapter | None = None) -> dict[str, Tensor]:
    """An adapter's tensors under the names that they have in an adapted model. adapter: with PiSSA's, without the part that stands for the
    weights as they were. Raises CheckpointError for a damaged file, ModelError for tensors of another kind.
    """
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: holds no {WEIGHTS}; give a folder that peft or jielong wrote, with safetensors")
    found = dict[str, Tensor]()
    for name, tensor in tensors_of(folder / WEIGHTS):
        bare = name.removeprefix(PREFIX)
        if (match := PART.fullmatch(bare)) is not None:
            bare = f"{match[1]}.{match[2]}.{NAME}.weight"
        elif ".lora_" in bare:
            raise ModelError(f"{folder}: {name} is of a kind that is not known here; merge it with peft")
        tensor = tensor.float()
        if adapter is not None and adapter.kind == "pissa" and match is not None:
            tensor = (tensor[: adapter.rank] if match[2] == "lora_A" else tensor[:, : adapter.rank]).contiguous()
        found[bare] = tensor
    return found


def base_of(folder: Path) -> Path:
    """The model folder that an adapter belongs to. Raises ModelError where it is gone, or has other weights by now.

    A run that was moved is looked through: what was `run/train/checkpoints/step-...` is below its new place.
    """
    named = read_config(folder, CONFIG).get("base_model_name_or_path")
    place, parents = Path(str(named)).expanduser(), folder.resolve().parents
    candidates = [place, folder / place]
    if len(parents) > 2:
        candidates += [parents[2].joinpath(*place.parts[-3:]), parents[2] / "model"]
    found = [path for path in candidates if (path / "config.json").is_file() and path.resolve() != folder.resolve()]
    if not found:
        raise ModelError(
            f"{folder / CONFIG}: its base is not there, got {named}; bring it there, or correct base_model_name_or_path"
        )
    if not (folder / BASE).is_file():  # anybody's
        return found[0]
    wanted = read_config(folder, BASE).get("weights")
    fitting = next((path for path in found if identity(path) == wanted), None)
    if fitting is None:
        raise ModelError(
            f"{folder}: its base has other weights than those it was trained on, got {found[0]}; bring back the former ones, or train again"
        )
    return fitting


def identity(folder: Path) -> str:
    """A hash of the weights of a model folder, by its checksums where it has them."""
    sums = read_config(folder, "checksums.json") if (folder / "checksums.json").is_file() else {}
    files = [folder / WEIGHTS] if is_adapter(folder) else weight_files(folder)
    return hash_json([sums.get(path.name) or hash_file(path) for path in files])


def read_adapter(folder: Path) -> Adapter:
    """The settings of an adapter's folder, anybody's. Raises ModelError for one that cannot be folded in here."""
    table = read_config(folder, CONFIG)
    refused = {
        "peft_type": table.get("peft_type") not in ("LORA", None),
        "rank_pattern": bool(table.get("rank_pattern")),
        "alpha_pattern": bool(table.get("alpha_pattern")),
        "lora_bias": bool(table.get("lora_bias")),
        "fan_in_fan_out": bool(table.get("fan_in_fan_out")),
        "bias": table.get("bias") not in ("none", None),
        "target_parameters": bool(table.get("target_parameters")),
        "init_lora_weights": table.get("init_lora_weights") not in (True, False, "gaussian", None),
    }
    for name, wrong in refused.items():
        if wrong:
            raise ModelError(f"{folder / CONFIG}: {name} not supported, got {table[name]!r}; merge it with peft")
    kind = "dora" if table.get("use_dora") else "rslora" if table.get("use_rslora") else "lora"
    targets = {
        PART.fullmatch(name.removesuffix(f".{NAME}.weight")) for name in read_tensors(folder) if ".lora_" in name
    }
    names = sorted({match[1].rpartition(".")[2] for match in targets if match is not None})
    try:
        return Adapter.model_validate(
            {
                "kind": kind,
                "rank": table.get("r"),
                "alpha": float(table.get("lora_alpha") or 0),
                "dropout": 0.0,
                "targets": names,
            }
        )
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{folder / CONFIG}: not an adapter that is known here ({_first(error)}); merge it with peft"
        ) from None


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# ------------------------------------------------------------------------------------------------------- merging


@torch.no_grad()
def merge(model: CausalLM) -> CausalLM:
    """Fold an attached adapter into the weights: the same model with plain linear layers, in place; float32."""
    for layer in list(_layers(model)):
        layer.merge()
    for name, module in list(model.named_modules()):
        if hasattr(module, "get_base_layer") and hasattr(module, "lora_A"):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, module.get_base_layer())
    model.adapted = False
    if hasattr(model, "peft_config"):  # what peft left: another adapter may be attached later on
        del model.peft_config
    return model


def merged(base: CausalLM, folder: Path) -> CausalLM:
    """A base with the adapter of a folder folded in, in place. Raises ModelError where they do not belong together."""
    tensors = read_tensors(folder)
    attach(base, read_adapter(folder), 0)
    if SCORE in tensors:
        add_head(base, "score")
    fill(base, tensors, folder)
    return merge(base)
