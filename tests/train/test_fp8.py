from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from jielong.errors import RecipeError
from jielong.model.config import Config
from jielong.model.cross_entropy import OutputLayer
from jielong.model.transformer import CausalLM, initialise
from jielong.train import fp8
from jielong.train.fp8 import FORWARD, GRADIENT, Float8Linear, quantise, to_fp8

TINY = Config(vocab_size=90, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, qk_norm=True,
              intermediate_size=48, max_position_embeddings=32)  # fmt: skip
# rounding is up to 1/16 of a number in e4m3 and 1/8 in e5m2, evenly spread at most: 1/28 and 1/14 in the mean square
AGAINST_FLOAT32, AGAINST_TWIN = (0.05, 0.08, 0.08, 1e-6), 1e-5  # output; gradients of input, weight, bias


def make(config: Config = TINY) -> CausalLM:
    model = CausalLM(config)
    initialise(model, 1)
    return model.train()


def random(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def far(ours: Tensor, theirs: Tensor) -> float:
    """The root of the mean squared difference, relative to that of the numbers."""
    return float((ours - theirs).norm() / theirs.norm())


def run(layer: nn.Linear, x: Tensor, out_gradient: Tensor) -> Iterator[Tensor]:
    """The output and the gradients of input, weight and bias."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(out_gradient)
    assert x.grad is not None and layer.weight.grad is not None
    yield from (out.detach(), x.grad, layer.weight.grad)
    if layer.bias is not None:
        assert layer.bias.grad is not None
        yield layer.bias.grad


@pytest.mark.parametrize("kind", [FORWARD, GRADIENT])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e6])
def test_scales_fit_any_size(kind: torch.dtype, size: float) -> None:
    x = random(64, 64, size=size)
    small, scale = quantise(x, kind)
    assert small.dtype == kind and float(small.float().abs().max()) == torch.finfo(kind).max
    assert far(small.float() * scale, x) < (1 / 28 if kind == FORWARD else 1 / 14)


def test_zeros_and_what_is_not_finite() -> None:
    zeros, scale = quantise(torch.zeros(4, 4), FORWARD)
    assert not zeros.float().any() and float(scale) > 0
    for bad in (float("nan"), float("inf")):  # must reach the gradient norm, and not be saturated away
        x = torch.ones(4, 4)
        x[1, 2] = bad
        small, scale = quantise(x, GRADIENT)
        assert (small.float() * scale).isnan().any()


@pytest.mark.parametrize("rows", [(32,), (2, 17), (1,)], ids=str)  # 34 tokens and 1 are no multiples of 16
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_agrees_with_float32_and_with_its_twin(
    monkeypatch: pytest.MonkeyPatch, rows: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=bias)
    x, gradient = random(*rows, 64), random(*rows, 48, seed=1, size=1e-6)
    exact = [part.clone() for part in run(layer, x, gradient)]
    layer.__class__ = Float8Linear
    ours = [part.clone() for part in run(layer, x, gradient)]
    monkeypatch.setattr(fp8, "product", fp8.plain_product)
    plain = [part.clone() for part in run(layer, x, gradient)]
    assert all(far(one, two) > 0.01 for one, two in zip(ours[:3], exact[:3], strict=True))  # no float32 products
    for index, (one, two, three) in enumerate(zip(ours, exact, plain, strict=True)):
        assert one.shape == two.shape and one.dtype == two.dtype
        assert far(one, two) < AGAINST_FLOAT32[index]
        assert far(one, three) < AGAINST_TWIN


def test_under_autocast_the_output_is_bfloat16_and_the_gradient_float32() -> None:
    layer = nn.Linear(32, 32, bias=True)
    layer.__class__ = Float8Linear
    x = random(16, 32).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


def test_names_and_state_stay_and_only_linear_layers_of_blocks_change() -> None:
    model, plain = make(), make()
    assert to_fp8(model) == 2 * 7
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(model.state_dict())
    assert type(model.lm_head) is OutputLayer
    assert all(isinstance(m, Float8Linear) for m in model.model.layers.modules() if isinstance(m, nn.Linear))
    assert to_fp8(make(TINY.model_copy(update={"num_key_value_heads": 1, "head_dim": 8}))) == 2 * 5  # k and v: 8 rows


def test_with_experts_the_router_and_their_stacks_stay() -> None:
    shape = {"num_experts": 4, "shared_expert_intermediate_size": 32}
    model = make(Config.model_validate(TINY.model_dump() | shape))
    assert to_fp8(model) == 2 * (4 + 3)  # attention and the shared expert; its gate has 1 row
    assert type(model.model.layers[0].mlp.shared_expert_gate) is nn.Linear
    ids = torch.arange(34).view(2, 17)
    losses = model.losses(ids, ids, None, None)
    (losses.cross_entropy + losses.auxiliary).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_model_without_a_layer_that_fits() -> None:
    config = Config.model_validate(TINY.model_dump() | {"hidden_size": 40, "num_attention_heads": 5, "head_dim": 8})
    with pytest.raises(RecipeError, match=r"train\.precision: no layer .* hidden_size 40; .* multiples of 16; use"):
        to_fp8(make(config))


def test_a_model_learns_nearly_as_in_float32() -> None:
    ids = torch.randint(0, 90, (2, 17), generator=torch.Generator().manual_seed(3))
    losses: dict[str, list[float]] = {"fp8": [], "float32": []}
    for name, found in losses.items():
        model = make()
        if name == "fp8":
            to_fp8(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(15):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=name == "fp8"):
                loss = model.losses(ids[:, :-1], ids[:, 1:], None, None).cross_entropy / 32
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss.detach()))
    assert losses["fp8"][-1] < losses["fp8"][0] - 1
    assert losses["fp8"] != losses["float32"]
    assert losses["fp8"] == pytest.approx(losses["float32"], rel=0.03)


def test_measured_as_it_will_be_used() -> None:
    """In evaluation mode the model computes what a model without fp8 computes."""
    model, plain = make(), make().eval()
    to_fp8(model)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert not torch.equal(model(ids), plain(ids))
        assert torch.equal(model.eval()(ids), plain(ids))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # and does so itself
def test_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 16, bias=False)
    layer.__class__ = Float8Linear
    x, gradient = random(2, 17, 32), random(2, 17, 16, seed=1)
    plain = [part.clone() for part in run(layer, x, gradient)]
    compiled = list(run(torch.compile(layer, fullgraph=True, backend="aot_eager"), x, gradient))  # type: ignore[arg-type]
    assert all(far(one, two) < AGAINST_TWIN for one, two in zip(compiled, plain, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [32, 34, 1])
def test_on_the_gpu_as_on_the_cpu(tokens: int) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this GPU has no fp8")
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    layer.__class__ = Float8Linear
    x, gradient = random(tokens, 64), random(tokens, 48, seed=1)
    expected = [part.clone() for part in run(layer, x, gradient)]
    found = list(run(layer.cuda(), x.cuda(), gradient.cuda()))
    for one, two in zip(found, expected, strict=True):
        assert far(one.cpu(), two) < 1e-3  # fast accumulation keeps fewer bits
