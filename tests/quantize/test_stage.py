"""The stage in a run: up to date, stale, compared, and reported."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson

from jielong.quantize.config import Config
from jielong.quantize.stage import MODEL, inputs
from jielong.recipe import load
from jielong.runs import Run
from jielong.workflow import places, run_stages
from tests.corpus import write_jsonl
from tests.quantize.conftest import SETTINGS


def test_a_recipe_quantizes_what_it_trained(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "line"
    shutil.copytree(finished.root.parents[1], folder)
    manifest = folder / "runs" / "mini" / "data" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(str(finished.root.parents[1]).encode(), str(folder).encode()))
    run = Run(folder / "runs" / "mini")

    def go(*more: str) -> dict[str, str]:
        recipe = load(str(folder / "mini.toml"), [*SETTINGS, "quantize.compare_tokens=300", *more])
        return {
            outcome.stage: outcome.state
            for outcome in run_stages(recipe, run, ["data", "tokenizer", "model", "train", "quantize"])
        }

    states = go("quantize.method=int4")
    assert states == {**dict.fromkeys(("data", "tokenizer", "model", "train"), "up to date"), "quantize": "done"}
    counts = (run.manifest("quantize") or {})["counts"]
    assert [row["name"] for row in counts["compared"]["models"]] == ["full", "int4"]
    assert (run.stage("quantize") / MODEL / "config.json").is_file()
    assert (run.stage("quantize") / "compare" / "compare.html").is_file()
    assert orjson.loads((run.stage("quantize") / "compare" / "compare.json").read_bytes()) == counts["compared"]
    assert places(run)["quantized model"] == str(run.stage("quantize") / MODEL)
    assert go("quantize.method=int4")["quantize"] == "up to date"
    assert go("quantize.method=int8")["quantize"] == "done"
    assert counts["bytes"] != (run.manifest("quantize") or {})["counts"]["bytes"]


def test_calibration_files_are_inputs(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ["文"])
    assert [name for name, _ in inputs(Config(calibration=(str(file),)), tmp_path)] == ["calibration/a.jsonl"]
    assert inputs(Config(), tmp_path) == []
