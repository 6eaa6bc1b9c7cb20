from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from jielong.data.config import Config
from jielong.data.measuring.columns import COLUMNS
from jielong.data.pipeline.docs import PLACE, Docs
from jielong.data.pipeline.plan import Plan, make_plan
from jielong.data.pipeline.setup import Cleaners, clean_texts, make_cleaner
from jielong.data.steps import TEXT_STEPS, AnyStep, Simplify


def plan(*rows: dict[str, Any]) -> Plan:
    sources = [{"name": "甲", "path": "a"}, {"name": "乙", "path": "b"}]
    return make_plan(Config.model_validate({"sources": sources, "steps": rows}).steps)


def docs(*texts: str) -> Docs:
    return Docs(list(texts), np.zeros(len(texts), PLACE), {})


def test_every_text_step_but_two_has_a_cleaner(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("坏话\n", encoding="utf-8")
    items = tmp_path / "items.jsonl"
    items.write_text('{"question": "下列关于实验装置的叙述中正确的是哪一项"}\n', encoding="utf-8")
    for kind in get_args(get_args(AnyStep)[0]):
        if kind is Simplify:
            pytest.importorskip("opencc")
        name = get_args(kind.model_fields["step"].annotation)[0]
        given = {
            "flagged_words": {"file": str(words)},
            "decontaminate": {"against": [str(items)]},
            "augment": {"method": "shuffle"},
        }
        step = kind.model_validate({"step": name} | given.get(name, {}))
        made = make_cleaner(step)
        assert (made is not None) == (kind in TEXT_STEPS and name not in ("split", "measure"))
        if made is not None:
            text = "今天天气很好，我们去公园散步。"
            assert made(text, Counter()) is text


def test_columns_of_documents(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("坏话\n", encoding="utf-8")
    cleaners = Cleaners(plan({"step": "measure", "flagged_words_file": str(words)}), {})
    found = cleaners.columns(0, docs("他说坏话", "他说好话"))
    assert set(found) == set(COLUMNS) - {"perplexity"}
    assert found["flagged_words_ratio"].tolist() == [0.5, 0.0] and found["lang"].tolist() == ["zh", "zh"]


def test_texts_for_the_perplexity_model_are_cleaned_by_the_steps_above() -> None:
    steps = plan(
        {"step": "markup", "sources": ["甲"]},
        {"step": "personal_data", "mobile": "drop"},
        {"step": "measure"},
        {"step": "repeats"},
    )
    texts = [("甲", "<p>你好</p>！！！！！"), ("乙", "<p>你好</p>"), ("甲", "电话13812345678"), ("甲", "<br>")]
    assert list(clean_texts(steps, 2, texts)) == ["你好\n！！！！！", "<p>你好</p>"]
