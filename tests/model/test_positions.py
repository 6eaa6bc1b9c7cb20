"""Positions against transformers' formulas, hand-made figures and slow twins.

RATIO bounds the relative difference of frequencies that are the same formula: five roundings of float32 (6e-8 each).
PART is that of one module in float32, as in test_transformer.py.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama as hf

from jielong.model import positions
from jielong.model.config import Config
from jielong.model.positions import (
    ContinuousFrequencies,
    alibi_bias,
    alibi_slopes,
    attention_factor,
    depends_on_length,
    inverse_frequencies,
    ntk_theta,
    rotary,
    rotate,
    stretched_positions,
)

RATIO, PART = 3e-7, 1e-5
CPU = torch.device("cpu")

SETTINGS: list[dict[str, Any]] = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "linear", "factor": 2.5},
    {"rope_type": "ntk", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 1.0},
    {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 4.0, "beta_slow": 4.0, "truncate": False},  # no ramp
    {"rope_type": "yarn", "factor": 4.0, "truncate": False},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.2},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.8},
    {"rope_type": "llama3", "factor": 4.0},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 2.0, "high_freq_factor": 16.0},
]


def make(scaling: dict[str, Any] | None, theta: float = 10_000.0, original: int = 256, size: int = 32) -> Config:
    """Trained at `original` tokens, stretched to 4 times as many."""
    if scaling is not None:
        scaling = {**scaling, "original_max_position_embeddings": original}
    return Config(
        vocab_size=97, hidden_size=4 * size, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=4 * original, rope_theta=theta, rope_scaling=scaling,
    )  # fmt: skip


def theirs(config: Config) -> LlamaConfig:
    """Hugging Face's config of the same frequencies."""
    scaling, longest = config.rope_scaling, config.max_position_embeddings
    table: dict[str, Any] = {"rope_type": "default", "rope_theta": ntk_theta(config)}
    if scaling is not None and scaling.rope_type != "ntk":
        table = {"rope_type": scaling.rope_type, "rope_theta": config.rope_theta, "factor": scaling.factor}
        if scaling.rope_type == "dynamic":
            longest = config.original_length
        if scaling.rope_type == "yarn":
            names = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate")
            table |= {name: getattr(scaling, name) for name in names}
        if scaling.rope_type == "llama3":
            table |= {name: getattr(scaling, name) for name in ("low_freq_factor", "high_freq_factor")}
        if scaling.rope_type in ("yarn", "llama3"):
            table["original_max_position_embeddings"] = config.original_length
    return LlamaConfig(
        hidden_size=config.hidden_size, num_attention_heads=4, head_dim=config.size_of_head,
        max_position_embeddings=longest, rope_parameters=table,
    )  # fmt: skip


def clex(seed: int | None = None, size: int = 16, theta: float = 10_000.0) -> ContinuousFrequencies:
    """A new network, or with a seed one that has learned something."""
    config = make({"rope_type": "clex", "factor": 16.0, "hidden_multiple": 2}, size=size, theta=theta)
    module = ContinuousFrequencies(config)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            module.up_proj.normal_(0.0, 0.1, generator=generator)
            module.down_proj.normal_(0.0, 0.05, generator=generator)
    return module


def ratio(ours: Tensor, expected: Tensor) -> float:
    assert ours.shape == expected.shape
    return float((ours.detach().double() / expected.detach().double() - 1).abs().max())


# ------------------------------------------------------------------------------------------------------- rotary


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("scaling", [s for s in SETTINGS if s["rope_type"] != "ntk"], ids=str)
def test_frequencies_equal_transformers(scaling: dict[str, Any], theta: float) -> None:
    config = make(scaling, theta)
    for length in (1, 256, 257, 700, 1024):
        expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs(config), CPU, seq_len=length)
        assert ratio(inverse_frequencies(config, length, CPU), expected) < RATIO
        assert attention_factor(config) == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("length", [17, 256, 1024, 5000])
@pytest.mark.parametrize("scaling", [None, *SETTINGS], ids=str)
def test_rotary_equals_llama_at_any_length(scaling: dict[str, Any] | None, length: int) -> None:
    config = make(scaling)
    positions_BT = torch.stack((torch.arange(length), torch.arange(length).flip(0)))
    cos, sin = rotary(positions_BT, inverse_frequencies(config, length, CPU), attention_factor(config))
    other = hf.LlamaRotaryEmbedding(theirs(config))
    expected_cos, expected_sin = other(torch.zeros(1), positions_BT)
    bound = max(PART, length * RATIO)  # a frequency's rounding, times the position
    assert cos.shape == sin.shape == (2, 1, length, 32)
    assert cos.dtype == sin.dtype == torch.float32
    assert (cos[:, 0] - expected_cos).abs().max() < bound
    assert (sin[:, 0] - expected_sin).abs().max() < bound


