"""MB of Chinese text per second through the data stage: us beside datatrove, the same text, in turn, in one run.

    python benchmarks/data.py                        # 50 MB, one process and two, 3 repeats
    python benchmarks/data.py --megabytes 200 --processes 1 --out benchmarks/results/2026-11-23-data-cpu.json

The peer is datatrove's recipe for web text: Gopher's two filters and the four stages of MinHash, with its own Chinese word
tokenizer (jieba through SpaCy). Its limits are so wide that every rule is computed and nearly everything goes on to
MinHash, as with us: the ones that FineWeb-2 publishes for Chinese (github.com/huggingface/fineweb-2, configs/cmn_Hani.yml)
let a third of this mix of code, law, poems and news pass, which would spare it work. We run three times: `filter + minhash` is
the same work (measure, filter, near), `clean + filter + minhash` has the cleaning steps before it, `whole` is the standard
list with exact duplicates and repeated lines too.
datatrove writes plain JSON lines and keeps no rejects, which is to its advantage; we write compressed Parquet with every
reject, checksums and the report, through the function that the command line calls.

The peer takes seconds per MB, so it gets --peer-megabytes for each process, the beginning of the same shuffled text; MB/s can be
compared, and we run on that small file too. A run on almost nothing gives the start-up of each side, and a column shows MB/s
without it. Every run is a fresh process; seconds count from behind the imports of that process's main module to the last
file written. Before anything is timed both sides run once: numba's compiled functions and jieba's dictionary are cached
then. What the first run of all costs us, with an empty cache, is measured once.

MB are 10^6 bytes of text in UTF-8, JSON not counted. Memory is the sum over the processes of a run, sampled every 50 ms: the
proportional set size (shared pages count once) whenever the resident size reaches a new peak.

What each step costs: one process, timers around the package's functions; a row leaves out the time of the rows it calls.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

SHARED = Path(__file__).parents[2] / "shared" / "data" / "pretrain"
MEGABYTE = 1_000_000
START_UP_MEGABYTES = 0.1
SAMPLE_SECONDS = 0.05
KEPT, TURNED = 50, 2000  # characters of a copy: the most frequent stay (filters know them), the next ones turn
CLEANING = ["markup", "characters", "repeats", "adverts", "personal_data", "whitespace"]
OURS: dict[str, list[str] | None] = {
    "filter + minhash": ["measure", "filter", "near"],
    "clean + filter + minhash": [*CLEANING, "measure", "filter", "near"],
    "whole": None,
}
SAME_TEXT = ", the peer's text"
CHINESE = "cmn"
STOP_WORDS = ["的", "了", "是", "在", "有", "和", "人", "不", "一", "为", "中", "与", "也"]


def read_texts(files: list[Path]) -> list[str]:
    """The texts of files of JSON lines (.zst or plain), or, without files, of the embedded demo corpora; shuffled."""
    found = []
    if not files:
        from jielong.data.reading.corpora import BUILTIN, builtin_files, read_builtin

        for name in BUILTIN:
            found += [record.text for file in builtin_files(name) for record in read_builtin(name, file)]
    for file in files:
        with file.open("rb") as raw:
            stream: Any = raw
            if file.suffix == ".zst":
                import zstandard

                stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
            found += [json.loads(line)["text"] for line in io.TextIOWrapper(stream, encoding="utf-8")]
    random.Random(1).shuffle(found)
    return found


def turned(texts: list[str], copy: int) -> Iterator[str]:
    """The same texts in other words: each common Han character becomes one a little more or less frequent."""
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    han = [char for char, _ in counts.most_common() if "\u4e00" <= char <= "\u9fff"]  # CJK unified ideographs
    ranks = han[KEPT : KEPT + TURNED]
    table = {ord(char): ranks[(place + copy) % len(ranks)] for place, char in enumerate(ranks)}
    return (text.translate(table) for text in texts)


def mix(texts: list[str], megabytes: float) -> list[str]:
    """That much text: the first of the shuffled texts, and of their copies in other words when there is not enough."""
    found: list[str] = []
    size, copy = 0.0, 0
    while size < megabytes * MEGABYTE:
        for text in turned(texts, copy) if copy else texts:
            found.append(text)
            size += len(text.encode("utf-8"))
            if size >= megabytes * MEGABYTE:
                break
        copy += 1
    return found


def write_input(folder: Path, texts: list[str], files: int) -> float:
    """Write texts as JSON lines, in files of about the same size; returns their MB."""
    folder.mkdir()
    written = [0] * files
    with contextlib.ExitStack() as stack:
        out = [stack.enter_context((folder / f"{n:02d}.jsonl").open("w", encoding="utf-8")) for n in range(files)]
        for text in texts:
            least = written.index(min(written))
            out[least].write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written[least] += len(text.encode("utf-8"))
    return sum(written) / MEGABYTE


def run_ours(given: str, scratch: Path, processes: int, steps: list[str] | None) -> dict[str, Any]:
    """The data stage as `jielong data` runs it; without steps, the standard list."""
    from jielong.recipe import parse
    from jielong.runs import Run
    from jielong.workflow import run_stages, stage_module

    data: dict[str, Any] = {"sources": [{"name": "text", "path": given}], "processes": processes}
    if steps is not None:
        data["steps"] = [{"step": step} for step in steps]
    stage_module("data")  # imported before the clock starts, as datatrove is
    start = time.perf_counter()
    (outcome,) = run_stages(parse({"data": data}, scratch), Run(scratch / "run"), ["data"])
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "kept_megabytes": outcome.counts["bytes"] / MEGABYTE}


def run_datatrove(given: str, scratch: Path, processes: int) -> dict[str, Any]:
    """datatrove's filters and MinHash, as many tasks as processes (its buckets want a multiple of 14)."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline import dedup
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    config = dedup.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    place = {name: str(scratch / name) for name in ("filtered", "signatures", "buckets", "remove", "out", "logs")}
    quality = GopherQualityFilter(
        min_doc_words=5, min_avg_word_length=1, max_avg_word_length=10, max_symbol_word_ratio=1.0,
        max_bullet_lines_ratio=1.0, max_ellipsis_lines_ratio=1.0, max_non_alpha_words_ratio=0.3, min_stop_words=1,
        stop_words=STOP_WORDS, language=CHINESE,
    )  # fmt: skip
    repetition = GopherRepetitionFilter(
        dup_line_frac=0.6, dup_para_frac=0.6, dup_line_char_frac=0.6, dup_para_char_frac=0.6,
        top_n_grams=tuple((n, 0.5) for n in (2, 3, 4)), dup_n_grams=tuple((n, 0.6) for n in range(5, 11)),
        language=CHINESE,
    )  # fmt: skip
    signature = dedup.MinhashDedupSignature(place["signatures"], config=config, language=CHINESE)
    result = JsonlWriter(place["out"], compression=None)
    stages: list[tuple[list[Any], int]] = [
        ([JsonlReader(given), quality, repetition, JsonlWriter(place["filtered"], compression=None)], processes),
        ([JsonlReader(place["filtered"]), signature], processes),
        ([dedup.MinhashDedupBuckets(place["signatures"], place["buckets"], config=config)], config.num_buckets),
        ([dedup.MinhashDedupCluster(place["buckets"], place["remove"], config=config)], 1),
        ([JsonlReader(place["filtered"]), dedup.MinhashDedupFilter(place["remove"]), result], processes),
    ]
    # one worker copies its pipeline, and a tokenizer that was used can not be copied: the filters get another one
    load_word_tokenizer.cache_clear()
    start = time.perf_counter()
    for number, (pipeline, tasks) in enumerate(stages):
        workers = min(processes, tasks)
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=workers, logging_dir=f"{place['logs']}/{number}").run()
    seconds = time.perf_counter() - start
    out = [json.loads(line) for file in Path(place["out"]).glob("*.jsonl") for line in file.open("rb")]
    return {"seconds": seconds, "kept_megabytes": sum(len(row["text"].encode("utf-8")) for row in out) / MEGABYTE}


