"""Training time, memory, compression and encoding speed of tokenizers: our kinds beside their peers, the same text, in one run.

    python benchmarks/tokenizer.py                                   # beside `tokenizers`; a quarter of an hour on two cores
    python benchmarks/tokenizer.py --peers tokenizers rustbpe sentencepiece --out benchmarks/results/DATE-tokenizer-cpu.json

Every side learns from the same --megabytes of documents, real text only, in one shuffled order, and is measured on documents that
it was not trained on: of each source its share of --held-megabytes, at least a hundredth. Exact duplicates are dropped before
the two are parted; near-duplicates are not, for any side. All sides have as many ids, three of them special tokens.

- *ours*: `bpe`, `unigram` and `bytepiece`, digits split, the functions that the tokenizer stage calls.
- *tokenizers*: its byte-level BPE with the split of Qwen 2. All ratios are to it.
- *rustbpe*: the same split; `tiktoken` encodes.
- *sentencepiece*: Unigram with byte fallback, no normalization. It gets whole documents and may keep pieces of blanks
  (allow_whitespace_only_pieces): both help it (6 % on text with code). Every character of its coverage is a token, so that is
  0.9995, or less (0.98 at least) where those would take more than half of the vocabulary. Minutes for each size.
- The package *bytepiece* is not among them: it wants pyahocorasick compiled for bytes, and the one that is published as a wheel,
  which other packages need, is not.

A BPE of a smaller vocabulary is the beginning of a larger one's merges, so every BPE is trained once, at the largest size, and cut
for the others. At --timed-size it is trained by itself too, for time and memory, and has to give what the cut gave.

With --peer-megabytes sentencepiece gets only so much; then the other sides learn from that once more, because compression can
only be compared on equal text.

Every training and every measurement is a fresh process. Seconds of training count from behind its imports until the vocabulary is
there: reading the JSON lines is in it, writing the result is not; all sides may use as many threads as the largest of --threads.
Peaks are the proportional set size of all processes of a run, sampled as in data.py, with interpreter and libraries. Our compiled
functions are in numba's cache before anything is timed.

Encoding: the held-out text in one call, as each side takes it: we UTF-8 bytes end to end (which is what Parquet files hold),
the others a list of strings; what comes out is left as it is: our arrays, lists, the `tokenizers` library's objects. A side that is
done within a second goes on from the beginning until it is over. The sides take turns, --repeats times.

Checked: our compiled ids are the library's in every held-out document, else the script ends; in how many of them
decode(encode(text)) is the text is counted for all.
"""

from __future__ import annotations

import argparse
import base64
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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from data import MEGABYTE, SAMPLE_SECONDS, SHARED, Memory  # the script beside this one

OURS = ("our bpe", "our unigram", "our bytepiece")
CUT = ("our bpe", "tokenizers", "rustbpe")  # byte-level BPE: trained once, cut for smaller sizes
SLOW = "sentencepiece"
PEERS = ("tokenizers", "rustbpe", SLOW)
PACKAGES = {"rustbpe": ("rustbpe", "tiktoken"), "sentencepiece": ("sentencepiece",)}
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MIN_FREQUENCY = 2
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
COVERAGES = (0.9995, 0.999, 0.998, 0.995, 0.99, 0.98)  # of sentencepiece, which takes none below
LONGEST_SENTENCE = 1 << 26  # bytes: whole documents
LEAST_SHARE = 0.01  # of the held-out text, for a source
TINY_MEGABYTES = 0.1  # for a run before anything is timed
LEAST_SECONDS = 1.0
MODEL = "model"  # file name
SAME_TEXT = ", the peer's text"
GOAL_RATIO = {6_400: 1.0, 32_000: 1.02, 65_536: 1.02}  # bytes per token, over the best peer's
GOAL_TRAIN = {"megabytes": 50, "size": 32_000, "seconds": 60, "peak_megabytes": 1000}
GOAL_RATE, GOAL_THREADS = {"our bpe": 15, "our unigram": 25, "our bytepiece": 25}, 2

