"""What is seen, and every kernel against plain arithmetic. Tolerance PART: one product in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jielong.model import attention
from jielong.model.attention import (
    Kind,
    Sight,
    attend,
    choose_kernel,
    flex_attention,
    packed_attention,
    plain_attention,
    shifted_attention,
    varlen_kernel,
    weigh,
)
from jielong.model.config import Config
from jielong.model.positions import alibi_slopes

PART = 1e-5
# on the CPU flex runs uncompiled, which is what is wanted here
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
TINY = Config(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2], [0, 1, 1, 1, 1, 1, 2, 2]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def qkv(rows: int = 2, length: int = 8, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    keys = keys or length
    return random(rows, 4, length, 6), random(rows, 2, keys, 6, seed=1), random(rows, 2, keys, 6, seed=2)


def plain(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, **named: Any) -> Tensor:
    return plain_attention(q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), seen, 0.0, **named)


def sight(length: int = 8, **named: Any) -> Sight:
    places = torch.arange(length)
    return Sight(places, places, True, **named)


# ---------------------------------------------------------------------------------------------------- what is seen


def test_documents_by_hand() -> None:
    """Documents 0 0 1: the second token sees the first, the third only itself."""
    assert sight(3, documents_BT=torch.tensor([[0, 0, 1]])).mask(None)[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [False, False, True],
    ]


def test_a_window_by_hand() -> None:
    """A window of 2: a token sees itself and the one before."""
    assert sight(3).mask(2)[0, 0].tolist() == [[True, False, False], [True, True, False], [False, True, True]]


def test_padding_by_hand() -> None:
    """One filling place: it sees itself, nobody else sees it."""
    mask = sight(3, padding_B=torch.tensor([1, 0])).mask(None)
    assert mask[0, 0].tolist() == [[True, False, False], [False, True, False], [False, True, True]]
    assert mask[1, 0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_no_mask_where_a_kernel_knows_it_anyway() -> None:
    assert sight().mask(None) is None and sight().mask(8) is None
    assert Sight(torch.tensor([7]), torch.arange(8)).mask(None) is None  # one new token sees all that is cached
    assert Sight(torch.tensor([7]), torch.arange(8)).mask(3)[0, 0, 0].tolist() == [False] * 5 + [True] * 3
    assert Sight(torch.tensor([6, 7]), torch.arange(8)).mask(None) is not None
    assert (
        Sight(torch.tensor([3]), torch.arange(8), plain=False).mask(None)[0, 0, 0].tolist() == [True] * 4 + [False] * 4
    )


def test_each_form_is_made_once() -> None:
    seen = sight(documents_BT=DOCUMENTS)
    assert seen.mask(None) is seen.mask(None) and seen.mask(3) is seen.mask(3) and seen.mask(None) is not seen.mask(3)
    assert seen.bounds() is seen.bounds()
    assert seen.bounds().tolist() == [0, 3, 7, 8, 9, 14, 16] and seen.bounds().dtype == torch.int32


# ------------------------------------------------------------------------------------------------------ the kernels

SIGHTS = {
    "causal": {},
    "documents": {"documents_BT": DOCUMENTS},
    "padding": {"padding_B": torch.tensor([3, 0])},
}


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", list(SIGHTS))
@pytest.mark.parametrize("slopes", [False, True], ids=["", "alibi"])
@pytest.mark.parametrize("kernel", ["sdpa", "flex"])
def test_a_kernel_equals_plain_arithmetic(name: str, window: int | None, slopes: bool, kernel: str) -> None:
    q, k, v = qkv()
    seen, slopes_H = sight(**SIGHTS[name]), alibi_slopes(4, torch.device("cpu")) if slopes else None
    expected = attend(q, k, v, seen, Kind("eager", window, slopes_H))
    assert (attend(q, k, v, seen, Kind(kernel, window, slopes_H)) - expected).abs().max() < PART


def test_plain_arithmetic_by_hand() -> None:
    """One query over two keys, scores 0 and sqrt(4) ln 3 / 2: weights 1/4 and 3/4."""
    q = torch.zeros(1, 1, 1, 4)
    q[..., 0] = 1
    k = torch.zeros(1, 1, 2, 4)
    k[0, 0, 1, 0] = 2 * torch.log(torch.tensor(3.0))
    v = torch.tensor([[[[1.0], [5.0]]]])
    assert plain_attention(q, k, v, torch.ones(1, 1, 1, 2, dtype=torch.bool), 0.0).item() == pytest.approx(4.0)


def test_soft_cap() -> None:
    """Scores of 100 under a cap of 5 are 5 tanh(20) = 5; flex does the same."""
    weights = weigh(torch.tensor([[[[100.0, 0.0]]]]), torch.ones(1, 2, dtype=torch.bool), 5.0, None)
    assert weights[0, 0, 0, 1].item() == pytest.approx(1 / (1 + torch.e**5), rel=1e-4)
    q, k, v = qkv()
    q = q * 20
    capped = plain(q, k, v, None, cap=2.0)
    assert (capped - plain(q, k, v, None)).abs().max() > 0.01
    assert (flex_attention(q, k, v, sight(), Kind("flex", cap=2.0)) - capped).abs().max() < PART


def test_talking_heads() -> None:
    """Identity matrices change nothing; a swap of the heads before and back after softmax neither; a mean of heads does."""
    q, k, v = qkv()
    eye, swap = torch.eye(4), torch.eye(4)[[1, 0, 3, 2]]
    assert (plain(q, k, v, None, talk=(eye, eye)) - plain(q, k, v, None)).abs().max() < PART
    assert (plain(q, k, v, None, talk=(swap, swap)) - plain(q, k, v, None)).abs().max() < PART
    assert (plain(q, k, v, None, talk=(torch.full((4, 4), 0.25), eye)) - plain(q, k, v, None)).abs().max() > 0.01


@pytest.mark.parametrize("window", [None, 2])
def test_packed_rows_equal_a_mask(window: int | None) -> None:
    """The layout that FlashAttention takes, with a loop over documents in the kernel's place."""

    def loop(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, window: int | None) -> Tensor:
        parts = []
        for begin, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
            assert 0 < end - begin <= longest
            part = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
            parts.append(attend(*part, sight(end - begin), Kind("eager", window))[0].transpose(0, 1))
        return torch.cat(parts)

    q, k, v = qkv()
    seen = sight(documents_BT=DOCUMENTS)
    expected = attend(q, k, v, seen, Kind("eager", window))
    assert (packed_attention(q, k, v, seen.bounds(), window, loop) - expected).abs().max() < PART


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["", "documents"])
def test_shifted_groups_equal_a_mask_for_each_head(documents: Tensor | None) -> None:
    """Groups of 4: heads 0 and 1 see 0-3 and 4-7; heads 2 and 3 see 0-1, 2-5, 6-7, and nobody sees what comes later."""
    q, k, v = qkv()
    places = torch.arange(8)
    halves = [
        (places[:, None] + shift).div(4, rounding_mode="floor") == (places[None] + shift).div(4, rounding_mode="floor")
        for shift in (0, 0, 2, 2)
    ]
    mask = torch.stack(halves)[None] & (places[None] <= places[:, None])
    if documents is not None:
        mask = mask & (documents[:, None, :, None] == documents[:, None, None, :])
    for kernel in ("eager", "sdpa"):
        ours = shifted_attention(q, k, v, sight(documents_BT=documents), Kind(kernel), 4)
        assert (ours - plain(q, k, v, mask)).abs().max() < PART


