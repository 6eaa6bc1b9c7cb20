from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.data.config import Config as DataConfig
from jielong.data.config import Source
from jielong.data.documents import iter_texts
from jielong.data.stage import run as run_data
from jielong.errors import TokenizerError
from jielong.runs import Run, StageContext, list_outputs, write_json
from jielong.tokenizer import bpe, stage
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards import workers
from jielong.tokenizer.shards.manifest import COUNTED
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.stage import clean_up, inputs, run
from tests.corpus import texts, write_jsonl


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """A run folder whose data stage is finished."""
    path = write_jsonl(tmp_path / "news.jsonl", texts(80))
    data = tmp_path / "run" / "data"
    data.mkdir(parents=True)
    config = DataConfig(sources=(Source(name="news", path=str(path)),), validation_fraction=0.2)
    counts = run_data(config, StageContext(Run(tmp_path / "run"), data, 1), tmp_path)
    write_json(data / "manifest.json", {"counts": counts, "fingerprint": "", "section": {}, "outputs": [], "seed": 1})
    out = tmp_path / "run" / "tokenizer"
    out.mkdir()
    return StageContext(Run(tmp_path / "run"), out, 1)


def check_shards(context: StageContext, counts: dict[str, Any]) -> None:
    """Every document of both splits comes back from the shards, in order, and the counts are sums over documents."""
    tokenizer = open_folder(context.out)
    for split in ("train", "validation"):
        shards = Shards(context.out / "shards", split)
        shards.verify()
        rows = [text for batch in iter_texts(context.run.stage("data") / "documents", split) for text in batch]
        assert [tokenizer.decode(document[:-1].tolist()) for document in shards] == rows
        assert all(document[-1] == tokenizer.end_id for document in shards)
        of_sources = counts[split]["by_source"].values()
        assert all(sum(row[key] for row in of_sources) == counts[split][key] for key in COUNTED)
        assert counts[split] == {
            "documents": len(rows),
            "tokens": sum(len(ids) + 1 for ids in tokenizer.encode(rows)),
            "bytes": sum(len(text.encode()) for text in rows),
            "chars": sum(map(len, rows)),
            "by_source": counts[split]["by_source"],
        }


def test_train_and_shard(context: StageContext, tmp_path: Path) -> None:
    counts = run(Config(vocab_size=330, shard_tokens=500), context, tmp_path)
    assert counts["kind"] == "bpe" and counts["vocab_size"] == 330 and counts["dtype"] == "uint16"
    assert len(list((context.out / "shards").glob("train-*.bin"))) > 1
    check_shards(context, counts)
    examples = orjson.loads((context.out / "examples.json").read_bytes())
    assert all(row["text"] and row["tokens"] for row in examples)


def test_a_given_tokenizer_is_used_as_it_is(context: StageContext, tmp_path: Path) -> None:
    bpe.save(bpe.train(texts(80), 300, Config().specials, 2, True), tmp_path / "given")
    config = Config(path="given").placed(tmp_path)
    counts = run(config, context, tmp_path)
    assert counts["kind"] == "folder" and counts["vocab_size"] == 300
    assert (context.out / "tokenizer.json").read_bytes() == (tmp_path / "given" / "tokenizer.json").read_bytes()
    check_shards(context, counts)
    assert [label for label, _ in inputs(config, tmp_path)] == ["tokenizer.json", "tokenizer_config.json"]


def test_a_large_vocabulary_makes_uint32(context: StageContext, tmp_path: Path) -> None:
    tokenizer = bpe.train(texts(80), 300, Config().specials, 2, True)
    tokenizer.add_tokens([f"词{n}" for n in range(66_000)])
    bpe.save(tokenizer, tmp_path / "given")
    counts = run(Config(path=str(tmp_path / "given")), context, tmp_path)
    assert counts["dtype"] == "uint32" and counts["vocab_size"] > 65_536
    check_shards(context, counts)