Document = tuple[str, str]  # source, text
Trained = dict[str, float]  # seconds, and what there is to say besides


def read_documents(files: list[Path]) -> list[Document]:
    """The different documents of files of JSON lines (.zst or plain), or, without files, of the embedded corpora; shuffled."""
    found: dict[str, str] = {}  # text -> source; of exact duplicates the first
    if not files:
        from jielong.data.reading.corpora import BUILTIN, builtin_files, read_builtin

        for name in BUILTIN:
            for file in builtin_files(name):
                for record in read_builtin(name, file):
                    found.setdefault(record.text, name)
    for file in files:
        with file.open("rb") as raw:
            stream: Any = raw
            if file.suffix == ".zst":
                import zstandard

                stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw)
            for line in io.TextIOWrapper(stream, encoding="utf-8"):
                row = json.loads(line)
                found.setdefault(row["text"], row.get("source") or file.name.partition(".")[0])
    documents = [(source, text) for text, source in found.items() if text]
    random.Random(1).shuffle(documents)
    return documents


def size_of(documents: list[Document]) -> float:
    """MB of text."""
    return sum(len(text.encode("utf-8")) for _, text in documents) / MEGABYTE


def part(documents: list[Document], held_megabytes: float) -> tuple[list[Document], list[Document]]:
    """Documents that are held out, from each source its share of that many MB (at least LEAST_SHARE of them), and the rest."""
    sizes = Counter[str]()
    for source, text in documents:
        sizes[source] += len(text.encode("utf-8"))
    total = sum(sizes.values())
    wanted = {source: held_megabytes * MEGABYTE * max(size / total, LEAST_SHARE) for source, size in sizes.items()}
    held, rest, taken = list[Document](), list[Document](), Counter[str]()
    for source, text in documents:
        if taken[source] < wanted[source]:
            held.append((source, text))
            taken[source] += len(text.encode("utf-8"))
        else:
            rest.append((source, text))
    return held, rest


def first(documents: list[Document], megabytes: float) -> list[Document]:
    """So much of them, or all there are."""
    found, size = list[Document](), 0.0
    for source, text in documents:
        if size >= megabytes * MEGABYTE:
            break
        found.append((source, text))
        size += len(text.encode("utf-8"))
    return found


def write_documents(path: Path, documents: list[Document]) -> None:
    """JSON lines."""
    with path.open("w", encoding="utf-8") as out:
        for source, text in documents:
            out.write(json.dumps({"source": source, "text": text}, ensure_ascii=False) + "\n")


class Texts:
    """The texts of a file of JSON lines, read anew each time: what is trained from is not kept in memory by us."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[str]:
        with self._path.open("rb") as lines:
            for line in lines:
                yield json.loads(line)["text"]


# ------------------------------------------------------------------------------------------- training, in a fresh process


def write_cut(described: str, sizes: list[int], out: Path) -> None:
    """Write the description of a BPE (a tokenizer.json) with the tokens and merges of each size."""
    for size in sizes:
        value: dict[str, Any] = json.loads(described)
        model = value["model"]
        model["vocab"] = {name: number for name, number in model["vocab"].items() if number < size}
        made = (tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"])
        model["merges"] = [[left, right] for left, right in made if left + right in model["vocab"]]
        (out / str(size)).mkdir()
        (out / str(size) / MODEL).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def train_our_bpe(texts: Texts, sizes: list[int], out: Path, threads: int) -> Trained:
    """Ours, on one thread."""
    from jielong.tokenizer import bpe

    start = time.perf_counter()
    tokenizer = bpe.train(texts, max(sizes), SPECIALS, MIN_FREQUENCY, split_digits=True)
    seconds = time.perf_counter() - start
    write_cut(tokenizer.to_str(), sizes, out)
    return {"seconds": seconds}


def train_our_pieces(kind: str, texts: Texts, sizes: list[int], out: Path, threads: int) -> Trained:
    """`unigram` or `bytepiece`."""
    from jielong.tokenizer import unigram

    [size] = sizes
    start = time.perf_counter()
    tokenizer, _ = unigram.train(
        texts, "unigram" if kind == "our unigram" else "bytepiece", size, SPECIALS, MIN_FREQUENCY, threads=threads
    )
    seconds = time.perf_counter() - start
    (out / str(size)).mkdir()
    tokenizer.save(str(out / str(size) / MODEL))
    return {"seconds": seconds}


def train_tokenizers(texts: Texts, sizes: list[int], out: Path, threads: int) -> Trained:
    """The library's BPE."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(sizes), min_frequency=MIN_FREQUENCY, special_tokens=list(SPECIALS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    start = time.perf_counter()
    tokenizer.train_from_iterator(texts, trainer=trainer)
    seconds = time.perf_counter() - start
    write_cut(tokenizer.to_str(), sizes, out)
    return {"seconds": seconds}


