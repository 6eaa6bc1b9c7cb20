from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jielong.errors import InputError, RecipeError
from jielong.model.cost import flops_per_token, parameters
from jielong.model.devices import PRESETS, Device, find_device
from jielong.model.memory import Work, training_memory
from jielong.recipe import Section, load, parse, shipped
from jielong.runs import Run, write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Config as TrainConfig
from jielong.train.job import plan as loop_plan
from jielong.train.planning import Known, Report, known_of, optimal_size, plan_run, suggest_shape

CARD = PRESETS["rtx-4090"]
ROUND = dataclasses.replace(
    CARD, bfloat16=1e12, float32=5e11, utilisation=0.5, price=2.0
)  # 0.5 TFLOP/s at 2 dollars an hour


def sections(model: dict[str, Any] | None = None, **tables: dict[str, Any]) -> dict[str, Section]:
    """A small recipe's tables, some keys changed."""
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "max_position_embeddings": 32}  # fmt: skip
    recipe: dict[str, Any] = {
        "data": {"sources": [{"name": "a", "path": "a.jsonl"}, {"name": "b", "path": "b.jsonl"}]},
        "tokenizer": {"vocab_size": 1000},
        "model": shape | (model or {}),
        "train": {"tokens": 100_000, "tokens_per_step": 256, "micro_batch_tokens": 96},
    }
    return parse(recipe | tables, Path()).sections


def changed(**train: Any) -> dict[str, Section]:
    return sections(train={"tokens_per_step": 256, "micro_batch_tokens": 96} | train)


def test_every_shipped_recipe_can_be_planned_on_every_device() -> None:
    for name in shipped():
        recipe = load(name)
        if "model" not in recipe.sections:  # one that only tunes
            continue
        for device in (find_device("cpu"), *PRESETS.values()):
            report = plan_run(recipe.sections, device, known=Known(70_000))
            assert report.parameters > 0 and report.fit.memory.peak > 0 and report.budget.steps > 0
            assert json.loads(json.dumps(report.to_json()))["fit"]["memory"]["peak"] == report.fit.memory.peak


def test_the_arithmetic_of_a_step_is_the_loop_s() -> None:
    found = plan_run(sections(), CARD)
    train = sections()["train"]
    assert isinstance(train, TrainConfig)
    run = loop_plan(train, 32, {})
    assert (found.budget.steps, found.budget.tokens_per_step) == (run.total_steps, run.at(1).tokens_per_step)
    assert (found.fit.rows, found.fit.sequence_length) == (2, 32)
    assert (run.at(1).rows_per_micro_batch, run.at(1).sequence_length) == (2, 32)


def test_time_and_cost_by_hand() -> None:
    """Tokens x FLOPs a token / 0.5 TFLOP/s seconds, on one device; half the time on two, the same cost at 2 dollars an hour."""
    tables = sections()
    one, two = (plan_run(tables, ROUND, count) for count in (1, 2))
    seconds = one.budget.tokens * one.flops_per_token / 0.5e12
    assert one.budget.tokens == 100_096  # 391 steps of 256
    assert one.budget.hours == pytest.approx(seconds / 3600)
    assert two.budget.hours == pytest.approx(seconds / 7200)
    assert one.budget.cost == pytest.approx(two.budget.cost) == pytest.approx(2 * seconds / 3600)
    assert plan_run(tables, ROUND, price=5.0).budget.cost == pytest.approx(2.5 * one.budget.cost)


def test_memory_is_that_of_the_recipe_s_micro_batch() -> None:
    report = plan_run(sections(), CARD)
    model = report.optimal.shape.with_vocab(1000)
    config = sections({"vocab_size": 1000})["model"]
    assert type(config) is type(model)
    expected = training_memory(config, Work(2, 32, "bfloat16", "cuda", True, True, 8))
    assert report.fit.memory == expected


def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    tables = changed(tokens=10**6, tokens_per_step=32 * 48)
    small = dataclasses.replace(CARD, memory=200 << 20)
    fit = plan_run(tables, small).fit
    config = sections({"vocab_size": 1000})["model"]

    def peak(rows: int) -> int:
        return training_memory(config, Work(rows, 32, "bfloat16", "cuda", True, rows < 48, 8)).peak  # type: ignore[arg-type]

    assert fit.fits and fit.largest_rows > 1
    assert peak(fit.largest_rows) <= small.usable_bytes < peak(fit.largest_rows + 1)
    assert fit.largest_divisor <= fit.largest_rows and 48 % fit.largest_divisor == 0


def test_a_model_that_does_not_fit_at_all() -> None:
    fit = plan_run(sections(), dataclasses.replace(CARD, memory=1 << 20)).fit
    assert not fit.fits
    assert (fit.largest_rows, fit.largest_divisor) == (0, 0)


