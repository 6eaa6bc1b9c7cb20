"""Prompts in, logits out: every stepper against the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.errors import InputError
from jielong.infer import stepping
from jielong.infer.batch import generate_batch
from jielong.infer.cache import SINKS, HiddenCache, KVCache, RollingCache
from jielong.infer.config import Config
from jielong.infer.stepping import TorchStepper, begin, compiled_against, padded
from jielong.model.quantized.linear import Integers, QuantizedLinear
from jielong.model.transformer import CausalLM
from tests.infer.twins import POSITIONS, kept_states, make, some_ids

TOLERANCE = 1e-4


def test_padding_is_on_the_left() -> None:
    ids_BT, padding_B = padded([[1, 2, 3], [4]], torch.device("cpu"))
    assert ids_BT.tolist() == [[1, 2, 3], [0, 0, 4]] and padding_B is not None and padding_B.tolist() == [0, 2]
    assert padded([[1, 2], [3, 4]], torch.device("cpu"))[1] is None


@torch.no_grad()
@pytest.mark.parametrize("position", POSITIONS)
def test_steps_equal_uncached_passes(position: str) -> None:
    """Two prompts of one length, six more tokens; frequencies are those of the prompt and all that may follow."""
    model = make(**POSITIONS[position])
    ids_BT = some_ids(2, 11)
    logits_BV, stepper = begin(model, ids_BT[:, :5].tolist(), 6, Config())
    for end in range(5, 12):
        torch.testing.assert_close(logits_BV, model(ids_BT[:, :end], reach=11)[:, -1], rtol=0, atol=TOLERANCE)
        if end < 11:
            logits_BV = stepper.step(ids_BT[:, end])
    stepper.close()


@torch.no_grad()
@pytest.mark.parametrize("cache", ["kv", "hidden"])
def test_rows_that_are_kept(cache: str) -> None:
    """Padded rows go on as they were when others leave or when they are copied."""
    model = make(position="alibi", num_key_value_heads=4)
    prompts = [[5], [1, 2, 9], [30, 8]]
    _, stepper = begin(model, prompts, 3, Config.model_validate({"cache": cache}))
    for rows in ([2, 1], [1, 0], [0, 0, 1], [0, 1, 2]):
        assert stepper.keep(torch.tensor(rows))
        prompts = [prompts[row] for row in rows]
    assert prompts == [[1, 2, 9], [1, 2, 9], [30, 8]]
    logits_BV = stepper.step(torch.tensor([4, 6, 7]))
    for row, (ids, token) in enumerate(zip(prompts, (4, 6, 7), strict=True)):
        expected = model(torch.tensor([[*ids, token]]))[0, -1]
        torch.testing.assert_close(logits_BV[row], expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("prompt", [3, 9, 20])
def test_a_rolling_cache_goes_on_beyond_the_context(prompt: int) -> None:
    """Prompts shorter than the cache of 9, as long, and longer than the model's context of 16."""
    model = make()
    ids = some_ids(1, 30)[0]
    expected = kept_states(model, ids.tolist(), 9, SINKS)
    logits_BV, stepper = begin(model, [ids[:prompt].tolist()], 999, Config(cache="rolling", cache_tokens=9))
    for end in range(prompt, 30):
        torch.testing.assert_close(logits_BV[0], expected[end - 1], rtol=0, atol=TOLERANCE)
        logits_BV = stepper.step(ids[end : end + 1])


def test_the_cache_that_is_asked_for() -> None:
    def kind(config: Config, **fields: Any) -> type:
        stepper = begin(make(**fields), [[1, 2]], 2, config)[1]
        assert isinstance(stepper, TorchStepper)
        return type(stepper.cache)

    assert kind(Config()) is KVCache
    assert kind(Config(), position="none", num_key_value_heads=4) is KVCache
    assert kind(Config(cache="hidden"), position="none", num_key_value_heads=4) is HiddenCache
    assert kind(Config(cache="rolling")) is RollingCache


