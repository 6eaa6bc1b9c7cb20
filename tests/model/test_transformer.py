"""Parity with Hugging Face, part by part, and every fast path against its slow twin.

Tolerances, written once: PART for one module in float32, LOGITS for a whole model (the promise of the README).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama as hf

from jielong.infer.cache import KVCache
from jielong.model.attention import Kind, Sight, plain_attention, shifted_attention
from jielong.model.config import Config
from jielong.model.cross_entropy import IGNORE, with_z_loss
from jielong.model.hf import to_hf_config
from jielong.model.positions import inverse_frequencies, rotary, rotate
from jielong.model.transformer import CausalLM, Context, RMSNorm, initialise

PART, LOGITS = 1e-5, 1e-4

TINY = Config(
    vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=64,
)  # fmt: skip


def vary(**changes: Any) -> Config:
    """TINY with some fields changed, checked as a recipe's table is."""
    return Config.model_validate(TINY.model_dump() | changes)


QWEN = vary(qk_norm=True, head_dim=16, tie_word_embeddings=False)
FAMILIES = {
    "llama": TINY,
    "llama-bias": vary(attention_bias=True),
    "llama-no-groups": vary(num_key_value_heads=4),
    "qwen2": vary(attention_bias="qkv"),
    "qwen3": QWEN,
    "mistral": vary(sliding_window=5),
    "qwen3-window": vary(qk_norm=True, sliding_window=5, layer_types=("full_attention", "sliding_attention")),
    "mixtral": vary(num_experts=4),
    "qwen2-moe": vary(num_experts=6, attention_bias="qkv", moe_intermediate_size=24, shared_expert_intermediate_size=40,
                      norm_topk_prob=False),
    "qwen3-moe": vary(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, qk_norm=True, mlp_only_layers=(0,)),
}  # fmt: skip
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "ntk": {"rope_type": "ntk", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 4.0},
}


def make(config: Config, seed: int = 0) -> CausalLM:
    model = CausalLM(config)
    initialise(model, seed)
    with torch.no_grad():  # norms away from 1 and matrices large enough that a mistake shows
        for index, parameter in enumerate(model.parameters()):
            generator = torch.Generator().manual_seed(seed + index)
            if parameter.ndim < 2:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
            else:
                parameter.mul_(5)
    return model.eval()


def twin(model: CausalLM) -> Any:
    """The Hugging Face model with the same weights: in memory the names are the same."""
    table = to_hf_config(model.config, end_id=0)
    kind = table.pop("model_type")
    other = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **table), attn_implementation="eager")
    other.load_state_dict(model.state_dict())
    return other.eval()


def ids(rows: int = 2, length: int = 17, seed: int = 1) -> Tensor:
    return torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_norm_equals_llama() -> None:
    ours, theirs = RMSNorm(32, 1e-5), hf.LlamaRMSNorm(32, 1e-5)
    with torch.no_grad():
        ours.weight.copy_(torch.linspace(0.5, 2, 32))
        theirs.weight.copy_(ours.weight)
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0)) * 10
    assert (ours(x) - theirs(x)).abs().max() < PART


def test_rotary_equals_llama() -> None:
    other = twin(make(TINY))
    positions = torch.tensor([[0, 1, 2, 0, 1, 60, 63]])
    q = torch.randn(1, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    cos, sin = other.model.rotary_emb(q, positions)
    expected, _ = hf.apply_rotary_pos_emb(q, q, cos, sin)
    frequencies = inverse_frequencies(TINY, 64, torch.device("cpu"))
    assert (rotate(q, *rotary(positions, frequencies)) - expected).abs().max() < PART


@pytest.mark.parametrize("config", [TINY, QWEN], ids=["llama", "qwen3"])
def test_attention_and_block_equal_theirs(config: Config) -> None:
    model = make(config)
    other = twin(model)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9)[None]
    angles = rotary(positions, inverse_frequencies(config, 9, torch.device("cpu")))
    context = Context(Sight(positions[0], positions[0]), angles, None, None, "sdpa")
    mask = torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), float("-inf"))[None, None]
    theirs = {"position_embeddings": other.model.rotary_emb(x, positions), "attention_mask": mask}
    layer, other_layer = model.model.layers[0], other.model.layers[0]
    attended = other_layer.self_attn(x, **theirs)[0]
    assert (layer.self_attn(x, context, None) - attended).abs().max() < PART
    block = other_layer(x, position_ids=positions, **theirs)
    assert (layer(x, context, None)[0] - block).abs().max() < PART * 10


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(FAMILIES))
def test_logits_equal_theirs(name: str, attention: str) -> None:
    model = make(FAMILIES[name].model_copy(update={"attention": attention}))
    with torch.no_grad():
        ours, theirs = model(ids()), twin(model)(ids()).logits
    assert theirs.abs().max() > 0.5  # not a comparison of zeros
    assert (ours - theirs).abs().max() < LOGITS


