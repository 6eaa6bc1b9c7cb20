"""Mixtures of experts: a gate sends each token through K of E feed-forward layers, and losses keep the experts in use.

Shapes, as suffixes: B rows, T tokens of a row, N = B x T tokens, C hidden_size, E experts, K experts a token, I width of an
expert, L layers with experts, R = N x K choices (one token at one expert), sorted by expert.

**What is computed.** logits = x W; scores = softmax or sigmoid of them; the K best scores choose. A token's output is the sum
of its experts' outputs, weighted by their scores, which `norm_topk_prob` divides by their sum (Mixtral, arXiv:2401.04088,
always; Qwen2-MoE not). A shared expert sees every token, behind a sigmoid gate of its own (Qwen2-MoE). With sigmoid scores
this is DeepSeek-V3's gate without its groups (arXiv:2412.19437, equations 12 to 16). The gate works in float32 whatever the
rest does: rounding logits to bfloat16 changes choices (arXiv:2101.03961, section 2.4); that keeps 4 N C bytes a layer for the
backward pass.

**How.** Never all experts for all tokens. The choices are sorted by expert, so that each expert's tokens are a slice:
- `sliced_rows`: one matrix product an expert on its slice. The CPU's way, and the GPU's
  wherever the next does not apply. An operator of its own, so that torch.compile makes one graph of the layer.
- `fused_rows`: `torch.nn.functional.grouped_mm`, all slices in one kernel that reads the slices' ends on the device, so the
  host never waits. Only bfloat16 on Hopper (compute capability 9): on Ampere and Ada torch runs it as a loop too, with the
  same wait (pytorch pull request 161407, issue 186620), and on Blackwell the gradient of an expert without tokens is not zero
  (pytorch issue 172439). The choice between the ways on CUDA rests on these reports: no GPU was at hand to measure it.
- `gathered_experts`: for a few tokens on a GPU (generation) where the above does not apply, each choice's weights are copied
  out and multiplied in a batched product: three times the traffic, but no wait, which recording a CUDA graph forbids.
- `plain_experts`: the slow twin that the others are tested against.

Measured on CPU (2 cores, AVX-512 with bfloat16, torch 2.13, N = 2,048, C = 512, I = 704, K = 2, float32 weights; milliseconds,
forward + backward, best of 8; the rows in the type of the first column):

                     sliced_rows    grouped_mm     F.linear on slices, torch.cat
    float32   E = 4      50 + 101       50 + 100       52 + 104
    float32   E = 64     73 + 209       72 + 205       75 + 236
    bfloat16  E = 4      28 + 53        27 + 52        29 + 54
    bfloat16  E = 64     39 + 149       64 + 181       66 + 198
    bfloat16  E = 64, N = 1, forward:  1.0    37       37

They are even where all weights are used in the type that they have; under autocast `sliced_rows` casts an expert's weights
when it comes to it, and only those of experts that were chosen, which decides generation. Indexing `weight[e]` under autograd
instead is a trap: each expert's backward then fills a gradient of all experts, 7,700 ms at E = 64.

Every step is deterministic: a stable sort, gathers without collisions, sums over K in order.

Not here: capacity limits and dropped tokens (no token is dropped), groups of experts, expert parallelism. Padding tokens
count in the losses and in `expert_use`; packed rows have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.model.config import Config
from jielong.model.feed_forward import MLP

TINY = 1e-20  # added to a sum of scores, which may all be zero, before dividing by it (DeepSeek-V3's)
GATHERED_ROWS = 32  # most choices at which weights are copied out for each: 16 rows of generation at K = 2; assumption


class Routing(NamedTuple):
    """What the losses and the log need of one layer's pass."""

    logits_NE: Tensor  # float32
    scores_NE: Tensor  # float32, softmax or sigmoid, before bias and choice
    chosen_NK: Tensor  # int64, the best first


