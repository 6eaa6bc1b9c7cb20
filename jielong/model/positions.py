"""Where a token stands: rotary frequencies and the ways to stretch them, ALiBi, and CLEX, whose stretch is learned.

Shapes, as suffixes: B rows, T queries, S keys, H query heads, D size of a head, d = D/2 frequencies of a head.

RoPE (arXiv:2104.09864) turns pair i of a query and of a key by position x f_i, f_i = theta^(-2i/D), so that their
product depends on the distance alone. Beyond the trained length L the slow pairs meet angles that they have never seen.
Each scaling is another list of d frequencies; nothing else in the model knows of it:

    linear    f / factor (PI, arXiv:2306.15595): every pair alike, near tokens come closer together too
    ntk       theta x factor^(D/(D-2)): the fastest pair stays, the slowest is divided by factor. Hugging Face has no
              name for it and needs none: it is plain rope with the base of `ntk_theta`
    dynamic   ntk with a factor that grows with the length of the pass; up to L plain rope
    yarn      by the turns that a pair makes within L: many, kept; less than one, divided; between, a ramp. cos and sin
              are multiplied by a temperature (arXiv:2309.00071)
    llama3    the same thought, the ramp over wavelengths and no temperature (Llama 3.1's model code)
    clex      d log f / dt learned, over the scaling t = length / L (arXiv:2310.16450): `ContinuousFrequencies`

Operations and their order are those of transformers' `modeling_rope_utils`: at position 100,000 one float32 rounding of
a frequency is 0.006 rad, so that "the same formula" in another order is no longer the same logits. dynamic and clex
depend on the length of the pass, and a key that was rotated for a shorter one is wrong for a longer one
(`depends_on_length`): a cache settles the length when it is made, or keeps such keys unrotated. transformers does
neither, so that its cached logits differ from its uncached ones; ours are equal to its uncached ones of the same
length.

All of it is float32 (bfloat16 can not tell position 257 from 258) and costs T x d sines a pass, nothing beside one
projection. There are no buffers: transformers 5 does not restore the ones that a checkpoint does not hold. Nothing here
waits for a device: a length may be a tensor and is never read.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jielong.model.config import Config, RopeScaling

STEPS = 8  # of the Runge-Kutta method; `ContinuousFrequencies` has the measured error


# ------------------------------------------------------------------------------------------------------- rotary


def ntk_theta(config: Config) -> float:
    """The base with which plain rope equals `ntk` scaling: theta x factor^(D/(D-2)); rope_theta for all other types.

    The exponent is chosen so that the slowest pair, theta^(-(D-2)/D), is divided by exactly `factor`.
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type != "ntk":
        return config.rope_theta
    return float(config.rope_theta * _factor(scaling) ** _stretch_power(config))


def inverse_frequencies(config: Config, length: Tensor | int, device: torch.device) -> Tensor:
    """Radians that each pair turns per position, (d,) float32.

    length: highest position of the pass + 1, tokens, an int or a 0-dimensional tensor on `device`; only `dynamic` reads
    it. clex is not here: its frequencies are parameters (`ContinuousFrequencies`).
    """
    scaling = config.rope_scaling
    kind = scaling.rope_type if scaling is not None else "default"
    assert kind != "clex", "ContinuousFrequencies computes the frequencies of clex"
    if scaling is None or kind == "ntk":
        return _plain(config, ntk_theta(config), device)
    if kind == "dynamic":
        return _plain(config, _dynamic_theta(config, scaling, length), device)
    plain_d = _plain(config, config.rope_theta, device)
    if kind == "linear":
        return plain_d / _factor(scaling)
    if kind == "yarn":
        return _yarn(config, scaling, device)
    assert kind == "llama3", kind
    return _llama3(plain_d, scaling, config.original_length)


