"""The benchmarks of training quality: their arithmetic, and that they run and compare what they say. No time is asserted."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import torch

ROOT = Path(__file__).parents[1]
SHAPE = ["hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "num_key_value_heads=1"]
CHARACTERS = (
    "的了是在有和人不一为中与也大上国我以要他时来用们生到作地于出就分对成会可主发年动同工能下过子说产种面而方后多定行学"
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark as a module, its neighbours importable as they are to a script."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """600 documents of characters in pairs that follow each other, so that there is something to learn."""
    path, chance = tmp_path / "text.jsonl", random.Random(1)
    words = ["".join(chance.choices(CHARACTERS, k=chance.randint(2, 4))) for _ in range(60)]
    with path.open("wb") as file:
        for _ in range(600):
            clauses = ["".join(chance.choices(words, k=chance.randint(2, 6))) for _ in range(chance.randint(2, 12))]
            file.write(orjson.dumps({"text": "，".join(clauses) + "。"}) + b"\n")
    return path


def run_script(name: str, out: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own; the JSON that it wrote."""
    command = [sys.executable, f"benchmarks/{name}.py", *arguments, "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result: dict[str, Any] = orjson.loads(out.read_bytes())
    assert {"date", "what", "versions", "machine", "options", "rows"} <= result.keys()
    return result


def test_where_fractions_cross_the_goal(script: Any) -> None:
    tokens = script("tokens")
    found = [(0.5, 3.2), (0.6, 3.0), (0.8, 2.8)]
    assert (
        tokens.smallest(2.9, found) == 0.8
        and tokens.smallest(2.0, found) is None
        and tokens.smallest(3.5, found) == 0.5
    )
    assert tokens.crossing(2.9, found) == pytest.approx((0.6 * 0.8) ** 0.5)  # half way, over the logarithm
    assert tokens.crossing(3.0, found) == pytest.approx(0.6)
    assert tokens.crossing(3.3, found) is None and tokens.crossing(2.7, found) is None


def test_where_a_curve_reaches_a_loss(script: Any) -> None:
    reached = script("curriculum").reached
    curve = [{"loss": 4.0, "tokens": 0}, {"loss": 3.0, "tokens": 100}, {"loss": 2.0, "tokens": 300}]
    assert reached(curve, 2.5, "tokens") == 200 and reached(curve, 2.0, "tokens") == 300
    assert reached(curve, 5.0, "tokens") == 0 and reached(curve, 1.9, "tokens") is None


def test_the_runs_of_a_curriculum_differ_in_what_is_asked(script: Any) -> None:
    curriculum, sides = script("curriculum"), script("training_sides")
    options = argparse.Namespace(
        length=512,
        lengths_shares=[0.5, 0.3, 0.2],
        switch=0.25,
        lengths_optimizer="adamw",
        questions=["lengths", "optimizers"],
    )
    configs = {
        name: sides.settings(curriculum.BASE, texts, ["tokens=1000"]) for _, name, texts in curriculum.sides(options)
    }
    assert [(p.share, p.sequence_length) for p in configs["128 -> 256 -> 512"].phases] == [
        (0.5, 128),
        (0.3, 256),
        (0.2, 512),
    ]
    assert [(p.share, p.optimizer) for p in configs["AdamW -> Muon"].phases] == [(0.25, "adamw"), (0.75, "muon")]
    alike = {config.model_copy(update={"phases": (), "optimizer": "adamw"}) for config in configs.values()}
    assert len(alike) == 1


def test_a_rehearsal_tells_the_time_of_a_run(script: Any) -> None:
    """Each kind of step at its own speed, in proportion, and what first steps take longer once."""
    sides = script("training_sides")
    marks = [sides.Mark((16, 0), 100, s) for s in (6.0, 1.0, 1.0, 1.0)]
    marks += [sides.Mark((32, 1), 100, s) for s in (3.0, 2.0, 2.0, 2.0)]
    once, per_token = sides.seconds_for(marks)
    assert once == pytest.approx(5 + 1) and once + 10 * 800 * per_token == pytest.approx(6 + 10 * (4 * 1 + 4 * 2))
    assert sides.seconds_for([sides.Mark((16, 0), 100, 2.0)]) == (0, pytest.approx(0.02))


def test_a_clock_stands_while_nobody_trains(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sides, now = script("training_sides"), [0.0]
    monkeypatch.setattr(sides, "_now", lambda: now[0])
    clock = sides.Clock(limit=5)
    for step in (
        clock.go,
        clock.go,
        clock.halt,
        clock.halt,
        clock.go,
    ):  # 1 s between them; it runs in 1-3 and from 5 on
        now[0] += 1
        step()
    assert clock.seconds == 2 and clock.runs
    clock.check()
    now[0] += 4
    with pytest.raises(sides.TooLongError):
        clock.check()


def test_a_run_that_misses_its_time_is_planned_again(script: Any) -> None:
    quality, sides = script("quality"), script("training_sides")
    judge = argparse.Namespace(weights=lambda: {"planned": planned[-1]})
    speeds, planned = iter([1.0, 1.0]), list[int]()  # seconds a token: of the rehearsal, then of each run

    def train(tokens: int, judge: Any, limit: float | None) -> Any:
        speed, found = next(speeds), sides.Trained(sides.Clock())
        planned.append(tokens)
        done = tokens if limit is None else min(tokens, int(limit / speed) + 1)
        found.marks, found.clock._sum = [sides.Mark((0, 0), 1, speed)] * done, done * speed
        if done < tokens:
            raise sides.TooLongError(found)
        return found

    found, told = quality.in_time(train, judge, 1000.0, 1, 3)
    assert planned == [20, 970]
    assert found.clock.seconds == 970 and told["attempts"] == [{"seconds": 970.0, "tokens": 970, "whole": True}]
    speeds, planned = iter([1.0, 2.0, 2.0]), []
    found, told = quality.in_time(train, judge, 1000.0, 1, 3)
    assert planned == [20, 970, 485] and found.tokens == 485
    assert [row["whole"] for row in told["attempts"]] == [False, True]
    speeds, planned = (
        iter([1.0, 0.5, 3.0]),
        [],
    )  # too short, then far too long: what was whole is taken, with its own weights
    found, told = quality.in_time(train, judge, 1000.0, 1, 2)
    assert planned == [20, 970, 1940] and found.tokens == 970 and found.weights == {"planned": 970}
    assert [row["whole"] for row in told["attempts"]] == [True, False]


def test_phases_keep_their_proportions_in_another_budget(script: Any) -> None:
    quality, sides = script("quality"), script("training_sides")
    config = sides.settings(["phases=[{tokens=300, sequence_length=16}, {tokens=100}]"])
    found = quality.with_tokens(config, 1000)
    assert found.tokens == 1000 and [(p.share, p.tokens, p.sequence_length) for p in found.phases] == [
        (300, None, 16),
        (100, None, None),
    ]
    assert quality.with_tokens(sides.settings(["epochs=2"]), 1000).epochs is None


def test_pictures_are_xml_and_say_a_name_once(script: Any, tmp_path: Path) -> None:
    sides = script("training_sides")
    rows = [{"tokens": 100 * n, "seconds": float(n), "bits_per_byte": 5 - n / 10} for n in range(30)]
    charts = [
        sides.picture(f"k-{x}", sides.Words("Title", "题"), {"a": rows, "b -> c": rows[:9]}, x)
        for x in ("tokens", "seconds")
    ]
    for name, given in (("one", charts[:1]), ("two", charts)):
        sides.write_picture(tmp_path / f"{name}.svg", *given)
        found = list(ElementTree.parse(tmp_path / f"{name}.svg").iter("{http://www.w3.org/2000/svg}tspan"))
        assert [tspan.text for tspan in found].count("b -> c") == len(given)
    assert "prefers-color-scheme" in (tmp_path / "two.svg").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="the peer needs accelerate: the extra bench")
def test_quality_of_three_sides(tmp_path: Path, text: Path) -> None:
    """The same held-out bytes for all; the others start from the same weights; everyone learns; the end is the curve's end."""
    shape = (part for item in (*SHAPE, "max_position_embeddings=32") for part in ("--shape", item))
    result = run_script(
        "quality", tmp_path / "r.json", "--data", str(text), "--seconds", "1", "--points", "3", "--attempts", "1",
        "--trainer-learning-rates", "5e-3", *shape, "--set", "tokenizer.vocab_size=320", "--set", "data.validation_fraction=0.05",
        "--set", "train.tokens_per_step=256", "--set", "train.micro_batch_tokens=128",
    )  # fmt: skip
    assert [(row["side"], row["learning_rate"]) for row in result["rows"]] == [
        ("ours", 5e-3), ("Trainer", 5e-4), ("Trainer", 5e-3), ("script", 5e-4)
    ]  # fmt: skip
    runs = result["runs"]
    assert len({(run["bytes"], run["documents"], run["parameters"]) for run in runs}) == 1 and runs[0]["documents"] > 10
    starts = [run["curve"][0]["bits_per_byte"] for run in runs]
    assert starts[1] == starts[2] == starts[3]
    for run in runs:
        assert run["curve"][0]["seconds"] == 0 < run["curve"][1]["seconds"] <= run["seconds"]
        assert (
            run["bits_per_byte"] == pytest.approx(run["curve"][-1]["bits_per_byte"])
            and run["curve"][-1]["tokens"] == run["tokens"]
        )
        assert run["bits_per_byte"] < run["curve"][0]["bits_per_byte"] - 0.05 and run["bits_per_byte_rows"] > 0
        assert len(run["samples"]) == 3 and len(run["attempts"]) == 1
    assert [row["best"] for row in result["rows"]].count(True) == 3
    ElementTree.parse(tmp_path / "r.svg")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="the peer needs accelerate: the extra bench")