# ------------------------------------------------------------------------------------------------------- the choice


def test_the_choice_falls_back_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = TINY.model_copy(update={"head_dim": 64})
    assert choose_kernel(usual, "cpu") == ("tiles", "the fastest there is")
    assert choose_kernel(usual.model_copy(update={"attention": "varlen"}), "cpu") == (
        "tiles", "no varlen: not on cpu; no flex: not on cpu"
    )  # fmt: skip
    assert choose_kernel(usual.model_copy(update={"attention": "flex"}), "cpu") == ("sdpa", "no flex: not on cpu")
    assert choose_kernel(usual.model_copy(update={"attention": "sdpa"}), "cpu")[0] == "sdpa"
    for without in ({"position": "alibi"}, {"attention_dropout": 0.1}):
        kernel, why = choose_kernel(usual.model_copy(update=without), "cpu")
        assert kernel == "sdpa" and why == "no tiles: it has no soft cap, no dropout and no alibi"
    assert choose_kernel(usual.model_copy(update={"attention": "eager"}), "cpu")[0] == "eager"
    assert choose_kernel(usual.model_copy(update={"talking_heads": True}), "cuda")[0] == "eager"
    kernel, why = choose_kernel(usual.model_copy(update={"attn_logit_softcapping": 5.0}), "cpu")
    assert kernel == "eager" and "no sdpa: it has no soft cap" in why and "no tiles: it has no soft cap" in why
    # a CUDA device, as far as the choice asks
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(attention, "varlen_kernel", lambda: plain_attention)
    monkeypatch.setattr(attention.importlib.util, "find_spec", lambda name: object())
    assert choose_kernel(usual, "cuda")[0] == "varlen"
    assert choose_kernel(usual, "cuda", half=False) == ("flex", "no varlen: it needs half precision")
    assert choose_kernel(usual.model_copy(update={"position": "alibi"}), "cuda")[0] == "flex"
    assert choose_kernel(usual.model_copy(update={"attention_dropout": 0.1}), "cuda")[0] == "sdpa"
    assert choose_kernel(usual.model_copy(update={"attention": "flex"}), "cuda")[0] == "flex"
    assert choose_kernel(usual.model_copy(update={"attention": "sdpa"}), "cuda")[0] == "sdpa"
    assert choose_kernel(usual.model_copy(update={"attention": "tiles"}), "cuda") == ("sdpa", "no tiles: not on cuda")
    assert choose_kernel(usual.model_copy(update={"attn_logit_softcapping": 5.0}), "cuda")[0] == "flex"
    kernel, why = choose_kernel(TINY, "cuda")
    assert kernel == "sdpa" and "no flex: it has no heads of 8" in why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    kernel, why = choose_kernel(usual, "cuda")
    assert kernel == "sdpa" and "no varlen: it needs compute capability 8.0" in why


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 70])
@pytest.mark.parametrize("kernel", ["varlen", "flex", "sdpa"])
def test_kernels_of_the_gpu_equal_plain_arithmetic(kernel: str, window: int | None) -> None:
    """bfloat16 on CUDA: products of 8 bits of mantissa, so a hundredth; gradients too."""
    if kernel == "varlen" and varlen_kernel() is None:
        pytest.skip("neither flash_attn nor torch's varlen_attn is there")
    device, length = torch.device("cuda"), 256
    parts = [
        random(2, heads, length, 64, seed=seed).to(device, torch.bfloat16) for seed, heads in ((0, 4), (1, 2), (2, 2))
    ]
    numbers = torch.arange(length, device=device)[None].expand(2, -1).div(100, rounding_mode="floor").contiguous()
    places = torch.arange(length, device=device)
    results = []
    for name in (kernel, "eager"):
        q, k, v = (x.clone().requires_grad_() for x in parts)
        out = attend(q, k, v, Sight(places, places, True, numbers), Kind(name, window))
        out.float().square().sum().backward()
        results.append([out, q.grad, k.grad, v.grad])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None and theirs is not None
        assert (ours.float() - theirs.float()).abs().max() < 0.02 * (1 + theirs.float().abs().max())
