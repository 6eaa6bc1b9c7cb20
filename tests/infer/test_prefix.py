"""What two texts begin with goes through the model once, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.infer import stepping
from jielong.infer.compiled.decoder import CompiledDecoder
from jielong.infer.config import Config
from jielong.infer.generate import stream_tokens
from jielong.infer.prefix import Prefix
from jielong.infer.stepping import RememberingStepper, begin
from tests.infer.twins import FEATURES, POSITIONS, make

TOLERANCE = 1e-4
FIRST, SECOND, THIRD = [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 9, 8, 7], [1, 2, 3, 30, 31]


def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens go through at each pass from now on."""
    found, real = list[int](), stepping.last_logits

    def counted(model: Any, ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        found.append(ids_BT.shape[1])
        return real(model, ids_BT, *rest)

    monkeypatch.setattr(stepping, "last_logits", counted)
    return found


@torch.no_grad()
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("position", ["default", "yarn", "dynamic", "clex", "alibi", "none"])
def test_logits_equal_those_of_a_whole_pass(position: str, feature: str) -> None:
    """Three texts, each with three more tokens, the second one a continuation of the first, the third of its beginning only."""
    model, prefix = make(**POSITIONS[position], **FEATURES[feature]), Prefix()
    for ids in (FIRST, SECOND, THIRD, THIRD):
        found, stepper = begin(model, [ids], 3, Config(), prefix)
        expected, anew = begin(model, [ids], 3, Config())
        for token in (9, 8, 7):
            torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
            found, expected = stepper.step(torch.tensor([token])), anew.step(torch.tensor([token]))
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
        assert prefix.ids == [*ids, 9, 8, 7]


def test_only_what_is_new_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prefix, found = make(), Prefix(), widths(monkeypatch)
    sizes = list[int]()
    for ids in (FIRST, SECOND, THIRD, THIRD):
        _, stepper = begin(model, [ids], 3, Config(), prefix)
        sizes.append(found[-1])
        for token in (9, 8):  # the second text goes on as the first one was continued, for two tokens
            stepper.step(torch.tensor([token]))
    assert sizes == [5, 1, 2, 1]


@pytest.mark.parametrize("position", ["dynamic", "clex"])
def test_frequencies_of_another_length_are_not_reused(position: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prefix, found = make(**POSITIONS[position]), Prefix(), widths(monkeypatch)
    for ids in (FIRST, SECOND):
        begin(model, [ids], 3, Config(), prefix)
    assert found == [5, 8]


def test_other_caches_leave_it_alone() -> None:
    prefix = Prefix()
    begin(make(), [FIRST], 3, Config(cache="rolling"), prefix)
    begin(make(position="none", num_key_value_heads=4), [FIRST], 3, Config(cache="hidden"), prefix)
    assert prefix.ids == []


@pytest.mark.parametrize("keys", [{"temperature": 0.0}, {"temperature": 1.0, "top_p": None}])
def test_the_texts_are_the_same(keys: dict[str, Any]) -> None:
    """A chat of five prompts, each the one before it, what was written, and something new."""
    model, prefix = make(max_position_embeddings=128), Prefix()
    config, ids = Config.model_validate({"max_new_tokens": 12} | keys), [5, 6]
    for seed in range(5):
        anew = list(stream_tokens(model, ids, config, frozenset(), seed))
        assert list(stream_tokens(model, ids, config, frozenset(), seed, prefix)) == anew
        assert prefix.ids == ids + anew[:-1]  # the last one was never given to the model
        ids = [*ids, *anew, 7, seed]


def test_an_interrupted_step_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prefix = make(), Prefix()
    _, stepper = begin(model, [FIRST], 5, Config(), prefix)
    stepper.step(torch.tensor([9]))
    assert isinstance(stepper, RememberingStepper)

    def interrupted(tokens_B: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(stepper.inner, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stepper.step(torch.tensor([8]))
    assert prefix.ids == [*FIRST, 9] and not stepper.keep(torch.tensor([0]))
    stepper.close()
    found, _ = begin(model, [SECOND], 3, Config(), prefix)
    torch.testing.assert_close(found, begin(model, [SECOND], 3, Config())[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_compiled_step_writes_where_it_is_remembered(stored: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of opening it: over the parameters, and the one that stays with a model stored in 16 bits."""
    model = make(max_position_embeddings=128).requires_grad_(False)
    model.stored_dtype = stored
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", 0)
    prefix, config, ids = Prefix(), Config(temperature=0.0, max_new_tokens=20), [5, 6]
    for new in range(3):
        _, stepper = begin(model, [ids], 20, config, prefix)
        assert isinstance(stepper, RememberingStepper) and isinstance(stepper.inner, CompiledDecoder)
        stepper.close()
        found = list(stream_tokens(model, ids, config, frozenset(), 1, prefix))
        assert found == list(stream_tokens(model, ids, config, frozenset(), 1))
        assert prefix.ids == ids + found[:-1]
        ids = [*ids, *found, new]
