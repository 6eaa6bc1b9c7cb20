"""The compiled step against the torch model: the same logits for every kind of dense model, the same tokens, live weights."""

import numpy as np
import pytest
import torch

from jielong import threads as thread_pool
from jielong.infer.cache import KVCache
from jielong.infer.compiled.decoder import CompiledDecoder
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise

CPU = torch.device("cpu")
CAPACITY = 40
TOLERANCE = 1e-4  # of the largest logit
TINY = {
    "vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 72, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip
SHAPES = {
    "llama": {},
    "heads of their own": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "output apart": {"tie_word_embeddings": False},
    "qk_norm": {"qk_norm": True},
    "biases": {"attention_bias": True},
    "biases of q k v": {"attention_bias": "qkv"},
    "wide heads": {"head_dim": 36},
    "odd sizes": {"hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10, "intermediate_size": 37},
    "window": {"sliding_window": 5},
    "window in one layer": {"sliding_window": 5, "layer_types": ("full_attention", "sliding_attention")},
    "alibi": {"position": "alibi"},
    "alibi, window": {"position": "alibi", "sliding_window": 7},
    "no positions": {"position": "none"},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "clex": {"rope_scaling": {"rope_type": "clex", "factor": 4.0}},
}  # fmt: skip


def make(seed: int = 1, **fields: object) -> CausalLM:
    """A model whose every weight matters: no bias is 0, no norm 1."""
    model = CausalLM(Config.model_validate(TINY | fields)).eval()
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or "frequencies" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def draw(rows: int, length: int) -> torch.Tensor:
    return torch.randint(0, TINY["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(rows))


@torch.no_grad()
def whole_pass(model: CausalLM, ids_BT: torch.Tensor) -> torch.Tensor:
    return model(ids_BT, reach=CAPACITY)


def steps(decoder: CompiledDecoder, ids_BT: torch.Tensor) -> torch.Tensor:
    return torch.stack([decoder.step(tokens_B) for tokens_B in ids_BT.T], dim=1)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert (found - expected).abs().max() < TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", SHAPES)
def test_every_step_gives_the_logits_of_the_whole_pass(name: str) -> None:
    model = make(**SHAPES[name])
    assert CompiledDecoder.reason_against(model.config, CPU) is None
    for rows, threads in ((1, 2), (2, 1)):
        ids_BT = draw(rows, 20)
        decoder = CompiledDecoder(model, rows, CAPACITY, threads=threads)
        assert_close(steps(decoder, ids_BT), whole_pass(model, ids_BT))


@pytest.mark.parametrize("rows", [3, 4, 7])
def test_rows_and_threads(rows: int) -> None:
    model, ids_BT = make(qk_norm=True), draw(rows, 12)
    alone = steps(CompiledDecoder(model, rows, CAPACITY, threads=1), ids_BT)
    assert_close(alone, whole_pass(model, ids_BT))
    for _ in range(5):
        assert (steps(CompiledDecoder(model, rows, CAPACITY, threads=3), ids_BT) == alone).all()


@pytest.mark.parametrize("name", ["llama", "alibi", "window", "yarn"])
def test_it_goes_on_from_a_prompt_in_the_same_memory_with_left_padding(name: str) -> None:
    model, ids_BT, padding_B = make(**SHAPES[name]), draw(3, 20), [0, 2, 6]
    cache = KVCache(model.config, 3, CAPACITY, CPU)
    with torch.no_grad():
        model(ids_BT[:, :9], cache=cache, padding_B=torch.tensor(padding_B))
    decoder = CompiledDecoder(model, 3, CAPACITY, cache.keys, cache.values)
    decoder.load_cache(cache.keys, cache.values, cache.length, padding_B)
    found = steps(decoder, ids_BT[:, 9:])
    assert decoder.keys.data_ptr() == cache.keys.data_ptr() and decoder.length == 20
    for row, padding in enumerate(padding_B):  # each row by itself, without padding
        assert_close(found[row, None], whole_pass(model, ids_BT[row, None, padding:])[:, 9 - padding :])
    cache.length = 20  # and torch goes on from what was appended
    with torch.no_grad():
        logits = model(draw(3, 1), cache=cache, padding_B=torch.tensor(padding_B))
    assert_close(decoder.step(draw(3, 1))[:, None], logits)


def test_a_cache_that_cannot_be_worked_in_is_copied() -> None:
    model, ids_BT = make(), draw(2, 12)
    cache = KVCache(model.config, 2, 30, CPU)
    with torch.no_grad():
        model(ids_BT[:, :8], cache=cache)
    decoder = CompiledDecoder(model, 1, CAPACITY)
    for keys, values in (
        (cache.keys.double(), cache.values.double()),
        (cache.keys, cache.values.transpose(3, 4).contiguous().transpose(3, 4)),
    ):
        decoder.load_cache(keys, values, 8)
        assert (decoder.rows, decoder.capacity) == (2, 30)
        assert_close(steps(decoder, ids_BT[:, 8:]), whole_pass(model, ids_BT)[:, 8:])
        assert decoder.keys.data_ptr() != cache.keys.data_ptr()
    wide = cache.keys[:, 1:], cache.values[:, 1:]  # one row of two: heads lie together, rows do not
    decoder.load_cache(*wide, 8)
    assert_close(steps(decoder, ids_BT[1:, 8:]), whole_pass(model, ids_BT[1:])[:, 8:])
    assert decoder.rows == 1 and decoder.keys.data_ptr() == wide[0].data_ptr()


def test_rows_that_are_kept_moved_and_doubled() -> None:
    model, ids_BT = make(), draw(4, 16)
    padded = ids_BT.clone()
    padded[2] = ids_BT[2].roll(3)  # three positions are filling; its last three tokens are cut off
    decoder = CompiledDecoder(model, 4, CAPACITY)
    decoder.load_cache(decoder.keys, decoder.values, 0, [0, 0, 3, 0])
    steps(decoder, padded[:, :12])
    for kept in ([0, 1, 2, 3], [1, 0, 2, 2], [2, 1], [1, 0, 0]):  # each of what the one before left
        assert decoder.keep(torch.tensor(kept))
    assert decoder.rows == 3  # 0, 2 and 2 of the first four
    found = decoder.step(padded[[0, 2, 2], 12])
    assert_close(found[0, None], whole_pass(model, ids_BT[None, 0, :13])[:, -1])
    for row in (1, 2):
        assert_close(found[row, None], whole_pass(model, ids_BT[None, 2, :10])[:, -1])
    decoder.close()


@pytest.mark.parametrize("name", ["llama", "qk_norm", "odd sizes"])
def test_greedy_tokens_are_equal_over_60_tokens(name: str) -> None:
    model = make(tie_word_embeddings=False, **SHAPES[name])
    decoder, token, ids = CompiledDecoder(model, 1, 64, threads=2), 5, [5]
    for _ in range(60):
        token = int(decoder.step(token).argmax())
        ids.append(token)
    with torch.no_grad():
        expected = model(torch.tensor([ids[:-1]]), reach=64)[0].argmax(dim=-1)
    assert ids[1:] == expected.tolist() and len(set(ids)) > 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits(dtype: torch.dtype) -> None:
    exact, ids_BT = make().to(dtype).float(), draw(2, 12)
    plain = steps(CompiledDecoder(exact, 2, CAPACITY), ids_BT)
    assert_close(plain, whole_pass(exact, ids_BT))
    small = CompiledDecoder(exact, 2, CAPACITY, frozen=True)
    assert (steps(small, ids_BT) == plain).all()  # not a bit is lost
    inside = CompiledDecoder(make().to(dtype), 2, CAPACITY)  # a model that is of 16 bits itself: norms too
    assert (steps(inside, ids_BT) == plain).all()


def test_weights_that_change_are_seen() -> None:
    model, ids_BT = make(), draw(1, 6)
    decoder = CompiledDecoder(model, 1, CAPACITY)
    before = steps(decoder, ids_BT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    decoder.load_cache(decoder.keys, decoder.values, 0)
    after = steps(decoder, ids_BT)
    assert_close(after, whole_pass(model, ids_BT))
    assert (after - before).abs().max() > 100 * TOLERANCE
    with torch.no_grad():  # other memory
        for parameter in model.parameters():
            parameter.data = parameter * 1.1
    decoder.load_cache(decoder.keys, decoder.values, 0)
    assert_close(steps(decoder, ids_BT), whole_pass(model, ids_BT))


def test_an_interrupted_step_can_be_taken_again(monkeypatch) -> None:
    model, ids_BT = make(), draw(1, 6)
    decoder = CompiledDecoder(model, 1, CAPACITY, threads=2)
    expected = steps(decoder, ids_BT)
    decoder.load_cache(decoder.keys, decoder.values, 5)

    def interrupt(function: object, threads: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jielong.infer.compiled.decoder.run_together", interrupt)
        with pytest.raises(KeyboardInterrupt):
            decoder.step(ids_BT[:, 5])
    assert decoder.length == 5 and (decoder.step(ids_BT[:, 5]) == expected[:, 5]).all()


def test_tokens_may_come_in_any_form() -> None:
    decoder = CompiledDecoder(make(), 1, CAPACITY)
    found = [decoder.step(token) for token in (3, [3], np.array([3]), torch.tensor([3]))]
    decoder.load_cache(decoder.keys, decoder.values, 0)
    assert (decoder.step(np.int64(3)) == found[0]).all()
    with pytest.raises(AssertionError):
        decoder.step(TINY["vocab_size"])
    with pytest.raises(AssertionError):
        decoder.step([1, 2])


def test_what_it_cannot_do() -> None:
    def reason(**fields: object) -> str | None:
        return CompiledDecoder.reason_against(Config.model_validate(TINY | fields), CPU)

    assert reason() is None
    assert reason(num_experts=4) == "compiled decoding has no num_experts"
    assert reason(attn_logit_softcapping=30.0) == "compiled decoding has no attn_logit_softcapping"
    assert reason(talking_heads=True) == "compiled decoding has no talking_heads"
    config = Config.model_validate(TINY)
    assert "the model is on cuda" in str(CompiledDecoder.reason_against(config, "cuda"))
    assert "no float64 weights" in str(CompiledDecoder.reason_against(config, CPU, torch.float64))


def test_a_tiny_model_is_decoded_by_one_thread() -> None:
    count = len(thread_pool._queues)
    decoder = CompiledDecoder(make(), 1, CAPACITY)
    decoder.step(1)
    assert decoder.threads == 1 and len(thread_pool._queues) == count