def train_rustbpe(texts: Texts, sizes: list[int], out: Path, threads: int) -> Trained:
    """Its ids have no special tokens: tiktoken adds them behind."""
    import rustbpe  # type: ignore[import-untyped]

    tokenizer = rustbpe.Tokenizer()
    start = time.perf_counter()
    tokenizer.train_from_iterator(iter(texts), max(sizes) - len(SPECIALS), pattern=QWEN2)
    seconds = time.perf_counter() - start
    ranks = [(base64.b64encode(bytes(token)).decode(), rank) for token, rank in tokenizer.get_mergeable_ranks()]
    for size in sizes:
        (out / str(size)).mkdir()
        kept = sorted((rank, token) for token, rank in ranks if rank < size - len(SPECIALS))
        (out / str(size) / MODEL).write_text(json.dumps(kept), encoding="utf-8")
    return {"seconds": seconds}


def covering(counts: Counter[str], share: float) -> int:
    """How many of the most frequent characters make up a share of all."""
    reached = accumulate(sorted(counts.values(), reverse=True))
    return 1 + sum(count < share * counts.total() for count in reached)


def train_sentencepiece(texts: Texts, sizes: list[int], out: Path, threads: int) -> Trained:
    """Unigram."""
    import sentencepiece

    [size] = sizes
    options: dict[str, Any] = {
        "model_type": "unigram", "vocab_size": size, "byte_fallback": True, "normalization_rule_name": "identity",
        "max_sentence_length": LONGEST_SENTENCE, "split_digits": True, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "hard_vocab_limit": False,
        "num_threads": threads, "minloglevel": 2,
    }  # fmt: skip
    counts = Counter(char for text in texts for char in text if not char.isspace())
    coverage = next(x for x in COVERAGES if x == COVERAGES[-1] or covering(counts, x) <= size / 2)
    model, start = io.BytesIO(), time.perf_counter()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, character_coverage=coverage, **options
    )
    seconds = time.perf_counter() - start
    (out / str(size)).mkdir()
    (out / str(size) / MODEL).write_bytes(model.getvalue())
    return {"seconds": seconds, "coverage": coverage}


def train(side: str, sizes: list[int], given: str, out: str, threads: int) -> dict[str, Any]:
    """Train one side; writes a folder for each size."""
    texts, place = Texts(Path(given)), Path(out)
    if side in ("our unigram", "our bytepiece"):
        return train_our_pieces(side, texts, sizes, place, threads)
    trainers: dict[str, Callable[[Texts, list[int], Path, int], Trained]] = {
        "our bpe": train_our_bpe, "tokenizers": train_tokenizers, "rustbpe": train_rustbpe,
        "sentencepiece": train_sentencepiece,
    }  # fmt: skip
    return trainers[side](texts, sizes, place, threads)


# ------------------------------------------------------------------------------------------- encoding, in a fresh process