def test_a_corpus_smaller_than_the_vocabulary(
    context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = run(Config(vocab_size=6400), context, tmp_path)
    assert counts["vocab_size"] < 6400
    said = capsys.readouterr().err
    assert "no more pairs to merge" in said and "the corpus is smaller than the vocabulary" not in said
    check_shards(context, counts)


def test_fewer_tokens_than_ids(context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = bpe.train(texts(80), 300, Config().specials, 2, True)
    tokenizer.add_tokens([f"词{n}" for n in range(9_000)])
    bpe.save(tokenizer, tmp_path / "given")
    counts = run(Config(path=str(tmp_path / "given")), context, tmp_path)
    said = f"the corpus is smaller than the vocabulary: {counts['train']['tokens']:,} training tokens for 9,300 ids"
    assert said in capsys.readouterr().err
    check_shards(context, counts)


def test_a_beginning_token_and_no_end(context: StageContext, tmp_path: Path) -> None:
    """<|im_start|> before every document, nothing behind it; the rows that are learnt from are the texts alone."""
    folder = tmp_path / "given"
    bpe.save(bpe.train(texts(80), 300, Config().specials, 2, True), folder)
    table = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    write_json(folder / "tokenizer_config.json", table | {"bos_token": "<|im_start|>"})
    run(Config(path=str(folder), bos=True, eos=False), context, tmp_path)
    tokenizer, shards = open_folder(context.out), Shards(context.out / "shards", "train")
    rows = [text for batch in iter_texts(context.run.stage("data") / "documents", "train") for text in batch]
    assert [row.tolist() for row in shards] == [[1, *ids] for ids in tokenizer.encode(rows)]
    assert [shards.targets(n).tolist() for n in range(shards.documents)] == tokenizer.encode(rows)
    assert shards.start_id == 1 and shards.target_tokens == shards.tokens - len(rows)


def test_no_beginning_token(context: StageContext, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    bpe.save(bpe.train(texts(80), 300, Config().specials, 2, True), folder)
    table = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    write_json(folder / "tokenizer_config.json", table | {"bos_token": None})
    with pytest.raises(TokenizerError, match=r"tokenizer\.bos: the tokenizer has no beginning token, got true"):
        run(Config(path=str(folder), bos=True), context, tmp_path)


def test_uint16_forced_on_a_large_vocabulary_and_uint32_on_a_small_one(context: StageContext, tmp_path: Path) -> None:
    tokenizer = bpe.train(texts(80), 300, Config().specials, 2, True)
    bpe.save(tokenizer, tmp_path / "small")
    counts = run(Config(path=str(tmp_path / "small"), dtype="uint32"), context, tmp_path)
    assert counts["dtype"] == "uint32"
    check_shards(context, counts)
    tokenizer.add_tokens([f"词{n}" for n in range(66_000)])
    bpe.save(tokenizer, tmp_path / "large")
    with pytest.raises(TokenizerError, match=r"tokenizer\.dtype: uint16 does not hold every id .*, got 66,300 ids"):
        run(Config(path=str(tmp_path / "large"), dtype="uint16"), context, tmp_path)


def test_a_trained_tokenizer_is_kept_until_the_stage_is_published(context: StageContext, tmp_path: Path) -> None:
    config = Config(vocab_size=330, shard_tokens=500)
    run(config, context, tmp_path)
    before = list_outputs(context.out)
    shutil.rmtree(context.out)
    context.out.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_train", lambda *_: pytest.fail("it was trained again"))
        patch.setattr(workers.Worker, "do", lambda *_: pytest.fail("documents were encoded again"))
        run(config, context, tmp_path)
    assert list_outputs(context.out) == before
    clean_up(context)
    assert not context.run.work("tokenizer").exists()


def test_a_given_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.path: no such folder"):
        inputs(Config(path="nowhere").placed(tmp_path), tmp_path)
