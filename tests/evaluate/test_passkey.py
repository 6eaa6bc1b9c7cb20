"""The passkey task: the puzzle itself, models that know the answer or nothing, and a slow twin without a cache."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jielong.evaluate.passkey import (
    CANDIDATES,
    DEPTHS,
    FILLER,
    HEAD,
    QUESTION,
    STATEMENT,
    ask,
    make_puzzle,
    measure_passkey,
    new_cache,
    read,
    start_of,
)
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from tests.corpus import texts

LENGTH = 400


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    folder = tmp_path_factory.mktemp("tokenizer")
    corpus = [*texts(30), HEAD, STATEMENT, QUESTION, *FILLER] * 2
    bpe.save(bpe.train(corpus, 900, TokenizerConfig().specials, 2, True), folder)
    return open_folder(folder)


def fresh(tokenizer: TokenizerFolder, **options: Any) -> CausalLM:
    """A random model, larger weights than usual so that its answers differ."""
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    model = CausalLM(
        Config(vocab_size=tokenizer.size, max_position_embeddings=64, initializer_range=0.3, **shape, **options)
    )
    initialise(model, 1)
    return model.eval()


class Oracle(nn.Module):
    """Goes on as the text did after the longest stretch that ends as it ends now; the first such place. It remembers by itself."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.config = Config(vocab_size=size)
        self.size, self.seen = size, list[int]()
        self.model, self.lm_head = self._run, nn.Identity()
        self.unused = nn.Parameter(torch.zeros(1))

    def _next(self) -> int:
        text = self.seen
        for width in range(8, 0, -1):
            for at in range(len(text) - width):
                if text[at : at + width] == text[-width:]:
                    return text[at + width]
        return 0

    def _run(self, ids_BT: Tensor, cache: Any) -> tuple[Tensor, list[Any]]:
        del self.seen[cache.length :]
        out = []
        for token in ids_BT[0].tolist():
            self.seen.append(token)
            out.append(torch.nn.functional.one_hot(torch.tensor(self._next()), self.size).float() * 20)
        cache.length += ids_BT.shape[1]
        return torch.stack(out)[None], []


class Counter:
    """As much of a cache as Oracle needs."""

    length = 0


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_puzzle_says_its_number_once_and_asks_for_it(tokenizer: TokenizerFolder, depth: int) -> None:
    puzzle = make_puzzle(tokenizer, LENGTH, depth, 0, 1)
    assert puzzle is not None
    assert LENGTH - max(len(tokenizer.encode([s])[0]) for s in FILLER) - 2 <= len(puzzle.prompt) + 5 <= LENGTH
    assert all(len(puzzle.prompt) + len(answer) <= LENGTH for answer in puzzle.answers)
    assert puzzle.prompt[0] == start_of(tokenizer)
    text = tokenizer.decode(puzzle.prompt[1:])
    assert text.startswith(HEAD) and text.endswith(QUESTION)
    assert re.findall(r"\d+", text) == [puzzle.key, puzzle.key] and len(puzzle.key) == 5
    filler = text.removeprefix(HEAD).removesuffix(QUESTION)
    before, _, after = filler.partition(STATEMENT.format(key=puzzle.key))
    share = len(tokenizer.encode([before])[0]) / sum(len(ids) for ids in tokenizer.encode([before, after]))
    assert abs(share - depth / 100) < 0.1  # to the nearest sentence
    said = [tokenizer.decode(answer) for answer in puzzle.answers]
    assert len(set(said)) == CANDIDATES and said[0] == puzzle.key and all(re.fullmatch(r"\d{5}", one) for one in said)


def test_the_number_depends_on_the_seed_and_not_on_the_length(tokenizer: TokenizerFolder) -> None:
    keys = {
        (length, number, seed): made.key
        for length in (LENGTH, LENGTH + 100)
        for number in (0, 1)
        for seed in (1, 2)
        if (made := make_puzzle(tokenizer, length, 50, number, seed)) is not None
    }
    assert len(keys) == 8 and len(set(keys.values())) == 4
    assert all(keys[LENGTH, *rest] == keys[LENGTH + 100, *rest] for rest in ((0, 1), (1, 1), (0, 2), (1, 2)))
    assert make_puzzle(tokenizer, LENGTH, 50, 0, 1) == make_puzzle(tokenizer, LENGTH, 50, 0, 1)


