"""The one place that decides how a model is driven: prompts in, logits out, then a token at a time.

`begin` lets the prompts through the model at once (left-padded to one length) and returns the logits after them and a
stepper, to which each row's next token is given and which returns the logits after it:

| stepper | for | a step |
|---|---|---|
| TorchStepper | everything | the model's own forward pass over a cache |
| CompiledDecoder | dense models, in integers too, CPU, keys and values of all tokens | one compiled call (jielong/infer/compiled/) |
| GraphStepper | CUDA, keys and values of all tokens | one replay of a captured graph (jielong/infer/graphs.py) |

All give the same logits, up to rounding; the first is the slow twin of the others. What stays outside of a step is the same
for all: sampling, stop ids, text.

Where frequencies depend on the length of the text (dynamic NTK, CLEX), they are those of the prompt and all the tokens that may
follow, from the first token on: a cache has exactly that capacity.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from jielong.errors import InputError
from jielong.infer import graphs
from jielong.infer.cache import HiddenCache, Kept, KVCache, RollingCache
from jielong.infer.config import Config, against_model
from jielong.infer.prefix import Prefix
from jielong.model.quantized.linear import QuantizedLinear
from jielong.model.transformer import CausalLM

if TYPE_CHECKING:
    from jielong.infer.compiled.decoder import CompiledDecoder

# the compiled step against torch's, 27 M weights, two threads: 4 ms against 13 with 1 row, 16 against 25 with 32, 63 against 73
# with 128
MOST_ROWS = 128
SPARE = "_spare_decoder"  # attribute of a model under which its compiled decoder waits for the next generation
FEWEST_TOKENS = 16  # below this, as for tiny models, reading the compiled step from disk takes longer than it saves
FEWEST_WEIGHTS = 1_000_000


class Stepper(Protocol):
    """What `begin` returns."""

    def step(self, tokens_B: Tensor) -> Tensor:
        """The next token of each row -> logits after it, (B, V). They are valid until the next step."""

    def keep(self, rows: Tensor) -> bool:
        """Row i becomes what row rows[i] was; there may be fewer or more. False: rows stay as they are."""

    def close(self) -> None:
        """Nothing more will be asked."""


class TorchStepper:
    """The model itself over any cache."""

    def __init__(self, model: CausalLM, cache: Kept, padding_B: Tensor | None) -> None:
        self.model, self.cache, self.padding_B = model, cache, padding_B

    def feed(self, ids_BT: Tensor) -> Tensor:
        """Logits after the last of these tokens, (B, V)."""
        return last_logits(self.model, ids_BT, self.cache, self.padding_B)

    def step(self, tokens_B: Tensor) -> Tensor:
        """The next token of each row -> logits (B, V)."""
        return self.feed(tokens_B[:, None])

    def keep(self, rows: Tensor) -> bool:
        """Row i becomes what row rows[i] was."""
        same = len(rows) == self._rows()
        if same and torch.equal(rows, torch.arange(len(rows), device=rows.device)):
            return True
        if same:
            self.cache.reorder(rows)
        else:
            self.cache.keep(rows)
        if self.padding_B is not None:
            self.padding_B = self.padding_B[rows]
        return True

    def _rows(self) -> int:
        store = self.cache.inputs if isinstance(self.cache, HiddenCache) else self.cache.keys
        return store.shape[1]

    def close(self) -> None:
        """Nothing to do."""


def last_logits(model: CausalLM, ids_BT: Tensor, cache: Kept, padding_B: Tensor | None) -> Tensor:
    """Logits (B, V) after the last token only: the others' are not needed, and V is the widest dimension there is."""
    hidden_BTC, _ = model.model(ids_BT, cache=cache, padding_B=padding_B)
    logits_BV: Tensor = model.lm_head(hidden_BTC[:, -1])
    return logits_BV


