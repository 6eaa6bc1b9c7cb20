"""Norms, rotations and gates by kernels against torch's own, alone and in a whole model; and when they are taken.

Tolerances: FLOAT32 sums of some hundred numbers; BFLOAT16 one rounding to 8 bits, where torch makes several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.model import attention, fused, transformer
from jielong.model.config import Config, RopeScaling
from jielong.model.positions import rotary, rotate
from jielong.model.transformer import CausalLM, initialise

FLOAT32, BFLOAT16 = 1e-5, 0.02
KINDS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
SIZES = pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 5, 33), (70, 300)], ids=str)  # the last one in threads
TINY = Config(vocab_size=97, hidden_size=36, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, qk_norm=True,
              intermediate_size=50, max_position_embeddings=256)  # fmt: skip


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def run(function: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
    """The result, and the gradients of each argument for the same gradient of the result."""
    given = tuple(x.detach().clone().requires_grad_() for x in given)
    out = function(*given)
    out.backward(random(*out.shape, seed=9).to(out.dtype))
    return [out.detach(), *(x.grad for x in given if x.grad is not None)]


def agree(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    tolerance = FLOAT32 if dtype == torch.float32 else BFLOAT16
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert (one.double() - two.double()).abs().max() <= tolerance * (1 + two.double().abs().max())


@KINDS
@SIZES
@pytest.mark.parametrize("out", [torch.float32, torch.bfloat16], ids=str)
def test_norm(shape: tuple[int, ...], dtype: torch.dtype, out: torch.dtype) -> None:
    x, weight = random(*shape, dtype=dtype), random(shape[-1], seed=1)
    ours = run(lambda x, w: fused.norm(x, w, 1e-5, out), x, weight)
    plain = run(lambda x, w: F.rms_norm(x.float(), w.shape, w, 1e-5).to(out), x, weight)
    agree(ours, plain, torch.bfloat16 if torch.bfloat16 in (dtype, out) else torch.float32)


@KINDS
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("length", [1, 7, 90])
def test_rotation(length: int, rows: int, dtype: torch.dtype) -> None:
    """Positions of each row, or one row's for all; heads of 6 as they come from a projection."""
    positions = (torch.arange(length)[None] * torch.tensor([[1], [3]]))[:rows]
    angles = rotary(positions, torch.tensor([1.0, 0.3, 0.01]))
    x = random(2, length, 30, 6, dtype=dtype)
    ours = run(lambda x: fused.rotated(x, *angles), x)
    assert ours[0].is_contiguous()
    agree(ours, run(lambda x: rotate(x.transpose(1, 2), *angles).to(dtype), x), dtype)


@KINDS
@SIZES
def test_gate(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    agree(run(fused.gated, gate, up), run(lambda gate, up: F.silu(gate) * up, gate, up), dtype)


def test_memory_in_another_order() -> None:
    """Transposed inputs, and a gradient that is one number spread out."""
    x, weight = random(7, 5), random(7)
    results = []
    for norm, gate in ((lambda *given: fused.norm(*given, torch.float32), fused.gated),
                       (lambda x, w, e: F.rms_norm(x, w.shape, w, e), lambda g, u: F.silu(g) * u)):  # fmt: skip
        given, of_weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
        gate(norm(given.T, of_weight, 1e-5), given.T).sum().backward()
        assert given.grad is not None and of_weight.grad is not None
        results.append([given.grad, of_weight.grad])
    agree(results[0], results[1], torch.float32)


WAYS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "norm": (lambda x, w: fused.norm(x, w, 1e-5, torch.float32), [(301, 130), (130,)]),
    "rotation": (lambda x: fused.rotated(x, *rotary(torch.arange(91)[None], torch.ones(3))), [(3, 91, 30, 6)]),
    "gate": (fused.gated, [(301, 130), (301, 130)]),
}