def test_rotate_equals_llama() -> None:
    q = torch.randn(2, 4, 7, 32, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary(torch.arange(14).view(2, 7), inverse_frequencies(make(None), 14, CPU))
    expected, _ = hf.apply_rotary_pos_emb(q, q, cos[:, 0], sin[:, 0])
    assert torch.equal(rotate(q, cos, sin), expected)


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest() -> None:
    plain, scaled = (inverse_frequencies(make(s), 1, CPU) for s in (None, {"rope_type": "ntk", "factor": 4.0}))
    assert scaled[0] == plain[0] == 1.0
    assert float(plain[-1] / scaled[-1]) == pytest.approx(4.0, rel=1e-6)
    assert ntk_theta(make(None)) == 10_000.0
    assert ntk_theta(make({"rope_type": "linear", "factor": 4.0})) == 10_000.0
    assert ntk_theta(make({"rope_type": "ntk", "factor": 4.0})) == pytest.approx(10_000 * 4 ** (32 / 30))


def test_dynamic_is_plain_up_to_the_trained_length_and_ntk_beyond() -> None:
    """At 4 L with factor 2: 2 x 4 - 1 = 7, so the slowest pair is 7 times slower."""
    config, plain = make({"rope_type": "dynamic", "factor": 2.0}), inverse_frequencies(make(None), 1, CPU)
    for length in (1, 255, 256):
        assert torch.equal(inverse_frequencies(config, length, CPU), plain)
    assert float(plain[-1] / inverse_frequencies(config, 1024, CPU)[-1]) == pytest.approx(7.0, rel=1e-6)


def test_yarn_by_hand() -> None:
    """L = 256: pair 0 makes 256 / 2 pi = 40.7 turns (over 32: kept), pair 15 makes 0.007 (under 1: divided)."""
    plain, scaled = (inverse_frequencies(make(s), 1, CPU) for s in (None, {"rope_type": "yarn", "factor": 4.0}))
    shrunk = plain / scaled
    assert float(shrunk[0]) == pytest.approx(1.0, rel=1e-6)
    assert float(shrunk[-1]) == pytest.approx(4.0, rel=1e-6)
    assert (shrunk.diff() > -1e-6).all()
    assert attention_factor(make({"rope_type": "yarn", "factor": 4.0})) == pytest.approx(1.1386294)  # 0.1 ln 4 + 1


def test_length_may_be_a_tensor_and_is_not_read() -> None:
    """A meta tensor has no value: whoever read it would raise. With values, it is what an int gives."""
    config, frequencies = make({"rope_type": "dynamic", "factor": 4.0}), clex()
    for length in (3, 256, 257, 1000):
        expected = inverse_frequencies(config, length, CPU)
        assert ratio(inverse_frequencies(config, torch.tensor(length), CPU), expected) < RATIO
    absent = torch.tensor(1000, device="meta")
    assert inverse_frequencies(config, absent, torch.device("meta")).shape == (16,)
    frequencies = frequencies.to("meta")
    assert frequencies(frequencies.stretch_of(absent)).shape == (8,)


def test_who_depends_on_length() -> None:
    kinds = {s["rope_type"]: depends_on_length(make(s)) for s in SETTINGS}
    assert kinds == {"linear": False, "ntk": False, "dynamic": True, "yarn": False, "llama3": False}
    assert depends_on_length(clex().config)
    assert not depends_on_length(make(None))


def test_clex_is_not_silently_plain() -> None:
    with pytest.raises(AssertionError, match="ContinuousFrequencies"):
        inverse_frequencies(clex().config, 1, CPU)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "yarn", "factor": 4.0}], ids=str)
def test_scores_depend_on_distance_only(scaling: dict[str, Any] | None) -> None:
    config, generator = make(scaling), torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 32, generator=generator) for _ in range(2))
    inverse, factor = inverse_frequencies(config, 1, CPU), attention_factor(config)

    def score(query: int, key: int) -> float:
        turned = [rotate(x, *rotary(torch.tensor([[at]]), inverse, factor)) for x, at in ((q, query), (k, key))]
        return float((turned[0] * turned[1]).sum())

    near, far = score(7, 2), score(60, 2)
    assert abs(near - far) > 0.1  # distance counts
    for shift in (1, 50, 900):
        assert score(7 + shift, 2 + shift) == pytest.approx(near, abs=2e-3)
    assert score(5, 5) == pytest.approx(factor**2 * float((q * k).sum()), abs=1e-4)