@dataclass(frozen=True)
class Opened:
    """A trained tokenizer. Only `encode` is timed."""

    size: int  # ids
    form: Callable[[list[str]], Any]  # texts as this side takes them
    encode: Callable[[Any], Any]
    ids: Callable[[Any], list[list[int]]]  # of what encode gave, for each text
    decode: Callable[[list[int]], str]
    library: Callable[[list[str]], list[list[int]]] | None = None  # ours: the slow way, by the library


def open_ours(file: Path, threads: int) -> Opened:
    """Our compiled encoder."""
    import tokenizers

    from jielong.data.cleaning.scan import encode
    from jielong.tokenizer.encoding.encoder import open_encoder

    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.encode_special_tokens = True
    compiled = open_encoder(file.parent, backend, threads)
    if compiled is None:
        raise SystemExit("there is no compiled encoder for a tokenizer of our own")

    def apart(found: Any) -> list[list[int]]:
        ids, offsets = found[0].tolist(), found[1].tolist()
        return [ids[start:end] for start, end in pairwise(offsets)]

    def slowly(texts: list[str]) -> list[list[int]]:
        return [backend.encode(text, add_special_tokens=False).ids for text in texts]

    return Opened(backend.get_vocab_size(), encode, lambda given: compiled(*given), apart, decode_of(backend), slowly)


def open_tokenizers(file: Path, threads: int) -> Opened:
    """The library itself; its threads are set by the environment."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(file))
    backend.encode_special_tokens = True
    return Opened(
        backend.get_vocab_size(), list, lambda texts: backend.encode_batch_fast(texts, add_special_tokens=False),
        lambda found: [encoding.ids for encoding in found], decode_of(backend),
    )  # fmt: skip


def decode_of(backend: Any) -> Callable[[list[int]], str]:
    """Ids to text, with the `tokenizers` library."""
    return lambda ids: str(backend.decode(ids, skip_special_tokens=False))


def open_rustbpe(file: Path, threads: int) -> Opened:
    """What rustbpe learned, encoded by tiktoken."""
    import tiktoken

    ranks = {base64.b64decode(token): rank for rank, token in json.loads(file.read_text(encoding="utf-8"))}
    added = {token: len(ranks) + number for number, token in enumerate(SPECIALS)}
    backend = tiktoken.Encoding("rustbpe", pat_str=QWEN2, mergeable_ranks=ranks, special_tokens=added)
    return Opened(
        backend.n_vocab, list, lambda texts: backend.encode_ordinary_batch(texts, num_threads=threads),
        lambda found: found, backend.decode,
    )  # fmt: skip


def open_sentencepiece(file: Path, threads: int) -> Opened:
    """sentencepiece's own encoder."""
    import sentencepiece

    backend = sentencepiece.SentencePieceProcessor(model_proto=file.read_bytes())
    return Opened(
        backend.vocab_size(), list, lambda texts: backend.encode(texts, num_threads=threads),
        lambda found: found, backend.decode,
    )  # fmt: skip


def open_side(side: str, folder: str, threads: int) -> Opened:
    """A tokenizer that `train` wrote."""
    openers = {"tokenizers": open_tokenizers, "rustbpe": open_rustbpe, "sentencepiece": open_sentencepiece}
    return openers.get(side, open_ours)(Path(folder) / MODEL, threads)


def check(side: str, folder: str, held: str, threads: int) -> dict[str, Any]:
    """Tokens of the held-out text by source; documents that come back; ours: documents with the library's ids."""
    with Path(held).open("rb") as lines:
        sources, texts = zip(*((row["source"], row["text"]) for row in map(json.loads, lines)), strict=True)
    opened = open_side(side, folder, threads)
    found = opened.ids(opened.encode(opened.form(list(texts))))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"documents": 0, "bytes": 0, "characters": 0, "tokens": 0})
    for source, text, ids in zip(sources, texts, found, strict=True):
        row = counts[source]
        row["documents"] += 1
        row["bytes"] += len(text.encode("utf-8"))
        row["characters"] += len(text)
        row["tokens"] += len(ids)
    same = sum(opened.decode(ids) == text for text, ids in zip(texts, found, strict=True))
    by_source = dict(sorted(counts.items()))
    result = {"vocabulary": opened.size, "documents": len(texts), "come_back": same, "by_source": by_source}
    if opened.library is not None:
        equal = sum(ours == theirs for ours, theirs in zip(found, opened.library(list(texts)), strict=True))
        if equal != len(texts):
            raise SystemExit(f"{side}: ids differ from the library's in {len(texts) - equal} of {len(texts)} documents")
        result["equal_to_library"] = equal
    return result


