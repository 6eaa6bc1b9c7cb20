"""Conversations of all forms and sources -> masked token shards, rejects with reasons, counts and a page.

    read (data/reading) -> conversation (checking.py) -> tokens with a mask (cutting.py) -> known already? -> train or validation

    shards/              one document a conversation; its mask says what is learned, its bytes are those of the learned text
    rejects/             rejects-00000.parquet, in the format of the data stage's
    conversations.json   the counts, two histograms, some conversations in tokens, some rejects
    report.html          the same as a page

One pass, a conversation at a time: memory holds what one batch of a shard takes, and some hundred bytes a conversation (checking.Known).
The side of the split is a hash of the first question, so the same question is never on both sides, whatever the order of the files;
sources that are held out whole are read first, and what they ask leaves training.

A conversation's first token is given, never predicted. Where it is the same for all of them (<|im_start|>, <|begin_of_text|>), it is the
start id of the shards; where not, nothing is stored in front, and rows begin with the end of text before them. Which of the two is known
only when all have been read, as is whether anything was held out: a pass that guessed wrong is made again, knowing better. That is rare,
and what comes out is the same as if it had been known.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jielong.data.reading.readers import BadRecord, Object
from jielong.errors import DataError
from jielong.progress import Progress, human_count, say
from jielong.runs import write_json
from jielong.storage import size_of
from jielong.tokenizer.chat.conversations import Unfit
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.chunks import whole
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.writing import Documents, ShardWriter
from jielong.tune.checking import (
    HASHES,
    REASONS,
    Known,
    SetAside,
    check_answers,
    conversation_of,
    excerpt,
    first_question,
    question_hash,
)
from jielong.tune.config import Config, Source
from jielong.tune.cutting import Cut, Cutter
from jielong.tune.rejects import Rejects
from jielong.tune.sources import Files, files_of, read_source, template_text
from jielong.tune.summary import SPLITS, Summary

SHARD_TOKENS = 100_000_000  # of one file: what one is made of is a matter of taste, conversations are few
BATCH_TOKENS = 1 << 20  # kept in memory before they are written
MAIN_REASONS = 3  # named where nothing is kept


def prepare(config: Config, tokenizer: TokenizerFolder, length: int, out: Path, seed: int) -> dict[str, Any]:
    """Write shards, rejects, counts and page of the recipe's conversations into the folder `out`, which appears whole or not at all, in
    place of what was there; returns what conversations.json holds.

    length: tokens of a conversation at most, its first one included. Raises InputError for sources that cannot be used, TokenizerError for
    a chat template that cannot, DataError where not at least one conversation is left to learn and one to validate on.
    """
    from jielong.tune.page import write_page

    template = Cutter(tokenizer, template_text(config, Path.cwd()))
    files = files_of(config, Path.cwd())
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.tmp"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    guess = _Guess()
    with whole(out) as scratch:
        while True:
            done = _Pass(config, template, length, seed, scratch, guess)
            try:
                done.run(files)
                break
            except _WrongGuessError as wrong:
                guess = wrong.better
                for made in scratch.iterdir():
                    shutil.rmtree(made)
        report = done.summary.report(tokenizer)
        report |= {"length": length, "learned": config.learned, "start_id": done.start_id}
        write_json(scratch / "conversations.json", report)
        write_page(report, scratch / "report.html")
    if report["shortened"]:
        say(
            f"tune: {report['shortened']:,} conversations lose their last exchanges, {report['exchanges_left_out']:,} in all, which do not "
            f"fit into {length:,} tokens"
        )
    return report


@dataclass(frozen=True)
class _Guess:
    """What is known of the end before a pass begins."""

    common_start: bool = True  # all conversations begin with the same token
    moved: tuple[int, str] | None = (
        None  # a first question's hash, and the split it goes to, which would be empty without it
    )


class _WrongGuessError(Exception):
    """A pass must be made again."""

    def __init__(self, better: _Guess) -> None:
        super().__init__(better)
        self.better = better


class _Pass:
    """All records, once. Afterwards the folder holds shards and rejects."""

    def __init__(self, config: Config, template: Cutter, length: int, seed: int, folder: Path, guess: _Guess) -> None:
        self.config, self.template, self.length, self.seed, self.folder = config, template, length, seed, folder
        self.guess, self.summary = guess, Summary(config.sources, length)
        self.start_id: int | None = None
        self._known, self._splits = Known(), dict[str, _Split]()
        self._threshold = int(config.validation_share * HASHES)
        self._nearest = dict[str, int]()  # of the hashes of each split, the one next to the other split

    def run(self, files: Files) -> None:
        """Read and write everything. Raises _WrongGuessError, and DataError where a split stays empty."""
        total = sum(size_of(file) for _, named in files for file in named)
        with (
            ExitStack() as writers,
            Rejects(self.folder / "rejects" / "rejects-00000.parquet") as rejects,
            Progress("tune: conversations", total, "B") as bar,
        ):
            for source, named in files:
                for item in read_source(source, named, bar.advance):
                    self.summary.by_source[source.name].read += 1
                    try:
                        self._take(item, source, writers)
                    except SetAside as aside:
                        place, text = (item.file, item.line), excerpt(item)
                        rejects.add(source.name, aside.reason, aside.detail, *place, text)
                        self.summary.reject(source.name, aside.reason, aside.detail, place, text)
                    if self.summary.read % 1000 == 0:
                        bar.note(f"{human_count(self.summary.read)} conversations")
            self._check_splits(sum(len(named) for _, named in files))
            for split in self._splits.values():
                split.flush()
        found = {name: split.writer.summary() for name, split in self._splits.items()}
        for name in SPLITS:
            assert found[name]["documents"] == self.summary.kept(name), "conversations are missing in the shards"
        write_manifest(self.folder / "shards", self._scheme(), found)

    def _take(self, item: Object | BadRecord, source: Source, writers: ExitStack) -> None:
        """One record, into its split. Raises SetAside, _WrongGuessError."""
        try:
            conversation = conversation_of(item, source, self.config)
            cut = self.template.fit(conversation, self.length, self.config.learned)
        except Unfit as unfit:
            raise SetAside(unfit.reason, unfit.detail) from None
        except RecursionError:
            raise SetAside("bad_tools", "tools or calls that are nested too deeply") from None
        check_answers(cut.conversation, self.config.learned, self.config.min_answer_characters)
        question = first_question(cut.conversation)
        split, chance = self._side(question, source)
        self._known.admit(cut.conversation, question, split == "validation")
        first = int(cut.ids[0])
        if not self._splits:
            self.start_id = first if self.guess.common_start else None
            for name in SPLITS:
                writer = ShardWriter(
                    self.folder / "shards", name, self._scheme(), SHARD_TOKENS, tuple(self.summary.by_source)
                )
                self._splits[name] = _Split(writers.enter_context(writer))
        if self.guess.common_start and first != self.start_id:
            raise _WrongGuessError(replace(self.guess, common_start=False))
        self._splits[split].add(cut, source.name)
        if not source.validation:
            nearest = max if split == "validation" else min
            self._nearest[split] = nearest(self._nearest.get(split, chance), chance)
        left_out = len(conversation.questions) - len(cut.conversation.questions)
        self.summary.keep(source.name, split, cut, left_out, (item.file, item.line))

    def _side(self, question: str, source: Source) -> tuple[str, int]:
        """The split of a conversation, and its first question's hash."""
        chance = question_hash(question, self.seed)
        if source.validation:
            return "validation", chance
        if self.guess.moved is not None and self.guess.moved[0] == chance:
            return self.guess.moved[1], chance
        return ("validation" if chance < self._threshold else "train"), chance

    def _scheme(self) -> Scheme:
        tokenizer = self.template.tokenizer
        return Scheme(tokenizer.size, tokenizer.end_id, self.start_id, closes=False, masked=True)

    def _check_splits(self, files: int) -> None:
        """Nothing is trained without something to validate on. Raises _WrongGuessError where a question moved makes it so, DataError."""
        summary = self.summary
        empty = [name for name in SPLITS if not summary.kept(name)]
        if not empty:
            return
        if not summary.read:
            raise DataError(f"tune: no conversation was found in {files} files; they are empty; check tune.sources")
        full = SPLITS[1 - SPLITS.index(empty[0])]
        if full in self._nearest and self.guess.moved is None:
            raise _WrongGuessError(replace(self.guess, moved=(self._nearest[full], empty[0])))
        if full in self._nearest:
            raise DataError(
                f"tune: all conversations that were kept open with the same question, got {summary.kept(full):,}, so none can be held out "
                "for validation; add others, or a source with validation = true"
            )
        raise DataError(
            f"tune: no conversation is left to train on, of {summary.read:,} read: {_reasons(summary)}; correct the data, or the key that "
            "set them aside"
        )


