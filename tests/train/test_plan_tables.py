from __future__ import annotations

import dataclasses

from jielong.model.devices import PRESETS
from jielong.recipe import load
from jielong.show import table
from jielong.train.config import Config
from jielong.train.plan_tables import duration, gib, notes, plan_tables
from jielong.train.planning import plan_run

REPORT = plan_run(load("tiny").sections, PRESETS["rtx-4090"], count=2)


def shown() -> str:
    return "\n".join(f"{title}\n{table(head, rows)}" for title, head, rows in plan_tables(REPORT))


def test_every_table_is_a_table() -> None:
    for title, head, rows in plan_tables(REPORT):
        assert title and rows
        assert all(len(row) == len(head) for row in rows)


def test_the_numbers_that_a_plan_is_asked_for_are_there() -> None:
    text = shown()
    for number in (REPORT.parameters, REPORT.embedding_parameters, REPORT.budget.tokens, REPORT.budget.steps):
        assert f"{number:,}" in text
    assert gib(REPORT.fit.memory.peak) in text and REPORT.fit.memory.moment in text
    assert f"hidden_size {REPORT.optimal.shape.hidden_size}" in text
    assert "2 x rtx-4090" in text and "fits in 22.08 GiB" in text


def test_every_assumption_is_said() -> None:
    lines = notes(REPORT)
    assert len(lines) == len(REPORT.assumptions)
    assert "Assumed: 2 devices are 2 times as fast as one; each holds the whole model" in lines


def test_what_does_not_fit_comes_first_with_advice() -> None:
    sections = load("gmq-0.1b").sections
    small = dataclasses.replace(PRESETS["rtx-4090"], memory=8 << 30)
    none = dataclasses.replace(PRESETS["rtx-4090"], memory=1 << 30)
    assert notes(plan_run(sections, small))[0] == (
        "The recipe's micro-batch does not fit on rtx-4090: set train.micro_batch_tokens to 8192"
    )
    assert "not even one row fits" in notes(plan_run(sections, none))[0]


def test_units() -> None:
    assert gib(3 << 30) == "3.00 GiB"
    assert gib(5 << 19) == "2.5 MiB"
    assert duration(0.5) == "30 min 00 s"
    assert duration(5.25) == "5.2 h"
    assert duration(240) == "10.0 days"


def test_phases_have_a_row_each() -> None:
    phases = (
        {"tokens": 10_000, "sequence_length": 64, "tokens_per_step": 512, "optimizer": "adamw"},
        {"tokens": 20_000, "optimizer": "muon"},
    )
    tables, settled = load("tiny").sections, Config.model_validate({"phases": phases}).phases
    train = tables["train"].model_copy(update={"tokens": None, "epochs": None, "phases": settled})
    found = {
        title: (head, rows)
        for title, head, rows in plan_tables(plan_run(tables | {"train": train}, PRESETS["rtx-4090"]))
    }
    head, rows = found["Phases"]
    assert rows[0][:7] == ["1", "1", "20", "10,240", "64", "512", "adamw"]
    assert rows[1][0] == "2" and rows[1][6] == "muon" and all(len(row) == len(head) for row in rows)
    assert "Phases" not in [title for title, _, _ in plan_tables(REPORT)]
