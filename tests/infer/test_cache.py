"""Cached and uncached logits agree for every combination of cache, positions, layers, chunks and padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.errors import InputError
from jielong.infer.cache import SINKS, HiddenCache, Kept, KVCache, RollingCache
from jielong.infer.config import hidden_against
from jielong.model.config import Config
from jielong.model.transformer import CausalLM
from tests.infer.twins import FEATURES, POSITIONS, SHAPE, kept_states, make, some_ids

CPU = torch.device("cpu")
LENGTH, CAPACITY = 12, 15
CHUNKS = ([LENGTH], [5, 1, 4, 2], [1] * LENGTH)
PADDINGS = (None, [0, 2, 5])
TOLERANCE = 1e-4


def new_cache(kind: str, config: Config, rows: int, capacity: int) -> Kept:
    if kind == "static":
        return KVCache(config, rows, capacity, CPU, static=True)
    kinds = {"kv": KVCache, "rolling": RollingCache, "hidden": HiddenCache}
    return kinds[kind](config, rows, capacity, CPU)


def in_chunks(model: CausalLM, ids_BT: Tensor, cache: Kept, sizes: list[int], padding_B: Tensor | None) -> Tensor:
    parts = ids_BT.split(sizes, dim=1)
    return torch.cat([model(part, cache=cache, padding_B=padding_B) for part in parts], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("position", POSITIONS)
def test_cached_logits_equal_uncached_ones(position: str, feature: str) -> None:
    """kv, static, rolling and hidden; the whole prompt, mixed chunks, one by one; one row, and three with left padding."""
    model = make(**POSITIONS[position], **FEATURES[feature])
    config = model.config
    for padding in PADDINGS:
        rows = 1 if padding is None else len(padding)
        padding_B = None if padding is None else torch.tensor(padding)
        ids_BT = some_ids(rows, LENGTH)
        expected = model(ids_BT, padding_B=padding_B, reach=CAPACITY)
        assert expected.std() > 0.1  # it says something
        real = torch.ones(rows, LENGTH, dtype=torch.bool)
        for row, filling in enumerate(padding or []):
            real[row, :filling] = False
            alone = model(ids_BT[row : row + 1, filling:], reach=CAPACITY)[0]
            torch.testing.assert_close(expected[row, filling:], alone, rtol=0, atol=TOLERANCE)
        for kind in ("kv", "static", "rolling", "hidden"):
            if kind == "hidden" and hidden_against(config):
                with pytest.raises(InputError, match=r"EL-attention does not go with this model, .*; use the KV cache"):
                    HiddenCache(config, 1, LENGTH, CPU)
                continue
            if kind == "rolling" and padding is not None:
                continue  # it holds one text: the filling would stay as the first tokens
            for sizes in CHUNKS:
                cache = new_cache(kind, config, rows, CAPACITY)
                found = in_chunks(model, ids_BT, cache, sizes, padding_B)
                assert cache.length == LENGTH
                torch.testing.assert_close(
                    found[real], expected[real], rtol=0, atol=TOLERANCE, msg=f"{kind} {sizes} {padding}"
                )


ROLLED = ("dense", "qk_norm", "biases", "one group", "window", "layer types")


@torch.no_grad()
@pytest.mark.parametrize("feature", ROLLED)
@pytest.mark.parametrize("position", POSITIONS)
def test_a_full_rolling_cache_equals_its_twin(position: str, feature: str) -> None:
    """28 tokens through a cache of 9: the first 9 together, then one at a time; two rows."""
    model = make(**POSITIONS[position], **FEATURES[feature])
    ids_BT = some_ids(2, 28)
    cache = RollingCache(model.config, 2, 9, CPU)
    found = in_chunks(model, ids_BT, cache, [9] + [1] * 19, None)
    for row in range(2):
        expected = kept_states(model, ids_BT[row].tolist(), 9, SINKS)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dynamic", "clex"])
def test_frequencies_are_those_of_the_capacity(kind: str) -> None:
    """Trained at 4 tokens: a cache for 16 gives other logits than one for 5, from the first tokens on."""
    model = make(**POSITIONS[kind])
    ids_BT = some_ids(1, 5)
    short, long = (model(ids_BT, cache=KVCache(model.config, 1, capacity, CPU)) for capacity in (5, 16))
    torch.testing.assert_close(short, model(ids_BT), rtol=0, atol=TOLERANCE)
    assert (short - long).abs().max() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("kind", ["kv", "rolling", "hidden"])
def test_rows_change_places(kind: str) -> None:
    """Row i becomes what row rows[i] was, with as many rows or with others."""
    model = make(position="alibi")
    ids_BT = some_ids(3, 9)
    for rows in ([2, 0, 0], [1], [0, 1, 2, 2]):
        cache = new_cache(kind, model.config, 3, 9)
        model(ids_BT[:, :8], cache=cache)
        order = torch.tensor(rows)
        if len(rows) == 3:
            cache.reorder(order)
        else:
            cache.keep(order)
        found = model(ids_BT[order, 8:], cache=cache)[:, -1]
        torch.testing.assert_close(found, model(ids_BT[order])[:, -1], rtol=0, atol=TOLERANCE)


def test_append_fills_and_returns_views() -> None:
    config = Config(vocab_size=10, hidden_size=8, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    cache = KVCache(config, rows=1, capacity=4, device=CPU)
    assert cache.keys.shape == (2, 1, 2, 4, 2)
    first = torch.ones(1, 2, 3, 2)
    for layer in range(2):
        keys, values = cache.append(layer, first * layer, first * 10)
        assert keys.shape == (1, 2, 3, 2) and float(keys.mean()) == layer and float(values.mean()) == 10
    cache.length = 3
    keys, _ = cache.append(1, torch.full((1, 2, 1, 2), 7.0), first[:, :, :1])
    assert keys.shape == (1, 2, 4, 2)
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 7]  # the second layer's own, the first one's untouched
    assert keys.data_ptr() == cache.keys[1].data_ptr()  # no copy


def test_too_much_is_our_own_mistake() -> None:
    config = Config(**SHAPE)
    tokens = torch.zeros(1, 2, 3, 8)
    with pytest.raises(AssertionError, match="full"):
        KVCache(config, 1, 2, CPU).append(0, tokens, tokens)
    with pytest.raises(AssertionError, match="one token at a time"):
        RollingCache(config, 1, 5, CPU).look(6)


@pytest.mark.parametrize(
    ("heads", "groups", "size", "share"), [(4, 4, 4, 1 / 2), (4, 4, 8, 1 / 4), (4, 2, 4, 1), (4, 1, 4, 2)]
)
def test_memory(heads: int, groups: int, size: int, share: float) -> None:
    """C = 16, 2 layers, 3 rows, 10 tokens, float32. KV: 2 x 2 x 3 x 10 x G D x 4 bytes; hidden: 2 x 3 x 10 x 16 x 4."""
    fields = {"num_attention_heads": heads, "num_key_value_heads": groups, "head_dim": size, "position": "none"}
    config = Config(**(SHAPE | fields))
    kv, hidden = KVCache(config, 3, 10, CPU).bytes(), HiddenCache(config, 3, 10, CPU).bytes()
    assert kv == 2 * 2 * 3 * 10 * groups * size * 4 == RollingCache(config, 3, 10, CPU).bytes()
    assert hidden == 2 * 3 * 10 * 16 * 4 == share * kv
