"""A decoder for one CPU: batch 1 and small batches, dense models, the whole step compiled.

The prompt goes through torch, whose large matrix products nothing here could better, and leaves its keys and values in a
`KVCache`; from there on `CompiledDecoder.step` takes one token a row and appends to the same memory.

Weights are not copied: the kernel reads the parameters where they are, so that a model which is still trained is sampled as it
is now. With `frozen`, float32 matrices that are all bfloat16 or all float16 numbers (a checkpoint that was stored so) are kept
a second time in 16 bits: half the memory to read, the same values to the last bit. All other float32 weights stay as they
are, so that the tokens are those of any other float32 program. Matrices of integers (model/quantized/linear.py) are read as they are,
each of its own kind: a model may have some in 4 bits, some in 8 and some in float32. Sums are float32 in any case.

A step takes as long as its weights take to be read. The default model (27 M, 107 MB in float32) on two cores of an EPYC 9004: 3.8 ms
at best, 28 GB/s, where nothing but reading reaches 31; torch's own pass takes 15. More rows cost little: 8 take twice and 32 four
times as long as one. Up to 128 rows torch was slower. With its blocks in integers of 8 or 4 bits one row takes less than half of the time
(benchmarks/quantized_decoding.py), and 8 rows, where arithmetic counts, about as long as in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jielong.infer.compiled import kernels
from jielong.infer.compiled.sharing import state_size, wait_until_left
from jielong.infer.compiled.vectors import OUTPUTS
from jielong.infer.compiled.weights import KINDS, Weights, unreadable
from jielong.model.positions import alibi_slopes, attention_factor, inverse_frequencies, rotary
from jielong.model.transformer import CausalLM
from jielong.threads import run_together

BYTES_PER_THREAD = 1 << 21  # of weights: below, waking another thread costs more than it brings
NO_WINDOW = 1 << 62
Tokens = int | Sequence[int] | np.ndarray | Tensor


def _step(alive: list[Tensor], arguments: tuple[Any, ...], thread: int) -> None:
    """One thread's part. It may come when all is done, and the model gone: what it looks at then must still be there, which is `alive`."""
    kernels.step(thread, *arguments)


