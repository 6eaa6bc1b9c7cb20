"""The choice of arithmetic, the loss scale, and a stress test: weights that overflow half precision where it is done naively."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.errors import RecipeError
from jielong.model import transformer
from jielong.model.attention import Kind, Sight
from jielong.model.config import Config
from jielong.model.cross_entropy import IGNORE
from jielong.model.transformer import CausalLM, RMSNorm, initialise
from jielong.train.fp8 import Float8Linear
from jielong.train.precision import FIRST_SCALE, GROWTH_INTERVAL, LossScale, Precision

CPU = torch.device("cpu")
TINY = Config(vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              max_position_embeddings=64)  # fmt: skip
MOE = {"num_experts": 4, "router_aux_loss_coef": 0.01, "router_z_loss_coef": 0.001}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "eager": {"attention": "eager"},
    "qk_norm": {"qk_norm": True},
    "soft cap": {"attn_logit_softcapping": 30.0},
    "alibi, talking heads": {"position": "alibi", "talking_heads": True},
    "bias, window": {"attention_bias": "qkv", "sliding_window": 5},
    "clex": {"rope_scaling": {"rope_type": "clex", "factor": 4.0}},
    "experts": MOE | {"qk_norm": True},
    "sigmoid experts": MOE | {"scoring_func": "sigmoid", "router_bias_update_rate": 0.01,
                              "shared_expert_intermediate_size": 32},
}  # fmt: skip
HALF = ["float16", "bfloat16"]
LARGEST = 65504.0  # of float16


BLOWN_UP = {"embed_tokens.weight": 1e5, "q_proj.weight": 3000, "k_proj.weight": 3000, "mlp.gate.weight": 5000,
            "v_proj.weight": 100, "o_proj.weight": 500, "gate_proj.weight": 100, "up_proj.weight": 100,
            "down_proj.weight": 200, "gate_up_proj": 100, "experts.down_proj": 200, "lm_head.weight": 30}  # fmt: skip


def blown_up(**changes: Any) -> CausalLM:
    """A model whose blocks each add some thousands to the residual stream, with scores in the millions and sure gates."""
    model = CausalLM(Config.model_validate(TINY.model_dump() | {"tie_word_embeddings": False} | changes))
    initialise(model, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(next((times for end, times in BLOWN_UP.items() if name.endswith(end)), 1))
    model.z_loss = 1e-4
    return model.train()


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two packed rows of two documents."""
    ids = torch.randint(0, 90, (2, 25), generator=torch.Generator().manual_seed(3))
    labels = ids[:, 1:].clone()
    labels[:, 9] = IGNORE
    places = torch.cat([torch.arange(10), torch.arange(14)])[None].expand(2, -1)
    documents = (torch.arange(24) >= 10).long()[None].expand(2, -1)
    return ids[:, :-1], labels, places, documents


def train(model: CausalLM, name: str, steps: int = 6) -> tuple[list[float], list[float], Precision]:
    """Steps as an engine takes them: losses, and gradient norms of the steps that were taken."""
    precision, (ids, labels, places, documents) = Precision(name, CPU), batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, norms = [], []
    torch.manual_seed(0)
    for _ in range(60):  # at first some steps overflow until the scale fits
        with precision.autocast():
            found = model.losses(ids, labels, places, documents)
        loss = (found.cross_entropy + found.auxiliary) / labels.numel()
        (loss * precision.scale.value).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / precision.scale.value
        overflow = precision.overflows(norm)
        if not overflow:
            for gradient in gradients:
                gradient.div_(precision.scale.value)
            optimizer.step()
            norms.append(norm)
        precision.scale.update(overflow)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if len(norms) == steps:
            break
    return losses, norms, precision


# ------------------------------------------------------------------------------------------------- the stress test


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_blown_up_models_train_in_half_precision(shape: str, precision: str) -> None:
    losses, norms, _ = train(blown_up(**SHAPES[shape]), precision)
    assert len(norms) == 6
    assert all(math.isfinite(number) and number > 0 for number in losses + norms)
    exact, _, _ = train(blown_up(**SHAPES[shape]), "float32", 1)
    assert losses[0] == pytest.approx(exact[0], rel=0.05)