@pytest.mark.parametrize("length", [16, 64], ids=["1x", "4x"])
@pytest.mark.parametrize("name", list(SCALINGS))
def test_stretched_positions_give_their_logits(name: str, length: int) -> None:
    """Trained at 16 tokens, 64 in all: at the trained length and at four times that."""
    model = make(vary(rope_scaling=SCALINGS[name], max_position_embeddings=64))
    assert model.config.original_length == 16
    x = ids(length=length)
    with torch.no_grad():
        ours, theirs = model(x), twin(model)(x).logits
        unscaled = make(TINY)(x)
    assert (ours - theirs).abs().max() < LOGITS
    if name != "dynamic" or length > 16:  # which is plain up to the trained length
        assert (ours - unscaled).abs().max() > 100 * LOGITS


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen2-moe"])
def test_gradients_equal_theirs(name: str) -> None:
    model = make(FAMILIES[name])
    other = twin(model)
    x, y = ids(seed=1), ids(seed=2)
    model.loss_sum(x, y, None, None).backward()
    torch.nn.functional.cross_entropy(other(x).logits.flatten(0, 1), y.flatten(), reduction="sum").backward()
    theirs_named = dict(other.named_parameters())
    for name, ours in model.named_parameters():
        theirs = theirs_named.pop(name)
        assert ours.grad is not None and theirs.grad is not None
        assert (ours.grad - theirs.grad).abs().max() < 1e-3 * (1 + theirs.grad.abs().max()), name
    assert not theirs_named


def test_packed_positions_equal_theirs() -> None:
    """Hugging Face isolates documents by restarted position_ids too; both must give the logits of separate passes."""
    model = make(TINY)
    x = ids(1, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3]])
    documents = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]])
    with torch.no_grad():
        packed = model(x, positions, documents)
        separate = torch.cat([model(x[:, :5]), model(x[:, 5:8]), model(x[:, 8:])], dim=1)
        theirs = twin(model)(x, position_ids=positions, use_cache=False).logits
    assert (packed - separate).abs().max() < LOGITS
    assert (packed - theirs).abs().max() < LOGITS


@pytest.mark.parametrize("config", [TINY, QWEN], ids=["llama", "qwen3"])  # every combination: tests/infer/test_cache.py
@pytest.mark.parametrize("cuts", [[1] * 17, [5, 1, 1, 10], [17], [1, 16]], ids=["ones", "mixed", "whole", "first"])
def test_cached_logits_equal_uncached(config: Config, cuts: list[int]) -> None:
    model = make(config)
    x = ids()
    cache = KVCache(config, rows=2, capacity=20, device=torch.device("cpu"))
    with torch.no_grad():
        expected = model(x)
        parts = [model(part, cache=cache) for part in x.split(cuts, dim=1)]
    assert cache.length == 17
    assert (torch.cat(parts, dim=1) - expected).abs().max() < LOGITS


def test_padding_on_the_left_changes_nothing() -> None:
    for config in (TINY, vary(position="alibi"), vary(sliding_window=5), vary(rope_scaling=SCALINGS["dynamic"])):
        model = make(config)
        x = ids(1, 12)
        padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), x], dim=1)
        with torch.no_grad():
            ours = model(padded, padding_B=torch.tensor([5]), reach=17)[:, 5:]
            assert (ours - model(x, reach=17)).abs().max() < LOGITS


