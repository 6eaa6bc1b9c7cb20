"""Generation against Hugging Face's, against the uncached loop, and at its ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from jielong.errors import InputError
from jielong.infer.cache import SINKS
from jielong.infer.config import Config
from jielong.infer.generate import continue_prompt, stream_tokens
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from tests.infer.twins import kept_states, make


@pytest.fixture
def model(model_folder: Path) -> CausalLM:
    return load_folder(model_folder).eval()


@pytest.fixture
def tokenizer(model_folder: Path) -> TokenizerFolder:
    return open_folder(model_folder)


GREEDY = Config(temperature=0.0, top_p=None, repetition_penalty=1.0, max_new_tokens=20)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("prompt", ["中国", "美国和英国的", "x"])
def test_greedy_tokens_equal_hugging_face(
    model: CausalLM, tokenizer: TokenizerFolder, model_folder: Path, prompt: str, penalty: float
) -> None:
    ids = tokenizer.encode_prompt(prompt)
    config = GREEDY.model_copy(update={"repetition_penalty": penalty})
    ours = list(stream_tokens(model, ids, config, frozenset(), 1))
    theirs = AutoModelForCausalLM.from_pretrained(model_folder).generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=20,
        do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert ours == theirs[0, len(ids) :].tolist()


def test_cached_tokens_equal_uncached(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    """The slow twin: the whole text goes through the model again for every token."""
    ids = tokenizer.encode_prompt("中国人民")
    expected, text = [], list(ids)
    with torch.no_grad():
        for _ in range(20):
            token = int(model(torch.tensor([text]))[0, -1].argmax())
            expected.append(token)
            text.append(token)
    assert list(stream_tokens(model, ids, GREEDY, frozenset(), 1)) == expected


CLASSES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {"sliding_window": 12},
    "Qwen2ForCausalLM": {"attention_bias": "qkv"},
    "Qwen3ForCausalLM": {"qk_norm": True},
    "MixtralForCausalLM": {"num_experts": 4},
    "Qwen2MoeForCausalLM": {"num_experts": 4, "shared_expert_intermediate_size": 16, "moe_intermediate_size": 16},
    "Qwen3MoeForCausalLM": {"num_experts": 4, "qk_norm": True, "moe_intermediate_size": 16},
}


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("name", list(CLASSES))
def test_folders_give_the_tokens_of_hugging_face(tmp_path: Path, name: str, penalty: float) -> None:
    """40 greedy tokens after three prompts."""
    save_folder(make(max_position_embeddings=64, **CLASSES[name]), tmp_path, 0)
    ours = load_folder(tmp_path).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == name
    config = GREEDY.model_copy(update={"repetition_penalty": penalty, "max_new_tokens": 40})
    for ids in ([5], [1, 2, 9], [30, 8, 8, 17, 21]):
        expected = theirs.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=40,
            do_sample=False, repetition_penalty=penalty, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert list(stream_tokens(ours, ids, config, frozenset(), 1)) == expected[0, len(ids) :].tolist()


@pytest.mark.parametrize("prompt", [3, 9, 25])
def test_a_text_without_end(prompt: int) -> None:
    """Greedy tokens over a rolling cache of 9, far beyond the context of 16, against the cache's twin."""
    model, ids = make(), list(range(7, 7 + prompt))
    config = GREEDY.model_copy(update={"cache": "rolling", "cache_tokens": 9, "max_new_tokens": 40})
    found = list(stream_tokens(model, ids, config, frozenset(), 1))
    assert len(found) == 40
    expected = kept_states(model, ids + found, 9, SINKS)[prompt - 1 : -1].argmax(dim=-1)
    assert found == expected.tolist()


def test_texts_do_not_disturb_each_other(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    """Two at once, a token of each in turn."""
    prompts = [tokenizer.encode_prompt(text) for text in ("中国", "美国和英国的")]
    apart = [list(stream_tokens(model, ids, GREEDY, frozenset(), 1)) for ids in prompts]
    together = zip(*(stream_tokens(model, ids, GREEDY, frozenset(), 1) for ids in prompts), strict=True)
    assert [list(row) for row in zip(*together, strict=True)] == apart


def test_stop_strings(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    """Each piece of two characters of a text, as a stop string: the text ends before its first occurrence, nothing of it shown."""
    config = GREEDY.model_copy(update={"max_new_tokens": 30})
    whole = continue_prompt(model, tokenizer, "中国", config, 1)
    assert len(whole.text) > 6
    for place in range(len(whole.text) - 1):
        string, shown = whole.text[place : place + 2], list[str]()
        stopping = config.model_copy(update={"stop": (string, "不在其中")})
        found = continue_prompt(model, tokenizer, "中国", stopping, 1, shown.append)
        assert found.text == whole.text[: whole.text.index(string)] == "".join(shown)
        assert found.stopped == "stop" and found.tokens <= whole.tokens


def test_the_seed_decides(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    config = Config(temperature=1.0, max_new_tokens=20)
    one, same, other = (continue_prompt(model, tokenizer, "中国", config, seed).text for seed in (1, 1, 2))
    assert one == same != other


def test_what_is_shown_is_what_is_returned(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    for seed in range(10):
        shown: list[str] = []
        found = continue_prompt(model, tokenizer, "人工", Config(temperature=2.0), seed, shown.append)
        assert "".join(shown) == found.text
        assert "\ufffd" not in found.text


def test_ends(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    found = continue_prompt(model, tokenizer, "中国", GREEDY.model_copy(update={"max_new_tokens": 3}), 1)
    assert (found.tokens, found.stopped) == (3, "length")
    full = continue_prompt(model, tokenizer, "中国", GREEDY.model_copy(update={"max_new_tokens": 999}), 1)
    assert full.stopped in ("context", "end_of_text")
    assert full.tokens <= 40 - len(tokenizer.encode_prompt("中国"))
    first = next(stream_tokens(model, tokenizer.encode_prompt("中国"), GREEDY, frozenset(), 1))
    assert list(stream_tokens(model, tokenizer.encode_prompt("中国"), GREEDY, frozenset({first}), 1)) == []


def test_a_prompt_that_fills_the_context(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    with pytest.raises(InputError, match=r"prompt: too long, got \d+ tokens; the model's context is 40 tokens"):
        continue_prompt(model, tokenizer, "龘" * 40, GREEDY, 1)


def test_an_empty_prompt_writes_a_fresh_text(model: CausalLM, tokenizer: TokenizerFolder) -> None:
    assert continue_prompt(model, tokenizer, "", GREEDY, 1).tokens > 0


def test_the_model_s_mode_and_the_global_random_state_are_left_alone(
    model: CausalLM, tokenizer: TokenizerFolder
) -> None:
    model.train()
    state = torch.get_rng_state()
    continue_prompt(model, tokenizer, "中国", Config(), 1)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("position", ["alibi", "none"])
def test_positions_without_a_last_one_have_no_end(position: str) -> None:
    """Far beyond the context of 16, without a rolling cache: what one pass over the whole text says."""
    model = make(position=position)
    ids = list(range(20))
    found = list(stream_tokens(model, ids, GREEDY.model_copy(update={"max_new_tokens": 20}), frozenset(), 1))
    with torch.no_grad():
        assert found == model(torch.tensor([ids + found]))[0, 19:-1].argmax(dim=-1).tolist()
