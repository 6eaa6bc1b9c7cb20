from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import CheckpointError, DataError
from jielong.evaluate.config import Config
from jielong.evaluate.stage import evaluate, evaluate_files, run
from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM, initialise
from jielong.runs import Run, StageContext
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from tests.corpus import texts, write_jsonl


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerFolder:
    bpe.save(bpe.train(texts(30), 300, TokenizerConfig().specials, 2, True), tmp_path / "tokenizer")
    return open_folder(tmp_path / "tokenizer")


@pytest.fixture
def model(tokenizer: TokenizerFolder) -> CausalLM:
    fresh = CausalLM(ModelConfig(vocab_size=tokenizer.size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                 num_key_value_heads=1, max_position_embeddings=64))  # fmt: skip
    initialise(fresh, 1)
    return fresh


def test_files_give_what_their_shards_give(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    rows = texts(12)
    with ShardWriter(tmp_path / "s", "text", Scheme(tokenizer.size, tokenizer.end_id), 10**6) as writer:
        writer.add(rows, tokenizer.encode(rows))
    write_manifest(tmp_path / "s", Scheme(tokenizer.size, tokenizer.end_id), {"text": writer.summary()})
    expected = evaluate(model, Shards(tmp_path / "s", "text"), Config())
    found = evaluate_files(model, tokenizer, [str(write_jsonl(tmp_path / "x.jsonl", rows))], Config())
    assert found.pop("rejected") == {}
    assert found.pop("by_source")["text"] == pytest.approx(expected.pop("by_source")["text"], rel=1e-5)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["characters"] == sum(map(len, rows))
    # bits are the same, divided by bytes or by characters
    assert found["bits_per_character"] * found["characters"] == pytest.approx(found["bits_per_byte"] * found["bytes"])


def test_sources_are_measured_each_for_itself(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    """Three documents of b among nine: the whole is what it was, and each source is what it is alone."""
    rows = texts(9)
    names = ["b" if n % 3 == 0 else "a" for n in range(9)]
    found = {}
    for kind, sources in (("mixed", ("a", "b")), ("a", ("a",)), ("b", ("b",)), ("one", ("one",))):
        chosen = [row for row, name in zip(rows, names, strict=True) if kind in ("mixed", "one", name)]
        with ShardWriter(tmp_path / kind, "text", Scheme(tokenizer.size, tokenizer.end_id), 10**6, sources) as writer:
            writer.add(chosen, tokenizer.encode(chosen), names if kind == "mixed" else None)
        write_manifest(tmp_path / kind, Scheme(tokenizer.size, tokenizer.end_id), {"text": writer.summary()})
        found[kind] = evaluate(model, Shards(tmp_path / kind, "text"), Config())
    assert found["mixed"]["bits_per_byte"] == pytest.approx(
        found["one"]["bits_per_byte"], rel=1e-3
    )  # rows begin elsewhere
    for name in ("a", "b"):
        measured = found["mixed"]["by_source"][name]
        assert measured["bits_per_byte"] == pytest.approx(found[name]["bits_per_byte"], rel=1e-5)
        assert measured["documents"] == found[name]["documents"] == (3 if name == "b" else 6)


def test_no_readable_document(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b"{\n")
    with pytest.raises(DataError, match="no readable document"):
        evaluate_files(model, tokenizer, [str(tmp_path / "bad.jsonl")], Config())


def test_nothing_trained_yet(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
        run(Config(), StageContext(Run(tmp_path), tmp_path / "out", 1), tmp_path)


def test_what_cannot_be_read_is_counted(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(5))
    path.write_bytes(path.read_bytes() + b"{\n{}\n")
    found = evaluate_files(model, tokenizer, [str(path)], Config())
    assert found["documents"] == 5 and found["rejected"] == {"bad_json": 1, "missing_text": 1}


def test_a_budget_counts_what_it_measured(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "x.jsonl", texts(20))
    whole = evaluate_files(model, tokenizer, [str(path)], Config())
    part = evaluate_files(model, tokenizer, [str(path)], Config(max_tokens=100, sequence_length=32))
    assert whole["documents"] == 20 and whole["sequence_length"] == 64
    assert 1 <= part["documents"] < 20 and 100 <= part["tokens"] < whole["tokens"]
    assert part["bits_per_character"] is None and part["sequence_length"] == 32


def test_names_of_texts_are_as_long_as_it_takes() -> None:
    from jielong.evaluate.stage import _names

    assert _names(("/x/a.txt", "/x/b.txt")) == ["a.txt", "b.txt"]
    assert _names(("/x/a/*.txt", "/x/b/*.txt")) == ["a/*.txt", "b/*.txt"]
    assert _names(()) == []