def time_encoding(side: str, folder: str, held: str, threads: int) -> dict[str, Any]:
    """MB of the held-out text that are encoded per second."""
    texts, opened = list(Texts(Path(held))), open_side(side, folder, threads)
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / MEGABYTE
    opened.encode(opened.form(texts[:20]))  # what is loaded at the first call
    given, seconds, passes = opened.form(texts), 0.0, 0
    while seconds < LEAST_SECONDS:
        start = time.perf_counter()
        result = opened.encode(given)
        seconds += time.perf_counter() - start
        passes += 1
        del result  # freeing it is not timed
    return {"megabytes_per_second": megabytes * passes / seconds}


TASKS: dict[str, Callable[..., dict[str, Any]]] = {"train": train, "check": check, "time": time_encoding}


def run_child(task: str, threads: int, **what: Any) -> dict[str, Any]:
    """Do a task in a fresh process; its result, with the peak of memory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", task, json.dumps(what | {"threads": threads})]
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment = usual | {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": str(threads > 1).lower()}
    with tempfile.TemporaryFile() as errors:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors}
        process = subprocess.Popen(command, start_new_session=True, env=environment, **streams)
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
            raise SystemExit(f"{task} {what} failed:\n{errors.read().decode('utf-8', 'replace')[-4000:]}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found | {"peak_megabytes": memory.peak / MEGABYTE}


# ------------------------------------------------------------------------------------------------- the run as a whole


@dataclass
class Row:
    """What was measured of one side at one size, learned from one text."""

    side: str
    size: int
    text: str  # name of the input
    megabytes: float  # of it
    folder: str
    trained: dict[str, Any] | None = None  # None: cut from a larger one
    checked: dict[str, Any] | None = None
    rates: dict[int, list[float]] | None = None  # MB/s by threads

    @property
    def name(self) -> str:
        """As printed."""
        return self.side + (SAME_TEXT if self.text == "peer" else "")

    def per_token(self, unit: str, source: str | None = None) -> float:
        """Bytes or characters per token, of a source or of all."""
        assert self.checked is not None
        rows = self.checked["by_source"]
        counts = [rows[source]] if source else list(rows.values())
        return float(sum(row[unit] for row in counts) / max(sum(row["tokens"] for row in counts), 1))


class Bench:
    """The files of a benchmark, and runs on them."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._options = folder, options
        self._threads: int = max(options.threads)
        self._inputs: dict[str, tuple[str, float]] = {}  # name -> file, MB
        self._trainings = 0
        self.rows: list[Row] = []

    def prepare(self, name: str, documents: list[Document]) -> float:
        """Write an input; returns its MB."""
        path = self._folder / f"{name}.jsonl"
        write_documents(path, documents)
        self._inputs[name] = (str(path), size_of(documents))
        return self._inputs[name][1]

    def train(self, side: str, sizes: list[int], name: str) -> tuple[Path, dict[str, Any]]:
        """Train once; the folder with a folder for each size."""
        self._trainings += 1
        out = self._folder / f"trained-{self._trainings}"
        out.mkdir()
        given, megabytes = self._inputs[name]
        found = run_child("train", self._threads, side=side, sizes=sizes, given=given, out=str(out))
        if name != "tiny":
            print(f"{side}, {', '.join(f'{size:,}' for size in sizes)} from {megabytes:.1f} MB: {found['seconds']:.1f} s, "
                  f"peak {found['peak_megabytes']:.0f} MB", flush=True)  # fmt: skip
        return out, found

    def warm(self, side: str) -> None:
        """Both tasks on almost nothing, so that everything is compiled."""
        size = max(self._options.sizes)  # the width of ids depends on it
        out, _ = self.train(side, [size], "tiny")
        self._child_of("time", side, str(out / str(size)), "tiny", self._threads)

    def learn(self, side: str, name: str) -> None:
        """Train all sizes of a side; rows for them."""
        sizes, timed = self._options.sizes, self._options.timed_size
        folders: dict[int, Path] = {}
        runs: dict[int, dict[str, Any]] = {}
        for group in [sizes] if side in CUT else [[size] for size in sizes]:
            out, runs[max(group)] = self.train(side, group, name)
            folders |= {size: out / str(size) for size in group}
        if side in CUT and timed in sizes and timed != max(sizes):
            out, runs[timed] = self.train(side, [timed], name)
            if (out / str(timed) / MODEL).read_bytes() != (folders[timed] / MODEL).read_bytes():
                raise SystemExit(f"{side}: what is learned at {timed} is not the beginning of what is at {max(sizes)}")
        megabytes = self._inputs[name][1]
        self.rows += [Row(side, size, name, megabytes, str(folders[size]), runs.get(size)) for size in sizes]

    def check(self) -> None:
        """Compression and identity of every row."""
        for row in self.rows:
            row.checked = self._child_of("check", row.side, row.folder, "held", self._threads)

    def time(self) -> None:
        """Encoding speed of every row, in turn."""
        for row in self.rows:
            row.rates = {threads: [] for threads in self._options.threads}
        for _ in range(self._options.repeats):
            for size in self._options.sizes:
                for threads in self._options.threads:
                    for row in self.rows:
                        if row.size == size and row.rates is not None:
                            found = self._child_of("time", row.side, row.folder, "held", threads)
                            row.rates[threads].append(found["megabytes_per_second"])

    def _child_of(self, task: str, side: str, folder: str, text: str, threads: int) -> dict[str, Any]:
        return run_child(task, threads, side=side, folder=folder, held=self._inputs[text][0])