def test_rounding_of_angles_at_position_100_000() -> None:
    """Each angle carries its frequency's roundings and its own: e ln(theta) u from the exponent e, 2 u from the power,
    u from the reciprocal and u from the product, u = 2^-24: at most (4 + e ln theta) u |angle|. For the worst pair this
    is 0.022 rad (0.006 are measured); a frequency in bfloat16 (u = 2^-9) alone would be wrong by up to 170 rad.
    """
    position, config = 100_000, make(None, size=128)
    exponents = torch.arange(0, 128, 2, dtype=torch.float64) / 128
    exact = position * 10_000.0**-exponents
    found = rotary(torch.tensor([[position]]), inverse_frequencies(config, 1, CPU))
    cos, sin = (x[0, 0, 0, :64].double() for x in found)
    error = torch.atan2(sin * exact.cos() - cos * exact.sin(), cos * exact.cos() + sin * exact.sin()).abs()
    bound = (4 + exponents * math.log(10_000.0)) * 2.0**-24 * exact
    assert (error <= bound + 2.0**-23).all()  # cos and sin themselves are rounded too
    assert error.max() < 0.022


# ------------------------------------------------------------------------------------------------------- ALiBi


def test_slopes_by_hand() -> None:
    """8 heads: 1/2 ... 1/256. 12: those, then every second of 16 heads': 2^-0.5, 2^-1.5, 2^-2.5, 2^-3.5."""
    eight = [2.0**-n for n in range(1, 9)]
    assert alibi_slopes(8, CPU).tolist() == pytest.approx(eight, rel=1e-6)
    assert alibi_slopes(12, CPU).tolist() == pytest.approx([*eight, *(2.0 ** -(n + 0.5) for n in range(4))], rel=1e-6)
    assert alibi_slopes(1, CPU).tolist() == pytest.approx([2.0**-8])
    assert alibi_slopes(3, CPU).tolist() == pytest.approx([2.0**-4, 2.0**-8, 2.0**-2])


def test_bias_by_hand() -> None:
    bias = alibi_bias(torch.tensor([2, 3]), torch.arange(4), torch.tensor([0.5, 0.25]))
    assert bias.dtype == torch.float32
    assert bias.tolist() == [
        [[[-1.0, -0.5, 0.0, 0.5], [-1.5, -1.0, -0.5, 0.0]], [[-0.5, -0.25, 0.0, 0.25], [-0.75, -0.5, -0.25, 0.0]]]
    ]


# ------------------------------------------------------------------------------------------------------- CLEX


def slow_twin(module: ContinuousFrequencies, stretch: float, steps: int = 20_000) -> Tensor:
    """d log f / dt = network(log f) + d log f_ntk / dt as it is written, by many Euler steps of t in float64."""
    size = module.config.size_of_head
    pairs = torch.arange(0, size, 2, dtype=torch.float64)
    up, down = module.up_proj.detach().double(), module.down_proj.detach().double()
    log_f, step = -pairs / size * math.log(module.config.rope_theta), (stretch - 1) / steps
    for index in range(steps):
        t = 1 + (index + 0.5) * step
        ntk = -pairs / (size - 2) * 2 / (2 * t - 1)  # d/dt of -2i/(D-2) ln(2t - 1)
        log_f = log_f + step * (down @ torch.nn.functional.silu(up @ log_f) + ntk)
    return log_f.exp()


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
def test_clex_at_1_is_plain_rope_exactly(seed: int | None, theta: float) -> None:
    module = clex(seed, theta=theta)
    plain = inverse_frequencies(make(None, theta, size=16), 1, CPU)
    assert torch.equal(module(1.0), plain)
    assert torch.equal(module(torch.tensor(1.0)), plain)
    assert torch.equal(module(module.stretch_of(256)), plain)


def test_new_clex_is_ntk() -> None:
    for stretch in (1.5, 2.0, 7.25, 16.0):
        closed = make({"rope_type": "ntk", "factor": 2 * stretch - 1}, size=16)
        assert ratio(clex()(stretch), inverse_frequencies(closed, 1, CPU)) < 1e-6
        assert ratio(clex()(stretch), slow_twin(clex(), stretch)) < 1e-5


def test_clex_solves_its_equation() -> None:
    for stretch in (1.5, 4.0, 8.0):
        learned, start = clex(0)(stretch), clex()(stretch)
        assert ratio(learned, start) > 0.01  # the network counts
        assert ratio(learned, slow_twin(clex(0), stretch)) < 1e-3  # Euler's error, not Runge-Kutta's