def attention_factor(config: Config) -> float:
    """What cos and sin are multiplied by, so that scores are multiplied by its square: 1 but for yarn.

    yarn: `attention_factor` where it is given; with both of DeepSeek's fields m(mscale) / m(mscale_all_dim); else m(1);
    m(s) = 0.1 s ln(factor) + 1 (arXiv:2309.00071, section 3.4).
    """
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    logarithm = math.log(_factor(scaling))
    if scaling.mscale and scaling.mscale_all_dim:
        return (0.1 * scaling.mscale * logarithm + 1.0) / (0.1 * scaling.mscale_all_dim * logarithm + 1.0)
    return 0.1 * logarithm + 1.0


def depends_on_length(config: Config) -> bool:
    """Whether the frequencies change with the length of the pass, so that keys of one pass do not fit another's."""
    return config.rope_scaling is not None and config.rope_scaling.rope_type in ("dynamic", "clex")


def rotary(positions_BT: Tensor, inverse_d: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of the rotary angles times factor, float32, each (B, 1, T, D): the d angles twice, as HF has them.

    positions_BT: integers, or floats (`stretched_positions`). inverse_d: (d,), radians per position.
    """
    angles_BTd = positions_BT[..., None].float() * inverse_d.float()
    angles_B1TD = torch.cat((angles_BTd, angles_BTd), dim=-1)[:, None]
    return angles_B1TD.cos() * factor, angles_B1TD.sin() * factor


def rotate(x_BHTD: Tensor, cos_B1TD: Tensor, sin_B1TD: Tensor) -> Tensor:
    """Turn each pair (x[d], x[d + D/2]) by its angle; float32, as the angles are."""
    first, second = x_BHTD.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BHTD * cos_B1TD + turned * sin_B1TD


def _factor(scaling: RopeScaling) -> float:
    assert scaling.factor is not None, "the config asks for it"
    return scaling.factor


def _stretch_power(config: Config) -> float:
    size = config.size_of_head
    return size / (size - 2)


def _exponents(config: Config, device: torch.device) -> Tensor:
    """2i/D, (d,) float32."""
    return torch.arange(0, config.size_of_head, 2, device=device, dtype=torch.float32) / config.size_of_head


def _plain(config: Config, theta: Tensor | float, device: torch.device) -> Tensor:
    frequencies_d: Tensor = 1.0 / theta ** _exponents(config, device)
    return frequencies_d


def _dynamic_theta(config: Config, scaling: RopeScaling, length: Tensor | int) -> Tensor | float:
    """ntk's base for the factor (factor x length / L) - (factor - 1): 1 at L, growing linearly."""
    factor, original = _factor(scaling), config.original_length
    if isinstance(length, Tensor):
        length = length.clamp(min=original)
    else:
        length = max(length, original)
    stretch: Tensor | float = factor * length / original - (factor - 1)
    theta: Tensor | float = config.rope_theta * stretch ** _stretch_power(config)
    return theta


def _yarn(config: Config, scaling: RopeScaling, device: torch.device) -> Tensor:
    """Pairs before `low` are kept, pairs after `high` are divided by factor (arXiv:2309.00071, section 3.2)."""
    size, theta, original = config.size_of_head, config.rope_theta, config.original_length

    def pair_of(turns: float) -> float:
        """The (fractional) pair that makes so many turns within the trained length: L f_i / 2 pi = turns, for i."""
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_of(scaling.beta_fast), pair_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low if high != low else 0.001  # no ramp: a step
    periods_d = theta ** _exponents(config, device)  # in units of 2 pi positions
    pairs_d = torch.arange(size // 2, device=device, dtype=torch.float32)
    kept_d = 1 - ((pairs_d - low) / width).clamp(0, 1)
    return 1.0 / (_factor(scaling) * periods_d) * (1 - kept_d) + 1.0 / periods_d * kept_d


def _llama3(plain_d: Tensor, scaling: RopeScaling, original: int) -> Tensor:
    """Waves longer than L / low_freq_factor are divided by factor, those shorter than L / high_freq_factor are kept."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    waves_d = 2 * math.pi / plain_d  # positions a turn
    divided_d = plain_d / _factor(scaling)
    kept_d = (original / waves_d - low) / (high - low)
    ramp_d = (1 - kept_d) * divided_d + kept_d * plain_d
    rest_d = torch.where(waves_d < original / high, plain_d, ramp_d)
    return torch.where(waves_d > original / low, divided_d, rest_d)


# ------------------------------------------------------------------------------------------------------- ALiBi


def alibi_slopes(heads: int, device: torch.device) -> Tensor:
    """How much a score falls per token of distance, one slope a head, (H,) float32 (arXiv:2108.12409, section 3).

    A power of two: 2^(-8/H), 2^(-16/H), ..., 2^-8. Else those of the power of two below, and for the heads that are
    left every second one of those of the power of two above (the authors' code).
    """
    power = 2 ** (heads.bit_length() - 1)  # the largest that is not above heads
    head_H = torch.arange(heads, device=device, dtype=torch.float32)
    exponents_H = torch.where(head_H < power, (head_H + 1) / power, (2 * (head_H - power) + 1) / (2 * power))
    return torch.exp2(-8 * exponents_H)


def alibi_bias(query_index_T: Tensor, key_index_S: Tensor, slopes_H: Tensor) -> Tensor:
    """What is added to the scores: -slope x (query - key), (1, H, T, S) float32.

    The indices may be places in the row: within a document the distance is the same. Later keys get a positive bias;
    the causal mask hides them. Costs 4 H T S bytes, so a fused kernel computes it from the indices instead.
    """
    distance_TS = (query_index_T[:, None] - key_index_S[None, :]).float()
    return -slopes_H.float()[None, :, None, None] * distance_TS


# ------------------------------------------------------------------------------------------------------- CLEX


class ContinuousFrequencies(nn.Module):
    """Frequencies as a learned function of the scaling t >= 1 (CLEX, arXiv:2310.16450, section 3).

    Discrete scalings are points of one path through the frequencies; CLEX learns the path. In log-frequency, with
    network(z) = down_proj silu(up_proj z) and f_ntk(t) the frequencies of ntk with the factor alpha = 2t - 1:

        d log f / dt = network(log f) + d log f_ntk / dt,    f(1) = plain rope

    The second term has a known integral, so only the deviation w = log f - log f_ntk is integrated: dw/dt = network(log
    f_ntk(t) + w), w(1) = 0. This makes f exactly ntk while the network is zero, which it is at the start (down_proj =
    0), and exactly plain rope at t = 1 always. The integration runs over s = ln(2t - 1), in which log f_ntk is a
    straight line, by `STEPS` steps of the classical Runge-Kutta method, so gradients flow and the cost is fixed: 4 x
    STEPS evaluations of a network of one vector, 1.2 ms on one CPU core, 3.2 ms with the gradient (d = 32, W = 64).
    Where the learned path ends a factor e^1.2 from ntk, the relative error of f is 2e-6 at t = 4 and 2e-5 at t = 16
    (random networks).

    Against the authors' code: theirs also adds log f_ntk(t) to the network's input (here log f contains it already) and
    solves with steps of a fixed length, so that long contexts cost more.

    Parameters (d = D/2, W = hidden_multiple x d): up_proj (W, d), down_proj (d, W); 2 d W numbers for the whole model.
    A trained network may do what it likes: that f falls with t is ntk's property, not a constraint.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.rope_scaling is not None, "clex is a rope_scaling"
        self.config = config
        half = config.size_of_head // 2
        width = config.rope_scaling.hidden_multiple * half
        self.up_proj = nn.Parameter(torch.empty(width, half).normal_(0.0, config.initializer_range))
        self.down_proj = nn.Parameter(torch.zeros(half, width))

    def forward(self, stretch: Tensor | float) -> Tensor:
        """Inverse frequencies at the scaling t = stretch >= 1, float32 and differentiable.

        stretch: a number or a 0-dimensional tensor -> (d,); a tensor (N,) -> (N, d), a table of many t in one go.
        """
        device, up, down = self.up_proj.device, self.up_proj.float(), self.down_proj.float()
        if not isinstance(stretch, Tensor):  # full is a kernel, which a CUDA graph may hold; as_tensor is a copy
            stretch = torch.full((), float(stretch), device=device)
        end = (2 * stretch.to(device, torch.float32)[..., None] - 1).log()  # s = ln alpha runs from 0 to this
        plain_d = _plain(self.config, self.config.rope_theta, device)
        fall_d = _exponents(self.config, device) * _stretch_power(self.config)  # log f_ntk = log f - s x this
        start_d = plain_d.log()

        def change(s: Tensor, deviation_d: Tensor) -> Tensor:
            """dw/ds = network(log f) dt/ds; t = (e^s + 1) / 2."""
            log_d = start_d - s * fall_d + deviation_d
            return _matrix_times(down, F.silu(_matrix_times(up, log_d))) * (s.exp() / 2)

        step, deviation_d = end / STEPS, torch.zeros_like(end * start_d)
        for index in range(STEPS):
            s = step * index
            first = change(s, deviation_d)
            second = change(s + step / 2, deviation_d + first * (step / 2))
            third = change(s + step / 2, deviation_d + second * (step / 2))
            fourth = change(s + step, deviation_d + third * step)
            deviation_d = deviation_d + (first + 2 * second + 2 * third + fourth) * (step / 6)
        return plain_d * (deviation_d - end * fall_d).exp()

    def stretch_of(self, length: Tensor | int) -> Tensor:
        """The scaling for a pass of `length` tokens: ceil(length / trained length), from 1 to factor, float32, 0-dimensional.

        Whole numbers and a limit, as in the authors' code: the frequencies stay put while a text grows within one multiple, and the
        network, which saw no scaling beyond `factor`, is not asked for one.
        """
        assert self.config.rope_scaling is not None
        original, most = self.config.original_length, _factor(self.config.rope_scaling)
        if isinstance(length, Tensor):
            return ((length + original - 1) // original).clamp(1, most).float()
        return torch.full((), float(min(max(1, -(-length // original)), most)), device=self.up_proj.device)


def _matrix_times(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix @ vector over the last dimension, in float32: autocast would round a matrix product to bfloat16."""
    return (matrix * vector[..., None, :]).sum(dim=-1)


def stretched_positions(positions_BT: Tensor, stretch: Tensor | float) -> Tensor:
    """Training positions for clex at the scaling t: a short text spread over a t times longer one, (B, T) float32.

    p' = (p + u) t, u uniform in [0, 1) for each token, from torch's default generator (whose state checkpoints hold).
    The caller draws t uniformly from [1, factor] for each step, and so trains the frequencies of that t at all
    distances of a text of t x length tokens while it pays for length. The paper draws so many whole positions of t x
    length without replacement and sorts them; this is its stratified form: one draw in each interval of t positions, so
    order needs no sorting, and the documents of a packed row stay apart. Gaps are t on average, between 0 and 2t;
    positions stay below t x length. At t = 1 too the gaps vary, while evaluation has whole positions.

    Tried instead: p t + u (t - 1), which is exact at t = 1 and keeps gaps of at least 1, as the paper's whole positions
    do. On a toy (reverse up to 12 symbols, 2 layers, 1500 steps, one seed) both were 0.99 right within the trained
    length; at 1.5, 2 and 3 times of it this one was 0.46, 0.41 and 0.23 right, the one above 0.74, 0.69 and 0.42.
    """
    positions_BT = positions_BT.float()
    return (positions_BT + torch.rand_like(positions_BT)) * stretch