def as_values(rows: list[Row]) -> list[dict[str, Any]]:
    """Rows of the result, with their ratios to `tokenizers` of the same size and text."""
    values = []
    for row in rows:
        base = next(x for x in rows if (x.side, x.size, x.text) == ("tokenizers", row.size, row.text))
        assert row.checked is not None and row.rates is not None and base.rates is not None
        run, base_run = row.trained or {}, base.trained or {}
        value = {
            "side": row.name, "size": row.size, "vocabulary": row.checked["vocabulary"], "megabytes": row.megabytes,
            "train_seconds": run.get("seconds"), "peak_megabytes": run.get("peak_megabytes"),
            "coverage": run.get("coverage"),
            "train_times_as_fast": base_run["seconds"] / run["seconds"] if run and base_run else None,
            "bytes_per_token": row.per_token("bytes"), "characters_per_token": row.per_token("characters"),
            "ratio": row.per_token("bytes") / base.per_token("bytes"),
            "documents": row.checked["documents"], "come_back": row.checked["come_back"],
            "equal_to_library": row.checked.get("equal_to_library"),
            "encoding": {
                str(threads): {
                    "megabytes_per_second": statistics.median(rates), "range": [min(rates), max(rates)],
                    "ratio": statistics.median(rates) / statistics.median(base.rates[threads]),
                    "ratio_range": [f(x / y for x, y in zip(rates, base.rates[threads], strict=True)) for f in (min, max)],
                }
                for threads, rates in row.rates.items()
            },
            "by_source": {
                source: counts | {f"{unit}_per_token": row.per_token(unit, source) for unit in ("bytes", "characters")}
                for source, counts in row.checked["by_source"].items()
            },
        }  # fmt: skip
        values.append(value)
    return values