def test_clex_has_steps_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of order four: 16 times more exact at twice the steps; what is left at STEPS is under 1e-4 at t = 16."""
    module, found = clex(0), {}
    for steps in (positions.STEPS // 2, positions.STEPS, 200):
        monkeypatch.setattr(positions, "STEPS", steps)
        found[steps] = module(16.0)
    half, whole = (ratio(found[steps], found[200]) for steps in list(found)[:2])
    assert whole < 1e-4
    assert whole < half / 8


def test_clex_table_equals_single_calls() -> None:
    module, wanted = clex(0), torch.tensor([1.0, 1.5, 4.0, 16.0])
    table = module(wanted)
    assert table.shape == (4, 8)
    assert ratio(table, torch.stack([module(t) for t in wanted])) < 1e-6


def test_clex_is_continuous_and_falls() -> None:
    """Over t = 1 ... 9 no jump (a step of 0.01 moves log f by at most 0.03: ntk's own slope is at most 2.3 a unit at t
    = 1) and, with the network still zero, all pairs but the fastest turn slower and slower.
    """
    grid = torch.arange(1.0, 9.0, 0.01)
    assert clex(0)(grid).log().diff(dim=0).abs().max() < 0.03
    start = clex()(grid)
    assert (start[:, 1:].diff(dim=0) < 0).all()
    assert (start[:, 0] == 1).all()


def test_a_training_step_changes_clex() -> None:
    """down_proj starts at zero, so it alone has a gradient in the first step; up_proj follows in the second."""
    torch.manual_seed(0)
    module = clex()
    q, k = torch.randn(2, 1, 1, 32, 16)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    assert sorted(before) == ["down_proj", "up_proj"]
    for step in range(2):
        cos, sin = rotary(stretched_positions(torch.arange(32)[None], 3.0), module(3.0))
        loss = (rotate(q, cos, sin) @ rotate(k, cos, sin).transpose(-2, -1)).tril().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moved = {name: not torch.equal(value, before[name]) for name, value in module.named_parameters()}
        assert moved == {"down_proj": True, "up_proj": step == 1}
    assert torch.equal(module(1.0), clex()(1.0))


def test_clex_is_float32_under_autocast_and_with_bfloat16_weights() -> None:
    module = clex(0)
    expected = module(5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(5.0), expected)
    rough = module.bfloat16()(5.0)
    assert rough.dtype == torch.float32
    assert 0 < ratio(rough, expected) < 0.05


def test_stretch_by_hand() -> None:
    """Trained at 256 tokens, up to 16 times that."""
    lengths, expected = (0, 1, 256, 257, 512, 513, 100_000), [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 16.0]
    module = clex()
    assert [float(module.stretch_of(length)) for length in lengths] == expected
    assert [float(module.stretch_of(torch.tensor(length))) for length in lengths] == expected
    assert module.stretch_of(300).dtype == module.stretch_of(torch.tensor(300)).dtype == torch.float32


def test_stretched_positions_fill_the_longer_text_in_order() -> None:
    """Two documents of 300 and 200 tokens in each row. At t = 4 each token lies in its own interval of 4 positions."""
    torch.manual_seed(0)
    positions_BT = torch.cat((torch.arange(300), torch.arange(200)))[None].repeat(8, 1)
    found = stretched_positions(positions_BT, 4.0)
    assert found.shape == (8, 500)
    assert found.dtype == torch.float32
    within = found / 4 - positions_BT
    assert within.min() >= 0
    assert within.max() <= 1  # 1 itself by rounding
    assert float(within.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(within.var()) == pytest.approx(1 / 12, rel=0.1)
    for document, length in ((found[:, :300], 300), (found[:, 300:], 200)):
        assert (document.diff(dim=1) >= 0).all()
        assert document.max() <= 4 * length
    assert not torch.equal(found[0], found[1])
    torch.manual_seed(0)
    assert torch.equal(stretched_positions(positions_BT, torch.tensor(4.0)), found)


# ------------------------------------------------------------------------------------------------------- on a GPU


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    device = torch.device("cuda")
    module, length = clex(0).to(device), torch.tensor(1000, device=device)
    positions_BT = torch.arange(16, device=device)[None]
    configs = [make(scaling) for scaling in (None, *SETTINGS)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [inverse_frequencies(config, length, device) for config in configs]
        learned = module(module.stretch_of(length))
        rotary(stretched_positions(positions_BT, module.stretch_of(1000)), module(4.0))
        alibi_bias(positions_BT[0], positions_BT[0], alibi_slopes(12, device))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for config, ours in zip(configs, found, strict=True):
        assert ratio(ours.cpu(), inverse_frequencies(config, 1000, CPU)) < 1e-6
    assert ratio(learned.cpu(), clex(0)(4.0)) < 1e-5
