"""The [train.adapter] table: peft's short names, and what is refused."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jielong.model.adapter_config import LINEAR, Adapter


def test_defaults_are_those_that_people_know() -> None:
    adapter = Adapter()
    assert (adapter.rank, adapter.alpha, adapter.dropout, adapter.targets) == (8, 16.0, 0.05, LINEAR)
    assert adapter.scale == 2.0 and Adapter(kind="rslora", rank=16).scale == 4.0


def test_pefts_names() -> None:
    adapter = Adapter.model_validate({"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "lora_dropout": 0})
    assert (adapter.rank, adapter.alpha, adapter.targets, adapter.dropout) == (4, 8.0, ("q_proj",), 0.0)


@pytest.mark.parametrize(("table", "text"), [
    ({"r": 4, "rank": 8}, "r: the same as rank"),
    ({"targets": []}, "targets: none given"),
    ({"targets": ["q_proj", "q_proj"]}, "named twice"),
    ({"kind": "pissa", "base_weights": "nf4"}, "pissa takes the weights apart"),
    ({"rank": 0}, "greater than or equal to 1"),
    ({"targets": ["lm_head"]}, "'q_proj', 'k_proj'"),
])  # fmt: skip
def test_refused(table: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Adapter.model_validate(table)