def print_tables(values: list[dict[str, Any]], sizes: list[int], threads: list[int]) -> None:
    """One table of the sides and one of the sources for each size."""
    for size in sizes:
        rows = [value for value in values if value["size"] == size]
        print(f"\n{f'{size:,} tokens':32} {'train s':>8} {'times':>6} {'peak MB':>8} {'bytes/token':>11} {'ratio':>6} {'chars':>6} {'come back':>13}"
              + "".join(f" {f'MB/s, {n} thr.':>12} {'min..max':>13} {'times':>6}" for n in threads))  # fmt: skip
        for row in rows:
            shown = f"{row['train_seconds']:>8.1f}" if row["train_seconds"] is not None else f"{'cut':>8}"
            times = f"{row['train_times_as_fast']:>6.1f}" if row["train_times_as_fast"] is not None else f"{'':>6}"
            peak = f"{row['peak_megabytes']:>8.0f}" if row["peak_megabytes"] is not None else f"{'':>8}"
            back = f"{row['come_back']:,}/{row['documents']:,}"
            line = f"{row['side']:32} {shown} {times} {peak} {row['bytes_per_token']:>11.3f} {row['ratio']:>6.3f} {row['characters_per_token']:>6.3f} {back:>13}"
            for speed in (row["encoding"][str(n)] for n in threads):
                low, high = speed["range"]
                line += f" {speed['megabytes_per_second']:>12.1f} {f'{low:.1f}..{high:.1f}':>13} {speed['ratio']:>6.1f}"
            print(line)
            if row["vocabulary"] < size:
                print(f"    the text has no more: {row['vocabulary']:,} tokens")
        print(
            f"\n{f'bytes a token, {size:,}':32} {'held MB':>8}"
            + "".join(f" {row['side'].replace(SAME_TEXT, '*'):>16}" for row in rows)
        )
        for source, counts in rows[0]["by_source"].items():
            print(f"{source:32} {counts['bytes'] / MEGABYTE:>8.2f}"
                  + "".join(f" {row['by_source'][source]['bytes_per_token']:>16.3f}" for row in rows))  # fmt: skip


