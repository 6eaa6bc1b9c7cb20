"""The reference stays what the base was, whatever becomes of the policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.align.methods.references import Reference, without_adapter
from jielong.model.faces import face
from tests.align.methods.conftest import Opened, config_of

IDS = torch.tensor([[5, 9, 12, 20, 21]])


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "dropout": 0.0}, {"rank": 4, "dropout": 0.0, "kind": "dora"}])
def test_it_is_the_base(opened: Opened, base: Path, adapter: Any) -> None:
    engine, before = opened(config_of("dpo", adapter=adapter), moved=0.05)
    theirs = face(engine.model)
    reference = Reference(engine.model, theirs, base, engine.device)
    expected = before(IDS)
    assert torch.allclose(reference(input_ids=IDS).logits, expected, atol=1e-4)
    with torch.no_grad(), reference.switched() as model:
        assert torch.allclose(model(IDS), expected, atol=1e-4)
    assert not torch.allclose(theirs(input_ids=IDS).logits, expected, atol=1e-2)
    trained = [one.requires_grad for one in engine.model.parameters()]
    assert any(trained) and (adapter is None or not all(trained))  # what is switched off is still trained


def test_an_adapter_comes_back_after_an_error(opened: Opened) -> None:
    engine, _ = opened(config_of("dpo", adapter={"rank": 4, "dropout": 0.0}), moved=0.05)
    before = engine.model(IDS)
    with pytest.raises(ValueError, match="planted"), without_adapter(engine.model):
        raise ValueError("planted")
    assert torch.equal(engine.model(IDS), before)
