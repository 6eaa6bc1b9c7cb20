"""The compiled step against the torch model: the same logits for every kind of dense model, the same tokens, live weights."""

import gc

import numpy as np
import pytest
import torch

from jielong import threads as thread_pool
from jielong.infer.cache import KVCache
from jielong.infer.compiled.decoder import CompiledDecoder
from jielong.model.config import Config
from jielong.model.quantized.linear import Integers, QuantizedLinear
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


SQUARE = {"hidden_size": 128, "intermediate_size": 128}
FORMS = {
    "8 bits, a row": ({}, {"bits": 8, "symmetric": True}),
    "8 bits, groups of 128": (SQUARE, {"bits": 8, "group": 128}),
    "8 bits, odd sizes": (SHAPES["odd sizes"], {"bits": 8}),
    "4 bits, groups of 32": ({"hidden_size": 64, "intermediate_size": 96}, {"group": 32}),
    "4 bits, groups of 64": (SQUARE, {"group": 64, "symmetric": True}),
    "4 bits, groups of 128": (SQUARE, {"group": 128}),
    "4 bits, a row": ({"hidden_size": 64, "intermediate_size": 96}, {}),
    "4 bits in bytes": ({}, {"group": 24}),
    "act order": ({"hidden_size": 64, "intermediate_size": 96, "attention_bias": True}, {"group": 32, "ordered": True}),
    "factors": ({"hidden_size": 64, "intermediate_size": 96}, {"bits": 2, "group": 32, "scaled": True}),
    "act order, factors": ({}, {"bits": 8, "ordered": True, "scaled": True}),
    "biases everywhere": (SQUARE, {"group": 128, "biases": True}),
    "not all": (SQUARE | {"attention_bias": True}, {"group": 64, "left": ("k_proj", "up_proj", "down_proj")}),
}


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