def goals(values: list[dict[str, Any]], threads: list[int]) -> list[dict[str, Any]]:
    """What was wanted and what came out. What is not measured has no row."""
    found = []

    def add(what: str, value: float, wanted: float, at_most: bool = False) -> None:
        met = value <= wanted if at_most else value >= wanted
        found.append({"goal": what, "value": value, "wanted": wanted, "at_most": at_most, "met": met})

    for size, text in dict.fromkeys((row["size"], row["side"].endswith(SAME_TEXT)) for row in values):
        rows = [row for row in values if row["size"] == size and row["side"].endswith(SAME_TEXT) == text]
        ours = max((row for row in rows if row["side"].startswith(OURS)), key=lambda row: row["bytes_per_token"])
        peer = max((row for row in rows if not row["side"].startswith(OURS)), key=lambda row: row["bytes_per_token"])
        if size in GOAL_RATIO:
            what = f"bytes a token at {size:,}: {ours['side']} over {peer['side']}"
            add(what, ours["bytes_per_token"] / peer["bytes_per_token"], GOAL_RATIO[size])
    for row in values:
        if row["side"] not in OURS:
            continue
        if row["size"] == GOAL_TRAIN["size"] and row["train_seconds"] is not None:
            what = f"{row['side']}, {row['size']:,} from {row['megabytes']:.0f} MB (the goal is for {GOAL_TRAIN['megabytes']}): "
            add(what + "seconds", row["train_seconds"], GOAL_TRAIN["seconds"], at_most=True)
            add(what + "peak, MB", row["peak_megabytes"], GOAL_TRAIN["peak_megabytes"], at_most=True)
    for side, wanted in GOAL_RATE.items() if GOAL_THREADS in threads else ():
        slowest = min(
            (row for row in values if row["side"] == side),
            key=lambda row: row["encoding"][str(GOAL_THREADS)]["megabytes_per_second"],
        )
        rate = slowest["encoding"][str(GOAL_THREADS)]["megabytes_per_second"]
        add(f"{side}, encoding on {GOAL_THREADS} threads at its slowest size, {slowest['size']:,}: MB/s", rate, wanted)
    return found


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=50, help="text to learn from, MB")
    parser.add_argument("--held-megabytes", type=float, default=5, help="text to measure on, MB")
    parser.add_argument("--sizes", type=int, nargs="+", default=[6400, 32000, 65536], help="vocabularies, ids")
    parser.add_argument("--timed-size", type=int, default=32000, help="a BPE is trained at this size by itself too")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["tokenizers"], help="tokenizers is always there")
    parser.add_argument("--peer-megabytes", type=float, help="text for sentencepiece, MB (none: all of it)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="for encoding; the most for training")
    parser.add_argument("--repeats", type=int, default=3, help="how often the sides take turns in encoding")
    parser.add_argument("--text", type=Path, nargs="+", help="files of JSON lines with text and source (.zst or plain)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.sizes = sorted(set(options.sizes))
    options.peers = [peer for peer in PEERS if peer == "tokenizers" or peer in options.peers]
    return options


def main() -> None:
    """Measure and print the tables; with --out, write them as JSON too."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(TASKS[sys.argv[2]](**json.loads(sys.argv[3]))))
        return
    options = arguments()
    given = options.text or (sorted(SHARED.glob("*.jsonl.zst")) if SHARED.is_dir() else [])
    held, rest = part(read_documents(given), options.held_megabytes)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        bench.prepare("tiny", first(rest, TINY_MEGABYTES))
        main_text = first(rest, options.megabytes)
        learned, measured = bench.prepare("main", main_text), bench.prepare("held", held)
        about = (f"{learned:,.1f} MB to learn from ({len(main_text):,} documents), {measured:,.1f} MB held out ({len(held):,}), "
                 f"{len({source for source, _ in held})} sources{'' if given else ' (embedded demo corpora)'}")  # fmt: skip
        print(f"text: {about}", flush=True)
        for side in OURS:
            bench.warm(side)
        apart = SLOW in options.peers and options.peer_megabytes is not None
        for side in (*(peer for peer in options.peers if not (apart and peer == SLOW)), *OURS):
            bench.learn(side, "main")
        if apart:
            bench.prepare("peer", first(rest, min(options.peer_megabytes, options.megabytes)))
            for side in ("tokenizers", SLOW, *OURS):
                bench.learn(side, "peer")
        bench.check()
        bench.time()
    report(options, about, as_values(bench.rows))


def report(options: argparse.Namespace, about: str, values: list[dict[str, Any]]) -> None:
    """Print what was found and write the JSON."""
    print_tables(values, options.sizes, options.threads)
    wanted = goals(values, options.threads)
    print("\ngoals")
    for goal in wanted:
        limit = f"{'at most' if goal['at_most'] else 'at least'} {goal['wanted']:g}"
        print(f"{goal['goal']:84} {goal['value']:>9.3f}  {limit:14} {'met' if goal['met'] else 'NOT MET'}")
    if options.out is None:
        return
    packages = ["tokenizers", "numba", "numpy", *(x for peer in options.peers for x in PACKAGES.get(peer, ()))]
    shown = vars(options) | {"text": [path.name for path in options.text] if options.text else None}
    value = {
        "date": time.strftime("%Y-%m-%d"),
        "what": "training, compression of held-out text and MB of UTF-8 text encoded per second; ratios: to tokenizers' BPE",
        "text": about,
        "memory": "sum over processes, sampled every 50 ms: proportional set size at the peaks of resident size",
        "options": {key: item for key, item in shown.items() if key != "out"},
        "versions": {package: version(package) for package in packages} | {"python": platform.python_version()},
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "rows": values, "goals": wanted,
    }  # fmt: skip
    options.out.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
