"""CUDA graphs: one decoding step recorded once and replayed for every token.

A step of a small model is some two hundred kernels of a few microseconds each, and launching one from Python takes longer
than running it. A recorded step is launched as a whole. What a recording needs: the same shapes and the same memory every
time, and nothing that the host waits for. So the cache is static (`KVCache`, all `capacity` keys are read and those beyond
the text are masked, the place to write is a tensor that the recording itself moves on), the token ids and the padding are
tensors that are written before a replay, and sampling stays outside, where each row has a generator of its own.

The prompt goes through the same memory unrecorded, in the ordinary form, which needs no mask. Before recording, the step runs a
few times on a side stream, because libraries set themselves up at their first call; these runs write at the last place of the
cache, which is masked until a real token comes there.

A recording is kept with its model for the next prompt (`take`, `close`) while the model's weights need no gradient, stay
where they are and the cache is large enough: recording costs about as much as a hundred replays (assumption). A model that is
being trained gets a new one each time, so that training has its memory back.

Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from jielong.infer.cache import KVCache
from jielong.infer.config import Config
from jielong.model.experts import GATHERED_ROWS, fused_is_faster
from jielong.model.positions import depends_on_length
from jielong.model.transformer import CausalLM

WARM_UP = 3  # runs before recording, as in PyTorch's notes
FEWEST = 16  # tokens for which a step is worth recording; assumption
GRAIN = 256  # capacities are rounded up to a multiple of this, so that the next prompt finds room

_kept: weakref.WeakKeyDictionary[CausalLM, GraphStepper] = weakref.WeakKeyDictionary()


def reason_against(model: CausalLM, config: Config, rows: int, count: int) -> str | None:
    """Why a step cannot or should not be recorded; None: it can. rows: prompts together; count: tokens to come."""
    weight = model.model.embed_tokens.weight
    if weight.device.type != "cuda":
        return f"no graphs on {weight.device.type}"
    if model.adapted:
        return "it is being trained"
    if config.num_beams > 1:
        return "beams change places"
    if config.cache != "kv":
        return f"a {config.cache} cache changes its shape"
    if count < FEWEST:
        return f"not worth it for {count} tokens"
    if model.config.num_experts is not None:
        row_1C = torch.empty(1, model.config.hidden_size, device=weight.device, dtype=weight.dtype)
        few = rows * model.config.num_experts_per_tok <= GATHERED_ROWS
        if not few and not fused_is_faster(row_1C, model.config.expert_size):
            return "the host waits for the experts of so many rows"
    return None


@torch.no_grad()
def static_step(model: CausalLM, ids_B1: Tensor, cache: KVCache, padding_B: Tensor | None) -> Tensor:
    """What is recorded: one token a row -> logits (B, V). No shape depends on how long the text is, no value is read."""
    assert cache.static
    hidden_B1C, _ = model.model(ids_B1, cache=cache, padding_B=padding_B)
    logits_BV: Tensor = model.lm_head(hidden_B1C[:, -1])
    return logits_BV


class GraphStepper:
    """Steps of a fixed number of rows. recorded = False runs the same step unrecorded, on any device: the slow twin."""

    def __init__(self, model: CausalLM, rows: int, capacity: int, recorded: bool = True) -> None:
        weight = model.model.embed_tokens.weight
        self.rows, self.recorded = rows, recorded
        self.cache = KVCache(model.config, rows, capacity, weight.device, weight.dtype, static=True)
        self.ids_B1 = torch.zeros(rows, 1, dtype=torch.long, device=weight.device)
        self.padding_B = torch.zeros(rows, dtype=torch.long, device=weight.device) if rows > 1 else None
        self.weights = _places(model)
        self._model = weakref.ref(model)  # a kept recording does not keep its model
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits_BV: Tensor | None = None

    @torch.no_grad()
    def begin(self, ids_BT: Tensor, padding_B: Tensor | None) -> Tensor:
        """A new text: its prompts, left-padded. Returns the logits after them, (B, V)."""
        model = self._model()
        assert model is not None and ids_BT.shape[1] < self.cache.capacity
        self.cache.hold(0, static=False)
        hidden_BTC, _ = model.model(ids_BT, cache=self.cache, padding_B=padding_B)
        self.cache.hold(ids_BT.shape[1], static=True)
        if self.padding_B is not None:
            self.padding_B.copy_(torch.zeros_like(self.padding_B) if padding_B is None else padding_B)
        logits_BV: Tensor = model.lm_head(hidden_BTC[:, -1])
        return logits_BV

    def step(self, tokens_B: Tensor) -> Tensor:
        """The next token of each row -> logits (B, V), in memory that the next step overwrites."""
        assert self.cache.length < self.cache.capacity, "the cache is full"
        self.ids_B1.copy_(tokens_B[:, None])
        if not self.recorded:
            return self._run()
        if self._graph is None:
            self._record()
        assert self._graph is not None and self._logits_BV is not None
        self._graph.replay()
        self.cache.length += 1
        return self._logits_BV

    def _run(self) -> Tensor:
        model = self._model()
        assert model is not None
        return static_step(model, self.ids_B1, self.cache, self.padding_B)

    def _record(self) -> None:
        length, last = self.cache.length, self.cache.capacity - 1
        with torch.cuda.device(self.ids_B1.device):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's has no types
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.cache.hold(last, static=True)
                    self._run()
            torch.cuda.current_stream().wait_stream(side)
            self.cache.hold(length, static=True)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._logits_BV = self._run()
            self.cache.hold(length, static=True)  # recording moved on the number, but ran nothing

    def keep(self, rows: Tensor) -> bool:
        """Rows stay as they are."""
        return False

    def close(self) -> None:
        """Keep the recording for the next prompt."""
        model = self._model()
        if model is not None and self._graph is not None and not any(p.requires_grad for p in model.parameters()):
            _kept[model] = self


def take(model: CausalLM, rows: int, capacity: int) -> GraphStepper:
    """The model's kept recording if it fits, which then belongs to the caller alone until `close`; else a new one.

    The cache may be larger than asked for, unless frequencies depend on its capacity.
    """
    exact = depends_on_length(model.config)
    kept = _kept.pop(model, None)
    if kept is not None and kept.rows == rows and kept.weights == _places(model):
        size = kept.cache.capacity
        if size == capacity or (size > capacity and not exact):
            return kept
    return GraphStepper(model, rows, capacity if exact else -(-capacity // GRAIN) * GRAIN)


def _places(model: CausalLM) -> list[int]:
    """Where the weights are: a recording reads from there."""
    return [parameter.data_ptr() for parameter in model.parameters()]