@pytest.mark.parametrize(
    ("table", "fields", "message"),
    [
        ({"cache": "hidden"}, {}, r"infer.cache: hidden .* its rotary positions turn the keys; use cache kv"),
        ({"cache": "hidden"}, {"position": "none", "qk_norm": True}, "qk_norm changes the keys"),
        (
            {"cache": "rolling", "cache_tokens": 17},
            {},
            "infer.cache_tokens: too many, got 17; .* max_position_embeddings 16",
        ),
        ({"cache": "rolling"}, {"max_position_embeddings": 7}, "keeps at least 8 tokens, got a context of 7"),
    ],
)
def test_what_does_not_go_with_the_model(table: dict[str, Any], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        begin(make(**fields), [[1]], 2, Config.model_validate(table))


def test_one_text_in_a_rolling_cache() -> None:
    with pytest.raises(InputError, match=r"infer.cache: a rolling one holds one text, got 2 prompts together"):
        begin(make(), [[1], [2]], 2, Config(cache="rolling"))


@pytest.mark.parametrize(
    ("fields", "config", "rows", "count", "reason"),
    [
        ({}, Config(), 1, 99, "not worth it for a tiny model"),
        ({}, Config(), 1, 3, "not worth it for 3 tokens"),
        ({}, Config(), 129, 99, "torch is as fast with 129 rows"),
        ({}, Config(temperature=0, num_beams=9), 16, 99, "torch is as fast with 144 rows"),
        ({"attention": "eager"}, Config(), 1, 99, "plain arithmetic is asked for"),
    ],
)
def test_reasons_against_the_compiled_step(
    fields: dict[str, Any], config: Config, rows: int, count: int, reason: str
) -> None:
    assert compiled_against(make(**fields), config, rows, count) == reason


def test_the_compiled_step_gives_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is taken: alone, padded rows of which some end early, and beams."""
    from jielong.infer.compiled.decoder import CompiledDecoder

    model = make(max_position_embeddings=64)
    prompts = [[5], [1, 2, 9], [30, 8, 8, 17, 21, 2], [7, 7]]
    greedy = Config(temperature=0.0, max_new_tokens=20, batch_size=4)

    def texts() -> list[list[list[int]]]:
        beams = greedy.model_copy(update={"num_beams": 3})
        return [
            generate_batch(model, prompts, config, frozenset(range(0, 40, 4)), [1, 2, 3, 4])
            for config in (greedy.model_copy(update={"batch_size": 1}), greedy, beams)
        ]

    expected = texts()
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", 0)
    assert isinstance(begin(model, prompts, 20, greedy)[1], CompiledDecoder)
    assert isinstance(begin(model, prompts[:1], 20, greedy)[1], CompiledDecoder)
    assert texts() == expected
    sparse = make(num_experts=4, moe_intermediate_size=8)
    assert isinstance(begin(sparse, prompts, 20, greedy)[1], TorchStepper)


def quantize(model: CausalLM, first: int = 0) -> CausalLM:
    """The feed-forward layers' matrices as integers by chance, from 0 to 15."""
    generator = torch.Generator().manual_seed(first)
    for block in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            shape = getattr(block.mlp, name).weight.shape
            codes = torch.randint(0, 16, shape, dtype=torch.uint8, generator=generator)
            scales = torch.rand(shape[0], 1, generator=generator) / 10
            integers = Integers(codes, scales, torch.full((shape[0], 1), 8, dtype=torch.uint8), 4)
            setattr(block.mlp, name, QuantizedLinear(integers))
    return model


def test_the_compiled_step_takes_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as weights; a layer that somebody else made goes through torch."""
    from jielong.infer.compiled.decoder import CompiledDecoder

    model, prompts = quantize(make(max_position_embeddings=64)), [[5], [1, 2, 9]]
    parameters = sum(parameter.numel() for parameter in make().parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) < parameters
    greedy = Config(temperature=0.0, max_new_tokens=20, batch_size=2)
    expected = generate_batch(model, prompts, greedy, frozenset(), [1, 2])
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", parameters + 1)
    assert compiled_against(model, greedy, 2, 20) == "not worth it for a tiny model"
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", parameters)
    assert isinstance(begin(model, prompts, 20, greedy)[1], CompiledDecoder)
    assert generate_batch(model, prompts, greedy, frozenset(), [1, 2]) == expected
    mlp = model.model.layers[1].mlp
    mlp.up_proj = torch.nn.Sequential(mlp.up_proj)
    assert "model.layers.1.mlp.up_proj is of a kind" in str(compiled_against(model, greedy, 2, 20))
    assert generate_batch(model, prompts, greedy, frozenset(), [1, 2]) == expected


def test_integers_that_change_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a decoder that stays with its model for the 16 bits of the other weights."""
    model = quantize(make(max_position_embeddings=64)).requires_grad_(False)
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", 0)
    model.stored_dtype = torch.bfloat16
    greedy = Config(temperature=0.0)

    def stepped() -> tuple[stepping.Stepper, torch.Tensor]:
        stepper = begin(model, [[5]], 20, greedy)[1]
        logits_BV = stepper.step(torch.tensor([3]))
        stepper.close()
        return stepper, logits_BV

    first, before = stepped()
    assert stepped()[0] is first
    model.model.layers[0].mlp.up_proj.codes.bitwise_xor_(1)
    second, after = stepped()
    assert second is not first and not torch.allclose(before, after)


def test_weights_of_16_bits_stay_with_their_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored in 16 bits and not in training: one decoder serves all generations, one at a time, and says what torch says."""
    model, prompts = make(max_position_embeddings=64).requires_grad_(False), [[5], [1, 2, 9]]
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16().float())
    greedy = Config(temperature=0.0, max_new_tokens=20)
    expected = generate_batch(model, prompts, greedy, frozenset(), [1, 2])
    monkeypatch.setattr(stepping, "FEWEST_WEIGHTS", 0)
    model.stored_dtype = torch.bfloat16
    assert generate_batch(model, prompts, greedy, frozenset(), [1, 2]) == expected
    spare = model.__dict__[stepping.SPARE][1]
    assert spare.keys.numel() == 0  # the cache is let go
    _, first = begin(model, prompts[:1], 20, greedy)
    _, second = begin(model, prompts[:1], 20, greedy)  # while the first is at work
    assert first is spare and second is not spare
    first.close()
    assert model.__dict__[stepping.SPARE][1] is spare
    assert generate_batch(model, prompts, greedy, frozenset(), [1, 2]) == expected
    with torch.no_grad():  # other weights in the same memory
        model.model.layers[0].mlp.up_proj.weight.neg_()
    changed = begin(model, prompts[:1], 20, greedy)
    assert changed[1] is not spare
    torch.testing.assert_close(
        changed[1].step(torch.tensor([3])), begin(model, prompts[:1], 3, greedy)[1].step(torch.tensor([3]))
    )
    model.requires_grad_(True)  # back to training: its weights move
    assert begin(model, prompts, 20, greedy)[1] is not spare
