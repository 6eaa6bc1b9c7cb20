"""What trainings are given from the stages behind them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch

from jielong.errors import InputError, RecipeError
from jielong.hooks import training_hooks, tuning_hooks
from jielong.infer.models import open_model
from jielong.recipe import load
from jielong.runs import Run
from jielong.workflow import run_stages
from tests.corpus import write_recipe
from tests.tune.talks import asked, write

TUNE = """
[tune]
sources = [{ name = "talks", path = "talks.jsonl" }]
validation_share = 0.3
tokens = 512
tokens_per_step = 256
device = "cpu"
precision = "float32"
sample_prompts = ["一加一等于几？"]
sample_tokens = 4
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished mini run with a tuned model."""
    folder = tmp_path_factory.mktemp("hooks")
    path = write_recipe(folder)
    path.write_text(path.read_text(encoding="utf-8").replace("max_position_embeddings = 32", "max_position_embeddings = 64") + TUNE,
                    encoding="utf-8")  # fmt: skip
    write(folder / "talks.jsonl", [asked(number) for number in range(20)])
    recipe = load(str(path))
    run_stages(recipe, Run(folder / "runs" / "mini"), list(recipe.sections))
    return Run(folder / "runs" / "mini")


def test_the_whole_line_with_tuning(run: Run) -> None:
    counts = {stage: (run.manifest(stage) or {})["counts"] for stage in ("train", "tune", "infer", "evaluate")}
    assert counts["tune"]["base"] == str(run.checkpoints / "step-00000020")
    assert counts["tune"]["steps"] == 2 and counts["infer"]["prompts"] == 5
    rows = {row["text"]: row for row in counts["evaluate"]["compared"]["rows"]}
    assert set(rows) == {"held-out documents", "held-out answers"}


def test_training_hooks(run: Run) -> None:
    hooks = training_hooks(load(str(run.root / "recipe.toml")), run)
    model, _, _ = open_model(str(run.checkpoints / "step-00000020"), run.root.parent)
    assert hooks["validate"](model, contextlib.nullcontext())["bits_per_byte"] > 0
    assert [row["prompt"] for row in hooks["sample"](model, 1)][:2] == ["特朗普", "美国"]
    [row] = hooks["generate"](model, ["北京"], {"temperature": 0.0, "max_new_tokens": 3, "top_k": 0})
    assert row["tokens"] <= 3
    with pytest.raises(RecipeError, match=r"infer\.temperature"):
        hooks["generate"](model, ["北京"], {"temperature": -1.0})


def test_tuning_hooks_put_questions(run: Run) -> None:
    """The sample's text is an answer by the template; the loss is that of answers alone."""
    hooks = tuning_hooks(load(str(run.root / "recipe.toml")), run)
    model, _, folder = open_model(run.name, run.root.parent)
    assert folder.parent.parent.name == "tune"
    found = hooks["validate"](model, contextlib.nullcontext())
    measured = (run.manifest("tune") or {})["counts"]["validation_bits_per_byte"]
    assert found["bits_per_byte"] == pytest.approx(measured, rel=1e-5)
    torch.manual_seed(1)
    [sample] = hooks["sample"](model, 1)
    assert sample["prompt"] == "一加一等于几？" and "<|im_" not in sample["text"]
    with pytest.raises(InputError, match="spells a special token"):
        hooks["generate"](model, ["<|im_end|>"], {})


def test_prompts_that_do_not_fit_are_refused_before_training(tmp_path: Path, run: Run) -> None:
    recipe = load(str(run.root / "recipe.toml"), ['infer.prompts=["' + "很长" * 60 + '"]'])
    with pytest.raises(InputError, match=r"infer\.prompts: too long"):
        training_hooks(recipe, run)