def test_the_same_arithmetic_done_naively_overflows() -> None:
    """What the model above meets, in float16: sums of squares, scores, a gate's squared logits."""
    model, streams, scores = blown_up(**MOE), [], []
    for block in model.model.layers:
        block.input_layernorm.register_forward_hook(lambda module, inputs, out: streams.append(inputs[0]))
    attend = transformer.attend

    def watching(q: Tensor, k: Tensor, v: Tensor, sight: Sight, kind: Kind) -> Tensor:
        assert q.isfinite().all() and k.isfinite().all()
        scores.append(q.half() @ k.half().repeat_interleave(2, dim=1).transpose(-2, -1))
        return attend(q, k, v, sight, kind)

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", dtype=torch.float16):
        patch.setattr(transformer, "attend", watching)
        hidden, routings = model.model(*batch()[:1])
    assert hidden.isfinite().all()
    for x in streams:
        assert x.isfinite().all() and x.half().isfinite().all()
        assert x.half().square().mean(dim=-1).isinf().any()
        exact = x.double() / (x.double().square().mean(dim=-1, keepdim=True)).sqrt()
        assert (RMSNorm(32, 1e-6)(x.half()).double() - exact).abs().max() < 0.01
    assert any(one.isinf().any() for one in scores)
    assert any(float(one.logits_NE.detach().abs().max()) ** 2 > LARGEST for one in routings)


