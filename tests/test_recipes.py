"""The shipped recipes of the systems that this project grew from: each parses, keeps its size, and trains two steps.

The steps are run at reduced width and length, with a tokenizer trained on the spot, because the recipe's own may have to be
fetched first; what makes each recipe what it is (positions, experts, tokenizer kind, biases) is kept.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from jielong.errors import RecipeError
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
from tests.tune.talks import asked, write

# millions of weights, and the class of a checkpoint at its real shape
SYSTEMS = {
    "mateconv": (26.9, "LlamaForCausalLM"),
    "mateconv-moe": (96.1, "Qwen2MoeForCausalLM"),
    "baby-llama2": (58.4, "LlamaForCausalLM"),
    "gmq-0.1b": (109.5, "LlamaForCausalLM"),
    "lmq-0.6b": (608.6, "LlamaForCausalLM"),
    "jerry-0.18b": (199.8, "JielongForCausalLM"),
}
ON_A_BASE = (
    "domain-medical",
    "sft-zh",
    "llama-qlora",
    "dpo-zh",
    "rlhf-zh",
    "grpo-arithmetic-zh",
)  # they go on from a model that the user has
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
    assert set(SYSTEMS) | {"tiny", *ON_A_BASE} == set(shipped())


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


# ------------------------------------------------------------------------------- recipes that go on from a model


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, its tokenizer beside it, and texts and conversations around."""
    from jielong.model.hf import save_folder
    from jielong.model.transformer import CausalLM, initialise
    from jielong.tokenizer import bpe
    from jielong.tokenizer.config import Config as TokenizerConfig
    from jielong.tokenizer.folder import open_folder

    folder = tmp_path_factory.mktemp("stand-in")
    bpe.save(bpe.train(texts(), 320, TokenizerConfig().specials, 2, True), folder / "base")
    tokenizer = open_folder(folder / "base")
    model = CausalLM(Config(vocab_size=tokenizer.size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
                            tie_word_embeddings=False, rope_theta=500_000.0))  # fmt: skip
    initialise(model, 1)
    save_folder(model, folder / "base", tokenizer.end_id)
    shutil.copytree(folder / "base", folder / "long")  # the same with a longer context
    save_folder(
        CausalLM(model.config.model_copy(update={"max_position_embeddings": 256})), folder / "long", tokenizer.end_id
    )
    for name, rows in (("medical", texts(60)), ("general", texts(120)[60:])):
        write_jsonl(folder / f"{name}.jsonl", rows)
    write(folder / "answers.jsonl", [asked(number) for number in range(40)])
    pairs = [{"prompt": f"{n}加一？", "chosen": f"{n + 1}。", "rejected": "不。"} for n in range(40)]
    write(folder / "pairs.jsonl", pairs)
    return folder


def start(name: str, folder: Path, runs: Path, *settings: str) -> Run:
    tables = {"domain-medical": ("train", "tune"), "llama-qlora": ("train",), "dpo-zh": ()}.get(name, ("tune",))
    few = [f"{table}.{setting}" for table in tables for setting in (
        "epochs=none", "tokens=512", "sequence_length=64", "tokens_per_step=256", "micro_batch_tokens=128", "device=cpu",
        "sample_tokens=4", "save_every_steps=1")]  # fmt: skip
    more = ["infer.max_new_tokens=4", "infer.device=cpu"]
    if "evaluate" in load(name).sections:
        more += ["evaluate.prompt_tokens=4"]
    if "align" in load(name).sections:
        more += [
            "align.steps=2",
            "align.batch_size=4",
            "align.device=cpu",
            "align.sample_tokens=4",
            "align.judged_prompts=2",
        ]
    if "train" in tables:
        more += ["data.processes=1", 'data.steps=[{ step = "exact" }]', "data.validation_fraction=0.1",
                 f"tokenizer.path={folder / 'base'}", f"model.base={folder / 'base'}"]  # fmt: skip
    recipe = load(name, [*few, *more, *settings])
    run = Run(runs / name)
    run_stages(recipe, run, list(recipe.sections))
    return run


def test_domain_medical(stand_in: Path, tmp_path: Path) -> None:
    """Continued pretraining with LoRA and replay, then answers; the table compares what came before the answers with the end."""
    run = start(
        "domain-medical", stand_in, tmp_path,
        f'data.sources=[{{name="medical",path="{stand_in}/medical.jsonl"}},{{name="general",path="{stand_in}/general.jsonl"}}]',
        f'tune.sources=[{{name="answers",path="{stand_in}/answers.jsonl"}}]',
        f'evaluate.general=["{stand_in}/general.jsonl"]',
    )  # fmt: skip
    counts = {stage: (run.manifest(stage) or {})["counts"] for stage in ("train", "tune", "evaluate")}
    assert set(counts["train"]["mix"]) == {"medical", "general"}
    for stage in ("train", "tune"):
        assert (run.stage(stage) / counts[stage]["checkpoint"] / "adapter_model.safetensors").is_file()
    assert {row["text"] for row in counts["evaluate"]["compared"]["rows"]} == {
        "held-out documents", "held-out documents: medical", "held-out documents: general", "held-out answers",
        "general: general.jsonl",
    }  # fmt: skip