class Memory:
    """The peak of a session's memory. Resident size is cheap to read; the proportional one is read when that is at a peak."""

    def __init__(self, session: int) -> None:
        self._session, self._highest, self._looks = session, 0, 0
        self._processes: list[Path] = []
        self.peak = 0

    def look(self) -> None:
        """Take a sample; new processes are looked for in every fourth."""
        if self._looks % 4 == 0:
            self._processes = [path for path in Path("/proc").iterdir() if path.name.isdecimal() and self._is_one(path)]
        self._looks += 1
        resident = sum(map(resident_bytes, self._processes))
        if resident > 1.01 * self._highest:
            self._highest = resident
            self.peak = max(self.peak, sum(map(proportional_bytes, self._processes)))

    def _is_one(self, process: Path) -> bool:
        try:
            return os.getsid(int(process.name)) == self._session
        except OSError:
            return False


def resident_bytes(process: Path) -> int:
    """Resident set size of a process; 0 when it ended meanwhile."""
    try:
        return int((process / "statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def proportional_bytes(process: Path) -> int:
    """Proportional set size of a process; its resident size where the kernel does not tell."""
    try:
        rows = (process / "smaps_rollup").read_bytes().splitlines()
    except OSError:
        return resident_bytes(process)
    return 1024 * sum(int(row.split()[1]) for row in rows if row.startswith(b"Pss:"))


def measure_run(what: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run one side in a fresh process; its result with the peak of memory and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(what | {"scratch": folder})]
        start = time.perf_counter()
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, env=usual | (environment or {})
        )
        memory, ended = Memory(process.pid), threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_SECONDS):
                memory.look()

        watcher = threading.Thread(target=watch)
        watcher.start()
        printed, _ = process.communicate()
        ended.set()
        watcher.join()
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{what} failed:\n{errors.read().decode('utf-8', 'replace')[-4000:]}")
        whole = time.perf_counter() - start
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found | {"whole_seconds": whole, "peak_megabytes": memory.peak / MEGABYTE}


