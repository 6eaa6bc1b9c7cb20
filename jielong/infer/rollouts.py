"""Answers that a model writes for somebody else to judge, many at once: tokens in, tokens out."""

from __future__ import annotations

from jielong.infer.batch import generate_batch
from jielong.infer.config import Config
from jielong.model.transformer import CausalLM


def rollouts(
    model: CausalLM,
    prompts: list[list[int]],
    seeds: list[int],
    temperature: float,
    length: int,
    stops: frozenset[int],
    rows: int = 64,
) -> list[list[int]]:
    """New tokens behind each prompt, at most `length`; the one of `stops` that ended it is its last.

    Drawn from the whole distribution at a temperature, each with a generator of its own; 0: the likeliest tokens. rows: prompts together.
    """
    config = Config(
        max_new_tokens=length, temperature=temperature, top_k=None, top_p=None, repetition_penalty=1.0, batch_size=rows
    )
    found: list[list[int]] = [[] for _ in prompts]

    def watch(number: int, token: int) -> bool:
        found[number].append(token)
        return token in stops

    training = model.training
    model.eval()
    try:
        generate_batch(model, prompts, config, frozenset(), seeds, watch)
    finally:
        model.train(training)
    return found
