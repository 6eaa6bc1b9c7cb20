"""`jielong judge`: two models answer the same prompts, and a judge says which answers are better.

How verdicts are counted, and what the interval of the win rate is, stands in align/judging.py. Both models are asked with the same
sampling and the same seeds, prompt n with seed + n, and several prompts go through a model together (batch.py). A model that was tuned
takes turns, by its chat template, any other continues the text of the prompt, as in `jielong chat`.

Everything heavy is imported inside the functions: the command line reads this file whenever it starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jielong.console import RUNS, JsonOpt, RunsOpt, tell
from jielong.errors import InputError

if TYPE_CHECKING:
    from jielong.align.judging import Judge
    from jielong.infer.chat.opening import Opened
    from jielong.infer.chat.speaking import Speaker
    from jielong.infer.generate import Continuation

ENDED = ("end_of_text", "stop")  # how an answer stops that the model itself ended
RESULT, PAGE = "judge.json", "judge.html"


@dataclass(frozen=True)
class Question:
    """A prompt of the file. messages: {"role", "content"}, the last one of the user; columns: the other fields of its record."""

    messages: list[dict[str, Any]]
    columns: dict[str, Any]
    line: int

    @property
    def text(self) -> str:
        """All its turns, without a system message: what a model is given that continues text."""
        return "\n".join(message["content"] for message in self.messages if message["role"] != "system")

    def opened(self, system: str) -> Question:
        """With a system message, where there is none and it is not empty."""
        if not system or self.messages[0]["role"] == "system":
            return self
        return replace(self, messages=[{"role": "system", "content": system}, *self.messages])


def read_questions(path: Path, limit: int) -> list[Question]:
    """The first prompts of a file, `limit` at most: of .txt one a line, of records whatever has a prompt (align/parsing.py).

    Raises InputError for a file that is not there, is of an unknown kind or holds no prompt, and for a record without one.
    """
    from jielong.align.parsing import Prompt, parse
    from jielong.data.config import Source
    from jielong.data.reading.readers import KNOWN_SUFFIXES, BadRecord, kind_of, read_objects
    from jielong.tokenizer.chat.conversations import Unfit

    if not path.is_file():
        raise InputError(f"--prompts: no such file, got {path}; give a .jsonl with prompts, or a .txt with one a line")
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"--prompts: unknown kind of file, got {path}; known: {KNOWN_SUFFIXES}; rename or convert it")
    found = list[Question]()
    if kind == ("txt", ""):
        lines = enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1)
        texts = ((number, line.strip()) for number, line in lines if line.strip())
        found = [Question([{"role": "user", "content": text}], {}, number) for number, text in islice(texts, limit)]
    elif kind[0] == "txt":
        raise InputError(f"--prompts: packed text, got {path}; unpack it, or give a .jsonl")
    else:
        for item in islice(read_objects(path, Source(name="prompts", path=str(path))), limit):
            if isinstance(item, BadRecord):
                raise InputError(f"--prompts: a record that cannot be read, got {item.reason} ({item.detail}) in "
                                 f"{path}, line {item.line}; correct it")  # fmt: skip
            try:
                [example] = parse(item.record, "prompts")
            except Unfit as unfit:
                raise InputError(
                    f"--prompts: a record without a prompt to answer, got {unfit} in {path}, line {item.line}; correct it"
                ) from None
            assert isinstance(example, Prompt)
            found.append(Question([message.to_json() for message in example.prompt], example.columns, item.line))
    if not found:
        raise InputError(f"--prompts: holds no prompt, got {path}; write one a line")
    return found


def columns_of(questions: list[Question]) -> dict[str, list[Any]]:
    """The fields of the records as columns; None where a record has no such field."""
    names = dict.fromkeys(name for question in questions for name in question.columns)
    return {name: [question.columns.get(name) for question in questions] for name in names}


# ---------------------------------------------------------------------------------------------------------- answers


def speaker_of(opened: Opened) -> tuple[Speaker, str]:
    """Who answers for a model: with turns, or continuing text; and why, for people."""
    from jielong.infer.chat.opening import decide
    from jielong.infer.chat.speaking import Speaker

    templates, reason = decide([opened], None)
    if templates is None:
        return Speaker(opened.name, opened.model, opened.tokenizer, opened.config), reason
    return Speaker(opened.name, opened.model, opened.tokenizer, opened.config, templates[0]), "it takes turns"


def ids_of(speaker: Speaker, question: Question) -> list[int]:
    """What a model is given. Raises InputError for a prompt that does not fit its context, or that it cannot be asked."""
    from jielong.infer.chat.speaking import Turn

    if speaker.template is None:
        return speaker.prompt("", [], question.text)[0]
    texts = [message["content"] for message in question.messages]
    system = texts.pop(0) if question.messages[0]["role"] == "system" else ""
    speaker.check("system", system)
    turns = [Turn(*pair) for pair in zip(texts[0:-1:2], texts[1::2], strict=True)]
    return speaker.prompt(system, turns, texts[-1])[0]


def ends_of(speaker: Speaker) -> tuple[frozenset[int], tuple[str, ...]]:
    """The ids and the strings that end an answer, the same that end one in a chat (chat/speaking.py)."""
    stops = speaker.tokenizer.stop_ids | {speaker.tokenizer.end_id}
    if speaker.template is None:
        return stops, speaker.config.stop
    added = speaker.tokenizer.backend.get_added_tokens_decoder()
    special = {token_id: token.content for token_id, token in added.items() if token.special and token.content}
    stops |= {*speaker.template.stops, *(special.keys() & speaker.template.written)}
    return stops, (*speaker.config.stop, *special.values())


def answer_together(
    speaker: Speaker, prompts: list[list[int]], advance: Callable[[int], None] = lambda count: None
) -> list[Continuation]:
    """Answers to prompts in ids, each as it would be alone (Speaker.answer); prompt n draws with the seed config.seed + n.

    advance: told how many more are written.
    """
    from jielong.infer.batch import generate_batch
    from jielong.infer.generate import finished, room
    from jielong.infer.stream import Writing

    config, (stops, strings) = speaker.config, ends_of(speaker)
    writings = [Writing(speaker.tokenizer, ids, strings) for ids in prompts]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), config.batch_size):
        group = order[start : start + config.batch_size]
        chosen = [writings[number] for number in group]

        def watch(place: int, token: int, chosen: list[Writing] = chosen) -> bool:
            chosen[place].push(token)
            return chosen[place].ended

        seeds = [config.seed + number for number in group]
        generate_batch(speaker.model, [prompts[number] for number in group], config, stops, seeds, watch)
        advance(len(group))
    for writing in writings:
        writing.finish()
    return [
        finished("", writing, room(speaker.model, len(ids), config), config)
        for ids, writing in zip(prompts, writings, strict=True)
    ]


# ---------------------------------------------------------------------------------------------------------- judging


def open_judge(by: str, device: str) -> Judge:
    """The judge of --by: a function, or a reward model's folder, which may be that of a run with [align]. Raises InputError."""
    from jielong.align.judging import judge_by
    from jielong.runs import scorer_folder
    from jielong.train.checkpoints import newest

    place = Path(by).expanduser()
    if place.is_dir():
        place = scorer_folder(place) or newest(place / "checkpoints") or place
    judge = judge_by(str(place) if place.is_dir() else by, (), device, "--by")
    assert judge is not None
    return replace(judge, label=f"reward model {Path(by).name}") if place.is_dir() else judge