@pytest.mark.parametrize(
    ("tables", "options", "tokens", "source"),
    [
        (changed(tokens=1000), {}, 1024, "train.tokens"),
        (changed(tokens=1000), {"tokens": 5000}, 5120, "given"),
        (changed(epochs=2.0), {"known": Known(None, {"a": 1000, "b": 500})}, 3072, "2 passes over the corpus"),
        (changed(), {"known": Known(None, {"a": 1000, "b": 500})}, 1536, "1 passes over the corpus"),
        (changed(mix={"tokens": {"a": 900, "b": 200}}), {}, 1280, "train.mix.tokens"),
        (changed(mix={"epochs": {"a": 2.0}}), {"known": Known(None, {"a": 1000, "b": 500})}, 2048, "train.mix"),
    ],
    ids=["tokens", "given", "epochs", "one pass", "mix of tokens", "mix of epochs"],
)
def test_where_the_tokens_come_from(tables: dict[str, Section], options: Any, tokens: int, source: str) -> None:
    budget = plan_run(tables, CARD, **options).budget
    assert (budget.tokens, budget.source) == (tokens, source)


def test_an_unknown_corpus_is_taken_as_twenty_tokens_a_parameter() -> None:
    report = plan_run(changed(epochs=1.0), CARD)
    assert report.budget.source == "assumed"
    assert 0 <= report.budget.tokens - 20 * report.parameters < 256
    assert any("20 a parameter" in line for line in report.assumptions)


# ------------------------------------------------------------------------------------------------- vocabulary


def test_the_vocabulary_is_the_tokenizer_s_that_will_be_trained() -> None:
    assert plan_run(sections(), CARD).vocabulary == 1000
    assert plan_run(sections({"vocab_size": 1200}), CARD).vocabulary == 1200
    assert plan_run(sections(), CARD, known=Known(990)).vocabulary == 990


def test_the_vocabulary_of_a_given_tokenizer_is_read(tmp_path: Path) -> None:
    bpe.save(bpe.train(["中国人民很高兴。"] * 9, 300, TokenizerConfig().specials, 2, True), tmp_path)
    vocabulary = plan_run(sections(tokenizer={"path": str(tmp_path)}), CARD).vocabulary
    assert 256 < vocabulary <= 300


def test_a_tokenizer_that_is_not_there() -> None:
    with pytest.raises(
        RecipeError, match=r"model\.vocab_size: not known, because the tokenizer is not there, got .*nowhere"
    ):
        plan_run(sections(tokenizer={"path": "nowhere"}), CARD)


def test_what_a_run_has_settled_is_used(corpus: Path, tmp_path: Path) -> None:
    """Shards of the stage are read when it was made with the recipe's own tables, and only then."""
    tables, run = changed(epochs=2.0), Run(tmp_path)
    assert known_of(run, tables) == Known()
    shutil.copytree(corpus, run.stage("tokenizer"))
    for stage in ("data", "tokenizer"):
        run.stage(stage).mkdir(exist_ok=True)
        write_json(run.stage(stage) / "manifest.json", {"section": tables[stage].result_fields()})
    known, shards = known_of(run, tables), Shards(corpus / "shards", "train")
    assert known == Known(shards.vocab_size, shards.available(), shards.documents)
    report = plan_run(tables, CARD, known=known)
    assert report.vocabulary == shards.vocab_size
    assert 0 <= report.budget.tokens - 2 * shards.target_tokens < 256
    assert known_of(run, sections(tokenizer={"vocab_size": 1001})) == Known()


# ------------------------------------------------------------------------------------------------- what is refused


def test_a_recipe_without_a_model() -> None:
    tables = sections()
    del tables["model"]
    with pytest.raises(RecipeError, match=r"model: the recipe has no \[model\] table"):
        plan_run(tables, CARD)