def test_the_filler_says_no_number() -> None:
    """Neither in digits nor, where it could be one of five digits, in characters."""
    assert not re.search(r"\d|[一二三四五六七八九十百千万]{2}", "".join(FILLER)) and len(set(FILLER)) == len(FILLER)


def test_what_is_too_short_has_no_puzzle(tokenizer: TokenizerFolder) -> None:
    assert make_puzzle(tokenizer, 32, 10, 0, 1) is None
    assert measure_passkey(fresh(tokenizer), tokenizer, 32, 1, 1) is None


def test_a_model_that_looks_back_is_always_right(tokenizer: TokenizerFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jielong.evaluate.passkey.new_cache", lambda model, length: Counter())
    seen: list[int] = []
    found = measure_passkey(Oracle(tokenizer.size), tokenizer, LENGTH, 2, 1, seen.append)  # type: ignore[arg-type]  # a stand-in
    assert found is not None and seen == [LENGTH] * 6
    assert (found["greedy"], found["likelihood"], found["mean_rank"], found["prompts"]) == (1.0, 1.0, 1.0, 6)
    assert found["by_depth"] == {str(d): {"greedy": 1.0, "likelihood": 1.0, "mean_rank": 1.0} for d in DEPTHS}
    assert LENGTH - 40 < found["tokens"] < LENGTH


@pytest.mark.parametrize("filled", [0.0, float("nan")])
def test_a_model_that_says_the_same_of_all_is_never_right(tokenizer: TokenizerFolder, filled: float) -> None:
    """Ties and NaN count against it: the right one of ten comes last."""
    model = fresh(tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(filled)
    found = measure_passkey(model, tokenizer, LENGTH, 1, 1)
    assert found is not None and (found["greedy"], found["likelihood"]) == (0.0, 0.0)
    assert found["mean_rank"] == CANDIDATES


KINDS: dict[str, dict[str, Any]] = {
    "rope": {}, "alibi": {"position": "alibi"}, "none": {"position": "none"}, "window": {"sliding_window": 7},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "clex": {"rope_scaling": {"rope_type": "clex", "factor": 4.0}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_without_a_cache(tokenizer: TokenizerFolder, kind: str) -> None:
    """The slow twin: every candidate behind the prompt in a pass of its own, and a greedy answer of passes of its own."""
    model = fresh(tokenizer, **KINDS[kind])
    for number in range(2):
        puzzle = make_puzzle(tokenizer, LENGTH, 50, number, 1)
        assert puzzle is not None
        scores, said = [], list[int]()
        with torch.no_grad():
            for answer in puzzle.answers:
                logits = model(torch.tensor([[*puzzle.prompt, *answer]]), reach=LENGTH)[0].log_softmax(dim=-1)
                scores.append(sum(float(logits[len(puzzle.prompt) - 1 + n, token]) for n, token in enumerate(answer)))
            for _ in range(1 + max(map(len, puzzle.answers))):
                said.append(int(model(torch.tensor([[*puzzle.prompt, *said]]), reach=LENGTH)[0, -1].argmax()))
        found = ask(model, tokenizer, puzzle, new_cache(model, LENGTH))
        assert found.said == tokenizer.decode(said)
        assert found.rank == 1 + sum(score >= scores[0] for score in scores[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_parts_is_reading_at_once(tokenizer: TokenizerFolder, kind: str) -> None:
    model, ids = fresh(tokenizer, **KINDS[kind]), list(range(90))
    with torch.no_grad():
        whole = model.model(torch.tensor([ids]), reach=100)[0][0]
    for chunk, last in ((1024, 1), (7, 1), (16, 40), (90, 90), (1, 3)):
        cache = new_cache(model, 100)
        torch.testing.assert_close(read(model, ids, cache, last, chunk), whole[-last:], rtol=1e-4, atol=1e-5)
        assert cache.length == 90