def test_shifted_attention_is_for_training_alone() -> None:
    """In training each layer attends in shifted groups; afterwards the same weights attend in full, as if it were not there."""
    model, whole = make(vary(shifted_attention=4)), make(TINY)
    x = ids(2, 16)
    with torch.no_grad():
        assert torch.equal(model(x), whole(x))
        model.train()
        shifted = model(x)
        assert (shifted[:, :2] - whole(x)[:, :2]).abs().max() < LOGITS  # the first tokens see all there is
        assert (shifted - whole(x)).abs().max() > 0.01
        assert (model(x[:, :4]) - whole(x[:, :4])).abs().max() < LOGITS  # one group is the whole row
    q, k, v = (torch.randn(1, 4, 8, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    places = torch.arange(8)
    ours = shifted_attention(q, k, v, Sight(places, places), Kind("sdpa"), 4)
    changed = shifted_attention(
        q, torch.cat([k[:, :, :4], k[:, :, 4:] * 9], 2), v, Sight(places, places), Kind("sdpa"), 4
    )
    assert (ours - changed)[
        :, :, :4
    ].abs().max() < PART  # nobody sees what comes later, not even around the end of the row
    assert (ours - plain_attention(q, k, v, None, 0.0)).abs().max() > 0.01


def test_clex_learns_and_starts_from_plain_positions() -> None:
    model = make(vary(rope_scaling={"rope_type": "clex", "factor": 4.0}))
    with torch.no_grad():
        model.model.frequencies.down_proj.zero_()
        assert (model(ids(2, 16)) - make(TINY)(ids(2, 16))).abs().max() < LOGITS  # within the trained length
        assert (model(ids(2, 40)) - make(TINY)(ids(2, 40))).abs().max() > 100 * LOGITS
    model.train()
    torch.manual_seed(0)
    model.loss_sum(ids(), ids(seed=2), None, None).backward()
    gradient = model.model.frequencies.down_proj.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_experts_cost_what_their_losses_say() -> None:
    """The auxiliary loss is in what is trained on, times the labels that count, and not in what is measured."""
    model = make(vary(num_experts=4, router_aux_loss_coef=0.1, router_z_loss_coef=0.01))
    labels = ids(seed=2)
    labels[0, :7] = IGNORE
    losses = model.losses(ids(), labels, None, None)
    assert losses.cross_entropy.item() == model.loss_sum(ids(), labels, None, None).item()
    assert losses.auxiliary.item() > 0.1 * (labels != IGNORE).sum()  # 1 is perfect balance
    assert losses.expert_use_LE is not None and losses.expert_use_LE.sum(dim=1).tolist() == [2 * 17 * 2] * 2
    losses.auxiliary.backward()
    gate = model.model.layers[0].mlp.gate.weight.grad
    assert gate is not None and gate.abs().max() > 0
    dense = make(TINY).losses(ids(), labels, None, None)
    assert dense.auxiliary.item() == 0 and dense.expert_use_LE is None


def test_loss_by_hand_ignores_padding() -> None:
    """With all weights zero every token has probability 1/97: three counted labels cost 3 ln 97."""
    model = CausalLM(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    labels = torch.tensor([[1, 2, IGNORE, 3]])
    loss = model.loss_sum(torch.zeros(1, 4, dtype=torch.long), labels, None, None)
    assert float(loss.detach()) == pytest.approx(3 * 4.574710978503383, rel=1e-6)


def test_z_loss_by_hand() -> None:
    """Two logits, 0 and ln 3: logsumexp is ln 4. Two labels that count cost 2 x 0.1 x (ln 4)^2, whatever they are."""
    logits = torch.tensor([[0.0, 1.0986122886681098]]).repeat(3, 1).requires_grad_()
    labels = torch.tensor([0, IGNORE, 1])
    cross_entropy, z_loss = with_z_loss(logits, labels, 0.1)
    assert cross_entropy.item() == pytest.approx(1.3862943611 + 0.2876820724, rel=1e-6)
    assert z_loss.item() == pytest.approx(0.2 * 1.3862943611198906**2, rel=1e-6)
    z_loss.backward()  # of weight x logsumexp^2: 2 x weight x logsumexp x softmax, here x (1/4, 3/4)
    assert logits.grad is not None
    slope = 0.2 * 1.3862943611198906
    assert logits.grad.tolist() == [
        pytest.approx(row, abs=1e-7) for row in ([slope / 4, slope * 3 / 4], [0, 0], [slope / 4, slope * 3 / 4])
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_z_loss_equals_its_plain_twin(dtype: torch.dtype) -> None:
    """Taken from the cross-entropy, it is still logsumexp in float32: large logits in half precision too, which exp overflows."""
    numbers = (torch.randn(20, 97, generator=torch.Generator().manual_seed(0)) * 40).to(dtype)
    labels = ids(1, 20)[0]
    labels[3] = IGNORE
    assert numbers.half().exp().isinf().any()
    ours, theirs = (numbers.clone().requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        cross_entropy, z_loss = with_z_loss(ours, labels, 1e-3)
    twin_loss = torch.nn.functional.cross_entropy(theirs.float(), labels, ignore_index=IGNORE, reduction="sum")
    twin_z = 1e-3 * (theirs.float().logsumexp(dim=-1).square() * (labels != IGNORE)).sum()
    assert cross_entropy.item() == pytest.approx(twin_loss.item(), rel=1e-6)
    assert z_loss.item() == pytest.approx(twin_z.item(), rel=1e-6)
    (cross_entropy + z_loss).backward()
    (twin_loss + twin_z).backward()
    assert ours.grad is not None and theirs.grad is not None
    assert ours.grad.dtype == dtype
    assert (ours.grad - theirs.grad).abs().max() < (1e-6 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4, "router_aux_loss_coef": 0.1}], ids=["dense", "experts"])
def test_z_loss_is_trained_on_and_not_measured(changes: dict[str, Any]) -> None:
    model, labels = make(vary(**changes)).train(), ids(seed=2)
    labels[1, :5] = IGNORE
    without = model.losses(ids(), labels, None, None)
    model.z_loss = 0.01
    found = model.losses(ids(), labels, None, None)
    assert found.cross_entropy.item() == pytest.approx(without.cross_entropy.item(), rel=1e-6)
    squares = model(ids()).logsumexp(dim=-1).square()[labels != IGNORE].sum().item()
    assert found.auxiliary.item() - without.auxiliary.item() == pytest.approx(0.01 * squares, rel=1e-4)
    assert found.expert_use_LE is None or found.expert_use_LE.equal(without.expert_use_LE)
    gradients = [
        torch.autograd.grad(one.cross_entropy + one.auxiliary, model.lm_head.weight)[0] for one in (without, found)
    ]
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3
    assert model.eval().losses(ids(), labels, None, None).auxiliary.item() == pytest.approx(
        without.auxiliary.item(), rel=1e-6
    )


def test_initialisation_is_seeded_and_scaled() -> None:
    one, same, other = CausalLM(TINY), CausalLM(TINY), CausalLM(TINY)
    initialise(one, 3)
    initialise(same, 3)
    initialise(other, 4)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.model.embed_tokens.weight, other.model.embed_tokens.weight)
    assert float(one.model.embed_tokens.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(one.model.layers[0].mlp.down_proj.weight.detach().std()) == pytest.approx(
        0.02 / 2, rel=0.1
    )  # sqrt(2 x 2 layers)
    assert one.model.norm.weight.tolist() == [1.0] * 32


def test_dropout_only_while_training() -> None:
    model = make(TINY.model_copy(update={"attention_dropout": 0.5}))
    with torch.no_grad():
        assert torch.equal(model(ids()), model(ids()))
        model.train()
        assert not torch.equal(model(ids()), model(ids()))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.parametrize("changes", [{}, {"num_experts": 4}, {"position": "alibi", "shifted_attention": None}], ids=str)
def test_training_compiles_as_one_graph(changes: dict[str, Any]) -> None:
    model = make(vary(**changes)).train()
    model.model.kernel("cpu", False)  # settled before, as the engine does
    x = ids(2, 16)
    documents = torch.arange(16)[None].expand(2, -1) // 6
    compiled = torch.compile(model.losses, fullgraph=True, backend="aot_eager")
    ours, theirs = (one(x, ids(2, 16, 5), torch.arange(16)[None] % 6, documents) for one in (compiled, model.losses))
    assert ours.cross_entropy.item() == pytest.approx(theirs.cross_entropy.item(), rel=1e-6)
    (ours.cross_entropy + ours.auxiliary).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_noise_on_embeddings_is_neftunes() -> None:
    """Uniform, at most alpha / sqrt(length x C), the length that of each token's document."""
    from jielong.model.transformer import with_noise

    torch.manual_seed(1)
    zeros = torch.zeros(1, 12, 64)
    documents = torch.tensor([[0] * 8 + [1] * 4])
    noise = with_noise(zeros, documents, 5.0)
    for place, length in ((slice(0, 8), 8), (slice(8, 12), 4)):
        bound = 5.0 / (length * 64) ** 0.5
        assert noise[0, place].abs().max() <= bound and noise[0, place].abs().max() > 0.9 * bound
        assert abs(float(noise[0, place].mean())) < 0.2 * bound
    whole = with_noise(zeros, None, 5.0)
    assert whole.abs().max() <= 5.0 / (12 * 64) ** 0.5


def test_noise_is_for_training_alone() -> None:
    model = make(vary(attention_bias=True))
    plain = model(ids())
    model.model.noise = 5.0
    assert torch.equal(model(ids()), plain)
    model.train()
    assert not torch.equal(model(ids()), plain)