def test_bfloat16_where_there_is_none() -> None:
    volta = find_device("v100-32g")
    assert plan_run(sections(), volta).precision == "float16"
    with pytest.raises(InputError, match=r"train\.precision: v100-32g has no bfloat16 arithmetic"):
        plan_run(changed(tokens=1000, precision="bfloat16"), volta)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--devices: out of bounds, got 0; must be from 1"),
        ({"tokens": 0}, "--tokens: out of bounds, got 0"),
        ({"tokens": 10**400}, "--tokens: out of bounds"),
        ({"hours": 0.0}, "--hours: out of bounds, got 0; must be above 0"),
        ({"hours": float("nan")}, "--hours: out of bounds, got nan"),
        ({"hours": 1e300}, "--hours: out of bounds, got 1e.300"),
        ({"price": -1.0}, "--price: out of bounds, got -1"),
    ],
)
def test_options_out_of_bounds(options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan_run(sections(), CARD, **options)


# ------------------------------------------------------------------------------------------------- the best size


def test_the_rule_by_hand() -> None:
    """1000 hours at 0.5 TFLOP/s are 1.8e18 FLOPs; sqrt(1.8e18 / 120) = 1.2247e8 parameters on 2.449e9 tokens."""
    found = plan_run(sections(), ROUND, hours=1000.0).optimal
    assert found.flops == pytest.approx(1.8e18)
    assert found.rule_parameters == pytest.approx(1.2247e8, rel=1e-4)
    assert found.rule_tokens == pytest.approx(2.449e9, rel=1e-3)


@pytest.mark.parametrize("hours", [3.0, 100.0, 10_000.0, 1e6])
def test_the_suggested_shape_takes_about_the_hours(hours: float) -> None:
    found = plan_run(sections(), ROUND, hours=hours).optimal
    assert found.shape_hours == pytest.approx(hours, rel=0.1)
    assert found.shape_tokens == 20 * found.shape_parameters == 20 * parameters(found.shape)
    assert 48 <= found.shape.hidden_size / found.shape.num_hidden_layers <= 96
    assert found.shape.vocab_size == 1000


def test_the_suggested_shape_is_the_nearest_of_its_neighbours() -> None:
    config = sections({"vocab_size": 6400})["model"]
    shape = suggest_shape(config, 32, 1e18)  # type: ignore[arg-type]

    def cost(layers: int) -> float:
        other = shape.model_copy(update={"num_hidden_layers": layers})
        return abs(20 * parameters(other) * flops_per_token(other, 32) / 1e18 - 1)

    assert cost(shape.num_hidden_layers) <= min(cost(shape.num_hidden_layers + step) for step in (-1, 1))


def test_the_best_size_grows_with_the_root_of_the_hours() -> None:
    config = sections({"vocab_size": 6400})["model"]
    less, more = (optimal_size(config, 32, ROUND, "bfloat16", hours) for hours in (10.0, 1000.0))  # type: ignore[arg-type]
    assert more.rule_parameters == pytest.approx(10 * less.rule_parameters)


# ------------------------------------------------------------------------------------------------- generation


def test_generation_is_bounded_by_what_must_be_read() -> None:
    """One text, float32: 4 bytes of every weight (tied: the table is the output layer) and the cache, at 1008 GB/s."""
    report: Report = plan_run(sections(), CARD)
    row = report.generation[0]
    assert (row.rows, row.context, row.item) == (1, 32, 4)
    assert row.most_tokens_per_second == pytest.approx(1008e9 / (4 * report.parameters + row.memory.kv_cache))


def test_one_text_reads_its_own_experts_and_many_read_all() -> None:
    device: Device = find_device("rtx-4090")
    report = plan_run(sections({"num_experts": 8}), device)
    one, many = report.generation[0], report.generation[1]
    assert one.most_tokens_per_second == pytest.approx(1008e9 / (4 * report.active_parameters + one.memory.kv_cache))
    assert many.most_tokens_per_second == pytest.approx(16 * 1008e9 / (4 * report.parameters + many.memory.kv_cache))


# -------------------------------------------------------------------------------------------------------- phases


PHASES = [
    {"tokens": 40_000, "sequence_length": 16, "tokens_per_step": 32},
    {"tokens": 60_000, "optimizer": "muon", "schedule": "wsd", "learning_rate": 0.002},
]


def test_a_plan_of_phases_by_hand() -> None:
    """1,250 steps of 32, then 235 of 256 tokens; a token's FLOPs are those of its row's length, and the longer rows need more memory."""
    budget = plan_run(changed(phases=PHASES), ROUND).budget
    first, second = budget.parts
    assert (first.first_step, first.steps, first.tokens, first.sequence_length) == (1, 1250, 40_000, 16)
    assert (second.first_step, second.steps, second.tokens, second.tokens_per_step) == (1251, 235, 60_160, 256)
    assert (first.optimizer, first.schedule, second.optimizer, second.schedule) == (
        "adamw",
        "cosine (run)",
        "muon",
        "wsd",
    )
    assert (budget.tokens, budget.steps, budget.source) == (100_160, 1485, "train.phases")
    shape = sections({"vocab_size": 1000})["model"]
    cost = 40_000 * flops_per_token(shape, 16) + 60_160 * flops_per_token(shape, 32)  # type: ignore[arg-type]
    assert budget.flops == pytest.approx(cost) and first.hours + second.hours == pytest.approx(budget.hours)
    report = plan_run(changed(phases=PHASES), ROUND)
    assert report.flops_per_token == pytest.approx(cost / 100_160) and report.fit.sequence_length == 32
    assert json.loads(json.dumps(report.to_json()))["budget"]["parts"][1]["optimizer"] == "muon"


def test_phases_in_other_budgets() -> None:
    """Given tokens keep the proportion of the phases, whatever their own budgets are said in."""

    def tokens(known: Known | None = None, given: int | None = None, **train: Any) -> tuple[list[int], str]:
        found = plan_run(changed(**train), CARD, known=known, tokens=given).budget
        return [part.tokens for part in found.parts], found.source

    there, passes = (
        Known(None, {"a": 1000, "b": 500}),
        [{"epochs": 1.0, "weights": {"a": 1}}, {"epochs": 3.0, "weights": {"b": 1}}],
    )
    assert tokens(there, phases=passes) == ([1536, 4608], "4 passes over the corpus")
    assert tokens(there, 10_240, phases=passes) == ([2560, 7680], "given")
    assert tokens(given=1000, phases=PHASES) == ([416, 768], "given")
    assert tokens(phases=[{"share": 1}, {"share": 3}], tokens=10_240) == ([2560, 7680], "train.tokens")
    assert tokens(there, phases=[{"share": 1}, {"share": 2}]) == ([512, 1024], "1 passes over the corpus")
    assert tokens(phases=passes)[1] == "assumed"
