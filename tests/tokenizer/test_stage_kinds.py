"""The stage with the kinds that learn pieces from the top: shards, rounds, long texts as candidates for the data stage; and the
identity of encode -> decode, of all kinds, on random text and on all real text there is."""

from __future__ import annotations

import functools
import io
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from jielong.data.config import Config as DataConfig
from jielong.data.documents import iter_texts
from jielong.data.stage import run as run_data
from jielong.runs import StageContext, list_outputs
from jielong.tokenizer import bpe, unigram
from jielong.tokenizer.config import Config
from jielong.tokenizer.encoding.encoder import open_encoder
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards import chunks
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.stage import run
from tests.data.mining.planted import WORDS
from tests.tokenizer.stages import another, check_shards, finished_data, rows_of
from tests.tokenizer.test_stage import KINDS, Kind

REAL = Path(__file__).parents[3] / "shared" / "data" / "pretrain"
LEARNED_FROM = 5_000_000  # bytes of the real text
FOOTER = "关注公众号免费领取精彩好书大全"
CHANCE = random.Random(3)
PLAIN = ["，".join("".join(CHANCE.choices(WORDS, k=8)) for _ in range(6)) + f"{n}。" for n in range(80)]
WITH_FOOTER = [f"{text}\n{FOOTER}" if n % 2 else text for n, text in enumerate(PLAIN)]
SAMPLES = (
    *"中国人民的工作取得进展，。“”0179 \n\r\t",
    "<|endoftext|>",
    "<|im_start|>",
    "hello",
    "  ",
    "\U0001f468\u200d\U0001f469",
)
TEXT = st.lists(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(SAMPLES)), max_size=40).map("".join)


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageContext:
    """Documents, every second with an advert under it, in several files, so that there is work for two processes."""
    monkeypatch.setattr("jielong.data.stage.MEGABYTE", 4_000)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1_000)
    context = finished_data(tmp_path, WITH_FOOTER, steps=(), chunk_megabytes=1)
    assert len(chunks.chunks_of(context.run.stage("data") / "documents", "train")) > 2
    return context


