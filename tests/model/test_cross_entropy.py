"""Losses of the output layer in pieces against those from whole logits. Tolerances: sums of float32; 8 bits of bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.model import cross_entropy, fused
from jielong.model.cross_entropy import IGNORE, OutputLayer, piece, plain_losses, with_z_loss

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(vocabulary: int = 33, size: int = 7) -> OutputLayer:
    layer = OutputLayer(size, vocabulary)
    layer.weight = torch.nn.Parameter(random(vocabulary, size, seed=1))
    return layer


def labels_of(tokens: int, vocabulary: int = 33) -> Tensor:
    labels = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(2))
    labels[3::5] = IGNORE
    return labels


def run(layer: OutputLayer, x: Tensor, labels: Tensor, z_loss: float, plainly: bool = False) -> list[Tensor]:
    """Both sums; gradients of a third of their sum of x and weight."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    losses = plain_losses(layer(x), labels, z_loss) if plainly else layer(x, labels, z_loss)
    assert all(loss.dtype == torch.float32 for loss in losses)
    ((losses[0] + losses[1]) / 3).backward()
    assert x.grad is not None and layer.weight.grad is not None
    return [*(loss.detach() for loss in losses), x.grad, layer.weight.grad.clone()]


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert (one.double() - two.double()).abs().max() <= tolerance * (1 + two.double().abs().max())


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def by_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of a piece: that of the CPU, and that of every other device."""
    if not request.param:
        monkeypatch.setattr(fused, "usable_in_kernels", lambda *tensors: False)


@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("tokens", [1, 7, 200])  # 200: four pieces of 64, the last a small one
@pytest.mark.usefixtures("by_kernels")
def test_pieces_equal_whole_logits(
    monkeypatch: pytest.MonkeyPatch, tokens: int, z_loss: float, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS", {"cpu": 1})
    assert piece("cpu", 33) == 64
    layer, x, labels = make(), random(tokens, 7), labels_of(tokens)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        ours = run(layer, x, labels, z_loss)
    exact = run(layer.double(), x.double(), labels, z_loss, plainly=True)
    agree([part.float() for part in ours], [part.float() for part in exact], CLOSE[dtype])
    assert ours[2].dtype == ours[3].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.usefixtures("by_kernels")
def test_a_model_in_half_precision_without_autocast(dtype: torch.dtype) -> None:
    layer, x, labels = make().to(dtype), random(40, 7).to(dtype), labels_of(40)
    ours, plain = run(layer, x, labels, 0.01), run(layer, x, labels, 0.01, plainly=True)
    assert ours[2].dtype == ours[3].dtype == dtype
    agree(ours, plain, CLOSE[dtype])


@pytest.mark.usefixtures("by_kernels")
def test_nothing_counts() -> None:
    found = run(make(), random(9, 7), torch.full((9,), IGNORE), 0.1)
    assert not any(part.any() for part in found)
    assert [float(part.sum()) for part in run(make(), random(0, 7), torch.empty(0, dtype=torch.long), 0.1)] == [0] * 4


@pytest.mark.usefixtures("by_kernels")
def test_a_token_that_is_no_number_spoils_the_loss_and_its_own_gradient_alone() -> None:
    x, labels = random(9, 7), labels_of(9)
    x[1] = float("nan")
    loss, _, dx, _ = run(make(), x, labels, 0.0)
    assert loss.isnan()
    assert dx.isfinite().all(dim=1).tolist() == [True, False] + [True] * 7
    x[1], labels[1] = float("inf"), IGNORE  # not looked at
    loss, _, dx, _ = run(make(), x, labels, 0.0)
    assert loss.isfinite() and not dx[1].any()


def test_many_tokens_of_one_label_fit_into_float16() -> None:
    """2,000 equal hidden states of 1 push one row of the weight in one direction, by nearly 2,000."""
    layer, labels = make().half(), torch.full((2000,), 5)
    weight = run(layer, torch.ones(2000, 7).half(), labels, 0.0)[3]
    with torch.no_grad():
        shares = layer(torch.ones(1, 7).half())[0].float().softmax(dim=0)
    shares[5] -= 1
    assert weight.isfinite().all()
    assert weight[:, 0].float() == pytest.approx(2000 * shares / 3, rel=0.01, abs=0.5)


def test_small_gradients_do_not_vanish_in_float16() -> None:
    """A share of 2e-8 is below float16's smallest number; the gradient of its row is that times the hidden state."""
    layer = OutputLayer(1, 2).half()
    layer.weight = torch.nn.Parameter(torch.tensor([[0.0], [-17.75]]).half())
    x = torch.ones(1, 1).half().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        (layer(x, torch.tensor([0]))[0] * 65536).backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(-17.75 * 65536 / (1 + torch.e**17.75), rel=0.05)