def judge_models(
    names: tuple[str, str],
    questions: list[Question],
    by: str,
    options: dict[str, Any],
    runs_dir: Path,
    system: str = "",
) -> dict[str, Any]:
    """Both models' answers to the prompts and what the judge said of them, as JSON: counts, shares, a row a prompt.

    options: keys of [infer] for both, None for the defaults; system: a system message for prompts that have none. Raises what opening a model or a judge raises, InputError for a prompt that
    a model cannot be asked, TrainingError for a judge that fails.
    """
    from jielong.align.judging import compare
    from jielong.infer.chat.opening import open_all
    from jielong.infer.config import with_options
    from jielong.progress import Progress, say

    config = with_options({}, options)
    judge = open_judge(by, config.device)
    questions = [question.opened(system) for question in questions]
    speakers, prompts, told = list["Speaker"](), list[list[list[int]]](), list[dict[str, Any]]()
    for label, opened in zip(("A", "B"), open_all(list(names), runs_dir, [config, config]), strict=True):
        speaker, reason = speaker_of(opened)
        say(f"{label} is {opened.name}: {reason}")
        speakers.append(speaker)
        prompts.append([_ids(speaker, question) for question in questions])  # refused before anything is written
        told.append({"name": opened.name, "model": str(opened.folder), "turns": speaker.template is not None})
    if system and not any(one["turns"] for one in told):
        raise InputError(f"--system: only where turns are taken, got {system[:40]!r}; leave it out")
    answers = list[list["Continuation"]]()
    with Progress("judge", 2 * len(questions), "answers") as progress:
        for speaker, ids in zip(speakers, prompts, strict=True):
            answers.append(answer_together(speaker, ids, progress.advance))
    texts = [[row.text for row in written] for written in answers]
    ended = [[row.stopped in ENDED for row in written] for written in answers]
    messages = [question.messages for question in questions]
    verdicts = compare(judge, messages, texts[0], texts[1], columns_of(questions), ended[0], ended[1]).to_json()
    rows = [
        {"line": question.line, "messages": question.messages, "a": one.text, "b": other.text,
         "stopped": {"a": one.stopped, "b": other.stopped}, **verdict}
        for question, one, other, verdict in zip(questions, *answers, verdicts.pop("verdicts"), strict=True)
    ]  # fmt: skip
    sampling = {
        key: getattr(config, key) for key in ("max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed")
    }
    return {"a": told[0], "b": told[1], "by": judge.label, **verdicts, "sampling": sampling, "rows": rows}


