"""Preferences and prompts of all forms and sources -> examples in tokens, rejects with reasons, counts and a page.

    read (data/reading) -> examples (parsing.py, checking.py) -> tokens (encoding.py) -> known already? -> train or validation

    train.arrow, validation.arrow    one example a row, mapped by training (examples.py)
    rejects/                         rejects-00000.parquet, in the format of the data stage's
    preferences.json                 the counts, statistics, histograms, some examples, some rejects; checksums of the two files
    report.html                      the same as a page

One pass, an example at a time: memory holds a batch of rows, and some hundred bytes an example (checking.Known). The side of the split is
a hash of the question (checking.question), so the same one is never on both sides, whatever the order of the files; sources that are
held out whole are read first, and what they ask leaves training. Where no hash falls on one side, which few examples are prone to, the
question nearest to it is moved over, and the pass is made again: what comes out does not depend on the order either.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from jielong.align.checking import REASONS, Known, SetAside, check_choice, examples_of, question
from jielong.align.config import Examples as Config
from jielong.align.config import Kind, Source
from jielong.align.encoding import encode
from jielong.align.examples import REPORT, SPLITS, ExampleWriter
from jielong.align.parsing import Example
from jielong.align.sources import Files, files_of
from jielong.align.summary import Summary, length_bias
from jielong.data.reading.readers import BadRecord, Object
from jielong.errors import DataError
from jielong.progress import Progress, human_count, say
from jielong.runs import hash_file, write_json
from jielong.storage import size_of
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.shards.chunks import whole
from jielong.tune.checking import HASHES, excerpt, question_hash
from jielong.tune.rejects import Rejects
from jielong.tune.sources import read_source

STAGE = "align"  # in the rejects
MAIN_REASONS = 3  # named where nothing is kept
Move = tuple[int, str]  # a question's hash, and the split it goes to, which would be empty without it


def prepare(
    config: Config,
    kind: Kind,
    template: ChatTemplate,
    length: int,
    out: Path,
    seed: int,
    system: str | None = None,
    table: str = "align",
) -> dict[str, Any]:
    """Write examples, rejects, counts and page of a table's sources into the folder `out`, which appears whole or not at all, in place of
    what was there; returns what preferences.json holds.

    length: tokens of a prompt with its answer at most; system: a system message for examples that have none; table: of the recipe, named in
    errors. Raises InputError for sources that cannot be used, DataError where not at least one example is left to learn from and one to
    validate on.
    """
    from jielong.align.page import write_page

    files = files_of(config, Path.cwd(), table)
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.tmp"):  # by a kill
        shutil.rmtree(left, ignore_errors=True)
    with whole(out) as scratch:
        done = _Pass(config, kind, template, length, seed, system, table)
        done.run(files, scratch)
        if (move := done.needed(files)) is not None:
            shutil.rmtree(scratch / "rejects")
            done = _Pass(config, kind, template, length, seed, system, table, move)
            done.run(files, scratch)
            done.needed(files)
        report = done.summary.report() | {"length": length}
        report["checksums"] = {split: hash_file(scratch / f"{split}.arrow") for split in SPLITS}
        write_json(scratch / REPORT, report)
        write_page(report, scratch / "report.html")
    for sentence in warnings(report):
        say(f"{table}: {sentence}")
    return report


def warnings(report: dict[str, Any]) -> list[str]:
    """What a person should know of the examples before a model learns from them."""
    found, statistics = list[str](), report["statistics"]
    if (bias := length_bias(statistics)) is not None:
        share = statistics["chosen_longer" if bias == "longer" else "rejected_longer"]
        learns = "more" if bias == "longer" else "less"
        found.append(
            f"the chosen answer is the {bias} one in {share:.0%} of the pairs ({statistics['chosen_characters']:,.0f} characters on average, "
            f"the rejected one {statistics['rejected_characters']:,.0f}), so a model may learn to write {learns} rather than better; even the "
            "lengths out, or take simpo, which compares by the token"
        )
    if report["kind"] == "unpaired" and statistics["good"] in (0.0, 1.0):
        word, other = ("good", "bad") if statistics["good"] else ("bad", "good")
        found.append(f"all answers are {word}, so there is nothing to tell them from; add some that are {other}")
    return found


class _Pass:
    """All records, once. Afterwards the folder holds examples and rejects."""

    def __init__(
        self, config: Config, kind: Kind, template: ChatTemplate, length: int, seed: int, system: str | None,
        table: str, move: Move | None = None,
    ) -> None:  # fmt: skip
        self.config, self.kind, self.template, self.length = config, kind, template, length
        self.seed, self.system, self.table, self.move = seed, system, table, move
        self.summary, self._known = Summary(config.sources, kind, length), Known()
        self._threshold = int(config.validation_share * HASHES)
        self._nearest = dict[str, int]()  # of the hashes of each split, the one next to the other split
        self._writers = dict[str, ExampleWriter]()

    def run(self, files: Files, folder: Path) -> None:
        """Read and write everything."""
        total = sum(size_of(file) for _, named in files for file in named)
        with (
            ExitStack() as writers,
            Rejects(folder / "rejects" / "rejects-00000.parquet", STAGE) as rejects,
            Progress(f"{self.table}: {self.kind}", total, "B") as bar,
        ):
            self._rejects = rejects
            self._writers = {name: writers.enter_context(ExampleWriter(folder, name, self.kind)) for name in SPLITS}
            for source, named in files:
                for item in read_source(source, named, bar.advance, self.table):
                    self._take(item, source)
                    if self.summary.read % 1000 == 0:
                        bar.note(f"{human_count(self.summary.read)} examples")

    def _take(self, item: Object | BadRecord, source: Source) -> None:
        """One record, into the splits of its examples, or among the rejects."""
        tally = self.summary.by_source[source.name]
        tally.records += 1
        try:
            found = examples_of(item, source, self.kind, self.config.max_turn_characters, self.system)
        except SetAside as aside:
            tally.read += 1
            self._set_aside(item, source, aside)
            return
        for example in found:
            tally.read += 1
            try:
                self._keep(example, item, source)
            except SetAside as aside:
                self._set_aside(item, source, aside)

    def _keep(self, example: Example, item: Object | BadRecord, source: Source) -> None:
        """One example, into its split. Raises SetAside."""
        check_choice(example)
        encoded = encode(self.template, example, self.length)
        asked = question(example)
        split, chance = self._side(asked, source)
        self._known.admit(example, asked, split == "validation")
        self._writers[split].add(encoded.row(source.name))
        if not source.validation:
            nearest = max if split == "validation" else min
            self._nearest[split] = nearest(self._nearest.get(split, chance), chance)
        self.summary.keep(source.name, split, encoded, (item.file, item.line))

    def _set_aside(self, item: Object | BadRecord, source: Source, aside: SetAside) -> None:
        place, text = (item.file, item.line), excerpt(item)
        self._rejects.add(source.name, aside.reason, aside.detail, *place, text)
        self.summary.reject(source.name, aside.reason, aside.detail, place, text)

    def _side(self, asked: str, source: Source) -> tuple[str, int]:
        """The split of an example, and its question's hash."""
        chance = question_hash(asked, self.seed)
        if source.validation:
            return "validation", chance
        if self.move is not None and self.move[0] == chance:
            return self.move[1], chance
        return ("validation" if chance < self._threshold else "train"), chance

    def needed(self, files: Files) -> Move | None:
        """What must be moved so that there is something to learn from and something to validate on; None: nothing. Raises DataError."""
        summary, table = self.summary, self.table
        empty = [name for name in SPLITS if not summary.kept(name)]
        if not empty:
            return None
        if not summary.read:
            count = sum(len(named) for _, named in files)
            raise DataError(f"{table}: no example was found in {count} files; they are empty; check {table}.sources")
        full = SPLITS[1 - SPLITS.index(empty[0])]
        if full in self._nearest and self.move is None:
            return self._nearest[full], empty[0]
        if full in self._nearest:
            raise DataError(
                f"{table}: all examples that were kept ask the same question, got {summary.kept(full):,}, so none can be held out for "
                "validation; add others, or a source with validation = true"
            )
        raise DataError(
            f"{table}: no example is left to learn from, of {summary.read:,} read: {_reasons(summary)}; correct the data, or the key that "
            "set them aside"
        )


def _reasons(summary: Summary) -> str:
    """The reasons that set aside most, each with an example."""
    said = []
    for reason, number in sorted(summary.rejected.items(), key=lambda item: (-item[1], item[0]))[:MAIN_REASONS]:
        shown = summary.rejects[reason][0]
        said.append(f"{reason} {number:,} ({REASONS[reason]}; {shown['file']}:{shown['line']}: {shown['detail']})")
    return ", ".join(said)