def listing_of(path: Path) -> dict[str, list[str]]:
    """The lines of long_pieces.tsv by their text."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[0][0] == "action"
    return {line[5]: line for line in lines[1:]}


@pytest.mark.parametrize("kind", ["unigram", "bytepiece"])
def test_a_run(kind: Kind, context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(Config(kind=kind, vocab_size=420, shard_tokens=900, processes=1), context, tmp_path)
    assert counts["kind"] == kind and 400 < counts["vocab_size"] <= 420 and counts["dtype"] == "uint16"
    check_shards(context, counts)
    rounds = orjson.loads((context.out / "rounds.json").read_bytes())
    pieces = [one["pieces"] for one in rounds]
    assert [one["number"] for one in rounds] == list(range(len(rounds)))
    assert pieces == sorted(pieces, reverse=True) and pieces[0] > pieces[-1]
    said = capsys.readouterr().err
    assert f"tokenizer: round 0: {pieces[0]:,} pieces in use" in said and "long texts stand in 10 documents" in said
    theirs = AutoTokenizer.from_pretrained(context.out)
    assert len(theirs) == counts["vocab_size"]
    for split in ("train", "validation"):
        rows = rows_of(context, split)
        ids = theirs(rows, add_special_tokens=False)["input_ids"]
        assert [row.tolist() for row in Shards(context.out / "shards", split)] == [[*row, 0] for row in ids]
        assert counts[split]["tokens"] == sum(len(row) + 1 for row in ids)
    # one process or two, encoding here or there: the same bytes
    two = another(context, "two")
    assert run(Config(kind=kind, vocab_size=420, shard_tokens=900, processes=2), two, tmp_path) == counts
    assert list_outputs(two.out) == list_outputs(context.out)


@pytest.mark.parametrize("kind", ["unigram", "bytepiece"])
def test_a_long_text_that_many_documents_share_leaves_them(kind: Kind, context: StageContext, tmp_path: Path) -> None:
    """From the tokenizer back to the data stage: it is listed, a person marks it, and the next run has documents without it."""
    run(Config(kind=kind, vocab_size=420), context, tmp_path)
    path = context.out / "long_pieces.tsv"
    found = listing_of(path)
    with_footer = sum(FOOTER in text for text in rows_of(context, "train"))
    assert with_footer >= 25
    [seen] = [text for text in found if text in FOOTER]  # whole, or but for what a short piece holds
    assert found[seen][:4] == ["?", "0.0", str(with_footer), str(with_footer)]
    assert all(int(line[2]) >= 10 for line in found.values())
    mine = tmp_path / "mine.tsv"
    marked = [
        line.replace("?", "remove" if seen in line else "keep", 1) for line in path.read_text("utf-8").splitlines()
    ]
    mine.write_text("\n".join(marked) + "\n", encoding="utf-8")
    steps = [{"step": "fragments", "remove": "listed", "listing": str(mine), "min_documents": 20}]
    source = {"name": "news", "path": str(tmp_path / "news.jsonl")}
    config = DataConfig.model_validate(
        {"sources": [source], "steps": steps, "processes": 1, "validation_fraction": 0.2}
    )
    again = StageContext(context.run, context.run.root / "data-again", 1)
    again.out.mkdir()
    run_data(config, again, tmp_path)
    left = [
        text
        for split in ("train", "validation")
        for batch in iter_texts(again.out / "documents", split)
        for text in batch
    ]
    assert sorted(text.rstrip() for text in left) == sorted(PLAIN)


def test_a_bpe_has_neither(context: StageContext, tmp_path: Path) -> None:
    run(Config(vocab_size=330), context, tmp_path)
    assert not (context.out / "rounds.json").exists() and not (context.out / "long_pieces.tsv").exists()


def train(kind: Kind, rows: list[str], size: int, folder: Path) -> TokenizerFolder:
    """A tokenizer of a kind with the recipe's defaults."""
    specials = Config().specials
    if kind == "bpe":
        bpe.save(bpe.train(rows, size, specials, 2, True), folder)
    else:
        bpe.save(unigram.train(rows, kind, size, specials)[0], folder)
    return open_folder(folder)


@functools.lru_cache
def small(kind: Kind) -> TokenizerFolder:
    with tempfile.TemporaryDirectory() as folder:
        return train(kind, [*WITH_FOOTER, "hello 你好\n    for x in y:\n"], 400, Path(folder))


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXT)
def test_decoding_gives_the_text_back(kind: Kind, text: str) -> None:
    tokenizer = small(kind)
    [ids] = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text
    assert all(number >= len(Config().specials) for number in ids)  # a text does not end itself


# --------------------------------------------------------------------------------------------- all real text there is


def real_texts() -> Iterator[str]:
    for path in sorted(REAL.glob("*.jsonl.zst")):
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
            for line in io.BufferedReader(reader, 1 << 20):
                yield orjson.loads(line)["text"]


def by_size(rows: Iterator[str], size: int) -> Iterator[list[str]]:
    """Texts in batches of about so many bytes."""
    batch: list[str] = []
    held = 0
    for text in rows:
        batch.append(text)
        held += len(text.encode())
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real texts lie outside the project, in ../shared/data")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_real_texts_is_lost(kind: Kind, tmp_path: Path) -> None:
    """Ids by the compiled encoder, text by the library; on what was learned from the ids are the library's too."""
    first = next(by_size(real_texts(), LEARNED_FROM))
    tokenizer = train(kind, first, 6400, tmp_path)
    assert tokenizer.size == 6400
    encode = open_encoder(tmp_path, tokenizer.backend)
    assert encode is not None
    documents = 0
    for number, batch in enumerate(by_size(real_texts(), LEARNED_FROM)):
        parts = [text.encode() for text in batch]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        ids, starts = encode(np.frombuffer(b"".join(parts), np.uint8), offsets)
        rows = [part.tolist() for part in np.split(ids, starts[1:-1])]
        back = tokenizer.backend.decode_batch(rows, skip_special_tokens=True)
        assert back == batch
        if number == 0:
            assert batch == first and rows == tokenizer.encode(batch)
        documents += len(batch)
    assert documents > len(first)