def _ids(speaker: Speaker, question: Question) -> list[int]:
    try:
        return ids_of(speaker, question)
    except InputError as error:
        raise InputError(f"--prompts: line {question.line}: {error}") from None


def summary(found: dict[str, Any]) -> str:
    """What was found, in a few lines."""
    wins, interval, count = found["wins"], found["interval"], found["prompts"]
    said = "no difference is shown"
    if interval["low"] > 0.5 or interval["high"] < 0.5:
        said = f"{'A' if interval['low'] > 0.5 else 'B'} is better"
    lines = [f"{label.upper()}  {wins[label]:>5} better  {found[label]['name']}" for label in ("a", "b")]
    lines.append(f"   {wins['tie']:>5} ties")
    if found["position_bias"] is not None:
        lines[-1] += f", {found['changed']} of them because the verdict changed with the order of the answers"
        lines.append(f"position bias: {found['position_bias']:.1%} of the verdicts changed")
    if found["mean_worth"] is not None:
        lines.append(f"mean worth of an answer: A {found['mean_worth']['a']:.4g}, B {found['mean_worth']['b']:.4g}")
    lines.append(
        f"win rate of A: {found['win_rate']:.1%} (95 %: {interval['low']:.1%} to {interval['high']:.1%}; a tie is half a win), "
        f"{count:,} prompt{'s' if count > 1 else ''}, judged by {found['by']}: {said}"
    )
    return "\n".join(lines)


def judge(
    model_a: Annotated[str, typer.Argument(metavar="A", help="A run's name, or a model folder.")],
    model_b: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="FILE", help="What both answer: a .txt with one a line, or records.")
    ],
    by: Annotated[
        str, typer.Option("--by", metavar="JUDGE", help="FILE.py:NAME, a function; or the folder of a reward model.")
    ],
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many prompts, from the first on.")] = 200,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Length limit, tokens.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0: greedy.")] = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same seed gives the same answers.")] = None,
    system: Annotated[
        str, typer.Option("--system", metavar="TEXT", help="System message for prompts that have none.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help=f"Write {RESULT} and {PAGE} there; default: nowhere.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")] = "auto",
    runs_dir: RunsOpt = RUNS,
    json: JsonOpt = False,
) -> dict[str, Any]:
    """Who answers better, A or B."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out: a file, got {out}; give a folder")
    questions = read_questions(prompts, limit)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed, "device": device}
    found = {"prompts_file": str(prompts), **judge_models((model_a, model_b), questions, by, options, runs_dir, system)}
    if out is not None:
        from jielong.infer.judging_page import write_page
        from jielong.runs import write_json

        write_json(out / RESULT, found)
        write_page(found, out / PAGE)
    if not json:
        tell(summary(found))
        if out is not None:
            tell(f"The page, with all answers: {out / PAGE}")
    return found if out is None else {**found, "page": str(out / PAGE)}


COMMANDS: dict[str, tuple[Callable[..., dict[str, Any] | None], str]] = {
    "judge": (judge, "Let two models answer the same prompts, and say by a judge who answers better."),
}
