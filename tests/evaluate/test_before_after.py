"""A model beside what it was before: which one that is, and what is measured of both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jielong.model.hf import load_folder
from jielong.recipe import load
from jielong.runs import Run
from jielong.show import before_after
from jielong.workflow import run_stages
from tests.corpus import RECIPE, texts, write_jsonl, write_recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and a recipe that goes on from it on other text."""
    folder = tmp_path_factory.mktemp("before")
    recipe = load(str(write_recipe(folder)))
    run_stages(recipe, Run(folder / "runs" / "mini"), ["data", "tokenizer", "model", "train"])
    medical = [
        f"患者第{n}次就诊，主诉头痛、发热，体温{36 + n % 5}度，建议多饮水，口服退烧药，{n % 7}日后复查血常规。"
        for n in range(120)
    ]
    write_jsonl(folder / "medical.jsonl", medical)
    write_jsonl(folder / "general.jsonl", texts(140)[120:])
    more = RECIPE.replace('name = "mini"', 'name = "medical"').replace(
        'name = "news", path = "news.jsonl"', 'name = "medical", path = "medical.jsonl"'
    )
    more = more.replace("vocab_size = 320", 'path = "runs/mini/tokenizer"')
    head, _, rest = more.partition("[model]\n")
    more = head + '[model]\nbase = "runs/mini"\n[train]' + rest.partition("[train]")[2]
    more += 'general = ["general.jsonl"]\nprompts = ["患者", "新华社"]\nprompt_tokens = 8\n'
    (folder / "medical.toml").write_text(more, encoding="utf-8")
    return folder


def go(place: Path, *settings: str) -> Run:
    recipe = load(str(place / "medical.toml"), list(settings))
    run = Run(place / "runs" / recipe.name)
    run_stages(recipe, run, list(recipe.sections))
    return run


def test_continued_pretraining_gains_and_tells_what_it_forgot(place: Path) -> None:
    run = go(place)
    compared = (run.manifest("evaluate") or {})["counts"]["compared"]
    rows = {row["text"]: row for row in compared["rows"]}
    assert set(rows) == {"held-out documents", "general: general.jsonl"}
    assert rows["held-out documents"]["after"] < 0.7 * rows["held-out documents"]["before"]
    assert rows["general: general.jsonl"]["after"] > rows["general: general.jsonl"]["before"]
    assert [row["prompt"] for row in compared["prompts"]] == ["患者", "新华社"]
    assert compared["before"].startswith(str(place / "runs" / "mini" / "train" / "checkpoints"))
    text = before_after(compared)
    assert "bits per byte on" in text and "general: general.jsonl" in text and "  before: " in text
    begun, base = (load_folder(folder).state_dict() for folder in (run.stage("model"), Path(compared["before"])))
    assert all(torch.equal(begun[name], base[name]) for name in base)


def test_an_adapter_forgets_less_than_all_weights(place: Path) -> None:
    """Not a law, but so it is here, at the same rate; and the base's files are untouched."""
    base = sorted((place / "runs" / "mini" / "train" / "checkpoints").glob("step-*"))[-1]
    before = (base / "model.safetensors").read_bytes()
    run = go(place, "train.adapter={ rank = 4 }")
    assert (base / "model.safetensors").read_bytes() == before
    compared = (run.manifest("evaluate") or {})["counts"]["compared"]
    rows = {row["text"]: row for row in compared["rows"]}
    assert rows["held-out documents"]["after"] < rows["held-out documents"]["before"]


def test_an_extended_tokenizer_is_measured_on_the_text(place: Path, tmp_path: Path) -> None:
    """The base cuts the held-out text by its own tokenizer: bits per byte compare all the same."""
    shutil.copytree(place, tmp_path / "place", symlinks=True)
    (tmp_path / "place" / "words.txt").write_text("退烧药\n血常规\n", encoding="utf-8")
    run = go(tmp_path / "place", 'tokenizer.extend_words="words.txt"')
    assert (run.manifest("model") or {})["counts"]["vocab_size"] > 320
    compared = (run.manifest("evaluate") or {})["counts"]["compared"]
    rows = {row["text"]: row for row in compared["rows"]}
    assert rows["held-out documents"]["after"] < rows["held-out documents"]["before"]


def test_longlora(place: Path) -> None:
    """Shifted attention while training, with embeddings and norms as a whole beside LoRA (arXiv:2309.12307); full attention afterwards."""
    run = go(place, "model.shifted_attention=16", 'train.adapter={ rank = 4, whole = ["embeddings", "norms"] }')
    compared = (run.manifest("evaluate") or {})["counts"]["compared"]
    rows = {row["text"]: row for row in compared["rows"]}
    assert rows["held-out documents"]["after"] < rows["held-out documents"]["before"]
    assert load_folder(run.stage("model")).config.shifted_attention == 16
