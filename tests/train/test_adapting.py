"""Training with an adapter: the loop as it is, checkpoints that are adapters, exact resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import RecipeError
from jielong.metrics import read_jsonl
from jielong.model.adapters import read_tensors
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM
from jielong.runs import Run, StageContext, write_json
from jielong.tokenizer.folder import copy_folder, open_folder
from jielong.train import checkpoints
from jielong.train.adapting import open_adapted
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.stage import run
from tests.train.engines.processes import run_processes

ADAPTER = {"rank": 4, "dropout": 0.1, "alpha": 8}


@pytest.fixture
def context(corpus: Path, model: CausalLM, tmp_path: Path) -> StageContext:
    shutil.copytree(corpus, tmp_path / "tokenizer")
    tokenizer = open_folder(corpus)
    save_folder(model, tmp_path / "model", tokenizer.end_id)
    copy_folder(tokenizer, tmp_path / "model")
    section = {"attention": "auto"}
    manifest = {"fingerprint": "", "section": section, "counts": {}, "outputs": [], "seed": 1}
    write_json(tmp_path / "model" / "manifest.json", manifest)
    (tmp_path / "train").mkdir()
    return StageContext(Run(tmp_path), tmp_path / "train", 1, "fingerprint")


def go(context: StageContext, stop_after: int | None = None, **settings: Any) -> dict[str, Any]:
    table = {"tokens": 640, "tokens_per_step": 64, "micro_batch_tokens": 32, "device": "cpu", "precision": "float32",
             "learning_rate": 0.01, "adapter": ADAPTER, "evaluate_every_steps": 5, "save_every_steps": 5}  # fmt: skip
    config = Config.model_validate(table | settings)

    def sample(model: Any, step: int) -> list[dict[str, Any]]:
        if stop_after is not None and step == stop_after:
            raise KeyboardInterrupt
        return [{"prompt": "中国", "text": "人民"}]

    return run(config, context, Path(), lambda model, autocast: {"loss": 2.0, "bits_per_byte": 1.5}, sample)


def losses(context: StageContext) -> list[float]:
    return [row["loss"] for row in read_jsonl(context.out / "metrics.jsonl")]


def test_a_checkpoint_is_an_adapter_and_opens_as_the_trained_model(context: StageContext) -> None:
    counts = go(context)
    folder = context.out / counts["checkpoint"]
    assert (folder / "adapter_model.safetensors").is_file() and not (folder / "model.safetensors").exists()
    assert losses(context)[-1] < losses(context)[0]
    base, tuned = load_folder(context.run.stage("model")), load_folder(folder)
    same = {name for name, tensor in base.state_dict().items() if torch.equal(tensor, tuned.state_dict()[name])}
    assert "model.embed_tokens.weight" in same and "model.layers.0.self_attn.q_proj.weight" not in same


@pytest.mark.parametrize("kind", ["lora", "dora", "pissa"])
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_resume_is_exact(kind: str, optimizer: str, context: StageContext) -> None:
    """Stopped behind step 5 and begun again: every later loss and weight is bit for bit that of the run that went through."""
    more = {"adapter": ADAPTER | {"kind": kind, "b_rate": 4}, "optimizer": optimizer, "sample_every_steps": 7}
    counts = go(context, **more)
    whole, expected = losses(context), read_tensors(context.out / counts["checkpoint"])
    shutil.rmtree(context.out)
    context.out.mkdir()
    with pytest.raises(KeyboardInterrupt):
        go(context, stop_after=7, **more)
    assert checkpoints.step_of(checkpoints.require_newest(context.out / "checkpoints")) == 5
    counts = go(context, **more)
    assert losses(context) == whole
    found = read_tensors(context.out / counts["checkpoint"])
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_b_has_a_rate_of_its_own(context: StageContext) -> None:
    config = Config.model_validate({"adapter": ADAPTER | {"b_rate": 16}, "device": "cpu", "precision": "float32"})
    assert config.adapter is not None
    model, _ = open_adapted(config, config.adapter, context.run.stage("model"), "auto", None, 1, torch.device("cpu"))
    engine = TorchEngine(model, config)
    rates = {group["rate"]: len(group["params"]) for group in engine.optimizer.param_groups if group["params"]}
    assert rates == {1.0: 14, 16: 14}  # A and B of seven layers in two blocks


@pytest.mark.parametrize("settings", [{"recompute": True}, {"recompute": True, "adapter": None}])
def test_recomputed_blocks_give_the_same_losses(settings: dict[str, Any], context: StageContext) -> None:
    go(context, **(settings | {"recompute": False}))
    expected = losses(context)
    shutil.rmtree(context.out)
    context.out.mkdir()
    go(context, **settings)
    assert losses(context) == expected


def test_half_precision_trains_samples_and_measures(context: StageContext) -> None:
    """With bfloat16 the frozen weights are held so; whoever looks at the model (samples, validation) is in autocast."""
    seen = []

    def validate(model: Any, autocast: Any) -> dict[str, float]:
        ids = torch.arange(8)[None] + 5
        with torch.no_grad():
            seen.append(model(ids).isfinite().all().item())
        assert model.model.embed_tokens.weight.dtype == torch.bfloat16
        return {"loss": 2.0, "bits_per_byte": 1.5}

    config = Config.model_validate({"tokens": 320, "tokens_per_step": 64, "micro_batch_tokens": 64, "device": "cpu",
                                    "precision": "bfloat16", "adapter": ADAPTER})  # fmt: skip
    run(config, context, Path(), validate, lambda model, step: [])
    assert seen and all(seen)


@pytest.mark.parametrize("held", ["nf4", "int8"])
def test_quantized_bases_train(held: str, context: StageContext) -> None:
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    counts = go(context, adapter=ADAPTER | {"base_weights": held}, precision="bfloat16", tokens=1280)
    found = losses(context)
    assert counts["steps"] == 20 and sum(found[-5:]) < sum(found[:5])
    with pytest.raises(RecipeError, match="the base is an adapter itself"):
        config = Config.model_validate({"adapter": ADAPTER | {"base_weights": held}, "device": "cpu"})
        assert config.adapter is not None
        open_adapted(config, config.adapter, context.out / counts["checkpoint"], "auto", None, 1, torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("held", ["auto", "nf4", "int8"])
def test_on_a_gpu(held: str, context: StageContext) -> None:
    """The frozen weights lie on the card as they are to be held, and training goes on from its checkpoint."""
    counts = go(context, adapter=ADAPTER | {"base_weights": held}, precision="auto", device="cuda", tokens=1280)
    found = losses(context)
    assert counts["device"] == "cuda" and sum(found[-5:]) < sum(found[:5])
    config = Config.model_validate({"adapter": ADAPTER | {"base_weights": held}, "device": "cuda"})
    assert config.adapter is not None
    newest = context.out / counts["checkpoint"]
    device = torch.device("cuda")
    model, _ = open_adapted(config, config.adapter, context.run.stage("model"), "auto", newest, 1, device)
    assert all(parameter.is_cuda for parameter in model.parameters())


def test_samples_are_those_of_the_adapter(context: StageContext) -> None:
    """Whatever fast ways there are to generate, an adapted model says while it is trained what it says when it is merged."""
    from jielong.infer import stepping
    from jielong.infer.config import Config as InferConfig
    from jielong.infer.generate import continue_prompt
    from jielong.model.adapters import merge

    config = Config.model_validate({"adapter": ADAPTER | {"dropout": 0.0}, "device": "cpu", "precision": "float32"})
    assert config.adapter is not None
    model, _ = open_adapted(config, config.adapter, context.run.stage("model"), "auto", None, 1, torch.device("cpu"))
    with torch.no_grad():
        for name, one in model.named_parameters():
            if ".lora_B." in name:
                one.normal_(0, 1.0, generator=torch.Generator().manual_seed(3))
    tokenizer, greedy = open_folder(context.run.stage("tokenizer")), InferConfig(temperature=0.0, max_new_tokens=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stepping, "FEWEST_TOKENS", 1)
        patch.setattr(stepping, "FEWEST_WEIGHTS", 1)
        written = continue_prompt(model, tokenizer, "中国", greedy, 1).text
        plain = merge(model).requires_grad_(False)
        assert continue_prompt(plain, tokenizer, "中国", greedy, 1).text == written


def one_rank(root: str) -> str:
    """Trains an adapter as one of several processes; where its checkpoint is."""
    place = Path(root)
    counts = go(StageContext(Run(place), place / "train", 1, "fingerprint"), adapter=ADAPTER | {"dropout": 0.0})
    return str(counts["checkpoint"])


def test_two_processes_train_the_adapter_that_one_trains(context: StageContext) -> None:
    """DDP with most weights frozen: the same losses to rounding, and one adapter in the checkpoint."""
    counts = go(context, adapter=ADAPTER | {"dropout": 0.0})
    alone, expected = losses(context), read_tensors(context.out / counts["checkpoint"])
    shutil.rmtree(context.out)
    context.out.mkdir()
    first, second = run_processes(f"{__name__}:one_rank", 2, str(context.run.root))
    assert first == second == counts["checkpoint"]
    assert losses(context) == [pytest.approx(loss, rel=1e-4) for loss in alone]
    found = read_tensors(context.out / first)
    assert all(torch.allclose(found[name], tensor, atol=1e-4) for name, tensor in expected.items())