def quantize(
    model: CausalLM, bits: int = 4, group: int | None = None, symmetric: bool = False, ordered: bool = False,
    scaled: bool = False, rounded: bool = False, biases: bool = False, left: tuple[str, ...] = (),
) -> CausalLM:  # fmt: skip
    """Integers by chance in place of the linear layers; v in 8 bits whatever the others have. left: layers that stay as they are."""
    generator = torch.Generator().manual_seed(7)
    for block in model.model.layers:
        for parent, name in [(block.self_attn, f"{x}_proj") for x in "qkvo"] + [
            (block.mlp, f"{x}_proj") for x in ("gate", "up", "down")
        ]:
            old, width = getattr(parent, name), 8 if name == "v_proj" else bits
            if name in left:
                continue
            rows, columns = old.weight.shape
            shape = (rows, columns // (group or columns))
            codes = torch.randint(0, 1 << width, (rows, columns), dtype=torch.uint8, generator=generator)
            zeros = torch.randint(0, 1 << width, shape, dtype=torch.uint8, generator=generator)
            scales = 0.6 * torch.rand(shape, generator=generator) / (1 << width)
            order = torch.randperm(columns, generator=generator) if ordered else None
            factors = 0.5 + torch.rand(columns, generator=generator) if scaled else None
            bias = torch.randn(rows, generator=generator) / 10 if biases else old.bias
            integers = Integers(codes, scales, zeros * 0 + (1 << width - 1) if symmetric else zeros, width, order)
            setattr(parent, name, QuantizedLinear(integers, bias, factors, rounded))
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
    assert CompiledDecoder.reason_against(model) is None
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


@pytest.mark.parametrize("name", FORMS)
def test_matrices_of_integers(name: str) -> None:
    fields, form = FORMS[name]
    model = quantize(make(**fields), **form)
    assert CompiledDecoder.reason_against(model) is None
    for rows, threads in ((1, 2), (3, 1), (8, 2)):
        ids_BT = draw(rows, 20)
        decoder = CompiledDecoder(model, rows, CAPACITY, threads=threads)
        assert_close(steps(decoder, ids_BT), whole_pass(model, ids_BT))
    alone = steps(CompiledDecoder(model, 8, CAPACITY, threads=1), ids_BT)
    assert (steps(CompiledDecoder(model, 8, CAPACITY, threads=3), ids_BT) == alone).all()


def test_inputs_that_are_rounded() -> None:
    """A number between two may go either way, a 127th of the largest; so this is less exact."""
    model = quantize(make(hidden_size=64, intermediate_size=96), bits=2, group=32, rounded=True)
    for rows in (1, 3):
        ids_BT = draw(rows, 10)
        found = steps(CompiledDecoder(model, rows, CAPACITY, threads=2), ids_BT)
        expected = whole_pass(model, ids_BT)
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()
        plain = whole_pass(quantize(make(hidden_size=64, intermediate_size=96), bits=2, group=32), ids_BT)
        assert (found - expected).abs().mean() < 0.1 * (found - plain).abs().mean()


def test_integers_that_come_later_or_elsewhere_are_found() -> None:
    model, ids_BT = make(hidden_size=64, intermediate_size=96), draw(2, 6)
    decoder = CompiledDecoder(model, 2, CAPACITY)
    quantize(model, group=32, ordered=True)
    decoder.load_cache(decoder.keys, decoder.values, 0)
    assert_close(steps(decoder, ids_BT), whole_pass(model, ids_BT))
    layer = model.model.layers[0].mlp.up_proj
    layer.codes = layer.codes.clone()  # other memory
    model.model.layers[1].mlp.up_proj = layer
    decoder.load_cache(decoder.keys, decoder.values, 0)
    assert_close(steps(decoder, ids_BT), whole_pass(model, ids_BT))


def test_integers_beside_weights_of_16_bits() -> None:
    exact, ids_BT = quantize(make(hidden_size=64).to(torch.bfloat16).float(), left=("o_proj",)), draw(2, 8)
    plain = steps(CompiledDecoder(exact, 2, CAPACITY), ids_BT)
    small = CompiledDecoder(exact, 2, CAPACITY, frozen=True)
    assert (steps(small, ids_BT) == plain).all()
    inside = CompiledDecoder(quantize(make(hidden_size=64), left=("o_proj",)).to(torch.bfloat16), 2, CAPACITY)
    assert_close(steps(inside, ids_BT), plain)


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


def test_a_thread_that_comes_when_the_model_is_gone_finds_its_weights(monkeypatch) -> None:
    """It still looks at norms and orders, whose memory must not be somebody else's by then."""
    model, late = quantize(make(hidden_size=64, intermediate_size=96), group=32, ordered=True), []

    def one_comes_late(function, threads: int) -> None:
        function(0)
        late.append(function)

    monkeypatch.setattr("jielong.infer.compiled.decoder.run_together", one_comes_late)
    monkeypatch.setattr(CompiledDecoder, "_wait", lambda decoder: None)
    decoder = CompiledDecoder(model, 1, CAPACITY, threads=2)
    decoder.step(1)
    layers = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    places = {layer.order.data_ptr() for layer in layers}
    del model, decoder, layers
    gc.collect()
    assert len(places) == 14 and places <= {tensor.data_ptr() for tensor in late[0].args[0]}
    late[0](1)


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
        return CompiledDecoder.reason_against(make(**fields))

    assert reason() is None
    assert reason(num_experts=4) == "compiled decoding has no num_experts"
    assert reason(attn_logit_softcapping=30.0) == "compiled decoding has no attn_logit_softcapping"
    assert reason(talking_heads=True) == "compiled decoding has no talking_heads"
    assert "the model is on meta" in str(CompiledDecoder.reason_against(make().to("meta")))
    assert "no float64 weights" in str(CompiledDecoder.reason_against(make().double()))


def test_layers_of_others_are_not_read() -> None:
    class Other(torch.nn.Linear):
        pass

    class Subclass(torch.nn.Parameter):
        pass

    model = make()
    mlp = model.model.layers[1].mlp
    plain, message = (
        mlp.up_proj,
        "compiled decoding reads weights, and model.layers.1.mlp.up_proj is of a kind that it cannot read",
    )
    for other in (Other(48, 72, bias=False), torch.nn.Sequential(plain), torch.nn.Linear(48, 72, bias=False).double()):
        mlp.up_proj = other
        assert CompiledDecoder.reason_against(model) == message
    mlp.up_proj = plain
    plain.forward = lambda x: x
    assert CompiledDecoder.reason_against(model) == message
    del plain.forward
    hook = plain.register_forward_hook(lambda *_: None)
    assert CompiledDecoder.reason_against(model) == message
    hook.remove()
    assert CompiledDecoder.reason_against(model) is None
    plain.weight = Subclass(plain.weight.detach())
    assert CompiledDecoder.reason_against(model) == message


def test_a_tiny_model_is_decoded_by_one_thread() -> None:
    count = len(thread_pool._queues)
    decoder = CompiledDecoder(make(), 1, CAPACITY)
    decoder.step(1)
    assert decoder.threads == 1 and len(thread_pool._queues) == count
