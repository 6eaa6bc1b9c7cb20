"""The stage with a tokenizer that is given: a file of any known kind, and one that new words are added to. What is remembered as its
input, and what a user reads when a file cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.errors import JielongError, TokenizerError
from jielong.recipe import load
from jielong.runs import Run, StageContext, write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.stage import inputs, run
from jielong.workflow import stage_state
from tests.corpus import texts, write_recipe
from tests.test_cli import as_json, jielong
from tests.tokenizer.importing.test_sentencepiece_model import SETTINGS, train
from tests.tokenizer.importing.test_tiktoken_file import KIND, small_tokens, write
from tests.tokenizer.stages import another, check_shards, finished_data, rows_of

WORDS = ("人工智能", "新进展", "群众表示满意", "量子比特")


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    """A run folder whose data stage is finished."""
    return finished_data(tmp_path, texts(60))


def given(folder: Path, size: int = 300) -> Path:
    """A folder with a small byte-level BPE."""
    bpe.save(bpe.train(texts(60), size, Config().specials, 2, True), folder)
    return folder


def words_file(folder: Path, words: tuple[str, ...] = WORDS) -> Path:
    path = folder / "words.txt"
    path.write_text("\ufeff" + "\n\n".join(f" {word} " for word in words) + "\n", encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------- kinds of files


def test_a_tokenizer_json_alone(context: StageContext, tmp_path: Path) -> None:
    folder = given(tmp_path / "given")
    config = Config(path="given/tokenizer.json").placed(tmp_path)
    counts = run(config, context, tmp_path)
    assert counts["kind"] == "folder" and counts["vocab_size"] == 300
    assert (context.out / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    check_shards(context, counts)


def test_a_sentencepiece_model(context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids are the library's, and what was found and not found in the file is told."""
    sentencepiece = pytest.importorskip("sentencepiece")
    path = tmp_path / "mine.model"
    path.write_bytes(train(**SETTINGS["bpe, bytes"]))
    counts = run(Config(path=str(path)), context, tmp_path)
    check_shards(context, counts)
    library = sentencepiece.SentencePieceProcessor(model_file=str(path))
    rows = rows_of(context, "train")
    assert [row.tolist() for row in Shards(context.out / "shards", "train")] == [
        [*library.encode(row), 2] for row in rows
    ]
    said = capsys.readouterr().err
    assert "tokenizer: end of text: </s> (id 2, " in said and "tokenizer: end of a turn: none (" in said
    assert [label for label, _ in inputs(Config(path=str(path)), tmp_path)] == ["mine.model"]


def test_a_rank_file_with_its_pattern(context: StageContext, tmp_path: Path) -> None:
    path = write(tmp_path / "small.tiktoken", small_tokens())
    with pytest.raises(TokenizerError, match=r"its first cut is not known, got \d+ ranks"):
        run(Config(path=str(path)), context, tmp_path)
    with pytest.raises(TokenizerError, match="names no end-of-text token"):
        run(Config(path=str(path), pattern=KIND.pattern), context, tmp_path)
    table = {"added_tokens_decoder": {str(len(small_tokens())): {"content": "<|endoftext|>"}}}
    write_json(tmp_path / "tokenizer_config.json", table)
    counts = run(Config(path=str(path), pattern=KIND.pattern), context, tmp_path)
    assert counts["vocab_size"] == len(small_tokens()) + 1
    check_shards(context, counts)