@pytest.mark.parametrize("label", [-1, 33, 1 << 40])
def test_a_label_that_is_no_token(label: int) -> None:
    with pytest.raises(IndexError, match=f"Target {label} is out of bounds, of 33"):
        make()(random(2, 7), torch.tensor([0, label]))


def test_bit_for_bit_whatever_the_threads() -> None:
    logits, labels = random(20_000, 33), labels_of(20_000)  # torch's products are another matter
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(cross_entropy._piece(logits.clone(), labels, 0.01, True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for other in found[1:] for one, two in zip(found[0], other, strict=True))


def test_no_gradients_are_made_where_none_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    usual = cross_entropy._piece

    def watched(logits: Tensor, labels: Tensor, z_loss: float, wanted: bool) -> tuple[Tensor, Tensor]:
        asked.append(wanted)
        return usual(logits, labels, z_loss, wanted)

    monkeypatch.setattr(cross_entropy, "_piece", watched)
    layer, x, labels = make(), random(5, 7), labels_of(5)
    with torch.no_grad():
        measured = layer(x, labels)[0]
    trained = layer(x, labels)[0]
    assert asked == [False, True] and not measured.requires_grad and torch.equal(measured, trained)


def test_once_forward_once_back() -> None:
    layer, labels = make(), labels_of(5)
    loss = layer(random(5, 7), labels)[0]
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()
    (first,) = torch.autograd.grad(layer(random(5, 7), labels)[0].square(), layer.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_without_labels_it_is_a_linear_layer() -> None:
    layer, x = make(), random(2, 3, 7)
    assert torch.equal(layer(x), x @ layer.weight.T)


@pytest.mark.parametrize("kind", ["float64", "a device without pieces"])
def test_whole_logits_where_pieces_are_not_for(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(cross_entropy._LossesInPieces, "apply", None)
    layer, x, labels = make(), random(5, 7), labels_of(5)
    if kind == "float64":
        layer, x = layer.double(), x.double()
    else:
        monkeypatch.setattr(cross_entropy, "LOGITS", {})
    agree(run(layer, x, labels, 0.1), run(layer, x, labels, 0.1, plainly=True), 1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # and does so itself
def test_whole_logits_when_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, labels = make(), random(5, 7), labels_of(5)
    expected = run(layer, x, labels, 0.1, plainly=True)
    monkeypatch.setattr(cross_entropy._LossesInPieces, "apply", None)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    agree(run(compiled, x, labels, 0.1), expected, 1e-6)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(CLOSE), ids=str)
def test_on_the_gpu_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(cross_entropy, "LOGITS", {"cuda": 1})
    layer, x, labels = make(), random(200, 7), labels_of(200)
    exact = run(layer.double(), x.double(), labels, 0.01, plainly=True)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        ours = run(make().cuda(), x.cuda(), labels.cuda(), 0.01)
    agree([part.float().cpu() for part in ours], [part.float() for part in exact], CLOSE[dtype])


def test_z_loss_by_hand() -> None:
    """Logits 0 and 0: the cross-entropy is ln 2, the normaliser too."""
    both = with_z_loss(torch.zeros(2, 2), torch.tensor([1, IGNORE]), 0.5)
    assert [float(x) for x in both] == pytest.approx([0.693147, 0.5 * 0.693147**2])


def test_pieces_are_whole_sixty_fours() -> None:
    assert piece("cpu", 6400) == 1280 and piece("cpu", 1 << 20) == 64 and piece("cuda", 1 << 16) == 1024