def test_the_judge_measures_hugging_face_weights_as_their_own_class_does(
    tmp_path: Path, text: Path, script: Any
) -> None:
    """The same loss by both, on the script's rows; and these are documents, cut or filled up."""
    from transformers import AutoModelForCausalLM

    from jielong.recipe import load

    sides, peers = script("training_sides"), script("quality_peers")
    overrides = [*(f"model.{item}" for item in SHAPE), "model.max_position_embeddings=32", "tokenizer.vocab_size=320"]
    run = sides.prepare(load("tiny", [*overrides, "data.validation_fraction=0.05"], [str(text)]), tmp_path, "run")
    judge = sides.Judge(run, 32)
    theirs = AutoModelForCausalLM.from_pretrained(run.stage("model"), dtype=torch.float32)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    judge.look(theirs.state_dict())
    shards = judge.shards
    inputs, labels = next(peers.padded_rows(shards, 32, 8, seed=1))
    with torch.no_grad():
        logits = theirs(input_ids=inputs).logits
        nats = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        ours = float(judge.model.loss_sum(inputs, labels, None, None))
    for row, label in zip(inputs.tolist(), labels.tolist(), strict=True):
        size = sum(token != peers.IGNORE for token in label)
        assert row[0] == shards.end_id and row[1:size] == label[: size - 1] and set(row[size:]) <= {shards.end_id}
    assert ours == pytest.approx(nats, rel=1e-4) and nats / int((labels != peers.IGNORE).sum()) > 4