def test_sft_zh(stand_in: Path, tmp_path: Path) -> None:
    sources = f'tune.sources=[{{name="answers",path="{stand_in}/answers.jsonl"}}]'
    run = start("sft-zh", stand_in, tmp_path, f"tune.base={stand_in / 'base'}", sources)
    assert len(read_jsonl(run.stage("infer") / "samples.jsonl")) == 4


def test_dpo_zh(stand_in: Path, tmp_path: Path) -> None:
    sources = f'align.sources=[{{name="pairs",path="{stand_in}/pairs.jsonl"}}]'
    run = start("dpo-zh", stand_in, tmp_path, f"align.base={stand_in / 'base'}", sources)
    records = read_jsonl(run.stage("align") / "metrics.jsonl")
    assert len(records) == 2 and records[0]["margin"] == 0 and records[1]["validation_loss"] > 0
    assert len(read_jsonl(run.stage("infer") / "samples.jsonl")) == 3


def test_rlhf_zh(stand_in: Path, tmp_path: Path) -> None:
    """Fine-tuning, a reward model, PPO; the report has all three."""
    run = start(
        "rlhf-zh", stand_in, tmp_path, f"tune.base={stand_in / 'base'}", "align.max_new_tokens=8",
        f'tune.sources=[{{name="answers",path="{stand_in}/answers.jsonl"}}]',
        f'align.sources=[{{name="prompts",path="{stand_in}/pairs.jsonl"}}]',
        f'align.reward={{sources=[{{name="pairs",path="{stand_in}/pairs.jsonl"}}],steps=2,batch_size=4,device="cpu"}}',
    )  # fmt: skip
    counts = (run.manifest("align") or {})["counts"]
    assert counts["reward"]["steps"] == 2 and counts["steps"] == 2 and counts["judged"]["prompts"] == 2
    assert {"kl", "reward", "value_loss"} <= read_jsonl(run.stage("align") / "metrics.jsonl")[0].keys()
    assert "align/reward/data/report.html" in (run.root / "report.html").read_text(encoding="utf-8")


def test_grpo_arithmetic_zh(stand_in: Path, tmp_path: Path) -> None:
    """Its problems are its own."""
    longest = [
        f'{table}.sources=[{{name="problems",path="builtin:arithmetic-zh",max_documents=300}}]'
        for table in ("tune", "align")
    ]
    run = start(
        "grpo-arithmetic-zh", stand_in, tmp_path, f"tune.base={stand_in / 'long'}", "align.max_new_tokens=4", "align.answers=2",
        "tune.sequence_length=256", "tune.tokens=1024", "tune.micro_batch_tokens=256",
        'tune.sample_prompts=["一加一？"]', 'infer.prompts=["一加一？"]', *longest,
    )  # fmt: skip
    assert {"reward", "reward_answer", "reward_ends", "kl"} <= read_jsonl(run.stage("align") / "metrics.jsonl")[
        0
    ].keys()


def test_llama_qlora_on_a_stand_in_of_two_layers(stand_in: Path, tmp_path: Path) -> None:
    """The shape that the recipe plans with is another model's: it is said, field by field, until the stand-in's is given."""
    pytest.importorskip("bitsandbytes", reason="weights in 4 bits need bitsandbytes")
    sources = f'data.sources=[{{name="text",path="{stand_in}/medical.jsonl"}}]'
    with pytest.raises(RecipeError, match=r"model\.hidden_size: is the base's, got 4096; the base has 64"):
        start("llama-qlora", stand_in, tmp_path, sources)
    shape = ["vocab_size=none", "hidden_size=64", "intermediate_size=128", "num_hidden_layers=2", "num_attention_heads=4",
             "num_key_value_heads=2", "max_position_embeddings=64"]  # fmt: skip
    run = start("llama-qlora", stand_in, tmp_path, sources, *(f"model.{text}" for text in shape), "tokenizer.bos=false",
                "train.tokens=2560", "train.learning_rate=2e-2")  # fmt: skip
    losses = [record["loss"] for record in read_jsonl(run.stage("train") / "metrics.jsonl")]
    assert len(losses) == 10 and losses[-1] < losses[0]
    assert newest(run.checkpoints) is not None
