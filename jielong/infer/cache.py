"""What a model remembers of the tokens that went through it: three caches, all allocated once.

| cache | keeps, a token and layer | tokens | for |
|---|---|---|---|
| KVCache | keys and values, 2 x G x D numbers | all, up to a capacity | any model |
| RollingCache | the same | the first few and the most recent ones | texts without end (StreamingLLM, arXiv:2309.17453) |
| HiddenCache | the layer's normed input, C numbers | all, up to a capacity | EL-attention (arXiv:2105.04779): ALiBi or no positions, no qk_norm |

Keys are kept rotated, unless tokens move up as others leave (RollingCache); then they are kept as they are and rotated when
they are read. Where the frequencies depend on the length (dynamic NTK, CLEX), they are those of the cache's capacity from its first
token to its last: what was computed early and what comes later then belong together, and the logits are those of one pass
with `reach` = capacity. (Frequencies that changed on the way, as in transformers, agree with no single pass.)

A HiddenCache is the smaller one where 2 x G x D > C: half of the memory without grouped heads (G x D = C), a quarter for
heads twice as wide; with few key-value heads (2 x G x D < C) it is larger. Neither the compiled decoder nor a CUDA graph knows it, so it is
taken when it is asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jielong.errors import InputError
from jielong.infer.config import hidden_against
from jielong.model.config import Config

SINKS = 4  # first tokens that a rolling cache keeps; section 3.2 of the paper finds four enough


class KVCache:
    """Keys and values of every layer for up to `capacity` positions.

    Memory: 2 x layers x rows x G x capacity x D numbers. `append` writes in place and returns views of what is filled; with
    `static` always the whole of it, with the place to write in a tensor, which is what a CUDA graph can be captured from.
    """

    hidden, late = False, False

    def __init__(
        self,
        config: Config,
        rows: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        static: bool = False,
    ) -> None:
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, capacity, config.size_of_head)
        make = torch.zeros if static else torch.empty  # what is masked is still multiplied, and must be finite
        self.keys = make(shape, device=device, dtype=dtype)
        self.values = make(shape, device=device, dtype=dtype)
        self.capacity, self.static = capacity, static
        self.length = 0  # positions filled in every layer; the model moves it on after its last layer
        self.at = torch.zeros((), dtype=torch.long, device=device)  # the same, for a graph

    def look(self, length: int) -> tuple[Tensor, Tensor, bool]:
        """Places of `length` new tokens and of all keys that they are shown."""
        device = self.keys.device
        if self.static:
            return self.at + torch.arange(length, device=device), torch.arange(self.capacity, device=device), False
        end = self.length + length
        assert end <= self.capacity, "the cache is full"
        places = torch.arange(end, device=device)
        return places[self.length :], places, True

    def append(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values after the cached ones; returns all of them, (B, G, S, D)."""
        if self.static:
            places = self.at + torch.arange(k_BGTD.shape[2], device=k_BGTD.device)
            for store, new in ((self.keys, k_BGTD), (self.values, v_BGTD)):
                store[layer].index_copy_(2, places, new.to(store.dtype))
            return self.keys[layer], self.values[layer]
        end = self.length + k_BGTD.shape[2]
        assert end <= self.capacity, "the cache is full"
        self.keys[layer, :, :, self.length : end] = k_BGTD
        self.values[layer, :, :, self.length : end] = v_BGTD
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def append_hidden(self, layer: int, x_BTC: Tensor) -> Tensor:
        raise AssertionError("keeps keys and values")

    def advance(self, length: int) -> None:
        """Every layer has stored `length` more tokens."""
        self.length += length
        if self.static:
            self.at += length

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] was (beam search)."""
        for store in (self.keys, self.values):
            store[:, :, :, : self.length] = store[:, rows, :, : self.length]

    def keep(self, rows: Tensor) -> None:
        """The same, with more or fewer rows than before: in new memory."""
        assert not self.static, "what was captured stays where it is"
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def hold(self, length: int, static: bool) -> None:
        """As if `length` tokens had gone through; in the form for graphs or not. What lies beyond them is masked."""
        self.length, self.static = length, static
        self.at.fill_(length)

    def bytes(self) -> int:
        """Memory that is held."""
        return self.keys.nbytes + self.values.nbytes


class RollingCache:
    """The first `sinks` tokens and the most recent ones, `capacity` together; positions are those inside the cache.

    A text may go on for ever; what was said between is forgotten. New tokens go through one at a time, but the first
    `capacity`, which may come together. Memory: that of a KVCache of the same capacity.
    """

    hidden, late = False, True

    def __init__(
        self,
        config: Config,
        rows: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        sinks: int = SINKS,
    ) -> None:
        assert 0 <= sinks < capacity
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, capacity, config.size_of_head)
        self.keys, self.values = (torch.empty(shape, device=device, dtype=dtype) for _ in range(2))
        self.capacity, self.sinks, self.length = capacity, sinks, 0

    def look(self, length: int) -> tuple[Tensor, Tensor, bool]:
        """Places inside the cache: a full one lets the oldest token behind the first ones go for each new one."""
        end = self.length + length
        assert end <= self.capacity or length == 1, "beyond its capacity a rolling cache takes one token at a time"
        places = torch.arange(min(end, self.capacity), device=self.keys.device)
        return places[-length:], places, True

    def append(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values, not rotated; returns all that are kept, oldest first, (B, G, S, D)."""
        end = self.length + k_BGTD.shape[2]
        begin, filled = self.length, min(end, self.capacity)
        for store, new in ((self.keys, k_BGTD), (self.values, v_BGTD)):
            if end > self.capacity:
                store[layer, :, :, self.sinks : -1] = store[layer, :, :, self.sinks + 1 :].clone()
                begin = self.capacity - 1
            store[layer, :, :, begin:filled] = new
        return self.keys[layer, :, :, :filled], self.values[layer, :, :, :filled]

    def append_hidden(self, layer: int, x_BTC: Tensor) -> Tensor:
        raise AssertionError("keeps keys and values")

    def advance(self, length: int) -> None:
        """Every layer has stored `length` more tokens."""
        self.length += length

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] was."""
        for store in (self.keys, self.values):
            store.copy_(store[:, rows])

    def keep(self, rows: Tensor) -> None:
        """The same, with more or fewer rows than before: in new memory."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def bytes(self) -> int:
        """Memory that is held."""
        return self.keys.nbytes + self.values.nbytes


