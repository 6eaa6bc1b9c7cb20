"""Reward models at work: a folder -> a function that scores answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError, ModelError

if TYPE_CHECKING:
    from jielong.model.transformer import CausalLM
    from jielong.tokenizer.chat.templates import ChatTemplate

Scorer = Callable[[list[list[dict[str, Any]]], list[str]], list[float]]  # (conversations, answers) -> a score for each
ROWS = 16  # that go through the model at once


def check_scorer(folder: Path) -> None:
    """Raises InputError for a folder that is not there, ModelError for one that holds no reward model."""
    from jielong.runs import writes

    if not (folder / "config.json").is_file():
        raise InputError(
            f'reward model: no model folder, got {folder}; give one that align made with method = "reward"'
        )
    if writes(folder):
        raise ModelError(
            f'{folder}: a language model and no reward model, it has no score; train one: align.method = "reward"'
        )


def open_scorer(folder: Path, device: str = "auto") -> Scorer:
    """A reward model, ready to score answers to conversations (messages that end with a user's turn).

    Raises InputError for a folder that is not there, ModelError for one that holds no reward model.
    """
    from jielong.model.hf import load_folder
    from jielong.runtime import choose_device
    from jielong.tokenizer.chat.templates import ChatTemplate
    from jielong.tokenizer.folder import open_folder

    check_scorer(folder)
    model = load_folder(folder)
    model = model.to(choose_device(device)).eval().requires_grad_(False)
    template = ChatTemplate(open_folder(folder))
    return lambda conversations, answers: scored(model, template, conversations, answers)


def scored(
    model: CausalLM, template: ChatTemplate, conversations: list[list[dict[str, Any]]], answers: list[str]
) -> list[float]:
    """Scores of answers, read at their last token. A conversation that is longer than the model's context loses its beginning."""
    import torch

    from jielong.model.heads import score
    from jielong.tokenizer.chat.conversations import Conversation, Message

    rows, longest = list[list[int]](), model.config.max_position_embeddings
    for messages, answer in zip(conversations, answers, strict=True):
        said = [Message(str(one["role"]), str(one["content"])) for one in messages]
        prompt = template.prompt(Conversation(tuple(said)))
        # the answer as it is trained on: with the token that ends it; special tokens that it spells are text here
        rows.append(([*prompt, *template.tokenizer.encode([answer])[0], *template.ends])[-longest:])
    found, device = [0.0] * len(rows), model.model.embed_tokens.weight.device
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    for at in range(0, len(order), ROWS):
        chosen = order[at : at + ROWS]
        ids = torch.zeros(len(chosen), max(len(rows[number]) for number in chosen), dtype=torch.int64)
        for place, number in enumerate(chosen):
            ids[place, : len(rows[number])] = torch.tensor(rows[number])
        lengths = torch.tensor([len(rows[number]) for number in chosen])
        with torch.no_grad():
            values = score(model, ids.to(device), lengths.to(device)).tolist()
        for number, value in zip(chosen, values, strict=True):
            found[number] = value
    return found