def child(side: str, processes: int, given: str, tiny: str, scratch: str) -> dict[str, Any]:
    """What a fresh process does."""
    if side == "datatrove":
        return run_datatrove(given, Path(scratch), processes)
    if side == "steps":
        return cost_of_steps(given, tiny, Path(scratch))
    return run_ours(given, Path(scratch), processes, OURS[side])


class Stopwatch:
    """Seconds by row; the time of a row leaves out the rows begun within it."""

    def __init__(self) -> None:
        self.seconds = Counter[str]()
        self.missing: list[str] = []
        self._within: list[float] = [0.0]

    @contextlib.contextmanager
    def row(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        start = time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self.seconds[name] += took - self._within.pop()  # type: ignore[assignment]
            self._within[-1] += took

    def around(self, owner: Any, names: str, row: str | Callable[..., str]) -> None:
        """Put a timer around functions of a module or class; a name that is not there is remembered."""
        for name in names.split():
            inner = getattr(owner, name, None)
            if inner is None:
                self.missing.append(f"{owner.__name__}.{name}")
                continue

            def timed(*values: Any, inner: Any = inner, **named: Any) -> Any:
                with self.row(row if isinstance(row, str) else row(*values)):
                    return inner(*values, **named)

            setattr(owner, name, timed)

    def each(self, items: Iterator[Any], row: str) -> Iterator[Any]:
        """The items, with the time that the iterator takes for them counted."""
        end = object()
        while True:
            with self.row(row):
                item = next(items, end)
            if item is end:
                return
            yield item


def timers() -> Stopwatch:
    """Timers around the functions of the data stage. A row of the table each; the package itself holds none."""
    from jielong import workflow
    from jielong.data import stage
    from jielong.data.cleaning.scan import Scanner
    from jielong.data.deduplicating import fingerprints
    from jielong.data.pipeline import decisions, passes
    from jielong.data.pipeline.recorder import Recorder
    from jielong.data.pipeline.setup import Cleaners

    watch = Stopwatch()
    watch.around(workflow, "describe_files list_outputs", "checksums of input and output")
    read = stage.Reader.__iter__
    setattr(stage.Reader, "__iter__", lambda reader: watch.each(read(reader), "read"))  # noqa: B010
    watch.around(passes.Worker, "_from_raw _text_steps do", "between the steps")
    watch.around(Scanner, "flags", "scan for what cleaners look for")
    watch.around(passes.Worker, "_clean", lambda worker, docs, flags, chosen, step, *_: worker.plan.labels[step])
    watch.around(Cleaners, "columns", "measure")
    watch.around(fingerprints, "normalise", "exact, near: letters and digits")
    watch.around(fingerprints, "digests raw_digests", "exact: keys")
    watch.around(fingerprints, "signatures", "near: keys")
    watch.around(fingerprints, "unit_hashes distinct", "lines: keys")
    watch.around(passes.Worker, "_unit_hashes", "lines: keys")
    watch.around(passes, "ranks", "order of duplicates")
    watch.around(passes.Worker, "_write_keys", "write keys")
    watch.around(passes, "write_table write_documents rejects_table", "write the work folder")
    for name in ("filter", "exact", "near"):
        watch.around(decisions.Deciding, f"_{name}", f"{name}: decide")
    watch.around(decisions.Deciding, "_often", "lines: decide")
    watch.around(passes, "read_documents", "read the work folder")
    watch.around(passes.Worker, "_carry_out", "carry out decisions")
    watch.around(passes.Worker, "_remove_lines", "lines: carry out")
    watch.around(Recorder, "enter leave reject edited measured near_thresholds as_dict", "counts and samples")
    watch.around(passes.Worker, "_write_documents", "write documents")
    watch.around(stage, "Summary _collect _write_report", "report")
    return watch


def cost_of_steps(given: str, tiny: str, scratch: Path) -> dict[str, Any]:
    """Seconds by row of the standard list in this process, after a small run that loads what is loaded once."""
    for name in ("warm", "timed"):
        (scratch / name).mkdir()
    run_ours(tiny, scratch / "warm", 1, None)
    watch = timers()
    with watch.row("the rest"):
        found = run_ours(given, scratch / "timed", 1, None)
    return found | {"rows": dict(watch.seconds.most_common()), "missing": watch.missing}


def table_of(runs: dict[tuple[str, int], list[dict[str, Any]]], starts: dict[tuple[str, int], float]) -> list[Any]:
    """Rows of the comparison, printed."""
    rows = []
    print(f"\n{'side':34} {'proc.':>5} {'MB':>6} {'MB/s':>7} {'min..max':>13} {'start-up':>9} {'without':>8} "
          f"{'peak MB':>8} {'kept':>6} {'x datatrove':>12} {'range':>13}")  # fmt: skip
    for (side, processes), found in runs.items():
        rates = [run["megabytes"] / run["seconds"] for run in found]
        peer = [run["megabytes"] / run["seconds"] for run in runs[("datatrove", processes)]]
        ratios = [ours / theirs for ours, theirs in zip(rates, peer, strict=True)]
        start = starts[(side.removesuffix(SAME_TEXT), processes)]
        seconds = statistics.median(run["seconds"] for run in found)
        without = found[0]["megabytes"] / (seconds - start) if seconds > 2 * start else None  # too near to tell
        row = {
            "side": side, "processes": processes, "megabytes": found[0]["megabytes"],
            "megabytes_per_second": statistics.median(rates), "range": [min(rates), max(rates)],
            "start_up_seconds": start, "megabytes_per_second_without_start_up": without,
            "ratio": statistics.median(rates) / statistics.median(peer), "ratio_range": [min(ratios), max(ratios)],
            "peak_megabytes": max(run["peak_megabytes"] for run in found),
            "kept": found[0]["kept_megabytes"] / found[0]["megabytes"], "runs": found}  # fmt: skip
        rows.append(row)
        print(f"{side:34} {processes:>5} {row['megabytes']:>6.1f} {row['megabytes_per_second']:>7.2f} "
              f"{f'{min(rates):.2f}..{max(rates):.2f}':>13} {start:>7.2f} s "
              f"{f'{without:.2f}' if without else '-':>8} {row['peak_megabytes']:>8.0f} {row['kept']:>6.1%} {row['ratio']:>12.2f} {f'{min(ratios):.2f}..{max(ratios):.2f}':>13}")  # fmt: skip
    return rows


def step_rows(found: dict[str, Any], megabytes: float) -> list[dict[str, Any]]:
    """Rows of what each step costs, printed."""
    total = sum(found["rows"].values())
    print(f"\n{'where the time goes, 1 process':34} {'s per 100 MB':>13} {'share':>7}")
    rows = []
    for name, seconds in sorted(found["rows"].items(), key=lambda item: -item[1]):
        rows.append({"row": name, "seconds_per_100_megabytes": seconds / megabytes * 100, "share": seconds / total})
        print(f"{name:34} {rows[-1]['seconds_per_100_megabytes']:>13.2f} {seconds / total:>7.1%}")
    print(f"{'all of it':34} {total / megabytes * 100:>13.2f} {1:>7.1%}")
    if found["missing"]:
        print(f"not timed, because they are not there: {', '.join(found['missing'])}")
    return rows


class Bench:
    """The input files of a benchmark, and runs on them."""

    def __init__(self, texts: list[str], folder: Path) -> None:
        self._texts, self._folder = texts, folder
        self.inputs: dict[str, tuple[str, float]] = {}  # name -> folder, MB

    def prepare(self, name: str, megabytes: float, files: int) -> None:
        """Write an input."""
        place = self._folder / name
        self.inputs[name] = (str(place), write_input(place, mix(self._texts, megabytes), files))

    def run(self, side: str, processes: int, name: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
        """One run of one side on an input."""
        path, megabytes = self.inputs[name]
        what = {"side": side, "processes": processes, "given": path, "tiny": self.inputs["tiny"][0]}
        found = measure_run(what, environment) | {"megabytes": megabytes}
        rate = megabytes / found["seconds"]
        print(
            f"{side}, {processes} processes, {megabytes:.1f} MB: {found['seconds']:.1f} s, {rate:.2f} MB/s", flush=True
        )
        return found


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=50, help="text that our side gets, MB")
    parser.add_argument("--peer-megabytes", type=float, default=5, help="text for each process of datatrove, MB")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--sizes", type=float, nargs="*", default=[50, 300], help="our whole list at these sizes, MB")
    parser.add_argument("--text", type=Path, nargs="+", help="files of JSON lines with a field text (.zst or plain)")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and print the tables; with --out, write them as JSON too."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(**json.loads(sys.argv[2]))))
        return
    options = arguments()
    given = options.text or (sorted(SHARED.glob("*.jsonl.zst")) if SHARED.is_dir() else [])
    texts = read_texts(given)
    held = sum(len(text.encode("utf-8")) for text in texts) / MEGABYTE
    about = f"{len(texts):,} documents, {held:,.1f} MB{'' if given else ' (embedded demo corpora)'}"
    print(f"text: {about}", flush=True)
    most = max(options.processes)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {}
    starts: dict[tuple[str, int], float] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(texts, Path(folder))
        bench.prepare("tiny", START_UP_MEGABYTES, most)
        bench.prepare("main", options.megabytes, most)
        with tempfile.TemporaryDirectory() as cache:  # what the first run of all costs: nothing is compiled
            first = bench.run("whole", 1, "tiny", {"NUMBA_CACHE_DIR": cache})["seconds"]
        for processes in options.processes:
            bench.prepare(f"peer-{processes}", options.peer_megabytes * processes, processes)
            for side in ("datatrove", *OURS):
                starts[(side, processes)] = min(bench.run(side, processes, "tiny")["seconds"] for _ in range(3))
        for _ in range(options.repeats):
            for processes in options.processes:
                peer = f"peer-{processes}"
                for side, name, shown in (
                    ("datatrove", peer, "datatrove"),
                    ("filter + minhash", "main", "filter + minhash"),
                    ("filter + minhash", peer, f"filter + minhash{SAME_TEXT}"),
                    ("clean + filter + minhash", "main", "clean + filter + minhash"),
                    ("whole", "main", "whole"),
                ):
                    runs.setdefault((shown, processes), []).append(bench.run(side, processes, name))
        steps = bench.run("steps", 1, "main")
        sizes = []
        for megabytes in options.sizes:
            bench.prepare(f"size-{megabytes:g}", megabytes, most)
            sizes.append(bench.run("whole", most, f"size-{megabytes:g}"))
    report(options, about, first, table_of(runs, starts), steps, sizes)


def report(
    options: argparse.Namespace, about: str, first: float, rows: list[Any], steps: dict[str, Any], sizes: list[Any]
) -> None:
    """Print what is left and write the JSON."""
    most, timed = max(options.processes), step_rows(steps, steps["megabytes"])
    for run in sizes:
        run["megabytes_per_second"] = run["megabytes"] / run["seconds"]
        print(f"\nwhole list, {most} processes, {run['megabytes']:.0f} MB: {run['megabytes_per_second']:.2f} MB/s, "
              f"peak {run['peak_megabytes']:.0f} MB", end="")  # fmt: skip
    print(f"\nfirst run of all, nothing compiled: {first:.1f} s on {START_UP_MEGABYTES} MB")
    if options.out is None:
        return
    value = {
        "date": time.strftime("%Y-%m-%d"),
        "what": "MB of UTF-8 text per second through the data stage, medians; ratio: over datatrove at as many processes",
        "text": about,
        "memory": "sum over processes, sampled every 50 ms: proportional set size at the peaks of resident size",
        "options": {name: [str(item) for item in value] if name == "text" and value else value
                    for name, value in vars(options).items() if name != "out"},
        "versions": {name: version(name) for name in ("datatrove", "spacy", "jieba", "numba", "numpy", "pyarrow")}
        | {"python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "first_run_seconds": first, "rows": rows, "steps": timed,
        "steps_not_timed": steps["missing"], "sizes": sizes,
    }  # fmt: skip
    options.out.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
