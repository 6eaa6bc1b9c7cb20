from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from jielong.data.config import Config
from jielong.data.steps import RESERVED, STANDARD, TEXT_STEPS, AnyStep, Measure, labels


def steps(*rows: dict[str, Any]) -> tuple[AnyStep, ...]:
    return Config.model_validate({"sources": [{"name": "a", "path": "x"}], "steps": rows}).steps


def test_labels_are_unique() -> None:
    rows = steps(
        {"step": "exact"}, {"step": "exact"}, {"step": "exact", "name": "again"}, {"step": "split", "name": "read"}
    )
    assert labels(rows) == ["exact", "exact-2", "again", "read-2"]
    assert not set(labels(STANDARD)) & set(RESERVED)


def test_every_step_can_be_written_by_its_kind() -> None:
    every = get_args(get_args(AnyStep)[0])
    assert len(every) == 18 and set(TEXT_STEPS) < set(every)
    for kind in every:
        name = kind.model_fields["step"].annotation.__args__[0]
        needed = {
            "flagged_words": {"file": "words.txt"},
            "decontaminate": {"against": ["eval"]},
            "augment": {"method": "shuffle"},
        }
        row = {"step": name} | needed.get(name, {})
        before = [] if name != "filter" else [{"step": "measure"}]
        assert type(steps(*before, row)[-1]) is kind
        assert kind.__doc__ and all(field.description for key, field in kind.model_fields.items() if key != "step")


def test_files_of_steps_are_placed_and_listed(tmp_path: Path) -> None:
    rows = steps(
        {"step": "flagged_words", "file": "words.txt"}, {"step": "measure", "flagged_words_file": "w/more.txt"}
    )
    placed = [step.placed_step(tmp_path) for step in rows]
    assert [step.files() for step in placed] == [[tmp_path / "words.txt"], [tmp_path / "w" / "more.txt"]]
    assert Measure(step="measure").placed_step(tmp_path).files() == []


@pytest.mark.parametrize("name", ["markup", "near", "lines"])
def test_steps_are_frozen(name: str) -> None:
    (step,) = steps({"step": name})
    with pytest.raises(ValueError, match="frozen"):
        step.name = "x"  # type: ignore[misc]
