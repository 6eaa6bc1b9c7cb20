"""Continue a prompt, a token at a time: the loop around a stepper (`stepping.py`), with stop ids, stop strings and text."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import torch

from jielong.errors import InputError
from jielong.infer.beam import beam_search
from jielong.infer.config import Config
from jielong.infer.prefix import Prefix
from jielong.infer.sampling import choose
from jielong.infer.stepping import begin
from jielong.infer.stream import Writing
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after a prompt."""

    prompt: str
    text: str
    tokens: int
    # end_of_text (in a chat: of the answer), stop (a stop string), length (max_new_tokens), context (the model's longest
    # context) or interrupted (in a chat, by Ctrl-C)
    stopped: str
    broken_characters: int


def room(model: CausalLM, prompt: int, config: Config) -> int:
    """How many tokens may follow a prompt of so many tokens: others than `is_endless` end with the context."""
    if is_endless(model, config):
        return config.max_new_tokens
    return max(0, min(config.max_new_tokens, model.config.max_position_embeddings - prompt))


def is_endless(model: CausalLM, config: Config) -> bool:
    """Whether a text may go on beyond the model's context: over a rolling cache, or with positions that know no last one."""
    return config.cache == "rolling" or model.config.position != "rope"


def encode(model: CausalLM, tokenizer: TokenizerFolder, prompt: str, config: Config) -> list[int]:
    """The prompt's ids. Raises InputError when they alone fill the model's context."""
    ids = tokenizer.encode_prompt(prompt)
    longest = model.config.max_position_embeddings
    if len(ids) >= longest and not is_endless(model, config):
        raise InputError(
            f"prompt: too long, got {len(ids)} tokens; the model's context is {longest} tokens; shorten the prompt"
        )
    return ids


@torch.no_grad()
def stream_tokens(
    model: CausalLM,
    ids: list[int],
    config: Config,
    stop_ids: frozenset[int],
    seed: int,
    prefix: Prefix | None = None,
) -> Iterator[int]:
    """New token ids after `ids`, one at a time; ends before a stop id, after max_new_tokens, or when the context is full.

    With beams all of them come at the end. prefix: what is known of the text before, see `begin`; beams do not use it.
    Raises InputError for a cache that does not go with the model.
    """
    count = room(model, len(ids), config)
    if count == 0:
        return
    if config.num_beams > 1:
        yield from beam_search(model, ids, config, stop_ids, count)
        return
    logits_BV, stepper = begin(model, [ids], count, config, prefix)
    device = logits_BV.device
    generators = [torch.Generator(device=device).manual_seed(seed)]
    seen_BV = torch.zeros(1, logits_BV.shape[1], dtype=torch.bool, device=device)
    seen_BV[0, ids] = True
    sampling = (config.temperature, config.top_k, config.top_p, config.repetition_penalty, generators)
    try:
        for number in range(1, count + 1):
            token_B = choose(logits_BV, seen_BV, *sampling)
            token = int(token_B)
            if token in stop_ids:
                return
            yield token
            if number < count:
                seen_BV[0, token] = True
                logits_BV = stepper.step(token_B)
    finally:
        stepper.close()


def stream_text(
    model: CausalLM,
    ids: list[int],
    config: Config,
    stop_ids: frozenset[int],
    seed: int,
    writing: Writing,
    prefix: Prefix | None = None,
) -> Generator[str, None, None]:
    """The text after `ids`, in pieces as they are complete.

    writing: begun with the same ids; it holds what was written so far, after an interruption too (`Writing.finish` gives
    the rest). The others as in `stream_tokens`, of which this is the text.
    """
    for token in stream_tokens(model, ids, config, stop_ids, seed, prefix):
        if piece := writing.push(token):
            yield piece
        if writing.ended:
            break
    if rest := writing.finish():
        yield rest


def continue_prompt(
    model: CausalLM,
    tokenizer: TokenizerFolder,
    prompt: str,
    config: Config,
    seed: int,
    show: Callable[[str], None] | None = None,
) -> Continuation:
    """Continue one prompt. `show` is called with each piece of text as it is complete.

    Raises InputError when the prompt alone fills the model's context, or the cache does not go with the model.
    """
    ids = encode(model, tokenizer, prompt, config)
    training = model.training
    model.eval()
    writing = Writing(tokenizer, ids, config.stop)
    show = show if show is not None else lambda piece: None
    try:
        for piece in stream_text(model, ids, config, tokenizer.stop_ids | {tokenizer.end_id}, seed, writing):
            show(piece)
    finally:
        model.train(training)
    return finished(prompt, writing, room(model, len(ids), config), config)


def finished(prompt: str, writing: Writing, full: int, config: Config) -> Continuation:
    """The record of a continuation that ended. full: how many tokens it might have had (`room`)."""
    if writing.ended:
        stopped = "stop"
    elif writing.tokens < full:
        stopped = "end_of_text"
    else:
        stopped = "length" if full == config.max_new_tokens else "context"
    return Continuation(prompt, writing.text, writing.tokens, stopped, writing.broken)
