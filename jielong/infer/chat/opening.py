"""Which models a chat is held with, and whether they take turns or continue text.

A model that was tuned takes turns. A checkpoint of the train stage was not, whatever template its tokenizer carries (those made
here have one from birth), and continues text. Any other folder takes turns where its tokenizer can: it has a chat template,
and what the template puts behind an answer is a token, without which no answer would end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from jielong.errors import InputError, TokenizerError
from jielong.infer.chat.speaking import Speaker
from jielong.infer.config import Config
from jielong.infer.models import open_model
from jielong.model.transformer import CausalLM
from jielong.tokenizer.chat.templates import PROBE, ChatTemplate, template_of
from jielong.tokenizer.folder import TokenizerFolder

MARK = re.compile(r"<[|｜][^|｜<>\s]+[|｜]>")  # what special tokens of templates look like: <|im_end|>


@dataclass(frozen=True)
class Opened:
    """A model that is ready. name: as the user called it."""

    name: str
    model: CausalLM
    tokenizer: TokenizerFolder
    folder: Path
    config: Config


def open_all(names: list[str], runs_dir: Path, configs: list[Config]) -> list[Opened]:
    """Open models by name, each with its sampling. Raises what `open_model` raises."""
    found = []
    for name, config in zip(names, configs, strict=True):
        model, tokenizer, folder = open_model(name, runs_dir, config.device, config.precision)
        found.append(Opened(name, model, tokenizer, folder, config))
    return found


def stage_of(folder: Path) -> str | None:
    """The stage that made a checkpoint, RUN/<stage>/checkpoints/step-...; None: the folder is no checkpoint of a run."""
    place = folder.resolve().parent
    return place.parent.name if place.name == "checkpoints" else None


def usable_template(opened: Opened) -> ChatTemplate:
    """The chat template of a model's tokenizer. Raises TokenizerError where there is none, or none that a chat can be held by."""
    source = template_of(opened.tokenizer)
    if source is None:
        raise TokenizerError(
            f"chat_template: {opened.folder} has none, so it knows no turns; tune the model, or let it continue text with "
            "--continue"
        )
    template = ChatTemplate(opened.tokenizer, source, learns=False)
    behind = template.render(PROBE).rpartition(PROBE.messages[-1].content)[2]
    backend = opened.tokenizer.backend
    if any(backend.token_to_id(mark) is None for mark in MARK.findall(behind)):
        marks = dict.fromkeys(
            mark for mark in MARK.findall(template.render(PROBE)) if backend.token_to_id(mark) is None
        )
        raise TokenizerError(
            f"chat_template: ends answers with what is no token, got {', '.join(marks)}, which the vocabulary of "
            f"{opened.folder} does not have, so no answer would end; tune the model with a tokenizer that has them, or let it "
            "continue text with --continue"
        )
    return template


def decide(opened: list[Opened], turns: bool | None) -> tuple[list[ChatTemplate] | None, str]:
    """The templates of models that take turns, or None where they continue text; and why, for the start line.

    turns: what the user asked for; None: nothing. Two models do the same: one that can take turns decides for both. Raises
    TokenizerError for turns that a model cannot take.
    """
    if turns is False:
        return None, "--chat would take turns"
    wanted, reason = turns is True, ""
    for one in [] if wanted else opened:
        try:
            if stage_of(one.folder) == "train":
                reason = reason or "it is trained but not tuned, so it continues text: --chat forces turns"
            else:
                usable_template(one)
                wanted = True
        except TokenizerError as error:
            reason = reason or f"it continues text: {str(error).partition('; ')[0]}"
    if not wanted:
        return None, reason
    return [usable_template(one) for one in opened], "--continue would continue text"


def speakers(opened: list[Opened], turns: bool | None, system: str) -> tuple[list[Speaker], str]:
    """Speakers for a session, and the line that a chat starts with. Raises InputError for a system prompt without turns."""
    templates, reason = decide(opened, turns)
    if templates is None and system:
        raise InputError(f"--system: only where turns are taken, got {system[:40]!r}; leave it out, or add --chat")
    names = [one.name for one in opened]
    if len(set(names)) < len(names):
        names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    found = [
        Speaker(name, one.model, one.tokenizer, one.config, None if templates is None else templates[number])
        for number, (name, one) in enumerate(zip(names, opened, strict=True))
    ]
    folders = " and ".join(str(one.folder) for one in opened)
    what = "write the start of a text, press Enter" if templates is None else "write a message, press Enter"
    return found, f"{folders}: {what}; /help lists commands; empty line or Ctrl-D to leave; {reason}"
