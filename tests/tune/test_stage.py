"""The tune stage: from a base and conversations to a model that answers, with the loop's promises kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jielong.errors import ModelError, RecipeError, Stopped
from jielong.infer.answering import answer_questions
from jielong.infer.config import Config as InferConfig
from jielong.infer.models import find_model, open_model
from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.recipe import load
from jielong.runs import Run
from jielong.tokenizer.chat.templates import ChatTemplate, template_of
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tune.stage import open_template
from jielong.workflow import Outcome, needed, run_stages, stage_state
from tests.tune.talks import config_of, write

QUESTIONS = {
    "天是什么颜色？": "蓝色。",
    "草是什么颜色？": "绿色。",
    "雪是什么颜色？": "白色。",
    "火是什么颜色？": "红色。",
}
RECIPE = """
name = "answers"
[tune]
base = "base"
sources = [{ name = "talks", path = "talks.jsonl" }]
validation_share = 0.2
epochs = 60
tokens_per_step = 128
micro_batch_tokens = 64
learning_rate = 1e-2
weight_decay = 0.0
precision = "float32"
device = "cpu"
sample_prompts = ["天是什么颜色？"]
sample_tokens = 8
sample_every_steps = 40
evaluate_every_steps = 40
[infer]
prompts = ["天是什么颜色？", "雪是什么颜色？"]
temperature = 0.0
max_new_tokens = 12
device = "cpu"
[evaluate]
prompts = ["草是什么颜色？"]
prompt_tokens = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with random weights, conversations, a recipe."""
    from jielong.tokenizer import bpe
    from jielong.tokenizer.config import Config as TokenizerConfig

    folder = tmp_path_factory.mktemp("tune")
    text = "".join(f"{question}{answer}" for question, answer in QUESTIONS.items())
    bpe.save(bpe.train([text] * 9, 330, TokenizerConfig().specials, 2, True), folder / "base")
    tokenizer = open_folder(folder / "base")
    shape = ModelConfig(vocab_size=tokenizer.size, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
                        num_key_value_heads=2, max_position_embeddings=64)  # fmt: skip
    model = CausalLM(shape)
    initialise(model, 1)
    save_folder(model, folder / "base", tokenizer.end_id)
    rows = [
        {"messages": [{"role": "user", "content": f"{'请问，' * (n % 3)}{question}{'谢谢' * (n // 3 % 2)}"},
                      {"role": "assistant", "content": answer}]}
        for n in range(6) for question, answer in QUESTIONS.items()
    ]  # fmt: skip
    write(folder / "talks.jsonl", [*rows, {"messages": []}])
    (folder / "answers.toml").write_text(RECIPE, encoding="utf-8")
    return folder


def go(place: Path, runs: Path, *settings: str, last: str = "") -> list[Outcome]:
    recipe = load(str(place / "answers.toml"), list(settings))
    return run_stages(recipe, Run(runs / "answers"), needed(recipe, last) if last else list(recipe.sections))


@pytest.fixture(scope="module")
def finished(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert [outcome.stage for outcome in go(place, runs)] == ["tune", "infer", "evaluate"]
    return runs / "answers"


def counts(run: Path, stage: str) -> dict[str, Any]:
    return (Run(run).manifest(stage) or {})["counts"]


def test_it_learns_to_answer_and_ends_its_answers(finished: Path) -> None:
    rows = {row["prompt"]: row for row in read_jsonl(finished / "infer" / "samples.jsonl")}
    assert {prompt: row["text"] for prompt, row in rows.items()} == {
        "天是什么颜色？": "蓝色。",
        "雪是什么颜色？": "白色。",
    }
    assert all(row["stopped"] == "end_of_text" for row in rows.values())
    found = counts(finished, "tune")
    assert found["conversations"]["read"] == 25 and found["conversations"]["rejected"] == {"no_turns": 1}
    metrics = read_jsonl(finished / "tune" / "metrics.jsonl")
    validations = [row["validation_loss"] for row in metrics if "validation_loss" in row]
    assert validations[-1] < 0.2 * metrics[0]["loss"]
    samples = read_jsonl(finished / "tune" / "samples.jsonl")
    assert samples[-1]["text"] == "蓝色。" != samples[0]["text"]


def test_before_and_after(finished: Path) -> None:
    compared = counts(finished, "evaluate")["compared"]
    [row] = compared["rows"]
    assert row["text"] == "held-out answers" and row["after"] < 0.3 * row["before"]
    [asked] = compared["prompts"]
    assert asked["prompt"] == "草是什么颜色？" and asked["after"] == "绿色。" != asked["before"]
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "held-out answers" in page and "tune/data/report.html" in page


def test_a_checkpoint_opens_elsewhere_and_answers_there(finished: Path) -> None:
    """transformers renders the same prompt, and its own generation ends where ours does."""
    folder = find_model("answers", finished.parent)
    assert folder.parent == finished / "tune" / "checkpoints"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "火是什么颜色？"}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**encoded, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(written[0, encoded["input_ids"].shape[1] :], skip_special_tokens=True) == "红色。"
    assert written.shape[1] < encoded["input_ids"].shape[1] + 12
    ours, opened, _ = open_model(str(folder), finished)
    assert template_of(opened) == ChatTemplate(opened).source
    greedy = InferConfig(temperature=0.0, max_new_tokens=12)
    assert answer_questions(ours, opened, ["火是什么颜色？"], greedy)[0].text == "红色。"


def test_the_second_time_nothing_is_done_and_a_changed_conversation_makes_it_again(
    place: Path, finished: Path, tmp_path: Path
) -> None:
    assert {outcome.state for outcome in go(place, finished.parent)} == {"up to date"}
    shutil.copytree(place, tmp_path / "place")
    shutil.copytree(finished.parent, tmp_path / "runs")
    with (tmp_path / "place" / "talks.jsonl").open("ab") as file:
        file.write(orjson.dumps({"prompt": "夜是什么颜色？", "response": "黑色。"}) + b"\n")
    outcomes = go(tmp_path / "place", tmp_path / "runs", "tune.epochs=1", last="tune")
    assert [outcome.state for outcome in outcomes] == ["done"]
    assert any((tmp_path / "runs" / "answers" / "replaced").iterdir())  # what was trained is kept


@pytest.mark.parametrize("settings", [(), ("tune.adapter={ rank = 8, dropout = 0.1 }", "tune.neftune_alpha=5")])
def test_killed_and_begun_again_it_is_the_same_to_the_bit(
    settings: tuple[str, ...], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (*settings, "tune.epochs=8", "tune.save_every_steps=3", "tune.sample_every_steps=none")
    go(place, tmp_path / "whole", *settings, last="tune")
    from jielong.train.loop import Steps

    finish, seen = Steps.finish, [0]

    def finish_or_die(self: Steps) -> bool:
        found = finish(self)
        seen[0] += 1
        if seen[0] == 5:
            raise Stopped("killed")
        return found

    monkeypatch.setattr(Steps, "finish", finish_or_die)
    with pytest.raises(Stopped):
        go(place, tmp_path / "parts", *settings, last="tune")
    monkeypatch.undo()
    before = (tmp_path / "parts" / "answers" / "tune" / "data" / "conversations.json").stat().st_mtime_ns
    go(place, tmp_path / "parts", *settings, last="tune")
    assert (tmp_path / "parts" / "answers" / "tune" / "data" / "conversations.json").stat().st_mtime_ns == before
    losses = [
        [row["loss"] for row in read_jsonl(tmp_path / name / "answers" / "tune" / "metrics.jsonl")]
        for name in ("whole", "parts")
    ]
    assert losses[0] == losses[1]
    states = [load_folder(find_model("answers", tmp_path / name)).state_dict() for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_an_adapter_is_tuned_and_merged(place: Path, tmp_path: Path) -> None:
    from jielong.infer.merging import merge_into

    go(
        place,
        tmp_path,
        'tune.adapter={ rank = 16, alpha = 32, dropout = 0.0, whole = ["embeddings"] }',
        "tune.learning_rate=3e-3",
        last="infer",
    )
    run = tmp_path / "answers"
    folder = find_model("answers", tmp_path)
    assert (folder / "adapter_model.safetensors").is_file()
    metrics = read_jsonl(run / "tune" / "metrics.jsonl")
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    merge_into("answers", tmp_path / "merged", tmp_path)
    ids = torch.arange(20)[None] + 5
    with torch.no_grad():
        assert (load_folder(tmp_path / "merged").eval()(ids) - load_folder(folder).eval()(ids)).abs().max() < 1e-5


def test_a_base_that_is_not_there(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="base: no model folder, got"):
        go(place, tmp_path, 'tune.base="nothing"', last="tune")


def test_a_tokenizer_without_the_templates_tokens_is_refused(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    copy_folder(tokenizer, tmp_path / "bare")
    path = tmp_path / "bare" / "tokenizer.json"
    table = orjson.loads(path.read_bytes())
    table["added_tokens"] = [row for row in table["added_tokens"] if row["content"] == "<|endoftext|>"]
    path.write_bytes(orjson.dumps(table))
    with pytest.raises(RecipeError, match=r"tune\.template: the tokenizer has none of the template's special tokens"):
        open_template(config_of(tmp_path / "talks.jsonl"), open_folder(tmp_path / "bare"))


def test_another_template_of_the_base_makes_it_again(place: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(place, tmp_path / "place")
    path = tmp_path / "place" / "base" / "tokenizer_config.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"model_max_length": 77}))
    shutil.copytree(finished.parent, tmp_path / "runs")
    recipe, prints = load(str(tmp_path / "place" / "answers.toml")), dict[str, str]()
    assert stage_state(recipe, Run(tmp_path / "runs" / "answers"), "tune", prints) == "stale"


def test_what_cannot_be_is_refused_before_anything_is_moved(place: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished.parent, tmp_path / "runs")
    go(place, tmp_path / "runs", "tune.adapter={ rank = 4 }", "tune.epochs=1", last="tune")
    adapter = find_model("answers", tmp_path / "runs")
    kept = tmp_path / "adapter"
    shutil.copytree(adapter, kept)
    before = sorted((tmp_path / "runs" / "answers" / "tune").iterdir())
    with pytest.raises(RecipeError, match="the base is an adapter itself"):
        go(
            place,
            tmp_path / "runs",
            f"tune.base={kept}",
            'tune.adapter={ rank = 4, base_weights = "nf4" }',
            last="tune",
        )
    assert sorted((tmp_path / "runs" / "answers" / "tune").iterdir()) == before


def test_the_system_message_of_the_tuning_is_that_of_the_questions(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jielong.infer import answering

    asked, seen = answering.answer_questions, list[str]()

    def watched(*given: Any) -> Any:
        seen.append(given[4])
        return asked(*given)

    monkeypatch.setattr(answering, "answer_questions", watched)
    go(place, tmp_path, 'tune.system="说话简短。"', "tune.epochs=1", "tune.sample_every_steps=none")
    assert seen and set(seen) == {"说话简短。"}
