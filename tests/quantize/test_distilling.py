"""Distilling: the loss by hand, a killed run that goes on, and what is not distilled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from jielong.errors import RecipeError
from jielong.metrics import read_jsonl
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM
from jielong.quantize.config import Distill, with_options
from jielong.quantize.distilling import Distilling
from jielong.quantize.making import make
from jielong.quantize.students import put_students
from jielong.runs import Run
from tests.model.quantized.folders import dense
from tests.quantize.test_making import material

SETTINGS = {"tokens": 4096, "tokens_per_step": 512, "micro_batch_tokens": 256, "precision": "float32", "device": "cpu", "save_every_steps": 3,
            "evaluate_every_steps": None, "save_every_minutes": None}  # fmt: skip


class FakeEngine:
    def __init__(self, model: CausalLM) -> None:
        self.model, self.device = model, torch.device("cpu")


def test_the_losses_are_those_of_the_paper(tmp_path: Path) -> None:
    dense(tmp_path)
    teacher, student = load_folder(tmp_path), load_folder(tmp_path)
    put_students(student, "onebit", [name for name, one in student.named_modules() if type(one) is nn.Linear])
    distilling = Distilling(FakeEngine(student), teacher, Distill(label_loss=1.0))  # type: ignore[arg-type]
    ids = torch.randint(0, 64, (2, 30))
    found = distilling.losses(ids, ids, None, None)
    apart, far = found["divergence"], found["hidden_distance"] / ids.numel()
    outputs: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for number, model in enumerate((teacher, student)):
        for layer in model.model.layers:
            layer.register_forward_hook(lambda m, i, o, number=number: outputs[number].append(o[0].detach()))
    with torch.no_grad():
        p, q = (torch.log_softmax(model(ids), dim=-1) for model in (teacher, student))
    assert torch.allclose(apart, (p.exp() * (p - q)).sum(), rtol=1e-4)
    ratios = [((a - b) ** 2).mean() / (a**2).mean() for a, b in zip(outputs[0], outputs[1], strict=True)]
    assert torch.allclose(far, torch.stack(ratios).mean(), rtol=1e-4)
    assert torch.allclose(found["cross_entropy"], -q.gather(-1, ids[..., None]).sum(), rtol=1e-4)


def test_training_without_a_teacher(finished: Run, source: Path, tmp_path: Path) -> None:
    """BitNet b1.58 from random weights, on the text alone: the run's initial model."""
    settings = SETTINGS | {"divergence_loss": 0, "hidden_loss": 0, "label_loss": 1.0, "learning_rate": 1e-2}
    given, _ = material(finished, finished.stage("model"), tmp_path / "work")
    counts = make(with_options({"method": "bitnet", "distill": settings}), given, tmp_path / "out")
    rows = [row for row in read_jsonl(tmp_path / "work" / "metrics.jsonl") if "cross_entropy" in row]
    assert len(rows) == 8 == counts["steps"] and rows[-1]["cross_entropy"] < rows[0]["cross_entropy"] - 1


def test_a_killed_run_goes_on_and_ends_the_same(
    finished: Run, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jielong.train import loop

    config = with_options({"method": "onebit", "distill": SETTINGS})

    def run(name: str, killed: bool) -> dict[str, torch.Tensor]:
        given, _ = material(finished, source, tmp_path / f"{name}.work")
        if killed:
            steps, finish = [0], loop.Steps.finish

            def dying(self: Any) -> bool:
                found = finish(self)
                steps[0] += 1
                if steps[0] == 5:
                    raise KeyboardInterrupt
                return found

            with monkeypatch.context() as patched:
                patched.setattr(loop.Steps, "finish", dying)
                with pytest.raises(KeyboardInterrupt):
                    make(config, given, tmp_path / name)
            assert not (tmp_path / name).exists()
            assert [path.name for path in sorted((tmp_path / f"{name}.work" / "checkpoints").glob("step-*"))][
                -1
            ] == "step-00000003"
        make(config, given, tmp_path / name)
        return load_file(tmp_path / name / "model.safetensors")

    whole, resumed = run("whole", False), run("resumed", True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    "wrong",
    [{"adapter": {"rank": 4}}, {"ema_decay": 0.9}, {"packing": "truncated"}, {"compile": True}, {"engine": "hf"}],
)
def test_what_is_not_distilled_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"quantize.distill.{next(iter(wrong))}: not for models of signs"):
        with_options({"method": "onebit", "distill": wrong})
    with_options({"method": "int8", "distill": wrong})


def test_something_must_be_learned() -> None:
    with pytest.raises(RecipeError, match=r"quantize\.distill\.divergence_loss: nothing is learned"):
        with_options({"method": "bitnet", "distill": {"divergence_loss": 0, "hidden_loss": 0}})


def test_other_settings_begin_anew(
    finished: Run, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What another table left in the folder of work is kept aside."""
    given, _ = material(finished, source, tmp_path / "work")
    make(with_options({"method": "onebit", "distill": SETTINGS}), given, tmp_path / "a")
    counts = make(with_options({"method": "onebit", "distill": SETTINGS | {"tokens": 1024}}), given, tmp_path / "b")
    assert counts["steps"] == 2
    assert (tmp_path / "work.step-00000008").is_dir()
    assert "holds a training in other settings; it is kept as work.step-00000008" in capsys.readouterr().err
