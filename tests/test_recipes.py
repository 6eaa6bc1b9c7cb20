"""The shipped recipes of the systems that this project grew from: each parses, keeps its size, and trains two steps.

The steps are run at reduced width and length, with a tokenizer trained on the spot, because the recipe's own may have to be
fetched first; what makes each recipe what it is (positions, experts, tokenizer kind, biases) is kept.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from jielong.metrics import read_jsonl
from jielong.model.config import Config
from jielong.model.cost import parameters
from jielong.model.hf import read_config
from jielong.recipe import load, shipped
from jielong.runs import Run
from jielong.train.checkpoints import newest
from jielong.train.config import Config as TrainConfig
from jielong.workflow import run_stages
from tests.corpus import texts, write_jsonl

# millions of weights, and the class of a checkpoint at its real shape
SYSTEMS = {
    "mateconv": (26.9, "LlamaForCausalLM"),
    "mateconv-moe": (96.1, "Qwen2MoeForCausalLM"),
    "baby-llama2": (58.4, "LlamaForCausalLM"),
    "gmq-0.1b": (109.5, "LlamaForCausalLM"),
    "lmq-0.6b": (608.6, "LlamaForCausalLM"),
    "jerry-0.18b": (199.8, "JielongForCausalLM"),
}
SMALL = [
    "data.processes=1",
    'data.steps=[{ step = "exact" }]',
    "data.validation_fraction=0.1",
    "model.hidden_size=32",
    "model.num_hidden_layers=2",
    "model.num_attention_heads=4",
    "model.num_key_value_heads=2",
    "model.head_dim=16",
    "model.intermediate_size=48",
    "model.vocab_size=none",
    "model.max_position_embeddings=64",
    "tokenizer.path=none",
    "train.epochs=none",
    "train.tokens=512",
    "train.sequence_length=32",
    "train.tokens_per_step=256",
    "train.micro_batch_tokens=128",
    "train.device=cpu",
    "train.precision=float32",
    "train.sample_every_steps=none",
    "infer.max_new_tokens=4",
    "infer.device=cpu",
    'infer.prompts=["北京"]',
]


def settled(name: str) -> Config:
    recipe = load(name)
    config = recipe.section("model", Config)
    return config.with_vocab(getattr(recipe.sections["tokenizer"], "vocab_size", 0))


def test_jerry_grows_its_rows_and_goes_from_adam_to_muon() -> None:
    parts = [part for _, part in load("jerry-0.18b").section("train", TrainConfig).parts()]
    assert [part.sequence_length for part in parts] == [128, 256, 512, 1024]
    assert [part.optimizer for part in parts] == ["adamw", "adamw", "muon", "muon"]


def test_every_system_has_a_recipe() -> None:
    assert set(SYSTEMS) | {"tiny"} == set(shipped())


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_recipe_has_the_size_it_promises(name: str) -> None:
    assert parameters(settled(name)) / 1e6 == pytest.approx(SYSTEMS[name][0], abs=0.1)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_recipe_trains_two_steps(name: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "news.jsonl", texts())
    kind = load(name).sections["tokenizer"].model_dump()["kind"]
    sizes = [f"tokenizer.vocab_size={640 if kind == 'bytepiece' else 320}"]
    if settled(name).num_experts is not None:
        sizes += ["model.moe_intermediate_size=24", "model.shared_expert_intermediate_size=24"]
    if settled(name).rope_scaling is not None:
        sizes += ["model.rope_scaling.original_max_position_embeddings=32"]
    if load(name).section("train", TrainConfig).phases:
        sizes += ['train.phases=[{share=0.5,sequence_length=16},{share=0.5,optimizer="muon"}]']
    recipe = load(name, [*SMALL, *sizes], [str(tmp_path / "news.jsonl")])
    run = Run(tmp_path / "run")
    run_stages(recipe, run, list(recipe.sections), ())
    records = read_jsonl(run.stage("train") / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert all(math.isfinite(record["loss"]) for record in records)
    assert ("expert_use" in records[-1]) == (settled(name).num_experts is not None)
    checkpoint = newest(run.checkpoints)
    assert checkpoint is not None
    assert read_config(checkpoint)["architectures"] == [SYSTEMS[name][1]]
