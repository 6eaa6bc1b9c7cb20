from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest
import torch

from jielong.errors import InputError, ModelError
from jielong.infer.models import choose_type, find_model, open_model, run_sampling
from jielong.runs import write_json
from jielong.tokenizer.folder import open_folder
from tests.corpus import RECIPE, write_recipe


def test_a_folder_a_run_name_and_a_run_folder(model_folder: Path, tmp_path: Path) -> None:
    assert find_model(str(model_folder), tmp_path) == model_folder
    run = tmp_path / "mine"
    for step in (5, 10):
        (run / "train" / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    newest = run / "train" / "checkpoints" / "step-00000010"
    assert find_model("mine", tmp_path) == newest
    assert find_model(str(run), Path("elsewhere")) == newest
    assert find_model(str(run / "train"), Path("elsewhere")) == newest


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a run nor a model folder, got 'nothing'; there is no trained run"):
        find_model("nothing", tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "recipe.toml").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        find_model("begun", tmp_path)
    (tmp_path / "begun" / "train" / "checkpoints" / "step-00000001").mkdir(parents=True)
    with pytest.raises(InputError, match=r"trained runs in .*: begun"):
        find_model("nothing", tmp_path)


def test_open(model_folder: Path, tmp_path: Path) -> None:
    model, tokenizer, folder = open_model(str(model_folder), tmp_path, "cpu")
    assert folder == model_folder and not model.training
    assert next(model.parameters()).dtype == torch.float32
    assert tokenizer.size == model.config.vocab_size
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_precision(model_folder: Path, tmp_path: Path) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_type("auto", cpu, torch.bfloat16) == choose_type("float32", cuda, torch.bfloat16) == torch.float32
    assert choose_type("auto", cuda, torch.float16) == choose_type("float16", cuda, None) == torch.float16
    assert choose_type("auto", cuda, None) == choose_type("auto", cuda, torch.float32) == torch.float32
    with pytest.raises(
        InputError, match=r"infer.precision: half precision only on cuda, got bfloat16 on cpu; use float32"
    ):
        open_model(str(model_folder), tmp_path, "cpu", "bfloat16")


def test_start_and_stop_ids_are_the_model_s(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    for name, table in (("config.json", {"bos_token_id": 5}), ("generation_config.json", {"eos_token_id": [6, 7]})):
        write_json(folder / name, orjson.loads((folder / name).read_bytes()) | table)
    _, tokenizer, _ = open_model(str(folder), tmp_path, "cpu")
    assert tokenizer.encode_prompt("") == [5]
    assert tokenizer.stop_ids == {0, 6, 7}


def test_a_tokenizer_that_does_not_belong_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    backend = open_folder(folder).backend
    backend.add_tokens([f"词{n}" for n in range(50)])
    backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match="do not belong together"):
        open_model(str(folder), tmp_path, "cpu")


def test_sampling_is_the_run_s(model_folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "mini" / "train" / "checkpoints" / "step-00000001"
    shutil.copytree(model_folder, checkpoint)
    write_recipe(tmp_path / "mini", RECIPE.replace("max_new_tokens = 8", "max_new_tokens = 8\ntemperature = 0.25"))
    (tmp_path / "mini" / "mini.toml").rename(tmp_path / "mini" / "recipe.toml")
    found = run_sampling(checkpoint)
    assert (found["max_new_tokens"], found["temperature"]) == (8, 0.25) and "prompts" not in found
    assert run_sampling(model_folder) == {}
