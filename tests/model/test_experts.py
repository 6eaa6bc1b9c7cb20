"""Experts: Hugging Face's blocks, the plain twin, the losses by hand, and that the losses keep experts in use.

Tolerances, written once: PART in float32; ROUNDED where rows are bfloat16 (8 bits; a few roundings of values near 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import MixtralConfig, PreTrainedConfig, Qwen2MoeConfig, Qwen3MoeConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from jielong.model import experts as module
from jielong.model.config import Config
from jielong.model.experts import (
    Gate,
    GroupedExperts,
    Routing,
    SparseMLP,
    auxiliary_loss,
    balance_loss,
    expert_use,
    gathered_experts,
    grouped_experts,
    move_biases,
    plain_experts,
    slice_gradients,
    slice_products,
    z_loss,
)

PART, ROUNDED = 1e-5, 0.05

SMALL = Config(
    vocab_size=97, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
)  # fmt: skip


def make(seed: int = 0, **changes: Any) -> SparseMLP:
    """A layer with weights so large that every choice and mistake shows."""
    torch.manual_seed(seed)
    layer = SparseMLP(SMALL.model_copy(update=changes))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.5)
    return layer


def rows_of(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors(choices: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows, choices, weights and matrices of E experts, K a token, N tokens; C = 16, I = 8."""
    experts, each, tokens = choices
    torch.manual_seed(seed)
    chosen_NK = torch.stack([torch.randperm(experts)[:each] for _ in range(tokens)])
    weights_NK = torch.rand(tokens, each)
    matrices = torch.randn(experts, 16, 16) / 4, torch.randn(experts, 16, 8) / 3
    return torch.randn(tokens, 16), chosen_NK, weights_NK, *matrices


def values_and_gradients(function: Any, parts: tuple[Tensor, ...], *rest: Any) -> list[Tensor]:
    """What it returns, and the gradients of rows, weights and matrices of a sum that treats all outputs differently."""
    leaves = [one.clone().requires_grad_(one.is_floating_point()) for one in parts]
    out = function(*leaves, *rest)
    factors = rows_of(*out.shape, seed=2).to(out.dtype)
    gradients = torch.autograd.grad((out * factors).sum(), [one for one in leaves if one.requires_grad])
    return [out.detach(), *gradients]


# ------------------------------------------------------------------ Hugging Face