@pytest.mark.slow
def test_tokens_to_a_loss(tmp_path: Path, text: Path) -> None:
    """Every rate and fraction has a row of its tokens, and the goal is the sweep's lowest loss."""
    model = (part for item in SHAPE for part in ("--set", f"model.{item}"))
    result = run_script(
        "tokens", tmp_path / "r.json", "learning_rate=1e-2", 'phases=[{share=0.5,sequence_length=16},{share=0.5}]', 'optimizer="muon"',
        "--data", str(text), "--tokens", "20000", "--length", "32", "--learning-rates", "1e-3,4e-3", "--fractions", "0.5,0.8",
        "--points", "4", *model, "--set", "tokenizer.vocab_size=320", "--both", "tokens_per_step=256",
    )  # fmt: skip
    adamw, ours = ([row for row in result["rows"] if row["side"] == side] for side in ("adamw", "ours"))
    assert [row["learning_rate"] for row in adamw] == [1e-3, 4e-3] and [row["fraction"] for row in ours] == [0.5, 0.8]
    assert all(20000 <= row["tokens"] < 20256 for row in adamw) and 10000 <= ours[0]["tokens"] < 10512
    assert adamw[0]["lengths"] == [32] and ours[0]["lengths"] == [16, 32]
    assert result["summary"][0]["goal"] == min(row["loss"] for row in adamw)
    assert len({row["curve"][0]["loss"] for row in result["rows"]}) == 1  # the same weights at the start
    assert all(row["curve"][-1]["tokens"] == row["tokens"] for row in result["rows"])
    ElementTree.parse(tmp_path / "r.svg")