class CompiledDecoder:
    """Decodes one token a row at each step; `length` positions of the cache are filled, of `capacity`."""

    @staticmethod
    def reason_against(model: CausalLM) -> str | None:
        """Why a model cannot be decoded here, for the user to read; None: it can."""
        weight = model.model.embed_tokens.weight
        if weight.device.type != "cpu":
            return f"compiled decoding is for the CPU, the model is on {weight.device.type}"
        if weight.dtype not in KINDS:
            return f"compiled decoding has no {str(weight.dtype).removeprefix('torch.')} weights"
        for field in ("num_experts", "attn_logit_softcapping", "talking_heads"):
            if getattr(model.config, field):
                return f"compiled decoding has no {field}"
        other = unreadable(model)
        return None if other is None else f"compiled decoding reads weights, and {other}"

    def __init__(
        self,
        model: CausalLM,
        rows: int,
        capacity: int,
        keys: Tensor | None = None,
        values: Tensor | None = None,
        frozen: bool = False,
        threads: int | None = None,
    ) -> None:
        """keys, values: (layers, B, G, capacity, D) float32 memory to work in; none: made here.

        capacity: positions, those of the prompt and the new ones together. frozen: the weights will not change any more.
        threads: none: as many as torch has, fewer for a tiny model.
        """
        reason = self.reason_against(model)
        assert reason is None, reason
        self.config, self.rows, self._model = model.config, rows, model
        config = model.config
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, capacity, config.size_of_head)
        self.keys = torch.empty(shape) if keys is None else keys
        self.values = torch.empty(shape) if values is None else values
        self.length, self.capacity = 0, capacity
        self._weights = Weights(model, frozen)
        self.when_closed: Callable[[], None] | None = None
        self.threads = threads or max(1, min(torch.get_num_threads(), self._weights.bytes // BYTES_PER_THREAD))
        self._windows = np.array([config.window(layer) or NO_WINDOW for layer in range(shape[0])], np.int64)
        heads, device = config.num_attention_heads, torch.device("cpu")
        alibi = config.position == "alibi"
        self._slopes = alibi_slopes(heads, device).numpy() if alibi else np.zeros(heads, np.float32)
        self._make_scratch()
        self.load_cache(self.keys, self.values, 0)

    def load_cache(
        self, keys: Tensor, values: Tensor, length: int, padding_B: Sequence[int] | Tensor | None = None
    ) -> None:
        """Go on from what a pass left in a KVCache: `length` positions of keys and values, (layers, B, G, capacity, D).

        Float32 memory whose heads lie together is worked in, else what is filled is copied. The number of rows and the capacity
        become those of what is given. padding_B: how many positions at the beginning of each row are filling. Weights that
        moved to other memory meanwhile are found again.
        """
        self._wait()
        assert keys.shape == values.shape and length <= keys.shape[3], (keys.shape, values.shape, length)
        together = (self.config.size_of_head, 1)
        if not all(
            x.dtype == torch.float32 and x.device.type == "cpu" and x.stride()[3:] == together for x in (keys, values)
        ):
            filled = (keys, values)
            keys, values = (torch.empty(keys.shape) for _ in range(2))
            for own, given in zip((keys, values), filled, strict=True):
                own[:, :, :, :length] = given[:, :, :, :length]
        self.keys, self.values, self.length = keys, values, length
        self.rows, self.capacity = keys.shape[1], keys.shape[3]
        self._weights.find()
        if [part.shape for part in self._scratch] != self._scratch_shapes():
            self._make_scratch()
        self._padding = np.array([0] * self.rows if padding_B is None else [int(x) for x in padding_B], np.int64)
        assert len(self._padding) == self.rows
        self._numbers = self._describe()
        self._cos, self._sin = self._angles()

    @torch.no_grad()
    def step(self, tokens_B: Tokens) -> Tensor:
        """Logits (B, V), float32, of what follows one more token in each row."""
        assert self.length < self.capacity, "the cache is full"
        given = tokens_B.numpy(force=True) if isinstance(tokens_B, Tensor) else tokens_B
        tokens = np.array(given, np.int64).reshape(-1)
        assert len(tokens) == self.rows and tokens.min() >= 0 and tokens.max() < self.config.vocabulary, tokens
        logits_BV = torch.empty(self.rows, self.config.vocabulary)
        self._wait()
        self._state[:] = 0
        self._numbers[kernels.LENGTH] = self.length
        arguments = (
            self._numbers, np.float32(self.config.rms_norm_eps), self._weights.layers, self._windows, self._state, tokens,
            self._padding, self._cos, self._sin, self._slopes, *self._scratch, logits_BV.numpy(),
        )  # fmt: skip
        try:
            threads = (
                self.threads if kernels.step.signatures else 1
            )  # compiled (eight seconds) or read from disk by one
            self._others = threads - 1
            run_together(partial(_step, self._weights.alive, arguments), threads)
        except BaseException:  # interrupted: other threads may still write to what belongs to this step
            self._make_scratch()
            raise
        self.length += 1
        return logits_BV

    def keep(self, rows: Tensor) -> bool:
        """Row i becomes what row rows[i] was; there may be fewer or more. (With `step` and `close` this is a stepper.)"""
        chosen = rows.numpy(force=True)
        if len(chosen) != self.rows:
            self.load_cache(self.keys[:, rows], self.values[:, rows], self.length, self._padding[chosen].tolist())
        elif (chosen != np.arange(self.rows)).any():
            self._wait()
            for store in (self.keys, self.values):
                store[:, :, :, : self.length] = store[:, rows, :, : self.length]
            self._padding = self._padding[chosen]
        return True

    def close(self) -> None:
        """Let go of the cache and say so to `when_closed`; `load_cache` begins anew. (The threads are everybody's.)"""
        self._wait()
        self.keys = self.values = torch.empty(0)
        if self.when_closed is not None:
            self.when_closed()
            self.when_closed = None

    def _wait(self) -> None:
        """Until no other thread is in the step before any more: its memory is about to be used again."""
        if self._others:
            wait_until_left(self._state, self._others)
            self._others = 0

    def _scratch_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the memory of a step, see `kernels.step`."""
        config, rows, threads = self.config, self.rows, self.threads
        heads, groups, size = config.num_attention_heads, config.num_key_value_heads, config.size_of_head
        return [
            (rows, config.hidden_size),
            (threads, rows, config.hidden_size),
            (rows, (heads + 2 * groups) * size),
            (rows, heads * size),
            (rows, config.feed_forward_size),
            (rows, config.feed_forward_size),
            (rows, config.hidden_size),
            (threads, heads // groups, self.capacity),
            (threads, kernels.INPUTS * rows * self._weights.widest_prepared),
            (threads, 0 if rows == 1 else OUTPUTS * self._weights.widest),
        ]

    def _make_scratch(self) -> None:
        """Memory of a step, and the counters that its threads share."""
        self._scratch = [np.zeros(shape, np.float32) for shape in self._scratch_shapes()]
        self._state = np.zeros(state_size(kernels.count_phases(self.config.num_hidden_layers)), np.int64)
        self._others = 0  # threads that have to leave the step before the next one begins

    def _describe(self) -> np.ndarray:
        """The shape and the addresses that `kernels.step` asks for."""
        config, weights = self.config, self._weights
        numbers = np.zeros(kernels.NUMBERS, np.int64)
        numbers[kernels.LAYERS], numbers[kernels.HIDDEN] = config.num_hidden_layers, config.hidden_size
        numbers[kernels.HEADS], numbers[kernels.GROUPS] = config.num_attention_heads, config.num_key_value_heads
        numbers[kernels.SIZE], numbers[kernels.WIDTH] = config.size_of_head, config.feed_forward_size
        numbers[kernels.VOCABULARY] = config.vocabulary
        numbers[kernels.ROTARY] = config.position == "rope"
        numbers[kernels.EMBEDDING], numbers[kernels.EMBEDDING_KIND] = weights.embedding, weights.kind
        numbers[kernels.LAST_NORM], numbers[kernels.OUTPUT :] = weights.last_norm, weights.output
        numbers[kernels.KEYS : kernels.KEYS + 4] = (self.keys.data_ptr(), *self.keys.stride()[:3])
        numbers[kernels.VALUES : kernels.VALUES + 4] = (self.values.data_ptr(), *self.values.stride()[:3])
        return numbers

    @torch.no_grad()
    def _angles(self) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of every position that the cache can hold, (capacity, D/2) float32.

        Frequencies that depend on the length (dynamic NTK, CLEX) are those of the capacity, as in `KVCache`.
        """
        config, decoder = self.config, self._model.model
        if config.position != "rope":
            return np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
        if decoder.frequencies is None:
            inverse_d = inverse_frequencies(config, self.capacity, torch.device("cpu"))
        else:
            inverse_d = decoder.frequencies(decoder.frequencies.stretch_of(self.capacity))
        cos, sin = rotary(torch.arange(self.capacity)[None], inverse_d, attention_factor(config))
        half = config.size_of_head // 2
        return cos[0, 0, :, :half].contiguous().numpy(), sin[0, 0, :, :half].contiguous().numpy()