def test_a_tokenizer_that_loses_text_is_told(
    context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that writes full-width marks as ASCII ones is used, and the user knows."""
    path = tmp_path / "mine.model"
    path.write_bytes(train(**SETTINGS["unigram, bytes"]))
    run(Config(path=str(path)), context, tmp_path)
    count = len(rows_of(context, "validation"))
    said = capsys.readouterr().err
    assert f"tokenizer: {count} of {count} texts come back changed from encode and decode: '" in said
    run(Config(path=str(given(tmp_path / "given"))), another(context, "again"), tmp_path)
    assert "come back changed" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- extension


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece"])
def test_words_are_added_behind_the_old_ids(
    kind: str, context: StageContext, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "bpe":
        path = given(tmp_path / "given")
    else:
        path = tmp_path / "mine.model"
        path.write_bytes(train(**SETTINGS["unigram, bytes"] | {"normalization_rule_name": "identity"}))
    old = open_folder(path)
    config = Config(path=str(path), extend_words=str(words_file(tmp_path)))
    counts = run(config, context, tmp_path)
    check_shards(context, counts)
    new = open_folder(context.out)
    table = orjson.loads((context.out / "extension.json").read_bytes())
    assert table["old_size"] == old.size and table["size"] == new.size == counts["vocab_size"] > old.size
    assert all(new.backend.id_to_token(n) == old.backend.id_to_token(n) for n in range(old.size))
    asked = {token["text"]: token for token in table["tokens"] if token["asked"]}
    assert set(asked) | set(table["known"]) | set(table["refused"]) == set(WORDS) and len(asked) >= 3
    parts = {number: [number] for number in range(old.size)} | {
        token["id"]: token["parts"] for token in table["tokens"]
    }
    if kind == "bpe":  # written as old ids, the new cut of any text is the old one
        for document, text in zip(Shards(context.out / "shards", "train"), rows_of(context, "train"), strict=True):
            ids = document[:-1].tolist()
            assert [part for number in ids for part in parts[number]] == old.encode([text])[0]
    written = {number for document in Shards(context.out / "shards", "train") for number in document.tolist()}
    assert written & {token["id"] for token in asked.values()}
    assert f"behind the {old.size:,} old ones" in capsys.readouterr().err


def test_extended_with_the_chinese_of_another_at_most_so_many(context: StageContext, tmp_path: Path) -> None:
    small, large = given(tmp_path / "small", 280), given(tmp_path / "large", 420)
    config = Config(path=str(small), extend_with=str(large / "tokenizer.json"), extend_count=20)
    counts = run(config, context, tmp_path)
    old = open_folder(small)
    assert old.size < counts["vocab_size"] <= old.size + 20
    table = orjson.loads((context.out / "extension.json").read_bytes())
    assert table["tokens"] and any("20 new tokens were allowed" in why for why in table["refused"].values())
    check_shards(context, counts)
    labels = [label for label, _ in inputs(config, tmp_path)]
    assert labels == [
        "tokenizer.json", "tokenizer_config.json", "extend_with/tokenizer.json", "extend_with/tokenizer_config.json",
    ]  # fmt: skip


def bad_words(folder: Path, content: bytes) -> str:
    path = folder / "words.txt"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"extend_words": b""}, r"tokenizer\.extend_words: no words, got .*words\.txt; write one word a line$"),
        ({"extend_words": b" \n\n"}, r"tokenizer\.extend_words: no words, got .*words\.txt; write one word a line$"),
        ({"extend_words": "人工智能".encode("gb18030")}, r"tokenizer\.extend_words: not UTF-8, got .*; convert it$"),
        ({"extend_words": "nowhere.txt"}, r"tokenizer\.extend_words: no such file, got .*nowhere\.txt; give a file"),
        ({"extend_words": "."}, r"tokenizer\.extend_words: no such file, got .*; give a file with a word a line$"),
        ({"extend_with": "nowhere"}, r"tokenizer\.extend_with: no such folder or file, got .*nowhere; give another"),
        ({"path": "nowhere"}, r"tokenizer\.path: no such folder or file, got .*nowhere; give a folder"),
    ],
)
def test_files_that_cannot_be_used(
    settings: dict[str, Any], message: str, context: StageContext, tmp_path: Path
) -> None:
    """As the workflow goes: the files are looked at, then the stage runs. Nothing is encoded."""
    given(tmp_path / "given", 280)
    table = {key: bad_words(tmp_path, value) if isinstance(value, bytes) else value for key, value in settings.items()}
    config = Config.model_validate({"path": "given"} | table).placed(tmp_path)
    with pytest.raises(JielongError, match=message) as error:
        inputs(config, tmp_path)
        run(config, context, tmp_path)
    assert "\n" not in str(error.value) and not context.run.work("tokenizer").exists()


# ------------------------------------------------------------------------------------------------- the command line


def test_a_changed_file_makes_the_stage_again(tmp_path: Path) -> None:
    """By the command, as users do: a sentencepiece model with new words; touched is not changed."""
    write_recipe(tmp_path)
    model, words = tmp_path / "mine.model", words_file(tmp_path, WORDS[:2])
    model.write_bytes(train(**SETTINGS["bpe, bytes"]))
    settings = ["tokenizer.path=mine.model", "tokenizer.extend_words=words.txt", "tokenizer.dtype=uint32"]
    command = ["tokenizer", "mini.toml", "--json", *(part for setting in settings for part in ("--set", setting))]

    def state() -> str:
        recipe, found = load(str(tmp_path / "mini.toml"), settings), Run(tmp_path / "runs" / "mini")
        fingerprints: dict[str, str] = {}
        stage_state(recipe, found, "data", fingerprints)
        return stage_state(recipe, found, "tokenizer", fingerprints)

    first = as_json(jielong(*command, cwd=tmp_path)[0])["stages"]["tokenizer"]
    assert first["state"] == "done" and first["counts"]["dtype"] == "uint32"
    folder = tmp_path / "runs" / "mini" / "tokenizer"
    assert (folder / "extension.json").is_file() and not (folder / "mine.model").exists()
    model.touch()
    assert state() == "up to date"
    words_file(tmp_path, WORDS)
    assert state() == "stale"
    out, said = jielong(*command, cwd=tmp_path)
    again = as_json(out)["stages"]["tokenizer"]
    assert "tokenizer: making it again (its inputs changed)" in said
    assert again["state"] == "done" and again["counts"]["vocab_size"] > first["counts"]["vocab_size"]
    assert state() == "up to date"
    model.write_bytes(train(**SETTINGS["unigram, bytes"]))
    assert state() == "stale"
    words.write_bytes("词".encode("utf-16"))
    out, said = jielong(*command, cwd=tmp_path, status=2)
    assert f"error: tokenizer.extend_words: not UTF-8, got {words}; convert it" in said
    assert Shards(folder / "shards", "train").tokens == again["counts"]["train"]["tokens"]  # what was there stays