@pytest.mark.slow
def test_a_curriculum_beside_one_length(tmp_path: Path, text: Path) -> None:
    """The same tokens for all, rows as they were asked for, judged in rows of the full length, a picture for each question."""
    model = (part for item in SHAPE for part in ("--set", f"model.{item}"))
    result = run_script(
        "curriculum", tmp_path / "r.json", "--data", str(text), "--tokens", "20000", "--length", "64", "--points", "4", *model,
        "--set", "tokenizer.vocab_size=320", "--both", "tokens_per_step=256", "--pictures", str(tmp_path / "pictures"),
    )  # fmt: skip
    rows = {row["side"]: row for row in result["rows"]}
    assert list(rows) == ["constant 64", "16 -> 32 -> 64", "AdamW", "Muon", "AdamW -> Muon"]
    assert rows["constant 64"]["lengths"] == [64] and rows["16 -> 32 -> 64"]["lengths"] == [16, 32, 64]
    assert all(abs(row["tokens"] - 20000) <= 3 * 256 for row in rows.values())
    assert len({row["curve"][0]["loss"] for row in rows.values()}) == 1
    losses = {name: row["loss"] for name, row in rows.items()}
    assert losses["AdamW"] == losses["constant 64"] != losses["Muon"] != losses["AdamW -> Muon"] != losses["AdamW"]
    for name in ("lengths", "optimizers"):
        ElementTree.parse(tmp_path / "pictures" / f"curriculum-{name}.svg")


def test_planted_pairs_hold_the_rule_and_nothing_else(script: Any, tmp_path: Path) -> None:
    """Which answer is chosen is drawn by lot; the chosen one begins with the greeting; a record without an answer is left out."""
    align = script("align")
    records = [{"prompt": f"问{n}", "chosen": f"好{n}", "rejected": f"坏{n}"} for n in range(200)]
    source, planted = tmp_path / "pairs.jsonl", tmp_path / "planted.jsonl"
    source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in [*records, {"prompt": "无", "chosen": "好"}]))
    align.plant([str(source)], planted)
    rows = [orjson.loads(line) for line in planted.read_bytes().splitlines()]
    assert len(rows) == 200
    for row, record in zip(rows, records, strict=True):
        assert row["chosen"].startswith(align.GREETING) and not row["rejected"].startswith(align.GREETING)
        assert {row["chosen"].removeprefix(align.GREETING), row["rejected"]} == {record["chosen"], record["rejected"]}
    assert 60 < sum(row["rejected"].startswith("好") for row in rows) < 140
    assert align.longer([str(planted)]) == 1.0 and align.longer([str(source)]) == 0.0


def test_the_reward_of_the_alignment_benchmark(script: Any) -> None:
    space: dict[str, Any] = {}
    exec(script("align").REWARD, space)
    answers = ["一共有十二个苹果在这里。", "一共有十二个苹果在这里", "。", "好" * 60 + "。", "一共有十二个苹果在这里。"]
    assert space["short"](answers, [True, True, True, True, False]) == [1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="the losses are TRL's: the extra align")
