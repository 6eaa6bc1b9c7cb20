"""Models of signs: rounded from a full one, then trained to say what the full one says.

The loss of a token is the divergence of the student's distribution from the full model's, and beside it how far the layers' outputs are
apart, relative to their size (the two losses of OneBit, arXiv:2402.11295); or, or with it, the cross-entropy of the text, which alone is the
training of BitNet b1.58. The loop, its files, checkpoints, the watch and going on after
a kill are those of [train]; checkpoints hold the student's full weights, as a Hugging Face folder, and what only training knows beside.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jielong.errors import InputError
from jielong.model.adapters import identity
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder
from jielong.model.hf_weights import named_for_files
from jielong.model.transformer import CausalLM, Losses
from jielong.progress import say
from jielong.quantize.config import Config, Distill
from jielong.quantize.folders import write_folder
from jielong.quantize.students import BitNetLinear, OneBitLinear, put_students
from jielong.runs import hash_json

if TYPE_CHECKING:
    from jielong.quantize.making import Material
    from jielong.train.engines.pytorch import TorchEngine
    from jielong.train.loop import Steps

PIECE = 1024  # tokens whose distributions are in memory at once
ROWS_AT_ONCE = 4  # of held-out text


class Distilling:
    """Makes steps of a student; see the module's text."""

    def __init__(self, engine: TorchEngine, teacher: CausalLM, config: Distill) -> None:
        """teacher: the full model, on the engine's device; nothing of it is trained."""
        self.engine, self.teacher, self.config = engine, teacher.eval().requires_grad_(False), config

    def make(self, steps: Steps) -> None:
        """One step."""
        rows, config = steps.begin(), self.config
        told: dict[str, float] = {}
        for number, batch in enumerate(rows.batches, 1):
            ids, labels, documents = (self._put(part) for part in (batch.inputs, batch.labels, batch.documents))
            inside = (self._put(batch.positions), documents) if self.engine.document_mask else (None, None)
            with self.engine.autocast():
                found = self.losses(ids, labels, *inside)
            weights = {
                "divergence": config.divergence_loss,
                "hidden_distance": config.hidden_loss,
                "cross_entropy": config.label_loss,
            }
            loss = torch.stack([weights[name] * value for name, value in found.items()]).sum()
            self.engine.backward(loss / rows.labels, number == len(rows.batches))
            steps.add(Losses(loss.detach(), torch.zeros((), device=loss.device), None))
            for name, value in found.items():
                told[name] = told.get(name, 0.0) + float(value.detach()) / rows.labels
        steps.tell(**{name: round(value, 6) for name, value in told.items()})
        steps.decide(steps.job.learning_rate(steps.at.step + 1))
        steps.finish()

    def _put(self, part: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(part).to(self.engine.device)

    def losses(
        self, ids_BT: Tensor, labels_BT: Tensor, positions_BT: Tensor | None, documents_BT: Tensor | None
    ) -> dict[str, Tensor]:
        """Those that have a weight, as sums over tokens: divergence, KL(teacher || student) in nats; hidden_distance, the mean over layers of
        their outputs' squared distance over their size; cross_entropy in nats.
        """
        student, config, found = self.engine.model, self.config, {}
        hidden_theirs, theirs = None, list[Tensor]()
        if config.divergence_loss or config.hidden_loss:
            with torch.no_grad(), _outputs(self.teacher) as theirs:
                hidden_theirs = self.teacher.model(ids_BT, positions_BT, documents_BT)[0]
        with _outputs(student) as ours:
            hidden_ours = student.model(ids_BT, positions_BT, documents_BT)[0]
        if config.hidden_loss:
            pairs = zip(ours, theirs, strict=True)
            ratios = [(a.float() - b.float()).square().mean() / b.float().square().mean() for a, b in pairs]
            found["hidden_distance"] = torch.stack(ratios).mean() * ids_BT.numel()
        if config.divergence_loss:
            assert hidden_theirs is not None
            apart = torch.zeros((), device=ids_BT.device)
            for start in range(0, ids_BT.numel(), PIECE):
                piece = slice(start, start + PIECE)
                apart = apart + checkpoint(
                    self._divergence, hidden_ours.flatten(0, 1)[piece], hidden_theirs.flatten(0, 1)[piece], use_reentrant=False,
                )  # fmt: skip
            found["divergence"] = apart
        if config.label_loss:
            found["cross_entropy"] = student.lm_head(hidden_ours.flatten(0, 1), labels_BT.flatten(), 0.0)[0]
        return found

    def _divergence(self, ours_NC: Tensor, theirs_NC: Tensor) -> Tensor:
        wanted = torch.log_softmax(self.teacher.lm_head(theirs_NC).float(), dim=-1)
        said = torch.log_softmax(self.engine.model.lm_head(ours_NC).float(), dim=-1)
        return (wanted.exp() * (wanted - said)).sum()


class _outputs:  # noqa: N801 - used like a function
    """What comes out of each block of a model while the block runs."""

    def __init__(self, model: CausalLM) -> None:
        self._model, self._found = model, list[Tensor]()

    def __enter__(self) -> list[Tensor]:
        def keep(module: nn.Module, given: Any, out: Any) -> None:
            self._found.append(out[0])

        self._hooks = [layer.register_forward_hook(keep) for layer in self._model.model.layers]
        return self._found

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()


def distilled(config: Config, material: Material, shape: ModelConfig, out: Path) -> dict[str, Any]:
    """Round the model to signs, train it on the full one's words where the table says so, write it into `out`; returns the counts."""
    teacher = load_folder(material.source)
    layers = {
        name: module for name, module in teacher.named_modules() if type(module) is nn.Linear and config.quantizes(name)
    }
    names = list(layers)
    if not names:
        raise InputError(
            f"quantize.leave_out: leaves no layer to quantize, got {', '.join(config.leave_out) or 'none'}; a layer's name is like "
            "model.layers.0.mlp.up_proj"
        )
    counts: dict[str, Any] = {}
    if config.distilled:
        student, counts = _trained(config, material, shape, teacher, names)
    else:
        student = load_folder(material.source)
        put_students(student, config.method, names)
    _write(config, material, shape, student, out)
    weights = sum(layer.weight.numel() for layer in layers.values())
    bits = 1 if config.method == "onebit" else 2
    return {"layers": len(names), "weights": weights, "bits": bits, "distilled": config.distilled, **counts}


def _trained(
    config: Config, material: Material, shape: ModelConfig, teacher: CausalLM, names: list[str]
) -> tuple[CausalLM, dict[str, Any]]:
    from jielong.runtime import choose_device
    from jielong.train import checkpoints
    from jielong.train.engines.pytorch import TorchEngine
    from jielong.train.job import Job, plan
    from jielong.train.loop import train

    assert material.training is not None and material.calibration is not None
    settings, device = config.distill, choose_device(config.distill.device)
    folder, shards = material.work, material.training
    fingerprint = hash_json([config.result_fields(), identity(material.source), material.seed, shards.target_tokens])
    checkpoints.clean(folder / "checkpoints")
    newest = checkpoints.choose(folder / "checkpoints")
    if newest is not None and checkpoints.read_state(newest)["fingerprint"] != fingerprint:
        aside = folder.with_name(f"{folder.name}.{newest.name}")
        say(f"quantize: {folder} holds a training in other settings; it is kept as {aside.name}, and a new one begins")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        newest = None
    folder.mkdir(parents=True, exist_ok=True)
    student = load_folder(newest or material.source)
    put_students(student, config.method, names)
    with torch.no_grad():
        for name, tensor in checkpoints.read_heads(newest).items() if newest is not None else ():
            student.get_parameter(name).copy_(tensor)
    engine = TorchEngine(student, settings)
    distilling = Distilling(engine, teacher.to(device), settings)
    length = min(settings.sequence_length or shape.max_position_embeddings, shape.max_position_embeddings)
    held_out = material.calibration.rows(min(length, 512), 16_384)

    @torch.no_grad()
    def validate(model: CausalLM, autocast: Any) -> dict[str, float]:
        was, total, same, count = model.training, 0.0, 0, 0
        model.eval()
        with autocast:
            for start in range(0, len(held_out), ROWS_AT_ONCE):
                ids = torch.from_numpy(held_out[start : start + ROWS_AT_ONCE]).to(device)
                wanted = torch.log_softmax(distilling.teacher(ids).float(), dim=-1)
                said = torch.log_softmax(model(ids).float(), dim=-1)
                total += float((wanted.exp() * (wanted - said)).sum())
                same += int((wanted.argmax(-1) == said.argmax(-1)).sum())
                count += ids.numel()
        model.train(was)
        return {"loss": total / count, "same_first": same / count}

    job = Job(settings, plan(settings, shape.max_position_embeddings, shards.available()), student.config, folder, shards,
              material.tokenizer, material.seed, fingerprint, validate, lambda model, step: [])  # fmt: skip
    say(f"quantize: {config.method}, distilling: {job.plan.describe()}, {engine.describe()}")
    try:
        counts = train(job, engine, distilling.make)
    finally:
        engine.close()
    kept = ("steps", "tokens", "final_loss", "validation_loss", "seconds")
    return engine.model, {name: counts[name] for name in kept if name in counts}


def _write(config: Config, material: Material, shape: ModelConfig, student: CausalLM, out: Path) -> None:
    tensors: dict[str, Tensor] = {}
    made = {
        name: module for name, module in student.named_modules() if isinstance(module, (OneBitLinear, BitNetLinear))
    }
    inside = tuple(f"{name}.{part}" for name in made for part in ("weight", "in_scale", "out_scale"))
    state: Mapping[str, Tensor] = student.state_dict()
    dense = {name: tensor.detach().cpu() for name, tensor in state.items() if name not in inside}
    if shape.tie_word_embeddings:
        dense.pop("lm_head.weight")
    tensors |= dict(named_for_files(dense, ""))
    for name, module in made.items():
        tensors |= module.tensors(name)
    left = [name for name, module in student.named_modules() if type(module) is nn.Linear]
    described: dict[str, Any] = {"quant_method": "jielong-onebit"}
    if config.method == "bitnet":
        described = {
            "quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline",
            "modules_to_not_convert": ["lm_head", *left],
        }  # fmt: skip
    write_folder(material.source, shape, material.tokenizer, tensors, described, out, own=config.method == "onebit")