@pytest.mark.parametrize("name", list(WAYS))
def test_bit_for_bit_whatever_the_threads(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "LEAST", 1000)
    function, shapes = WAYS[name]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(function, *(random(*shape, seed=seed) for seed, shape in enumerate(shapes))))
    finally:
        torch.set_num_threads(before)
    assert found[0][0].numel() >= fused.LEAST  # so that threads are used
    assert all(torch.equal(one, two) for other in found[1:] for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", list(WAYS))
def test_gradients_of_gradients_are_refused(name: str) -> None:
    function, shapes = WAYS[name]
    given = [random(*shape).requires_grad_() for shape in shapes]
    (first,) = torch.autograd.grad(function(*given).square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


@pytest.mark.parametrize("name", ["norm", "gate"])
def test_a_second_way_back(name: str) -> None:
    """With retain_graph it gives the same once more, without it is an error, as in torch."""
    function, shapes = WAYS[name]
    given = [random(*shape).requires_grad_() for shape in shapes]
    out = function(*given).sum()
    first = torch.autograd.grad(out, given, retain_graph=True)
    assert all(torch.equal(one, two) for one, two in zip(first, torch.autograd.grad(out, given), strict=True))
    with pytest.raises(RuntimeError, match="a second time"):
        out.backward()


def test_inputs_that_were_changed_since_are_an_error() -> None:
    x = random(3, 7).requires_grad_().clone()
    out = fused.gated(x, x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_learned_angles_are_not_for_kernels() -> None:
    angles = rotary(torch.arange(5)[None], torch.ones(3, requires_grad=True))
    with pytest.raises(AssertionError):
        fused.rotated(random(2, 5, 3, 6), *angles)


# ------------------------------------------------------------------------------------------------- when it is taken


def test_plain_memory_of_the_cpu_in_two_types() -> None:
    x = random(3)
    for good in (x, x.bfloat16(), torch.nn.Parameter(x)):
        assert fused.usable(good) and fused.usable_in_kernels(good)
    for bad in (x.half(), x.double(), torch.arange(3), torch.empty(0), torch.empty(3, device="meta")):
        assert not fused.usable(bad) and not fused.usable_in_kernels(bad) and not fused.usable(x, bad)
    with torch.no_grad():
        assert not fused.usable(x) and fused.usable_in_kernels(x)


def test_tensors_that_stand_for_others() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not fused.usable_in_kernels(torch.empty(3))

    class Sharded(Tensor):
        pass

    assert not fused.usable_in_kernels(torch.empty(3).as_subclass(Sharded))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # and does so itself
def test_not_in_what_torch_compiles() -> None:
    def taken(x: Tensor) -> Tensor:
        return x + 1 if fused.usable(x) or fused.usable_in_kernels(x) else x - 1

    x = random(3)
    assert torch.equal(taken(x), x + 1)
    assert torch.equal(torch.compile(taken, fullgraph=True, backend="eager")(x), x - 1)


# ------------------------------------------------------------------------------------------------- a whole model


def gradients(config: Config, half: bool) -> dict[str, Tensor]:
    """The loss of packed rows and the gradients of all weights."""
    model = CausalLM(config)
    initialise(model, 1)
    model.train()
    model.z_loss = 1e-3
    ids = torch.randint(0, 97, (2, 151), generator=torch.Generator().manual_seed(3))
    documents = torch.arange(150)[None].div(torch.tensor([[40], [149]]), rounding_mode="floor").contiguous()
    torch.manual_seed(4)  # CLEX draws a stretch
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = model.losses(ids[:, :-1], ids[:, 1:].clone(), None, documents)
        loss = (losses.cross_entropy + losses.auxiliary) / 300
    loss.backward()
    found = {name: x.grad for name, x in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {"loss": loss.detach(), **found}  # type: ignore[dict-item]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changed",
    [{}, {"sliding_window": 20}, {"shifted_attention": 50},
     {"rope_scaling": RopeScaling(rope_type="clex", factor=4.0)}, {"num_experts": 4, "num_experts_per_tok": 2}],
    ids=["usual", "window", "shifted", "clex", "experts"],
)  # fmt: skip
def test_a_model_with_all_fast_ways_equals_one_with_none(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], half: bool
) -> None:
    """float32: 1e-4 of the largest gradient of each weight. bfloat16: both are as far from float32 as 8 bits make them."""
    config = TINY.model_copy(update=changed)
    calls: set[str] = set()
    for module, name in ((fused, "norm"), (fused, "rotated"), (fused, "gated"), (attention, "tiled_attention")):
        monkeypatch.setattr(module, name, noted(getattr(module, name), name, calls))
    ours = gradients(config, half)
    assert calls >= {"norm", "tiled_attention"} and ("rotated" in calls) == ("rope_scaling" not in changed)
    calls.clear()
    monkeypatch.setattr(fused, "usable_in_kernels", lambda *tensors: False)
    plainly = config.model_copy(update={"attention": "eager"})
    plain = gradients(plainly, half)
    exact = gradients(plainly, False)
    assert not calls
    for name, gradient in ours.items():
        size = exact[name].abs().max()
        if half:
            far = (plain[name] - exact[name]).norm()
            assert (gradient - exact[name]).norm() <= 1.5 * far + 0.01 * exact[name].norm(), name
        else:
            assert (gradient - exact[name]).abs().max() <= 1e-4 * size, name


def noted(function: Callable[..., Any], name: str, calls: set[str]) -> Callable[..., Any]:
    def call(*given: Any) -> Any:
        calls.add(name)
        return function(*given)

    return call


def test_a_norm_of_a_type_without_kernels_goes_the_plain_way() -> None:
    norm = transformer.RMSNorm(7, 1e-5)
    with torch.autocast("cpu", torch.float16):
        assert norm(random(3, 7)).dtype == torch.float16
    assert norm(random(3, 7).double()).dtype == torch.float64