class Gate(nn.Module):
    """Chooses the experts of a token and their weights.

    `e_score_correction_bias` (E) is there if `router_bias_update_rate` is above 0: it is added for the choice alone, never to
    the weights, and `move_biases` moves it, no gradient does (arXiv:2408.15664). It stays float32 when the model is cast,
    because bfloat16 near 1 can not hold a step of 0.001.
    """

    e_score_correction_bias: Tensor | None

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.num_experts is not None
        self.experts_per_token = config.num_experts_per_tok
        self.normalised = config.norm_topk_prob
        self.sigmoid = config.scoring_func == "sigmoid"
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))
        nn.init.normal_(self.weight, std=config.initializer_range)
        bias = torch.zeros(config.num_experts, dtype=torch.float32) if config.router_bias_update_rate > 0 else None
        self.register_buffer("e_score_correction_bias", bias)

    def forward(self, x_NC: Tensor) -> tuple[Routing, Tensor]:
        """What happened, and the weights of the chosen experts (N, K) in the type of x."""
        with torch.autocast(x_NC.device.type, enabled=False):
            logits_NE = F.linear(x_NC.float(), self.weight.float())
        scores_NE = logits_NE.sigmoid() if self.sigmoid else logits_NE.softmax(dim=-1)
        bias = self.e_score_correction_bias
        preferred_NE = scores_NE.detach() if bias is None else scores_NE.detach() + bias
        chosen_NK = preferred_NE.topk(self.experts_per_token, dim=-1).indices
        weights_NK = scores_NE.gather(1, chosen_NK)
        if self.normalised:
            weights_NK = weights_NK / (weights_NK.sum(dim=-1, keepdim=True) + TINY)
        return Routing(logits_NE, scores_NE, chosen_NK), weights_NK.to(x_NC.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Gate:
        before = self.e_score_correction_bias
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's has no types
        after = self.e_score_correction_bias
        if before is not None and after is not None and after.dtype != torch.float32:
            self.e_score_correction_bias = before.to(after.device, torch.float32)
        return self


def swiglu(both_R2I: Tensor) -> Tensor:
    """silu(gate) * up of an expert's first product, gate in the first half of the columns: (R, 2I) -> (R, I)."""
    gate_RI, up_RI = both_R2I.chunk(2, dim=-1)
    return F.silu(gate_RI) * up_RI


def plain_experts(
    x_NC: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> Tensor:
    """The slow twin of every other way: for each expert, find its tokens, compute, add: (N, C), in the type of x.

    gate_up_proj: (E, 2I, C); down_proj: (E, C, I).
    """
    out_NC = torch.zeros_like(x_NC)
    for expert in range(len(gate_up_proj)):
        tokens, places = torch.where(chosen_NK == expert)
        inner = swiglu(F.linear(x_NC[tokens], gate_up_proj[expert].to(x_NC.dtype)))
        outer = F.linear(inner, down_proj[expert].to(x_NC.dtype)) * weights_NK[tokens, places, None]
        out_NC = out_NC.index_add(0, tokens, outer.to(x_NC.dtype))
    return out_NC


@torch.library.custom_op(
    "jielong::slice_products", mutates_args=(), schema="(Tensor rows, Tensor matrix, Tensor ends) -> Tensor"
)
def slice_products(rows_RC: Tensor, matrix_ECO: Tensor, ends_E: Tensor) -> Tensor:
    """rows[start:end] @ matrix[e] for the slice of each expert e: (R, O), in the type of the rows.

    ends_E: where each slice ends, on the CPU. A matrix is cast to the type of the rows when its turn comes. An operator of its
    own, because compiled code would otherwise be made anew for each batch, whose slices have other lengths.
    """
    out_RO = rows_RC.new_empty(len(rows_RC), matrix_ECO.shape[2])
    start = 0
    for expert, end in enumerate(ends_E.tolist()):
        if end > start:
            torch.mm(rows_RC[start:end], matrix_ECO[expert].to(rows_RC.dtype), out=out_RO[start:end])
        start = end
    return out_RO


@torch.library.custom_op(
    "jielong::slice_gradients",
    mutates_args=(),
    schema="(Tensor gradient, Tensor rows, Tensor ends, ScalarType dtype) -> Tensor",
)
def slice_gradients(grad_RO: Tensor, rows_RC: Tensor, ends_E: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient of the matrices, transposed: gradient[start:end].T @ rows[start:end] of each expert, (E, O, C).

    Zero for an expert without rows.
    """
    out_EOC = rows_RC.new_zeros(len(ends_E), grad_RO.shape[1], rows_RC.shape[1], dtype=dtype)
    start = 0
    for expert, end in enumerate(ends_E.tolist()):
        if end > start and dtype == rows_RC.dtype:
            torch.mm(grad_RO[start:end].T, rows_RC[start:end], out=out_EOC[expert])
        elif end > start:
            out_EOC[expert] = torch.mm(grad_RO[start:end].T, rows_RC[start:end])
        start = end
    return out_EOC


@slice_products.register_fake
def _(rows_RC: Tensor, matrix_ECO: Tensor, ends_E: Tensor) -> Tensor:
    return rows_RC.new_empty(rows_RC.shape[0], matrix_ECO.shape[2])


@slice_gradients.register_fake
def _(grad_RO: Tensor, rows_RC: Tensor, ends_E: Tensor, dtype: torch.dtype) -> Tensor:
    return rows_RC.new_empty(ends_E.shape[0], grad_RO.shape[1], rows_RC.shape[1], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_RO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows_RC, matrix_ECO, ends_E = ctx.saved_tensors
    for_rows, for_matrix, _ = ctx.needs_input_grad
    grad_RC = slice_products(grad_RO, matrix_ECO.transpose(1, 2), ends_E) if for_rows else None
    grad_ECO = slice_gradients(grad_RO, rows_RC, ends_E, matrix_ECO.dtype).transpose(1, 2) if for_matrix else None
    return grad_RC, grad_ECO, None


slice_products.register_autograd(_backward, setup_context=_keep)


def sliced_rows(rows_RC: Tensor, ends_E: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """Each slice of rows through its expert by ordinary products: (R, C). On CUDA the host waits once, for the ends."""
    ends_E = ends_E.cpu()
    inner_RI = swiglu(slice_products(rows_RC, gate_up_proj.transpose(1, 2), ends_E))
    out_RC: Tensor = slice_products(inner_RI, down_proj.transpose(1, 2), ends_E)
    return out_RC


def fused_rows(rows_RC: Tensor, ends_E: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """The same by grouped products. They are no part of autocast, hence the casts; C and I must be whole 16 bytes."""
    both_R2I = F.grouped_mm(rows_RC, gate_up_proj.to(rows_RC.dtype).transpose(1, 2), offs=ends_E)
    return F.grouped_mm(swiglu(both_R2I), down_proj.to(rows_RC.dtype).transpose(1, 2), offs=ends_E)


def fused_is_faster(rows_RC: Tensor, size: int) -> bool:
    """Whether `fused_rows` may and should be used for such rows and experts of width `size`; the essay has the reasons."""
    if rows_RC.device.type != "cuda" or rows_RC.dtype != torch.bfloat16 or torch.version.hip is not None:
        return False
    whole = rows_RC.shape[1] % 8 == 0 and size % 8 == 0
    return whole and torch.cuda.get_device_capability(rows_RC.device)[0] == 9


def grouped_experts(
    x_NC: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_proj: Tensor, down_proj: Tensor, fused: bool
) -> Tensor:
    """Sort the choices by expert, compute slice by slice, bring them back into order, sum: (N, C), in the type of x.

    A token's row is copied K times before the sort, so that neither gather has two rows of one source: their backward passes
    then add nothing together, which on CUDA would be done in a random order.
    """
    tokens, each = chosen_NK.shape
    sorted_R, order_R = chosen_NK.flatten().sort(stable=True)
    experts_E = torch.arange(len(gate_up_proj), device=sorted_R.device)
    ends_E = torch.searchsorted(sorted_R, experts_E, right=True, out_int32=True)
    rows_RC = x_NC[:, None].expand(tokens, each, -1).flatten(0, 1).index_select(0, order_R)
    out_RC = (fused_rows if fused else sliced_rows)(rows_RC, ends_E, gate_up_proj, down_proj)
    out_NKC = out_RC.index_select(0, order_R.argsort()).view(tokens, each, -1)
    return (out_NKC * weights_NK[..., None]).sum(dim=1)


def gathered_experts(
    x_NC: Tensor, chosen_NK: Tensor, weights_NK: Tensor, gate_up_proj: Tensor, down_proj: Tensor
) -> Tensor:
    """For few tokens: copy out the weights of each choice and multiply in one batched product: (N, C). Never waits."""
    tokens, each = chosen_NK.shape
    chosen_R = chosen_NK.flatten()
    rows_RC1 = x_NC[:, None].expand(tokens, each, -1).flatten(0, 1)[..., None]
    inner_RI = swiglu((gate_up_proj[chosen_R].to(x_NC.dtype) @ rows_RC1).squeeze(-1))
    out_RC = (down_proj[chosen_R].to(x_NC.dtype) @ inner_RI[..., None]).squeeze(-1)
    return (out_RC.view(tokens, each, -1) * weights_NK[..., None]).sum(dim=1)


class GroupedExperts(nn.Module):
    """The weights of all experts, stacked as in Hugging Face's fused form: gate_up_proj (E, 2I, C), down_proj (E, C, I)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.num_experts is not None
        experts, width, size = config.num_experts, config.hidden_size, config.expert_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * size, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, size))
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(self, x_NC: Tensor, chosen_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """The weighted sum of each token's experts, (N, C), in the type of x or, under autocast, in autocast's."""
        kind = x_NC.device.type
        if torch.is_autocast_enabled(kind):
            x_NC = x_NC.to(torch.get_autocast_dtype(kind))
        weights_NK = weights_NK.to(x_NC.dtype)
        fused = fused_is_faster(x_NC, self.down_proj.shape[2])
        few = kind == "cuda" and not torch.is_grad_enabled() and chosen_NK.numel() <= GATHERED_ROWS
        if few and not (fused and self.down_proj.dtype == x_NC.dtype):  # else no cast of all experts for a few rows
            return gathered_experts(x_NC, chosen_NK, weights_NK, self.gate_up_proj, self.down_proj)
        return grouped_experts(x_NC, chosen_NK, weights_NK, self.gate_up_proj, self.down_proj, fused)


class SparseMLP(nn.Module):
    """The feed-forward layer of a block with experts; a drop-in for `MLP` that also tells what the gate did."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = GroupedExperts(config)
        shared = config.shared_expert_intermediate_size
        self.shared_expert = MLP(config.hidden_size, shared) if shared is not None else None
        self.shared_expert_gate = nn.Linear(config.hidden_size, 1, bias=False) if shared is not None else None

    def forward(self, x_BTC: Tensor) -> tuple[Tensor, Routing]:
        """(B, T, C) -> (B, T, C), and the routing of its B x T tokens, row after row."""
        x_NC = x_BTC.flatten(0, 1)
        routing, weights_NK = self.gate(x_NC)
        out_NC: Tensor = self.experts(x_NC, routing.chosen_NK, weights_NK)
        if self.shared_expert is not None and self.shared_expert_gate is not None:
            out_NC = out_NC + self.shared_expert_gate(x_NC).sigmoid() * self.shared_expert(x_NC)
        return out_NC.view(x_BTC.shape), routing


def balance_loss(routing: Routing, experts: int, rows: int, per: Literal["batch", "sequence"]) -> Tensor:
    """E x sum over experts of f P: f the share of choices, P the mean score (arXiv:2101.03961, equations 4 to 6).

    Both sum to 1 over the experts, so it is 1 when balanced and E when every token is sure of one expert (K = 1). Sigmoid
    scores are divided by their sum first (arXiv:2412.19437, equation 19). per = sequence: in each of the `rows` rows of the
    micro-batch, then the mean (equations 17 to 20 there). The gradient goes through P alone. Hugging Face's is K times this.
    """
    groups = rows if per == "sequence" else 1
    shares_NE = routing.scores_NE / (routing.scores_NE.sum(dim=-1, keepdim=True) + TINY)
    mean_GE = shares_NE.view(groups, -1, experts).mean(dim=1)
    counts_GE = _counts(routing.chosen_NK.view(groups, -1), experts)
    used_GE = counts_GE.float() * (groups / routing.chosen_NK.numel())
    return experts * (used_GE * mean_GE).sum(dim=-1).mean()


def z_loss(routing: Routing) -> Tensor:
    """The mean over tokens of logsumexp(logits)^2, which keeps the gate's logits small (arXiv:2202.08906, equation 5)."""
    return routing.logits_NE.logsumexp(dim=-1).square().mean()


def auxiliary_loss(routings: list[Routing], config: Config, rows: int) -> Tensor:
    """The mean over layers of router_aux_loss_coef x balance + router_z_loss_coef x z: a float32 scalar.

    rows: of the micro-batch, for balance per sequence. A loss whose weight is 0 is not computed.
    """
    assert len(routings) > 0 and config.num_experts is not None
    total = routings[0].logits_NE.new_zeros(())
    for routing in routings:
        if config.router_aux_loss_coef:
            balance = balance_loss(routing, config.num_experts, rows, config.router_aux_loss_per)
            total = total + config.router_aux_loss_coef * balance
        if config.router_z_loss_coef:
            total = total + config.router_z_loss_coef * z_loss(routing)
    return total / len(routings)


def _counts(chosen_GR: Tensor, experts: int) -> Tensor:
    """How often each expert was chosen in each group of choices: (G, E) int64. Whole numbers, so in any order the same."""
    counts_GE = chosen_GR.new_zeros(len(chosen_GR), experts)
    return counts_GE.scatter_add(1, chosen_GR, torch.ones_like(chosen_GR))


def expert_use(routings: list[Routing]) -> Tensor:
    """How often each expert of each layer was chosen: (L, E) int64. Each row sums to N x K."""
    assert len(routings) > 0
    experts = routings[0].logits_NE.shape[1]
    return torch.cat([_counts(routing.chosen_NK.view(1, -1), experts) for routing in routings])


@torch.no_grad()
def move_biases(model: nn.Module, counts_LE: Tensor, rate: float) -> None:
    """After an optimizer step: each expert's bias goes up by `rate` if it was chosen less than the mean, down if more.

    counts_LE: choices of the whole step, over all micro-batches and processes, in the order of the layers that have experts
    (arXiv:2408.15664, algorithm 1).
    """
    gates = [module for module in model.modules() if isinstance(module, Gate)]
    assert len(gates) == len(counts_LE), "one row of counts for each layer with experts"
    for gate, counts_E in zip(gates, counts_LE.float(), strict=True):
        bias = gate.e_score_correction_bias
        assert bias is not None, "biases exist only with router_bias_update_rate above 0"
        bias += rate * (counts_E.mean() - counts_E).sign().to(bias.device)