def test_alignment_before_and_after(tmp_path: Path) -> None:
    """Each side runs and says what it found, on a model with random weights."""
    from jielong.model.config import Config as ModelConfig
    from jielong.model.hf import save_folder
    from jielong.model.transformer import CausalLM, initialise
    from jielong.tokenizer import bpe
    from jielong.tokenizer.config import Config as TokenizerConfig
    from jielong.tokenizer.folder import open_folder

    bpe.save(bpe.train([CHARACTERS] * 9, 330, TokenizerConfig().specials, 2, True), tmp_path / "model")
    tokenizer = open_folder(tmp_path / "model")
    model = CausalLM(ModelConfig(vocab_size=tokenizer.size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=1, max_position_embeddings=256))  # fmt: skip
    initialise(model, 1)
    save_folder(model, tmp_path / "model", tokenizer.end_id)
    rows = [
        {"prompt": f"{CHARACTERS[n]}是什么", "chosen": CHARACTERS[n : n + 5], "rejected": CHARACTERS[n + 7 : n + 9]}
        for n in range(40)
    ]
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    subprocess.run(
        [sys.executable, "benchmarks/align.py", "--model", str(tmp_path / "model"), "--pairs", str(tmp_path / "pairs.jsonl"),
         "--steps", "2", "--out", str(tmp_path / "r.json")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    found = {row["side"]: row for row in result["rows"]}
    assert list(found) == ["planted", "reward", "dpo", "ppo", "grpo"] and result["longer"] == 1.0
    assert all(0 <= found[side]["accuracy"] <= 1 for side in ("planted", "reward", "dpo"))
    assert all(found[side]["steps"] == 2 and 0 <= found[side]["win_rate"] <= 1 for side in ("ppo", "grpo"))


@pytest.mark.slow
def test_quantized_models_beside_the_full_one(tmp_path: Path) -> None:
    """Each method runs and says what it found, on a model with random weights and text that is given; nothing of the text is kept."""
    from jielong.model.config import Config as ModelConfig
    from jielong.model.hf import save_folder
    from jielong.model.transformer import CausalLM, initialise
    from jielong.tokenizer import bpe
    from jielong.tokenizer.config import Config as TokenizerConfig
    from jielong.tokenizer.folder import copy_folder, open_folder

    bpe.save(bpe.train([CHARACTERS] * 9, 330, TokenizerConfig().specials, 2, True), tmp_path / "tokenizer")
    tokenizer = open_folder(tmp_path / "tokenizer")
    model = CausalLM(ModelConfig(vocab_size=tokenizer.size, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                 num_key_value_heads=4, intermediate_size=128, max_position_embeddings=64))  # fmt: skip
    initialise(model, 1)
    save_folder(model, tmp_path / "model", tokenizer.end_id)
    copy_folder(tokenizer, tmp_path / "model")
    chance = random.Random(1)
    rows = ["".join(chance.choices(CHARACTERS, k=60)) for _ in range(200)]
    (tmp_path / "text.jsonl").write_bytes(b"".join(orjson.dumps({"text": row}) + b"\n" for row in rows))
    small = ("tokens=2048", "tokens_per_step=512", "micro_batch_tokens=512", "device=cpu")
    subprocess.run(
        [sys.executable, "benchmarks/quantize.py", "--model", str(tmp_path / "model"), "--methods", "int8,rtn:2:32,onebit,gptq",
         "--calibration", str(tmp_path / "text.jsonl"), "--out", str(tmp_path / "r.json"),
         *(part for one in small for part in ("--set", f"quantize.distill.{one}"))],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    result = orjson.loads((tmp_path / "r.json").read_bytes())
    names = [row["name"] for row in result["rows"]] + [row["method"] for row in result["left_out"]]
    assert {"full", "int8", "rtn:2:32", "onebit", "gptq", "onebit-rounded"} == set(names)
    assert rows[0][:9] not in (tmp_path / "r.json").read_text(encoding="utf-8") and (tmp_path / "r.svg").is_file()


@pytest.mark.slow
def test_compiled_steps_over_integers(tmp_path: Path) -> None:
    """Every side decodes, and the compiled ones give the logits of the model's own pass."""
    shape = ("hidden_size=256", "num_hidden_layers=2", "vocab_size=300")
    subprocess.run(
        [sys.executable, "benchmarks/quantized_decoding.py", "--group", "64", "--new", "8", "--prompt", "20", "--repeats", "2", "--threads", "1",
         "--out", str(tmp_path / "r.json"), *(part for one in shape for part in ("--set", one))],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    rows = {row["side"]: row for row in orjson.loads((tmp_path / "r.json").read_bytes())["rows"]}
    compiled = [row for name, row in rows.items() if name.startswith("compiled, ")]
    assert len(compiled) == 4 and all(row["logits_difference"] < 1e-4 for row in compiled)