def _reasons(summary: Summary) -> str:
    """The reasons that set aside most, each with an example."""
    said = []
    for reason, number in sorted(summary.rejected.items(), key=lambda item: (-item[1], item[0]))[:MAIN_REASONS]:
        shown = summary.rejects[reason][0]
        said.append(f"{reason} {number:,} ({REASONS[reason]}; {shown['file']}:{shown['line']}: {shown['detail']})")
    return ", ".join(said)


class _Split:
    """One split's conversations on their way into its shards."""

    def __init__(self, writer: ShardWriter) -> None:
        self.writer = writer
        self._cuts, self._origins, self._tokens = list[Cut](), list[int](), 0

    def add(self, cut: Cut, source: str) -> None:
        """Write a conversation, or keep it until there are enough."""
        assert not cut.learned[0], "what is given first cannot be learned"
        self._cuts.append(cut)
        self._origins.append(self.writer.sources[source])
        self._tokens += len(cut.ids)
        if self._tokens >= BATCH_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Write what was kept."""
        if not self._cuts:
            return
        tokens = np.concatenate([cut.ids for cut in self._cuts])
        assert int(tokens.max()) < self.writer.scheme.vocab_size, "a tokenizer gave an id outside its vocabulary"
        lengths, sizes, characters, origins = (
            np.array(values, np.int64)
            for values in (
                [len(cut.ids) for cut in self._cuts],
                [cut.text_bytes for cut in self._cuts],
                [cut.characters for cut in self._cuts],
                self._origins,
            )
        )
        learned = np.concatenate([cut.learned for cut in self._cuts])
        self.writer.append(
            Documents(tokens.astype(self.writer.scheme.id_type), lengths, sizes, characters, origins, learned)
        )
        self._cuts, self._origins, self._tokens = [], [], 0
