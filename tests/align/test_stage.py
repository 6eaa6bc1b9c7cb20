"""The align stage on a base that learned to answer a little: preferences, a reward model, PPO and GRPO; killed and resumed runs go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from jielong.align.scoring import open_scorer
from jielong.errors import InputError, ModelError, RecipeError, Stopped, TrainingError
from jielong.infer.models import find_model
from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.recipe import load
from jielong.runs import Run
from jielong.tokenizer.folder import open_folder
from jielong.workflow import Outcome, run_stages
from tests.tune.talks import write

COLOURS = {"天": "蓝色", "草": "绿色", "雪": "白色", "火": "红色", "夜": "黑色", "土": "黄色"}
RECIPE = """
name = "aligned"
[align]
base = "base"
sources = [{ name = "pairs", path = "pairs.jsonl" }]
method = "dpo"
validation_share = 0.2
steps = 6
batch_size = 8
micro_batch_size = 4
learning_rate = 1e-3
schedule = "constant"
warmup_ratio = 0.0
precision = "float32"
device = "cpu"
evaluate_every_steps = 3
sample_every_steps = 3
sample_tokens = 6
max_new_tokens = 8
judged_prompts = 4
save_every_minutes = "none"
"""


def asked(thing: str, number: int) -> str:
    return f"{'请问，' * (number % 3)}{thing}是什么颜色？{'谢谢' * (number // 3 % 3)}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that was tuned to answer with a colour, one time in three with 。 behind it; pairs where the one with 。 is chosen; a recipe."""
    from jielong.tokenizer import bpe
    from jielong.tokenizer.config import Config as TokenizerConfig

    folder = tmp_path_factory.mktemp("align")
    text = "".join(f"{asked(thing, n)}{colour}。" for n in range(9) for thing, colour in COLOURS.items())
    bpe.save(bpe.train([text] * 9, 330, TokenizerConfig().specials, 2, True), folder / "start")
    tokenizer = open_folder(folder / "start")
    shape = ModelConfig(vocab_size=tokenizer.size, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    model = CausalLM(shape)
    initialise(model, 1)
    save_folder(model, folder / "start", tokenizer.end_id)
    talks = [
        {"prompt": asked(thing, n), "response": answer}
        for n in range(9) for thing, colour in COLOURS.items() for answer in (f"{colour}。", colour, colour[:1])
    ]  # fmt: skip
    write(folder / "talks.jsonl", talks)
    recipe = folder / "base.toml"
    recipe.write_text(
        'name = "base"\n[tune]\nbase = "start"\nsources = [{ name = "talks", path = "talks.jsonl" }]\nvalidation_share = 0.1\nepochs = 20\n'
        'tokens_per_step = 256\nmicro_batch_tokens = 256\nlearning_rate = 5e-3\nprecision = "float32"\ndevice = "cpu"\n'
        'sample_every_steps = "none"\nevaluate_every_steps = "none"\n',
        encoding="utf-8",
    )
    run = Run(folder / "runs" / "base")
    run_stages(load(str(recipe)), run, ["tune"])
    shutil.copytree(find_model("base", folder / "runs"), folder / "base")
    pairs = [
        {"prompt": asked(thing, n), "chosen": colour + "。", "rejected": colour}
        for n in range(9)
        for thing, colour in COLOURS.items()
    ]
    write(folder / "pairs.jsonl", [*pairs, {"prompt": "一样", "chosen": "好", "rejected": "好"}])
    (folder / "aligned.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def go(place: Path, runs: Path, *settings: str) -> tuple[Run, list[Outcome]]:
    run = Run(runs / "aligned")
    return run, run_stages(load(str(place / "aligned.toml"), list(settings)), run, ["align"])


def counts(run: Run) -> dict[str, Any]:
    return (run.manifest("align") or {})["counts"]


ENDS = 'align.rewards=[{built_in="ends",endings=["。"]}]'


def test_dpo_widens_the_margin_on_held_out_pairs(place: Path, tmp_path: Path) -> None:
    run, _ = go(place, tmp_path, "align.steps=20")
    records = read_jsonl(run.stage("align") / "metrics.jsonl")
    measured = [record for record in records if "validation_margin" in record]
    assert measured[-1]["validation_margin"] > measured[0]["validation_margin"] + 0.1
    assert measured[-1]["validation_accuracy"] == 1.0
    assert {"margin", "accuracy", "entropy", "examples", "examples_per_second"} <= records[0].keys()
    found = counts(run)
    assert found["method"] == "dpo" and found["examples_prepared"]["rejected"] == {"equal": 1}
    assert found["validation_margin"] == measured[-1]["validation_margin"]
    rows = read_jsonl(run.stage("align") / "samples.jsonl")
    assert all("reference" not in row for row in rows if row["step"] == 0)
    assert all(row["reference"] for row in rows if row["step"] > 0)
    AutoModelForCausalLM.from_pretrained(find_model("aligned", tmp_path))
    assert find_model("aligned", tmp_path).parts[-3] == "align"


@pytest.mark.parametrize("settings", [
    ("align.method=dpo",),
    ("align.method=dpo", "align.adapter={rank=4,dropout=0.0}"),
    ("align.method=grpo", ENDS, "align.answers=4", "align.batch_size=4", "align.passes=2"),
    ("align.method=ppo", ENDS, "align.passes=2"),
    ("align.method=reward",),
    ("align.method=reward", "align.adapter={rank=4}"),
    ("align.method=ppo", ENDS, "align.adapter={rank=4}"),
])  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_end(place: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """Killed behind step 3 of 5, as an interruption at any moment leaves it: the newest checkpoint, and files that know more."""
    settings = (
        *settings,
        "align.steps=5",
        "align.save_every_steps=1",
        "align.keep_checkpoints=9",
        "align.judged_prompts=0",
    )
    run, _ = go(place, tmp_path / "whole", *settings)
    broken = tmp_path / "broken"
    shutil.copytree(run.root, broken / "aligned")
    other = Run(broken / "aligned")
    for step in (4, 5):
        shutil.rmtree(other.stage("align") / "checkpoints" / f"step-{step:08d}")
    (other.stage("align") / "manifest.json").unlink()
    go(place, broken, *settings)
    for name in (
        "model.safetensors",
        "adapter_model.safetensors",
        "trainer/optimizer.safetensors",
        "trainer/heads.safetensors",
    ):
        one, two = (found.stage("align") / "checkpoints" / "step-00000005" / name for found in (run, other))
        assert one.is_file() == two.is_file()
        if one.is_file():
            assert one.read_bytes() == two.read_bytes(), name
    losses = [[row["loss"] for row in read_jsonl(found.stage("align") / "metrics.jsonl")] for found in (run, other)]
    assert losses[0] == losses[1] and len(losses[0]) == 5


def test_a_reward_model_learns_the_rule_and_opens_in_transformers(place: Path, tmp_path: Path) -> None:
    run, _ = go(place, tmp_path, "align.method=reward", "align.steps=25", "align.learning_rate=2e-3")
    assert counts(run)["validation_accuracy"] > 0.9
    folder = run.stage("align") / "checkpoints" / "step-00000025"
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    assert theirs.config.num_labels == 1
    score = open_scorer(folder, "cpu")
    question = [{"role": "user", "content": "天是什么颜色？"}]
    good, bad = score([question, question], ["蓝色。", "蓝色"])
    assert good > bad
    tokenizer = open_folder(folder)
    from jielong.tokenizer.chat.conversations import Conversation, Message
    from jielong.tokenizer.chat.templates import ChatTemplate

    template = ChatTemplate(tokenizer)
    ids = [
        *template.prompt(Conversation((Message("user", "天是什么颜色？"),))),
        *tokenizer.encode(["蓝色。"])[0],
        *template.ends,
    ]
    import torch

    theirs.config.pad_token_id = next(number for number in range(9) if number not in ids)
    assert float(theirs(input_ids=torch.tensor([ids])).logits.detach()) == pytest.approx(good, rel=1e-4)
    with pytest.raises(InputError, match="a reward model, which writes no text"):
        find_model(str(folder), tmp_path)
    with pytest.raises(InputError, match="aligned"):  # a run whose model says what text is worth is none to talk with
        find_model("aligned", tmp_path)


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo"])
def test_a_verifiable_reward_rises(place: Path, tmp_path: Path, method: str) -> None:
    """A third of the answers ends with 。 at first; the distance to the base stays bounded."""
    more = ["align.answers=4", "align.batch_size=8"] if method != "ppo" else ["align.batch_size=32", "align.passes=2"]
    run, _ = go(place, tmp_path, f"align.method={method}", ENDS, "align.steps=25", "align.learning_rate=2e-3", *more)
    records = read_jsonl(run.stage("align") / "metrics.jsonl")
    last = sum(record["reward"] for record in records[-3:]) / 3
    assert (
        records[0]["reward"] < 0.45 and last > 2 * records[0]["reward"]
    )  # a step's record is of answers before its update
    assert all(record["kl"] < 5 for record in records)
    judged = json.loads((run.stage("align") / "judged.json").read_text(encoding="utf-8"))
    assert judged["win_rate"] >= 0.5 and judged["prompts"] == 4
    assert (
        counts(run)["judged"]["win_rate"] == judged["win_rate"]
        and judged["mean_worth"]["a"] > judged["mean_worth"]["b"]
    )
    assert (
        all({"messages", "after", "before", "winner"} <= row.keys() for row in judged["rows"])
        and len(judged["rows"]) == 4
    )


@pytest.mark.parametrize("method", ["ipo", "robust", "simpo", "orpo", "kto"])
def test_every_method_trains(place: Path, tmp_path: Path, method: str) -> None:
    """IPO's first loss is 25, more than a guard would take for one of cross-entropy."""
    run, _ = go(place, tmp_path, f"align.method={method}", "align.steps=3", "align.judged_prompts=0")
    records = read_jsonl(run.stage("align") / "metrics.jsonl")
    assert len(records) == 3 and all(record["loss"] is not None for record in records) and counts(run)["not_taken"] == 0


def test_ppo_needs_no_class_of_transformers(place: Path, tmp_path: Path) -> None:
    model = CausalLM(ModelConfig(vocab_size=open_folder(place / "start").size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
                                 num_key_value_heads=2, max_position_embeddings=64, position="alibi"))  # fmt: skip
    initialise(model, 1)
    shutil.copytree(place / "start", tmp_path / "alibi")
    save_folder(model, tmp_path / "alibi", open_folder(place / "start").end_id)
    run, _ = go(
        place,
        tmp_path,
        "align.method=ppo",
        ENDS,
        f"align.base={tmp_path / 'alibi'}",
        "align.steps=2",
        "align.judged_prompts=0",
    )
    assert counts(run)["steps"] == 2


def test_a_recipe_that_makes_a_reward_model_has_nothing_that_writes(place: Path) -> None:
    with pytest.raises(RecipeError, match="infer: needs a stage that makes a model which writes"):
        load("dpo-zh", ["align.method=reward", f"align.base={place / 'base'}"])


def test_a_reward_model_first_and_then_ppo(place: Path, tmp_path: Path) -> None:
    sources = 'align.reward={sources=[{name="pairs",path="pairs.jsonl"}],steps=4,batch_size=8,device="cpu",validation_share=0.2}'
    run, _ = go(place, tmp_path, "align.method=ppo", 'align.rewards=[{model="reward"}]', sources, "align.steps=2")
    found = counts(run)
    assert found["reward"]["steps"] == 4 and 0 <= found["reward"]["validation_accuracy"] <= 1
    assert (run.stage("align") / "reward" / "checkpoints" / "step-00000004" / "model.safetensors").is_file()
    assert found["steps"] == 2 and "kl" in read_jsonl(run.stage("align") / "metrics.jsonl")[0]


@pytest.mark.parametrize(("body", "error", "words"), [
    ("return [1.0]", TrainingError, "got 1; must be"),
    ("return [float('nan')] * len(completions)", TrainingError, "nan"),
    ("raise KeyError('缺')", TrainingError, "KeyError"),
])  # fmt: skip
def test_a_reward_function_that_fails_is_named(
    place: Path, tmp_path: Path, body: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "rewards.py").write_text(f"def polite(prompts, completions, **more):\n    {body}\n", encoding="utf-8")
    reward = f'align.rewards=[{{function="{tmp_path / "rewards.py"}:polite"}}]'
    with pytest.raises(error, match="polite") as caught:
        go(place, tmp_path / "runs", "align.method=grpo", reward, "align.answers=2", "align.batch_size=2")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_cannot_be_aligned_is_refused_before_anything_is_written(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone"):
        go(place, tmp_path, "align.method=grpo", 'align.rewards=[{function="gone.py:f"}]')
    with pytest.raises(ModelError, match="a language model and no reward model"):
        go(place, tmp_path, f"align.judge={place / 'base'}")
    with pytest.raises(RecipeError, match="whole"):
        go(place, tmp_path, 'align.adapter={whole=["norms"]}')
    assert not (tmp_path / "aligned" / "align").exists()


def test_it_is_watched_and_stopped_like_any_training(place: Path, tmp_path: Path) -> None:
    from jielong.train.control.mailbox import Mailbox

    run = Run(tmp_path / "aligned")
    box, seen = Mailbox(run.stage("align")), list[Any]()
    recipe = load(
        str(place / "aligned.toml"),
        ["align.steps=100000", "align.evaluate_every_steps=1", "align.sample_every_steps=none"],
    )
    import threading

    def person() -> None:
        from tests.train.control.runs import until

        until(lambda: box.status())
        until(lambda: (box.status() or {}).get("step", 0) >= 2)
        for command in (
            {"command": "status"},
            {"command": "generate", "prompt": "天是什么颜色？"},
            {"command": "batch"},
            {"command": "stop"},
        ):
            name = box.send(command)
            seen.append(until(lambda name=name: box.answered(name)))

    thread = threading.Thread(target=person)
    thread.start()
    with pytest.raises(Stopped):
        run_stages(recipe, run, ["align"])
    thread.join()
    status, written, batch, stopped = seen
    assert all(answer["ok"] for answer in seen)
    assert "examples/s" in status["text"] and status["status"]["examples"] > 0
    assert (
        written["text"].startswith("【天是什么颜色？】")
        and "颜色" in batch["text"]
        and stopped["text"].startswith("saved as")
    )
    assert orjson.loads((run.stage("align") / "control" / "status.json").read_bytes())["state"] == "stopped"