class HiddenCache:
    """Each layer's normed input for up to `capacity` positions: layers x rows x capacity x C numbers."""

    hidden, late = True, False

    def __init__(
        self, config: Config, rows: int, capacity: int, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        if (against := hidden_against(config)) is not None:
            raise InputError(f"cache: EL-attention does not go with this model, {against}; use the KV cache")
        shape = (config.num_hidden_layers, rows, capacity, config.hidden_size)
        self.inputs = torch.empty(shape, device=device, dtype=dtype)
        self.capacity, self.length = capacity, 0

    def look(self, length: int) -> tuple[Tensor, Tensor, bool]:
        """Places of `length` new tokens and of all that are kept."""
        end = self.length + length
        assert end <= self.capacity, "the cache is full"
        places = torch.arange(end, device=self.inputs.device)
        return places[self.length :], places, True

    def append(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("keeps inputs")

    def append_hidden(self, layer: int, x_BTC: Tensor) -> Tensor:
        """Store new inputs after the kept ones; returns all of them, (B, S, C)."""
        end = self.length + x_BTC.shape[1]
        self.inputs[layer, :, self.length : end] = x_BTC
        return self.inputs[layer, :, :end]

    def advance(self, length: int) -> None:
        """Every layer has stored `length` more tokens."""
        self.length += length

    def reorder(self, rows: Tensor) -> None:
        """Row i becomes what row rows[i] was."""
        self.inputs[:, :, : self.length] = self.inputs[:, rows, : self.length]

    def keep(self, rows: Tensor) -> None:
        """The same, with more or fewer rows than before: in new memory."""
        self.inputs = self.inputs[:, rows]

    def bytes(self) -> int:
        """Memory that is held."""
        return self.inputs.nbytes


Kept = KVCache | RollingCache | HiddenCache
