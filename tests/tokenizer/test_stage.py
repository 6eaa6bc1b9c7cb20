from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

import orjson
import pytest
from transformers import AutoTokenizer

from jielong.errors import TokenizerError
from jielong.runs import StageContext, list_outputs, write_json
from jielong.tokenizer import bpe, stage
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards import workers
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.stage import clean_up, inputs, run
from tests.corpus import texts
from tests.tokenizer.stages import another, check_shards, finished_data, rows_of

Kind = Literal["bpe", "unigram", "bytepiece"]
KINDS: tuple[Kind, ...] = ("bpe", "unigram", "bytepiece")


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """A run folder whose data stage is finished."""
    return finished_data(tmp_path, texts(80))


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
    assert "the text has no more to make tokens of" in said and "the corpus is smaller than the vocabulary" not in said
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
    rows = rows_of(context, "train")
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
    before = len(list_outputs(context.run.work("tokenizer")))
    tokenizer.add_tokens([f"词{n}" for n in range(66_000)])
    bpe.save(tokenizer, tmp_path / "large")
    with pytest.raises(TokenizerError, match=r"tokenizer\.dtype: uint16 does not hold every id .*, got 66,300 ids"):
        run(Config(path=str(tmp_path / "large"), dtype="uint16"), another(context, "refused"), tmp_path)
    assert (
        not list((context.run.root / "refused").glob("shards"))
        and len(list_outputs(context.run.work("tokenizer"))) == before
    )


def test_a_tokenizer_without_an_end_token(context: StageContext, tmp_path: Path) -> None:
    """One sentence that says what to do; what it says is enough, and readers of the result need not be told."""
    folder = tmp_path / "given"
    bpe.save(bpe.train(texts(80), 300, ("<x>",), 2, True), folder)
    table = orjson.loads((folder / "tokenizer_config.json").read_bytes())
    write_json(folder / "tokenizer_config.json", table | {"bos_token": None, "eos_token": None, "pad_token": None})
    with pytest.raises(
        TokenizerError, match=r"names no end-of-text token .*; name one of its tokens with tokenizer\.end_token$"
    ):
        run(Config(path=str(folder)), context, tmp_path)
    assert not context.run.work("tokenizer").exists()  # nothing was begun
    counts = run(Config(path=str(folder), end_token="<x>"), context, tmp_path)
    assert open_folder(context.out).end_token == "<x>"
    check_shards(context, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_options_reach_the_folder(kind: Kind, context: StageContext, tmp_path: Path) -> None:
    config = Config(
        kind=kind, vocab_size=400, special_tokens=("<x>",), reserved_tokens=3, user_words=("作取得", "hello world"),
        split_letters=True,
    )  # fmt: skip
    counts = run(config, context, tmp_path)
    check_shards(context, counts)
    tokenizer = open_folder(context.out)
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<x>", "<|reserved_0|>", "<|reserved_1|>", "<|reserved_2|>")
    assert [tokenizer.backend.token_to_id(name) for name in names] == list(range(7))
    assert AutoTokenizer.from_pretrained(context.out).convert_tokens_to_ids("<|reserved_2|>") == 6
    assert counts["vocab_size"] == tokenizer.size <= 400
    cut = tokenizer.cut("工作取得新 hello world, hello 2024")
    assert "作取得" in cut and "hello world" in cut and cut[-4:] == list("2024")
    assert cut[cut.index("hello world") + 1 :][-10:-5] == list("hello")
    assert tokenizer.encode(["<x><|reserved_0|>"])[0][0] > 6  # text that spells one is text


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
