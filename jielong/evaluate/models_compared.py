"""Models beside the full one that they were made of: what each costs in quality, and what it saves.

| figure | |
|---|---|
| bits_per_byte | on held-out documents, as everywhere (bits.py) |
| divergence | KL(full || model), nats a token, mean over rows of that text |
| same_first | share of the tokens whose likeliest next one is the same |
| greedy_agreement | of greedy continuations of beginnings of documents: the share of tokens before the first that differs |
| bytes_on_disk | of the weight files |
| bytes_in_memory | of parameters and buffers, each piece of memory once |
| tokens_per_second | at batch 1, as `jielong generate` decodes; medians of repeats in which the models take turns |

All are open at the same time, so that speeds are measured in turn: a machine that is slow for a minute is slow for all.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from jielong.evaluate.bits import measure
from jielong.infer.config import Config as InferConfig
from jielong.infer.models import config_folder, open_model
from jielong.infer.rollouts import rollouts
from jielong.infer.stepping import begin
from jielong.model.hf import read_config
from jielong.model.hf_weights import weight_files
from jielong.model.quantized.files import described
from jielong.model.transformer import CausalLM
from jielong.progress import Progress
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards

ROW = 512  # tokens of a row that distributions are compared on, at most
COMPARED_TOKENS = 8_192
ROWS_AT_ONCE = 4
PROMPTS, PROMPT_TOKENS, CONTINUED = 16, 16, 32
SHOWN = 3  # continuations that are kept to look at
STEPS, REPEATS = 64, 5  # of decoding, timed


@dataclass(frozen=True)
class Side:
    """A model that takes part."""

    name: str
    folder: Path
    model: CausalLM
    tokenizer: TokenizerFolder


def compare(
    models: Mapping[str, Path], shards: Shards, documents: Iterable[int], rows_RT: npt.NDArray[Any], tokens: int, device: str = "auto"
) -> dict[str, Any]:  # fmt: skip
    """Figures of models by name; the first one is the full model. documents: of the shards, to measure bits on, at most `tokens` of them;
    rows_RT: of ids, to compare distributions on.
    """
    sides = []
    for name, folder in models.items():
        model, tokenizer, found = open_model(str(folder), Path(), device)
        sides.append(Side(name, found, model, tokenizer))
    full = sides[0]
    prompts = [
        ids for number in documents if len(ids := shards.targets(number)[:PROMPT_TOKENS].tolist()) == PROMPT_TOKENS
    ][:PROMPTS]
    written = {side.name: _continued(side, prompts) for side in sides}
    speeds = _speeds(sides, prompts[0]) if prompts else {}
    numbers = list(documents)
    length = min(ROW, full.model.config.max_position_embeddings)
    rows = []
    with Progress("quantize: comparing", len(sides), "models") as bar:
        for side in sides:
            bar.note(side.name)
            bits = measure(
                side.model,
                shards,
                length,
                max(1, 2048 // length),
                tokens,
                start_id=full.tokenizer.start_id,
                documents=numbers,
            )
            apart, same = (0.0, 1.0) if side is full else distance(full.model, side.model, rows_RT)
            rows.append({
                "name": side.name,
                "method": _method(side.folder),
                "bits_per_byte": bits["bits_per_byte"],
                "loss": bits["loss"],
                "divergence": apart,
                "same_first": same,
                "greedy_agreement": agreement(written[full.name], written[side.name]),
                "bytes_on_disk": sum(file.stat().st_size for file in _files(side.folder)),
                "bytes_in_memory": bytes_of(side.model),
                "tokens_per_second": statistics.median(speeds[side.name]) if speeds else None,
                "speed_range": [min(speeds[side.name]), max(speeds[side.name])] if speeds else None,
                "samples": [side.tokenizer.decode(ids) for ids in written[side.name][:SHOWN]],
            })  # fmt: skip
            bar.advance(1)
    return {
        "models": rows,
        "prompts": [full.tokenizer.decode(ids) for ids in prompts[:SHOWN]],
        "text": {
            "documents": int(bits["documents"]),
            "tokens": int(bits["tokens"]),
            "bytes": int(bits["bytes"]),
            "rows": len(rows_RT),
            "row_tokens": int(rows_RT.shape[1]),
            "continuations": len(prompts),
        },
        "device": full.model.model.embed_tokens.weight.device.type,
        "threads": torch.get_num_threads(),
    }


def _method(folder: Path) -> str | None:
    given = described(read_config(config_folder(folder)))
    return None if given is None else str(given.get("quant_method"))


def _files(folder: Path) -> list[Path]:
    adapter = folder / "adapter_model.safetensors"
    return [adapter, *_files(config_folder(folder))] if adapter.is_file() and not _own(folder) else weight_files(folder)


def _own(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file()


def bytes_of(model: CausalLM) -> int:
    """Bytes of a model's parameters and buffers, memory that two of them share once. Tensors that are made of others count as these."""
    seen: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        parts = [tensor]
        if hasattr(tensor, "__tensor_flatten__"):  # torchao's
            names, _ = tensor.__tensor_flatten__()
            parts = [getattr(tensor, name) for name in names]
        for part in parts:
            seen[part.data_ptr()] = part.numel() * part.element_size()
    return sum(seen.values())


@torch.no_grad()
def distance(full: CausalLM, other: CausalLM, rows_RT: npt.NDArray[Any]) -> tuple[float, float]:
    """KL(full || other) in nats a token, and the share of tokens whose likeliest next one is the same."""
    device, apart, same = full.model.embed_tokens.weight.device, 0.0, 0
    for start in range(0, len(rows_RT), ROWS_AT_ONCE):
        ids = torch.from_numpy(rows_RT[start : start + ROWS_AT_ONCE]).to(device)
        wanted, said = (torch.log_softmax(model(ids).float(), dim=-1) for model in (full, other))
        apart += float((wanted.exp() * (wanted - said)).sum())
        same += int((wanted.argmax(-1) == said.argmax(-1)).sum())
    return max(0.0, apart / rows_RT.size), same / rows_RT.size


def _continued(side: Side, prompts: list[list[int]]) -> list[list[int]]:
    return rollouts(side.model, prompts, [0] * len(prompts), 0.0, CONTINUED, frozenset()) if prompts else []


def agreement(ours: list[list[int]], theirs: list[list[int]]) -> float | None:
    """The share of continuations' tokens before the first that differs; None: there are none."""
    if not ours:
        return None
    shares = []
    for a, b in zip(ours, theirs, strict=True):
        common = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        shares.append(common / max(len(a), len(b)))
    return statistics.fmean(shares)


def _speeds(sides: list[Side], prompt: list[int]) -> dict[str, list[float]]:
    """Tokens a second of each model, in turn; the first round, in which kernels are compiled, is not counted."""
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    config = InferConfig(temperature=0, max_new_tokens=STEPS)
    for repeat in range(REPEATS + 1):
        for side in sides:
            room = side.model.config.max_position_embeddings - len(prompt)
            steps = max(1, min(STEPS, room))
            logits_BV, stepper = begin(side.model, [prompt], steps, config)
            began = time.perf_counter()
            for _ in range(steps):
                logits_BV = stepper.step(logits_BV.argmax(dim=-1))
            float(logits_BV[0, 0])  # waits for a GPU
            if repeat:
                found[side.name].append(steps / (time.perf_counter() - began))
            stepper.close()
    return found