def test_naive_attention_would_be_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and softmax in float16, as half() leaves them: inf - inf. So the test above can fail."""

    def naive(q: Tensor, k: Tensor, v: Tensor, sight: Sight, kind: Kind) -> Tensor:
        scores = q.half() @ k.half().repeat_interleave(2, dim=1).transpose(-2, -1) / math.sqrt(q.shape[-1])
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1) @ v.half().repeat_interleave(2, dim=1)

    monkeypatch.setattr(transformer, "attend", naive)
    assert math.isnan(train(blown_up(), "float16", 1)[0][0])
    assert math.isfinite(train(blown_up(qk_norm=True), "float16", 1)[0][0])  # which keeps them below sqrt(D)


def test_a_naive_norm_would_lose_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """x / sqrt(inf) is 0 for every token, so all logits are 0 and the loss is ln 90: no number says that something is wrong."""

    def naive(self: RMSNorm, x: Tensor) -> Tensor:
        x = x.half()
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight.half()

    assert train(blown_up(), "float16", 1)[0][0] > 8
    monkeypatch.setattr(RMSNorm, "forward", naive)
    counted = float((batch()[1] != IGNORE).float().mean())
    normaliser = math.log(90)
    expected = (normaliser + 1e-4 * normaliser**2) * counted
    assert train(blown_up(), "float16", 1)[0][0] == pytest.approx(expected, rel=1e-3)


# --------------------------------------------------------------------------------------------------- the loss scale


def test_the_scale_by_hand() -> None:
    """65536; an overflow: 32768; 1,999 good steps: still; one more: 65536; an overflow in between begins the count anew."""
    scale = LossScale(True)
    assert scale.value == FIRST_SCALE == 65536
    scale.update(True)
    assert scale.value == 32768
    for _ in range(1999):
        scale.update(False)
    assert scale.value == 32768
    scale.update(False)
    assert scale.value == 65536
    for _ in range(1999):
        scale.update(False)
    scale.update(True)
    for _ in range(1999):
        scale.update(False)
    assert scale.value == 32768
    for _ in range(40):
        scale.update(True)
    assert scale.value == 1.0
    for _ in range(GROWTH_INTERVAL):
        scale.update(False)
    assert scale.value == 2.0


def test_the_scale_comes_back_from_json() -> None:
    scale = LossScale(True)
    scale.update(True)
    for _ in range(1500):
        scale.update(False)
    again = LossScale.from_json(scale.to_json())
    for _ in range(500):
        scale.update(False)
        again.update(False)
    assert again.value == scale.value == 65536 and again.to_json() == scale.to_json()


def test_no_scale_but_for_float16() -> None:
    for name in ("float32", "bfloat16"):
        precision = Precision(name, CPU)
        precision.scale.update(True)
        assert precision.scale.value == 1.0 and precision.scale.to_json() == {}
        assert not precision.overflows(math.nan)
    assert LossScale.from_json({}).value == FIRST_SCALE  # a run that was not in float16 goes on in it
    assert LossScale.from_json({"value": 8.0, "good_steps": 3}, enabled=False).value == 1.0


def test_an_overflow_is_the_scales_only_while_it_can_be_halved() -> None:
    precision = Precision("float16", CPU)
    assert precision.overflows(math.inf) and precision.overflows(math.nan) and not precision.overflows(1e9)
    precision.scale.restore({"value": 1.0, "good_steps": 0})
    assert not precision.overflows(math.nan)


def test_a_scale_that_is_too_large_finds_its_way() -> None:
    model = CausalLM(TINY)
    initialise(model, 1)
    losses, norms, precision = train(model.train(), "float16")
    assert len(losses) == len(norms) and precision.scale.value == FIRST_SCALE  # an ordinary model never overflows
    losses, norms, precision = train(blown_up(**MOE), "float16")
    assert len(losses) > len(norms) == 6 and 1.0 < precision.scale.value < FIRST_SCALE


def test_without_a_scale_small_gradients_vanish() -> None:
    """The mean over a large batch divides by so many tokens that float16, whose least number is 6e-8, holds nothing of it."""
    found = {}
    for name, scale in (("float32", 1.0), ("float16", 1.0), ("float16", FIRST_SCALE)):
        model = CausalLM(TINY)
        initialise(model, 1)
        ids, labels, _, _ = batch()
        with Precision(name, CPU).autocast():
            loss = model.train().losses(ids, labels, None, None).cross_entropy / 4e6
        (loss * scale).backward()
        gradient = model.model.layers[0].self_attn.v_proj.weight.grad
        assert gradient is not None
        found[name, scale] = gradient / scale
    exact = found["float32", 1.0]
    assert float(found["float16", 1.0].norm()) < 0.5 * float(exact.norm())
    assert float((found["float16", FIRST_SCALE] - exact).norm()) < 0.02 * float(exact.norm())


# -------------------------------------------------------------------------------------------------------- the rest


@pytest.mark.parametrize(
    ("name", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_autocast_is_for_products_alone(name: str, expected: torch.dtype) -> None:
    precision, layer = Precision(name, CPU), nn.Linear(4, 4)
    assert precision.name == name and precision.half == (name != "float32")
    with precision.autocast():
        out = layer(torch.ones(2, 4))
    assert out.dtype == expected and layer.weight.dtype == torch.float32
    precision.prepare(CausalLM(TINY))
    precision.restore()  # nothing to do, and no complaint


def pretend_hopper(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return torch.device("cuda")


def test_tf32_is_set_while_a_run_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors here, so a deprecated switch would fail; both of torch's switches are read, which disagree if mixed."""
    before = torch.get_float32_matmul_precision()
    precision = Precision("tf32", pretend_hopper(monkeypatch))
    assert torch.get_float32_matmul_precision() == before and not precision.half
    try:
        for _ in range(2):
            precision.prepare(CausalLM(TINY))
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        precision.restore()
    assert torch.get_float32_matmul_precision() == before
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    precision.restore()
    assert torch.get_float32_matmul_precision() == before


def test_fp8_swaps_layers_and_computes_the_rest_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    precision, model = Precision("fp8", pretend_hopper(monkeypatch)), CausalLM(TINY)
    precision.prepare(model)
    assert isinstance(model.model.layers[1].mlp.down_proj, Float8Linear)
    assert precision.half and not precision.scale.enabled
    precision.device = CPU
    model.model.kernel("cpu", True)
    with precision.autocast():
        loss = model.train().losses(*batch()).cross_entropy
        assert model.lm_head(torch.ones(1, 32)).dtype == torch.bfloat16
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_what_the_device_has_not_is_refused() -> None:
    with pytest.raises(RecipeError, match="got 'fp8' on cpu"):
        Precision("fp8", CPU)
