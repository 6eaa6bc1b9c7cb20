from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from jielong.errors import CheckpointError
from jielong.infer.config import Config
from jielong.infer.generate import continue_prompt
from jielong.infer.stage import run
from jielong.metrics import read_jsonl
from jielong.model.hf import load_folder
from jielong.runs import Run, StageContext
from jielong.tokenizer.folder import open_folder


def test_prompts_are_continued(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "train" / "checkpoints" / "step-00000001")
    out = tmp_path / "infer.partial"
    out.mkdir()
    config = Config(prompts=("中国", "美国"), max_new_tokens=5, device="cpu")
    counts = run(config, StageContext(Run(tmp_path), out, 1), tmp_path)
    rows = read_jsonl(out / "samples.jsonl")
    assert [row["prompt"] for row in rows] == ["中国", "美国"]
    assert counts["prompts"] == 2 and counts["tokens"] == sum(row["tokens"] for row in rows)
    assert sum(counts["stopped"].values()) == 2
    model, tokenizer = load_folder(model_folder), open_folder(model_folder)
    alone = [continue_prompt(model, tokenizer, text, config, 1 + n) for n, text in enumerate(config.prompts)]
    assert rows == [asdict(row) for row in alone]


def test_nothing_trained_yet(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
        run(Config(), StageContext(Run(tmp_path), tmp_path / "out", 1), tmp_path)