def padded(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts as one tensor (B, T), filled up on the left with id 0, and how much of each row is filling (None: of none)."""
    width = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts], device=device)
    if all(len(ids) == width for ids in prompts):
        return ids_BT, None
    return ids_BT, torch.tensor([width - len(ids) for ids in prompts], device=device)


class RememberingStepper:
    """Steps of one text over a cache that outlives them: each token that went through is told to a prefix."""

    def __init__(self, inner: Stepper, prefix: Prefix) -> None:
        self.inner, self.prefix = inner, prefix

    def step(self, tokens_B: Tensor) -> Tensor:
        """The next token -> logits (1, V)."""
        logits_BV = self.inner.step(tokens_B)
        self.prefix.ids.append(int(tokens_B))
        return logits_BV

    def keep(self, rows: Tensor) -> bool:
        """The text stays as it is."""
        return False

    def close(self) -> None:
        """Nothing more will be asked."""
        self.inner.close()


@torch.no_grad()
def begin(
    model: CausalLM, prompts: list[list[int]], count: int, config: Config, prefix: Prefix | None = None
) -> tuple[Tensor, Stepper]:
    """Let the prompts through the model: logits after them (B, V), and a stepper for up to `count` more tokens a row.

    prefix: of a single prompt, what the model knows of the text before it; only the rest goes through, and the prefix becomes
    this text. Unused where the cache is not one of keys and values, and with CUDA graphs, whose memory is their own.
    Raises InputError for a cache that does not go with the model, and for several prompts over a rolling cache.
    """
    if problems := against_model(config, model.config):
        raise InputError(f"infer.{problems[0]}")
    assert prompts and all(prompts), "an empty prompt begins with the start token"
    weight = model.model.embed_tokens.weight
    device, kind = weight.device, weight.dtype
    ids_BT, padding_B = padded(prompts, device)
    rows, width = ids_BT.shape
    # EL-attention reads the weights of key and value layers, and there is an adapter beside them, or the layers round their input
    more = model.adapted or any(getattr(module, "rounded", False) for module in model.modules())
    name = "kv" if more and config.cache == "hidden" else config.cache
    if name == "rolling":
        if rows > 1:
            raise InputError(
                f"infer.cache: a rolling one holds one text, got {rows} prompts together; use batch_size 1"
            )
        rolling = RollingCache(
            model.config, 1, config.cache_tokens or model.config.max_position_embeddings, device, kind
        )
        stepper = TorchStepper(model, rolling, None)
        logits_BV = stepper.feed(ids_BT[:, : rolling.capacity])
        for column in range(rolling.capacity, width):  # each lets the oldest go, so they come one at a time
            logits_BV = stepper.feed(ids_BT[:, column : column + 1])
        return logits_BV, stepper
    if name == "kv" and graphs.reason_against(model, config, rows, count) is None:
        graph = graphs.take(model, rows, width + count)
        return graph.begin(ids_BT, padding_B), graph
    known = 0  # tokens of the prompt that went through before
    cache: Kept
    if name == "kv" and prefix is not None:
        assert rows == 1
        cache, known = prefix.take(model, prompts[0], width + count)
    else:
        cache = (HiddenCache if name == "hidden" else KVCache)(model.config, rows, width + count, device, kind)
    plain = TorchStepper(model, cache, padding_B)
    logits_BV = plain.feed(ids_BT[:, known:])
    chosen: Stepper = plain
    there = True  # whether steps write into this cache
    if isinstance(cache, KVCache) and compiled_against(model, config, rows, count) is None:
        chosen = decoder = _compiled(model, cache, padding_B)
        there = decoder.keys is cache.keys
    if name != "kv" or prefix is None:
        return logits_BV, chosen
    prefix.ids = list(prompts[0])
    return logits_BV, RememberingStepper(chosen, prefix) if there else chosen


def _compiled(model: CausalLM, cache: KVCache, padding_B: Tensor | None) -> CompiledDecoder:
    """The compiled step over what the prompts left in a cache."""
    from jielong.infer.compiled.decoder import CompiledDecoder

    if _is_frozen(model):
        weights = chain(model.parameters(), model.buffers())  # integers are buffers
        state = [(weight.data_ptr(), weight._version) for weight in weights]  # another one, other weights
        before, decoder = model.__dict__.pop(SPARE, (None, None))
        if before != state:
            decoder = CompiledDecoder(model, 1, 1, frozen=True)
        assert isinstance(decoder, CompiledDecoder)
        decoder.when_closed = lambda: model.__dict__.__setitem__(SPARE, (state, decoder))
    else:
        decoder = CompiledDecoder(model, cache.keys.shape[1], cache.capacity, cache.keys, cache.values)
    decoder.load_cache(cache.keys, cache.values, cache.length, padding_B)
    return decoder


def _is_frozen(model: CausalLM) -> bool:
    """Whether the compiled step may keep weights of its own: 16 bits on disk, 32 in memory, and not in training.

    Half of the memory is read at every step then. To find out whether 16 bits lose nothing costs a pass over the weights, so
    the decoder stays with its model between generations, in `SPARE`.
    """
    weight = model.model.embed_tokens.weight
    return model.stored_dtype.itemsize == 2 and weight.dtype == torch.float32 and not weight.requires_grad


def compiled_against(model: CausalLM, config: Config, rows: int, count: int) -> str | None:
    """Why the compiled step cannot or should not be taken; None: it can. rows: prompts together; count: tokens to come."""
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cpu":
        return "it is for the cpu"
    if model.adapted:
        return "it reads weights, and there is an adapter beside them"
    if model.config.attention == "eager":
        return "plain arithmetic is asked for"
    if rows * config.num_beams > MOST_ROWS:
        return f"torch is as fast with {rows * config.num_beams} rows"
    if count < FEWEST_TOKENS:
        return f"not worth it for {count} tokens"
    if _count_weights(model) < FEWEST_WEIGHTS:
        return "not worth it for a tiny model"
    from jielong.infer.compiled.decoder import CompiledDecoder

    return CompiledDecoder.reason_against(model)


def _count_weights(model: CausalLM) -> int:
    """Parameters, and weights that are integers."""
    dense = sum(parameter.numel() for parameter in model.parameters())
    integers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    return dense + sum(layer.out_features * layer.in_features for layer in integers)