def theirs(kind: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A block of Hugging Face with its plain loop over experts, and our settings for the same."""
    shape: dict[str, Any] = {"hidden_size": 16, "num_experts_per_tok": 2}
    one: PreTrainedConfig
    if kind == "mixtral":
        one, block = MixtralConfig(**shape, intermediate_size=24, num_local_experts=4), MixtralSparseMoeBlock
        changes: dict[str, Any] = {}
    elif kind == "qwen3":
        one = Qwen3MoeConfig(**shape, moe_intermediate_size=24, num_experts=4, norm_topk_prob=True)
        block, changes = Qwen3MoeSparseMoeBlock, {}
    else:
        changes = {"norm_topk_prob": kind.endswith("normalised"), "shared_expert_intermediate_size": 40}
        one = Qwen2MoeConfig(**shape, moe_intermediate_size=24, num_experts=4, **changes)
        block = Qwen2MoeSparseMoeBlock
    one._experts_implementation = "eager"
    return block(one), changes


@pytest.mark.parametrize("kind", ["mixtral", "qwen3", "qwen2", "qwen2, normalised"])
def test_equals_hugging_face(kind: str) -> None:
    other, changes = theirs(kind)
    ours = make(**changes)
    other.load_state_dict(ours.state_dict())  # strict: the names are the same
    x = rows_of(3, 7, 16)
    ours_x, other_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, expected = ours(ours_x)[0], other(other_x)
    assert (out - expected).abs().max() < PART
    factors = rows_of(3, 7, 16, seed=2)
    (out * factors).sum().backward()
    (expected * factors).sum().backward()
    wanted = {"x": other_x.grad, **{name: parameter.grad for name, parameter in other.named_parameters()}}
    got = {"x": ours_x.grad, **{name: parameter.grad for name, parameter in ours.named_parameters()}}
    for name, gradient in wanted.items():
        assert (got[name] - gradient).abs().max() < PART * max(1, gradient.abs().max()), name


# ------------------------------------------------------------------ fast ways and the plain twin


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 17), st.integers(0, 99))
def test_slices_equal_the_plain_twin(experts: int, each: int, tokens: int, seed: int) -> None:
    """Of any number of experts, choices and tokens; few tokens leave experts empty."""
    parts = tensors((experts, min(each, experts), tokens), seed)
    for got, wanted in zip(
        values_and_gradients(grouped_experts, parts, False), values_and_gradients(plain_experts, parts), strict=True
    ):
        assert (got - wanted).abs().max() < PART * max(1, wanted.abs().max())


@pytest.mark.parametrize("choices", [(1, 1, 5), (4, 2, 40), (16, 3, 4), (8, 8, 1)])
def test_fused_and_gathered_equal_the_plain_twin(choices: tuple[int, int, int]) -> None:
    """The ways of CUDA, whose operations the CPU has too."""
    parts = tensors(choices)
    wanted = values_and_gradients(plain_experts, parts)
    for got in (values_and_gradients(grouped_experts, parts, True), values_and_gradients(gathered_experts, parts)):
        for one, other in zip(got, wanted, strict=True):
            assert (one - other).abs().max() < PART * max(1, other.abs().max())


@pytest.mark.parametrize("fused", [False, True])
def test_bfloat16_rows_with_float32_weights(fused: bool) -> None:
    """As under autocast: gradients of the weights come back in float32."""
    rows, *others = tensors((4, 2, 24))
    parts = (rows.bfloat16(), others[0], others[1].bfloat16(), *others[2:])
    got = values_and_gradients(grouped_experts, parts, fused)
    wanted = values_and_gradients(plain_experts, (rows, *others))
    assert [one.dtype for one in got] == [torch.bfloat16] * 3 + [torch.float32] * 2
    for one, other in zip(got, wanted, strict=True):
        assert (one - other).abs().max() < ROUNDED * max(1, other.abs().max())


def test_an_expert_without_tokens_has_a_zero_gradient() -> None:
    rows, _, weights, gate_up, down = tensors((4, 1, 3))
    chosen = torch.tensor([[2], [0], [2]])
    gradients = values_and_gradients(grouped_experts, (rows, chosen, weights, gate_up, down), False)[-2:]
    for gradient in gradients:
        assert not gradient[[1, 3]].any()
        assert gradient[[0, 2]].flatten(1).any(dim=1).all()


def test_frozen_experts_let_the_gradient_through() -> None:
    layer = make()
    layer.experts.requires_grad_(False)
    x = rows_of(1, 5, 16).requires_grad_()
    layer(x)[0].square().sum().backward()
    assert layer.experts.down_proj.grad is None
    assert x.grad is not None and x.grad.any()


def test_only_chosen_experts_are_computed() -> None:
    """An expert of infinities that nobody chose leaves no trace, so no product had it as a factor."""
    layer = make()
    x = rows_of(1, 1, 16)
    expected, routing = layer(x)
    unused = next(expert for expert in range(4) if expert not in routing.chosen_NK)
    with torch.no_grad():
        layer.experts.gate_up_proj[unused] = math.inf
        layer.experts.down_proj[unused] = math.inf
    assert torch.equal(layer(x)[0], expected)


def test_the_way_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped products for bfloat16 on Hopper if rows are whole 16 bytes, slices for the rest."""

    class Rows:
        def __init__(self, dtype: torch.dtype, width: int, kind: str = "cuda") -> None:
            self.dtype, self.shape, self.device = dtype, (5, width), torch.device(kind)

    def fused(rows: Any, size: int) -> bool:
        return module.fused_is_faster(rows, size)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert fused(Rows(torch.bfloat16, 64), 24)
    assert not fused(Rows(torch.bfloat16, 64), 20)
    assert not fused(Rows(torch.bfloat16, 68), 24)
    assert not fused(Rows(torch.float32, 64), 24)
    assert not fused(Rows(torch.bfloat16, 64, "cpu"), 24)
    for capability in ((8, 0), (8, 9), (10, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert not fused(Rows(torch.bfloat16, 64), 24)


def test_autocast() -> None:
    layer = make(shared_expert_intermediate_size=40)
    x = rows_of(2, 9, 16)
    expected, exact = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        out, routing = layer(x)
        out.float().square().mean().backward()
    assert out.dtype == torch.bfloat16
    assert routing.logits_NE.dtype == routing.scores_NE.dtype == torch.float32
    assert torch.equal(routing.logits_NE, exact.logits_NE)  # the gate does not round
    assert (out - expected).abs().max() < ROUNDED * expected.abs().max()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32 and parameter.grad.any(), name


def test_the_same_twice() -> None:
    layer = make(num_experts=8, num_experts_per_tok=3)
    x = rows_of(4, 32, 16)
    results = []
    for _ in range(2):
        layer.zero_grad()
        out = layer(x)[0]
        out.square().sum().backward()
        results.append([out, *(parameter.grad for parameter in layer.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_compiled() -> None:
    """By the tracers alone, without generated code: one graph forward and one backward, whatever the slices."""
    layer = make()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    for tokens in (1, 6, 9):
        x = rows_of(2, tokens, 16)
        out, routing = compiled(x)
        expected, plain = layer(x)
        assert (out - expected).abs().max() < PART
        assert torch.equal(routing.chosen_NK, plain.chosen_NK)
    compiled(rows_of(2, 9, 16))[0].sum().backward()
    assert layer.gate.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_keep_their_contracts(dtype: torch.dtype) -> None:
    """Schema, shapes without data, and gradients as compiled code sees them; expert 1 has no rows."""
    rows, *_, down = tensors((3, 1, 7))
    rows, ends = rows[:, :8].to(dtype).requires_grad_(), torch.tensor([4, 4, 7], dtype=torch.int32)
    torch.library.opcheck(slice_products, (rows, down.transpose(1, 2).requires_grad_(), ends))
    torch.library.opcheck(slice_gradients, (rows.detach(), rows.detach(), ends, torch.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 200])
def test_cuda_equals_the_plain_twin(dtype: torch.dtype, tokens: int) -> None:
    """Whatever way the device takes, with empty experts; without gradients a single token may take another one."""
    rows, chosen, weights, gate_up, down = (one.cuda() for one in tensors((64, 2, tokens)))
    layer = GroupedExperts(SMALL.model_copy(update={"num_experts": 64, "moe_intermediate_size": 8})).cuda()

    def run(rows: Tensor, chosen: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        matrices = {"gate_up_proj": gate_up, "down_proj": down}
        return torch.func.functional_call(layer, matrices, (rows, chosen, weights))

    parts = (rows.to(dtype), chosen, weights.to(dtype), gate_up, down)
    leaves = [one.clone().requires_grad_(one.is_floating_point()) for one in parts]
    others = [one.clone().requires_grad_(one.is_floating_point()) for one in parts]
    out, expected = run(*leaves), plain_experts(*others)
    bound = PART * 100 if dtype == torch.float32 else ROUNDED  # float32 products may be rounded to TF32
    assert (out - expected).abs().max() < bound
    out.square().sum().backward()
    expected.square().sum().backward()
    for one, other in zip(leaves, others, strict=True):
        if one.grad is not None:
            assert (one.grad - other.grad).abs().max() < bound * max(1, other.grad.abs().max())
    with torch.no_grad():
        assert (run(*parts) - expected).abs().max() < bound
        if tokens == 1:  # nothing waits for the device, so that a CUDA graph can be recorded
            torch.cuda.set_sync_debug_mode("error")
            try:
                run(*parts)
            finally:
                torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------ the gate


def gate(changes: dict[str, Any], logits: list[list[float]]) -> tuple[Gate, Tensor]:
    """A gate whose logits for the rows that come with it are these."""
    made = Gate(SMALL.model_copy(update={"num_experts": len(logits[0]), **changes}))
    with torch.no_grad():
        made.weight.zero_()
        made.weight[:, : len(logits[0])] = torch.eye(len(logits[0]))
    x = torch.zeros(len(logits), 16)
    x[:, : len(logits[0])] = torch.tensor(logits)
    return made, x


def test_sigmoid_scores_by_hand() -> None:
    """sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2, sigmoid(-ln 3) = 1/4: the first two, 3/5 and 2/5 when divided by 5/4."""
    logits = [[math.log(3), -math.log(3), 0.0]]
    made, x = gate({"scoring_func": "sigmoid"}, logits)
    routing, weights = made(x)
    assert routing.chosen_NK.tolist() == [[0, 2]]
    torch.testing.assert_close(routing.scores_NE, torch.tensor([[0.75, 0.25, 0.5]]))
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4]]))
    made, x = gate({"scoring_func": "sigmoid", "norm_topk_prob": False}, logits)
    torch.testing.assert_close(made(x)[1], torch.tensor([[0.75, 0.5]]))


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_the_bias_chooses_and_does_not_weigh(scoring: str) -> None:
    changes = {"scoring_func": scoring, "router_bias_update_rate": 0.001, "norm_topk_prob": False}
    made, x = gate(changes, [[2.0, 1.0, 0.0]])
    assert made.e_score_correction_bias is not None
    before, _ = made(x)
    made.e_score_correction_bias[2] = 5.0
    after, weights = made(x)
    assert before.chosen_NK.tolist() == [[0, 1]]
    assert after.chosen_NK.tolist() == [[2, 0]]
    assert torch.equal(after.scores_NE, before.scores_NE)
    assert torch.equal(weights, before.scores_NE[:, [2, 0]])


def test_scores_of_zero_do_not_divide_by_zero() -> None:
    made, x = gate({"scoring_func": "sigmoid"}, [[-200.0, -200.0, -200.0]])
    assert made(x)[1].tolist() == [[0.0, 0.0]]


def test_the_bias_is_a_float32_buffer_that_is_saved() -> None:
    assert "gate.e_score_correction_bias" not in make().state_dict()
    layer = make(router_bias_update_rate=0.001)
    assert layer.gate.e_score_correction_bias is not None
    assert "gate.e_score_correction_bias" not in dict(layer.named_parameters())
    layer.gate.e_score_correction_bias[1] = 1.001
    layer.bfloat16()
    kept = layer.state_dict()["gate.e_score_correction_bias"]
    assert layer.gate.weight.dtype == torch.bfloat16
    assert kept.dtype == torch.float32
    assert kept[1] == torch.tensor(1.001)


def test_biases_move_towards_the_mean() -> None:
    """Mean of 6, 2, 0, 0 is 2: down, stays, up, up; of 0, 4, 4, 0: up, down, down, up."""
    model = torch.nn.ModuleList(
        [make(router_bias_update_rate=0.1), torch.nn.Linear(2, 2), make(router_bias_update_rate=0.1)]
    )
    for _ in range(2):
        move_biases(model, torch.tensor([[6, 2, 0, 0], [0, 4, 4, 0]]), 0.01)
    torch.testing.assert_close(model[0].gate.e_score_correction_bias, torch.tensor([-0.02, 0.0, 0.02, 0.02]))
    torch.testing.assert_close(model[2].gate.e_score_correction_bias, torch.tensor([0.02, -0.02, -0.02, 0.02]))


# ------------------------------------------------------------------ losses


def routing_of(scores: list[list[float]], chosen: list[list[int]]) -> Routing:
    scores_NE = torch.tensor(scores, requires_grad=True)
    return Routing(scores_NE.log(), scores_NE, torch.tensor(chosen))


def test_balance_by_hand() -> None:
    """E = 4. Balanced: f = P = 1/4 each, 4 x 4 x 1/16 = 1. All on one: f = P = (1, 0, 0, 0), 4 x 1 = 4.

    Between: choices 0 0 1 2 of K = 2, f = (1/2, 1/4, 1/4, 0); P = mean of (0.4, 0.4, 0.1, 0.1) and (0.8, 0, 0.2, 0) =
    (0.6, 0.2, 0.15, 0.05); 4 x (0.3 + 0.05 + 0.0375) = 1.55. Sigmoid scores twice as large are divided by their sum first.
    """
    even = routing_of([[0.25] * 4] * 4, [[0], [1], [2], [3]])
    one = routing_of([[1.0, 0.0, 0.0, 0.0]] * 3, [[0]] * 3)
    between = [[0.4, 0.4, 0.1, 0.1], [0.8, 0.0, 0.2, 0.0]]
    assert balance_loss(even, 4, 1, "batch").item() == pytest.approx(1)
    assert balance_loss(one, 4, 1, "batch").item() == pytest.approx(4)
    for factor in (1, 2):
        scores = [[factor * score for score in row] for row in between]
        assert balance_loss(routing_of(scores, [[0, 1], [0, 2]]), 4, 1, "batch").item() == pytest.approx(1.55)


def test_balance_in_each_row() -> None:
    """Two rows that each keep to one expert of two: 1 over the batch, 2 in each row; and any rows, against a loop."""
    rows = routing_of([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3, [[0]] * 3 + [[1]] * 3)
    assert balance_loss(rows, 2, 2, "batch").item() == pytest.approx(1)
    assert balance_loss(rows, 2, 2, "sequence").item() == pytest.approx(2)
    _, routing = make(scoring_func="sigmoid")(rows_of(3, 7, 16))
    each = [Routing(*(part[row * 7 : row * 7 + 7] for part in routing)) for row in range(3)]
    wanted = sum(balance_loss(one, 4, 1, "batch").item() for one in each) / 3
    assert balance_loss(routing, 4, 3, "sequence").item() == pytest.approx(wanted, rel=1e-5)


def test_z_by_hand() -> None:
    """logsumexp of (0, 0) is ln 2, of (ln 3, ln 5) is ln 8 = 3 ln 2: the mean of 1 and 9 times (ln 2)^2 is 5 (ln 2)^2."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(5)]])
    routing = Routing(logits, logits.softmax(-1), torch.zeros(2, 1, dtype=torch.int64))
    assert z_loss(routing).item() == pytest.approx(5 * math.log(2) ** 2)


@pytest.mark.parametrize("per", ["batch", "sequence"])
def test_auxiliary_loss_is_the_mean_over_layers(per: Any) -> None:
    config = SMALL.model_copy(
        update={"router_aux_loss_coef": 0.5, "router_z_loss_coef": 0.25, "router_aux_loss_per": per}
    )
    routings = [make(seed)(rows_of(2, 5, 16, seed=seed))[1] for seed in (3, 4)]
    wanted = sum(0.5 * balance_loss(one, 4, 2, per).item() + 0.25 * z_loss(one).item() for one in routings) / 2
    assert auxiliary_loss(routings, config, 2).item() == pytest.approx(wanted)


@pytest.mark.parametrize("weights", [(0.01, 0.0), (0.0, 0.01), (0.0, 0.0)])
def test_auxiliary_loss_reaches_the_gate_and_nothing_else(weights: tuple[float, float]) -> None:
    config = SMALL.model_copy(update={"router_aux_loss_coef": weights[0], "router_z_loss_coef": weights[1]})
    layer = make()
    loss = auxiliary_loss([layer(rows_of(2, 5, 16))[1]], config, 2)
    if not any(weights):
        assert loss.item() == 0
        return
    loss.backward()
    assert layer.gate.weight.grad is not None and layer.gate.weight.grad.any()
    assert layer.experts.gate_up_proj.grad is None


def test_expert_use_counts_every_choice() -> None:
    routings = [make(seed, num_experts_per_tok=3)(rows_of(2, 5, 16, seed=seed))[1] for seed in (3, 4)]
    use = expert_use(routings)
    assert use.dtype == torch.int64
    assert use.sum(dim=1).tolist() == [2 * 5 * 3] * 2
    for counts, routing in zip(use, routings, strict=True):
        assert counts.tolist() == [(routing.chosen_NK == expert).sum().item() for expert in range(4)]


# ------------------------------------------------------------------ collapse


def experts_in_use(loss: float = 0.0, rate: float = 0.0, seed: int = 0, **changes: Any) -> tuple[float, float]:
    """Train a layer on eight clusters of points, each with a map of its own, from a gate that prefers two of eight experts.

    Returns how many experts are in use at the end, exp(entropy of their shares), 1 to 8, and the mean squared error.
    """
    generator = torch.Generator().manual_seed(seed)
    centres, maps = torch.randn(8, 16, generator=generator), torch.randn(8, 16, 16, generator=generator) / 4
    config = SMALL.model_copy(
        update={"num_experts": 8, "router_aux_loss_coef": loss, "router_z_loss_coef": 0.0,
                "router_bias_update_rate": rate, **changes}
    )  # fmt: skip
    torch.manual_seed(seed)
    layer = SparseMLP(config)
    with torch.no_grad():
        layer.experts.gate_up_proj.normal_(0.0, 0.25)
        layer.experts.down_proj.normal_(0.0, 0.2)
        layer.gate.weight[:2, 0] += 1.0  # and every point has a 2 there
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    for _ in range(150):
        cluster = torch.randint(0, 8, (256,), generator=generator)
        x = centres[cluster] + 0.3 * torch.randn(256, 16, generator=generator)
        x[:, 0] = 2.0
        out, routing = layer(x.view(4, 64, 16))
        error = F.mse_loss(out.view(256, 16), (maps[cluster] @ x[..., None]).squeeze(-1))
        optimizer.zero_grad()
        (error + auxiliary_loss([routing], config, 4)).backward()
        optimizer.step()
        if rate:
            move_biases(layer, expert_use([routing]), rate)
    shares = expert_use([routing])[0] / routing.chosen_NK.numel()
    return math.exp(torch.special.entr(shares).sum().item()), error.item()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Matrices of 16 columns are not worth a second thread, which waits in vain on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_without_a_balance_loss_the_experts_collapse_and_with_it_they_do_not() -> None:
    """Two of eight are in use without help, most with it, which also fits the points better."""
    alone, worse = experts_in_use()
    assert alone < 3
    for remedy in ({"loss": 0.02}, {"loss": 0.02, "router_aux_loss_per": "sequence"}, {"rate": 0.01},
                 {"rate": 0.01, "scoring_func": "sigmoid"}):  # fmt: skip
        used, error = experts_in_use(**remedy)
        assert used > 6, remedy
        assert error < worse, remedy
