"""Beam search chooses what Hugging Face's chooses."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from jielong.errors import InputError
from jielong.infer.beam import beam_search
from jielong.infer.config import Config
from jielong.infer.generate import stream_tokens
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM
from tests.infer.twins import make


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[CausalLM, LlamaForCausalLM]:
    """One model twice, ours and theirs."""
    folder = tmp_path_factory.mktemp("beams")
    model = make(max_position_embeddings=64)
    model.model.embed_tokens.weight.data *= 0.5  # less sure of itself, so that texts end
    save_folder(model, folder, 3)
    return load_folder(folder).eval(), LlamaForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("beams", [2, 3, 4, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -1.5, 2.0])
@pytest.mark.parametrize("ends", [[3], [3, 7, 11], [22, 1, 3], None])
def test_tokens_equal_theirs(
    pair: tuple[CausalLM, LlamaForCausalLM], beams: int, penalty: float, ends: list[int] | None
) -> None:
    ours, theirs = pair
    config = Config(temperature=0.0, num_beams=beams, length_penalty=penalty, repetition_penalty=1.0, max_new_tokens=15)
    for prompt in ([5], [1, 2, 9], [30, 8, 8, 17, 21]):
        expected = theirs.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=15,
            do_sample=False, num_beams=beams, length_penalty=penalty, eos_token_id=ends, pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        if ends and expected[-1] in ends:
            expected.pop()
        assert beam_search(ours, prompt, config, frozenset(ends or ()), 15) == expected
        assert list(stream_tokens(ours, prompt, config, frozenset(ends or ()), 1)) == expected


def test_those_texts_end_at_various_lengths(pair: tuple[CausalLM, LlamaForCausalLM]) -> None:
    """So the test above is about ended beams as well as open ones."""
    lengths = set()
    for penalty, stops in ((1.0, {22, 1, 3}), (0.0, {3, 7, 11})):
        config = Config(temperature=0.0, num_beams=5, length_penalty=penalty, repetition_penalty=1.0)
        lengths |= {len(beam_search(pair[0], prompt, config, frozenset(stops), 15)) for prompt in ([5], [1, 2, 9])}
    assert len(lengths) >= 3 and max(lengths) == 15


def test_with_a_repetition_penalty(pair: tuple[CausalLM, LlamaForCausalLM]) -> None:
    ours, theirs = pair
    config = Config(temperature=0.0, num_beams=3, repetition_penalty=1.4, max_new_tokens=15)
    expected = theirs.generate(
        torch.tensor([[1, 2, 9]]), attention_mask=torch.ones(1, 3, dtype=torch.long), max_new_tokens=15, do_sample=False,
        num_beams=3, repetition_penalty=1.4, eos_token_id=None, pad_token_id=0,
    )[0, 3:].tolist()  # fmt: skip
    assert beam_search(ours, [1, 2, 9], config, frozenset(), 15) == expected


def log_probability(model: CausalLM, prompt: list[int], tokens: list[int]) -> float:
    with torch.no_grad():
        shares = model(torch.tensor([prompt + tokens]))[0].log_softmax(dim=-1)
    return sum(float(shares[len(prompt) - 1 + place, token]) for place, token in enumerate(tokens))


def test_beams_find_more_probable_texts(pair: tuple[CausalLM, LlamaForCausalLM]) -> None:
    """Against greedy choice, at ten prompts: where the likeliest first token is not that of the likeliest text."""
    model, better = pair[0], 0
    greedy = Config(temperature=0.0, repetition_penalty=1.0, max_new_tokens=8)
    for first in range(10):
        found = beam_search(model, [first], greedy.model_copy(update={"num_beams": 5}), frozenset(), 8)
        alone = list(stream_tokens(model, [first], greedy, frozenset(), 1))
        better += log_probability(model, [first], found) > log_probability(model, [first], alone) + 1e-4
    assert better >= 3


def test_over_a_hidden_cache() -> None:
    """EL-attention moves its rows as the key-value cache does."""
    model = make(position="none", num_key_value_heads=4)
    config = Config(temperature=0.0, num_beams=4, repetition_penalty=1.0, max_new_tokens=10)
    texts = [
        beam_search(model, [4, 7], config.model_copy(update={"cache": cache}), frozenset({3}), 10)
        for cache in ("kv", "hidden")
    ]
    assert texts[0] == texts[1] and len(texts[0]) > 0


def test_the_cache_must_go_with_the_model() -> None:
    config = Config(temperature=0.0, num_beams=2, cache="hidden")
    with pytest.raises(InputError, match=r"infer.cache: hidden \(EL-attention\) does not go with this model"):
        beam_search(make(), [1], config, frozenset(), 5)
