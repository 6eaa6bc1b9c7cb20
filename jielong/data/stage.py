"""The data stage: raw text -> documents and rejects, step by step, with nothing lost on the way.

    read -> the recipe's steps, in passes (plan.py) -> train and validation

Every record that is read ends as a document of the train or validation split or as a reject with its step, rule and
detail; the counts are checked against each other at every step, per source, and once more at the end.

Records are read in one process, a chunk at a time, and worked on in all (workers.py). Each finished chunk of a pass is a
folder below `data.work/` in the run folder; after a kill those that are there are not made again, and the result is the same to
the byte. What a pass needs to know about all documents together is decided between two passes (decisions.py).

What stays behind in `data.work/` is the measured documents: with them a changed threshold starts at the decisions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from jielong.data import documents
from jielong.data.config import Config, Source
from jielong.data.mining.listing import write_listing
from jielong.data.pipeline.chunks import array, chunk_folder, finished, is_done, read_counts
from jielong.data.pipeline.decisions import Deciding
from jielong.data.pipeline.docs import PLACE, Raw
from jielong.data.pipeline.passes import DECIDED, Setting, Task
from jielong.data.pipeline.plan import FORMAT, Plan, fingerprints, make_plan, step_values
from jielong.data.pipeline.setup import Cleaners, clean_texts
from jielong.data.pipeline.workers import Crew
from jielong.data.reading.readers import BadRecord, encoding_of, expand, read_file
from jielong.data.reporting.summary import Summary
from jielong.data.steps import Fragments, Measure
from jielong.errors import DataError, InputError
from jielong.progress import Progress, human_count, say
from jielong.runs import StageContext, hash_json, write_json
from jielong.storage import AnyFile, Remote, size_of

if TYPE_CHECKING:
    from jielong.data.pipeline.cluster import RayCrew

DONE = "done.json"  # in a pass's folder: every chunk is there
KEEP = "keep.json"  # in the work folder: what stays when the result is published
PREVIEW_DOCUMENTS = 3
PREVIEW_CHARS = 60
MEGABYTE = 1_000_000


def inputs(config: Config, folder: Path) -> list[tuple[str, AnyFile]]:
    """All files of all sources, those of a source sorted, the sources in the recipe's order, each with its label.

    The label (source, and the file's path within it) is part of the result beside the content: a suffix decides how a file is read, and a
    source what its documents are counted under. Files that steps read come last. Relative paths start at `folder`. Raises
    InputError for a source of which nothing is found.
    """
    files: list[tuple[str, AnyFile]] = [
        (f"{source.name}/{name}", file)
        for source in config.sources
        for file, name in within(expand(source.path, folder))
    ]
    for number, step in enumerate(config.steps):
        for file in step.files():
            if not file.is_file():
                raise InputError(
                    f"data.steps.{number}: no such file, got {file}; check the path, relative to the recipe"
                )
            files.append((f"steps/{file.name}", file))
    return files


def within(files: list[AnyFile]) -> list[tuple[AnyFile, str]]:
    """Each file with its path from the folder that all of them have in common."""
    names = [file.url if isinstance(file, Remote) else str(file) for file in files]
    common = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - URLs are no paths
    return [
        (file, name[len(common) :].lstrip("/") if common else name) for file, name in zip(files, names, strict=True)
    ]


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write documents/, rejects/, report.html and report.json into `context.out`; returns the counts.

    Raises InputError for sources that cannot be used, DataError when fewer than two documents are kept: one is needed to
    train on and one to validate on.
    """
    files = [
        (source.model_copy(update={"encoding": encoding_of(file, source)}), file)
        for source in config.sources
        for file in expand(source.path, folder)
    ]
    plan, work = make_plan(config.steps), context.run.work("data")
    hashes = fingerprints(plan, config, context.inputs)
    names = [f"{number}-{text[:12]}" for number, (text, _) in enumerate(hashes)]
    names[-1] = f"last-{last_hash(plan, config, context, hashes[-1][1])[:12]}"
    setting = _setting(config, context, files, plan, [str(work / name) for name in names])
    few = sum(size_of(file) for _, file in files) < config.chunk_megabytes * MEGABYTE
    processes = 1 if few else config.processes or os.cpu_count() or 1
    if config.engine == "ray":
        processes = config.processes or os.cpu_count() or 1
    if processes > 1:
        Cleaners(plan, {})  # a list of words or a package that is missing is said here, not by a worker
    with crew_of(config.engine, setting, processes) as crew:
        for at in range(len(plan.passes)):
            _one_pass(at, setting, config, files, hashes, crew)
    summary = Summary(setting, config, files)
    if summary.kept < 2:
        _refuse_too_few(summary, len(files), _keep_rejects(setting, work))
    _collect(setting, context.out, summary)
    counts = summary.counts()
    _write_report(summary, context)
    keep = {*names[:-1], *(Path(model).name for _, model in setting.models)} if config.keep_work else set()
    write_json(work / KEEP, sorted(keep))
    return counts


def last_hash(plan: Plan, config: Config, context: StageContext, before: str) -> str:
    """What determines the files of the last pass."""
    fractions = [config.validation_fraction, *(source.validation_fraction for source in config.sources)]
    groups = [group.model_dump(mode="json") for group in config.balance]
    behind = [[plan.labels[number], step_values(plan.steps[number])] for number in plan.behind]
    files = [[row["label"], row["xxh3_128"]] for row in plan.divided(context.inputs)[1]]
    return hash_json([before, context.seed, fractions, groups, behind, files])


def crew_of(engine: str, setting: Setting, processes: int) -> Crew | RayCrew:
    """Who does the chunks."""
    if engine == "local":
        return Crew(setting, processes)
    from jielong.data.pipeline.cluster import RayCrew

    return RayCrew(setting, processes)


def clean_up(context: StageContext) -> None:
    """When the result is published: what is not to be kept goes. The last pass, whose files are the result's own, always."""
    work = context.run.work("data")
    keep = orjson.loads((work / KEEP).read_bytes())
    for old in work.iterdir():
        if old.name not in keep:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


def _setting(
    config: Config, context: StageContext, files: list[tuple[Source, AnyFile]], plan: Plan, folders: list[str]
) -> Setting:
    sources = tuple(source.name for source in config.sources)
    for place in folders:
        Path(place).mkdir(parents=True, exist_ok=True)
    shown = []
    for number, name in enumerate(sources):
        mine = [(source, file) for source, file in files if source.name == name]
        names = within([file for _, file in mine])
        shown += [(number, place_of(*one), relative) for one, (_, relative) in zip(mine, names, strict=True)]
    models = _perplexity_models(config, context, files, plan)
    fractions = tuple(
        config.validation_fraction if source.validation_fraction is None else source.validation_fraction
        for source in config.sources
    )
    return Setting(plan, tuple(folders), sources, tuple(shown), models, context.seed, fractions, config.balance)


def place_of(source: Source, file: AnyFile) -> str:
    """A file as it is written beside its documents: its path, or builtin:NAME/file, the same on every machine."""
    from jielong.data.reading.records import printable

    return f"{source.path}/{file.name}" if source.path.startswith("builtin:") else printable(str(file))


# ----------------------------------------------------------------------------------------------------- the passes


def _one_pass(
    at: int,
    setting: Setting,
    config: Config,
    files: list[tuple[Source, AnyFile]],
    hashes: list[tuple[str, str]],
    crew: Crew | RayCrew,
) -> None:
    """Make the chunks of a pass that are not there, and decide."""
    work = Path(setting.folders[at])
    for left in work.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    last = at + 1 == len(setting.plan.passes)
    if not _is_whole(work):
        if at == 0:
            total, unit = sum(size_of(file) for _, file in files), "B"
        else:
            total, unit = len(finished(Path(setting.folders[at - 1]))), "chunks"
        title = "data" if at == 0 else "write" if last else f"pass {at + 1}"
        with Progress(title, total, unit) as progress:
            if at == 0:
                reader = Reader(files, config.chunk_megabytes, work, progress)
                tasks: Iterator[Task] = (Task(raw.number, 0, raw) for raw in reader)
            else:
                todo = [number for number in range(total) if not is_done(work, number)]
                progress.advance(total - len(todo))
                tasks = (Task(number, at) for number in todo)
            for _ in crew.do(tasks):
                if at:
                    progress.advance(1)
        chunks = reader.number if at == 0 else total
        assert finished(work) == list(range(chunks)), f"chunks are missing in {work}"
        write_json(work / DONE, {"chunks": chunks})
    if not last:
        _decide(at, setting, hashes[at][1])


def _is_whole(work: Path) -> bool:
    """Whether a pass says that it is done and all its chunks are there."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        chunks = orjson.loads((work / DONE).read_bytes())["chunks"]
        return finished(work) == list(range(chunks))
    return False


def _has_decided(folder: Path, fingerprint: str, rows: list[int]) -> bool:
    """Whether the decisions of a pass are there, whole, and made by these steps."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        done = orjson.loads((folder / DONE).read_bytes())
        found = [len(np.load(folder / f"{number:05d}.npy", mmap_mode="r")) for number in range(len(rows))]
        others = all((folder / name).is_file() for name in ("starts.npy", "places.npy", *done["lines"]))
        return bool(done["fingerprint"] == fingerprint and found == rows and others)
    return False


def _decide(at: int, setting: Setting, fingerprint: str) -> None:
    """Write who leaves, once: a folder of decisions that carries the fingerprint of the steps that made it."""
    work = Path(setting.folders[at])
    folder = work / DECIDED
    sizes = [int(read_counts(work, number)["rows"]) for number in finished(work)]
    if _has_decided(folder, fingerprint, sizes):
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    deciding = Deciding(setting.plan, work, sizes, list(setting.sources))
    decided = deciding.run(setting.plan.passes[at].decide)
    for number, values in enumerate(decided.chunks):
        np.save(folder / f"{number:05d}.npy", values, allow_pickle=False)
    for step, hashes in decided.lines.items():
        np.save(folder / f"lines-{step}.npy", hashes, allow_pickle=False)
    for step, rows in decided.listings.items():
        write_listing(folder / f"fragments-{step}.tsv", rows)
    np.save(folder / "starts.npy", deciding.starts, allow_pickle=False)
    places = np.lib.format.open_memmap(folder / "places.npy", "w+", PLACE, (max(deciding.total, 1),))
    for number, part in deciding.each():
        places[part] = array(work, number, "places")
    places.flush()
    figures = {str(step): value for step, value in decided.figures.items()}
    lines = [f"lines-{step}.npy" for step in decided.lines] + [f"fragments-{step}.tsv" for step in decided.listings]
    write_json(folder / DONE, {"fingerprint": fingerprint, "figures": figures, "lines": lines})


class Reader:
    """The records of all files in chunks that depend on the files alone; chunks that are done are passed over.

    A chunk's counts say where its last record ends, so files that are used up by finished chunks are not opened again.
    """

    def __init__(self, files: list[tuple[Source, AnyFile]], megabytes: int, work: Path, progress: Progress) -> None:
        self.files, self.work, self.progress = files, work, progress
        self.limit = megabytes * MEGABYTE
        self.number = 0
        self._read = 0
        self._sources = {name: number for number, name in enumerate(dict.fromkeys(of.name for of, _ in files))}

    def __iter__(self) -> Iterator[Raw]:
        self._skip = self._start()
        raw = Raw(self.number, self._skip)
        for index in range(self._skip[0], len(self.files)):
            raw = yield from self._file(index, raw)
        if raw.places or raw.bad or not self.number:
            yield from self._hand_over(raw)

    def _start(self) -> tuple[int, int]:
        """File and record behind the last of the chunks that are there without a gap."""
        while is_done(self.work, self.number):
            self.number += 1
        if not self.number:
            return 0, 0
        say(f"data: {self.number} chunks were done before; going on behind them")
        file, records = read_counts(self.work, self.number - 1)["end"]
        self.progress.advance(sum(size_of(path) for _, path in self.files[:file]))
        return file, records

    def _file(self, index: int, raw: Raw) -> Generator[Raw, None, Raw]:
        source, path = self.files[index]
        number = self._sources[source.name]
        skip = self._skip[1] if index == self._skip[0] else 0
        texts, places, size = raw.texts, raw.places, raw.size
        for record, item in enumerate(read_file(path, source, self.progress.advance), 1):
            if record <= skip:
                continue
            self._read += 1
            if self._read % 1000 == 0:
                self.progress.note(f"{human_count(self._read)} documents")
            if isinstance(item, BadRecord):
                raw.bad.append(((number, index, item.line, 0), item.reason, item.detail, item.raw))
                size += len(item.raw)
            else:
                text, _, line, _ = item
                texts.append(text)
                places.append((number, index, line, 0))
                size += 3 * len(text)  # in UTF-8, as Chinese
            if size >= self.limit:
                raw.size, raw.end = size, (index, record)
                yield from self._hand_over(raw)
                raw = Raw(self.number, raw.end)
                texts, places, size = raw.texts, raw.places, 0
        raw.size, raw.end = size, (index + 1, 0)
        return raw

    def _hand_over(self, raw: Raw) -> Iterator[Raw]:
        self.number += 1
        if not is_done(self.work, raw.number):
            yield raw


def _perplexity_models(
    config: Config, context: StageContext, files: list[tuple[Source, AnyFile]], plan: Plan
) -> tuple[tuple[int, str], ...]:
    """Train the models that measure asks for, on the trusted sources as the text steps before it leave them.

    A model is kept under a hash of all it depends on.
    """
    found = []
    for number, step in enumerate(plan.steps):
        if not isinstance(step, Measure) or not step.trusted:
            continue
        from jielong.data.measuring import perplexity

        before = [step_values(other) for other in plan.steps[: number + 1]]
        inputs = [[row["label"], row["xxh3_128"]] for row in plan.divided(context.inputs)[0]]
        sources = [
            source.model_dump(mode="json", include={"name", "text_field", "document", "encoding"})
            for source in config.sources
        ]
        name = hash_json([FORMAT, perplexity.FORMAT, before, inputs, sources])[:12]
        path = context.run.work("data") / f"perplexity-{name}.npz"
        if not path.is_file():
            limit = step.perplexity_megabytes * 1_000_000
            chosen = [(source, file) for source, file in files if source.name in step.trusted]
            with Progress("perplexity", limit, "B") as progress:
                texts = clean_texts(plan, number, _texts(chosen, limit, progress))
                first = next(texts, None)
                if first is None:
                    raise DataError(
                        f"data.steps.{number}.trusted: no text to train on, got {', '.join(step.trusted)}; name sources that hold text"
                    )
                model = perplexity.train(itertools.chain([first], texts), step.perplexity_order, limit)
            scratch = path.with_name(f".{path.name}")
            model.save(scratch)
            scratch.replace(path)
        found.append((number, str(path)))
    return tuple(found)


def _texts(files: list[tuple[Source, AnyFile]], limit: int, progress: Progress) -> Iterator[tuple[str, str]]:
    """Source and text of the good records, up to about `limit` bytes, an equal share of each file."""
    for source, path in files:
        used = 0
        for item in read_file(path, source):
            if isinstance(item, BadRecord):
                continue
            size = len(item.text.encode("utf-8"))
            used += size
            progress.advance(size)
            yield source.name, item.text
            if used * len(files) >= limit:
                break


# --------------------------------------------------------------------------------------------------- the result


def _keep_rejects(setting: Setting, work: Path) -> Path:
    """The rejects of a corpus that cannot be used, in the work folder until the next run that can."""
    folder, last = work / "rejected", Path(setting.folders[-1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number in finished(last):
        link(chunk_folder(last, number) / "rejects.parquet", folder / f"rejects-{number:05d}.parquet")
    return folder


def _refuse_too_few(summary: Summary, files: int, rejects: Path) -> None:
    kept, read = summary.kept, summary.read
    reasons = ", ".join(f"{rule} {count}" for rule, count in summary.rejected.most_common())
    if not read:
        raise DataError(f"data: no document was found in {files} files; they are empty; check data.sources")
    if not kept:
        raise DataError(
            f"data: no document was kept of {read} read: {reasons}; look at them in {rejects}; then change data.sources or "
            "the step that set them aside"
        )
    raise DataError(
        f"data: one document was kept of {read} read{': ' + reasons if reasons else ''}; at least two are needed, "
        "one to train on and one to validate on; add text, or give data.sources.document = 'line' or 'paragraph'"
    )


def _collect(setting: Setting, out: Path, summary: Summary) -> None:
    """Put the chunks' files where they belong; a corpus whose validation or train is empty gets one document there."""
    work = Path(setting.folders[-1])
    for source, text in summary.preview[:PREVIEW_DOCUMENTS]:
        start = " ".join(text[: PREVIEW_CHARS * 2].split())[:PREVIEW_CHARS]
        say(f"data: {source}: {start}{'...' if len(text) > len(start) else ''}")
    for folder, names in (("documents", documents.SPLITS), ("rejects", ("rejects",))):
        (out / folder).mkdir(parents=True)
        for name in names:
            rows = 0
            for number in finished(work):
                file = chunk_folder(work, number) / f"{name}.parquet"
                count = documents.count_rows(file)
                if count or (not rows and number == finished(work)[-1]):
                    link(file, out / folder / f"{name}-{number:05d}.parquet")
                rows += count
    for at, step in enumerate(setting.plan.steps):
        if isinstance(step, Fragments):
            label = setting.plan.labels[at]
            link(summary.listing(at), out / ("fragments.tsv" if label == "fragments" else f"fragments-{label}.tsv"))
    if not summary.validation or not summary.train:
        if setting.plan.copying:
            raise DataError(
                f"data.validation_fraction: too small for {summary.kept - summary.added} documents with copies, got "
                f"{max(setting.validation_fractions):g}: one split is empty; raise it, or take the step augment out"
            )
        documents.move_one(out / "documents", summary.extreme(), "validation" if summary.train else "train")
        summary.move()


def link(file: Path, target: Path) -> None:
    """The same file at another place: a hard link where the file system has them, a copy elsewhere."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


def _write_report(summary: Summary, context: StageContext) -> None:
    from jielong.data.reporting.page import write_page

    report = summary.report(context.run.name)
    write_json(context.out / "report.json", report)
    write_page(report, context.out / "report.html")


__all__ = ["FORMAT", "clean_up", "inputs", "run"]
