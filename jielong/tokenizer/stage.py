"""The tokenizer stage: train or import a tokenizer, then turn both splits into token shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jielong.data.documents import iter_sourced, iter_texts
from jielong.errors import TokenizerError
from jielong.progress import Progress, human_count, say
from jielong.runs import StageContext, write_json
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import FILES, TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.shards import ShardWriter, write_manifest

FORMAT = 2
SPLITS = ("train", "validation")
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 4_000_000  # encoding takes about 70 bytes of memory a byte of text
EXAMPLES = ("中国人民银行今天宣布，下调存款准备金率0.5个百分点。", "人工智能是研究、开发用于模拟人的智能的科学。",
            "床前明月光，疑是地上霜。", "def hello(): print('你好, world 2024')")  # fmt: skip


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: those of a given tokenizer."""
    if config.path is None:
        return []
    path = (folder / Path(config.path).expanduser()).resolve()
    if not path.is_dir():
        raise TokenizerError(f"tokenizer.path: no such folder, got {path}; give a folder that holds tokenizer.json")
    return [(name, path / name) for name in FILES if (path / name).is_file()]


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write the tokenizer folder and `shards/` into context.out; return the counts for the manifest."""
    data = context.run.manifest("data")
    assert data is not None, "the data stage runs first"
    documents = context.run.stage("data") / "documents"
    if config.path is None:
        _train(config, documents, data["counts"], context.out)
    else:
        path = (folder / Path(config.path).expanduser()).resolve()
        copy_folder(open_folder(path, config.end_token), context.out)
    tokenizer = open_folder(context.out, config.end_token)
    splits = {}
    for split in SPLITS:
        splits[split] = _write_split(config, tokenizer, documents, split, context.out / "shards", data["counts"])
        assert splits[split]["documents"] == data["counts"][split], "documents in shards and in the data stage differ"
    write_manifest(context.out / "shards", tokenizer.size, tokenizer.end_id, splits)
    write_json(context.out / "examples.json", [{"text": text, "tokens": tokenizer.cut(text)} for text in EXAMPLES])
    # the validation text was not trained on: it gives the honest compression
    held_out = splits["validation"]
    return {
        "kind": "bpe" if config.path is None else "folder",
        "vocab_size": tokenizer.size,
        "dtype": "uint16" if tokenizer.size <= 1 << 16 else "uint32",
        "bytes_per_token": held_out["bytes"] / held_out["tokens"],
        "chars_per_token": held_out["chars"] / held_out["tokens"],
        **{name: {k: v for k, v in split.items() if k != "files"} for name, split in splits.items()},
    }


def batches(
    groups: Iterable[list[tuple[str, str]]], most_bytes: int = BATCH_BYTES
) -> Iterator[tuple[list[str], list[str]]]:
    """Regroup texts, each with its source, so that a batch holds at most `most_bytes` of UTF-8, or one text that is longer
    than that. Yields texts and sources."""
    batch: list[tuple[str, str]] = []
    size = 0
    for group in groups:
        for text, source in group:
            length = len(text.encode("utf-8"))
            if batch and (size + length > most_bytes or len(batch) == BATCH_DOCUMENTS):
                yield _apart(batch)
                batch, size = [], 0
            batch.append((text, source))
            size += length
    if batch:
        yield _apart(batch)


def _apart(batch: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [text for text, _ in batch], [source for _, source in batch]


def _train(config: Config, documents: Path, counts: dict[str, Any], out: Path) -> None:
    texts = bpe.sample(iter_texts(documents, "train", BATCH_DOCUMENTS), counts["bytes"], config.max_train_bytes)
    with Progress("tokenizer: reading", min(counts["bytes"], config.max_train_bytes), "B") as bar:

        def counted() -> Iterator[str]:
            for text in texts:
                bar.advance(len(text.encode("utf-8")))
                yield text

        tokenizer = bpe.train(counted(), config.vocab_size, config.specials, config.min_frequency, config.split_digits)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        say(
            f"tokenizer: the text has no more pairs to merge: {size} tokens instead of {config.vocab_size} "
            "(more text, or a smaller tokenizer.vocab_size, makes them equal)"
        )
    bpe.save(tokenizer, out)


def _write_split(
    config: Config, tokenizer: TokenizerFolder, documents: Path, split: str, out: Path, counts: dict[str, Any]
) -> dict[str, Any]:
    with (
        Progress(f"tokenizer: {split} shards", counts[split], "documents") as bar,
        ShardWriter(
            out, split, tokenizer.size, tokenizer.end_id, config.shard_tokens, tuple(counts["by_source"])
        ) as writer,
    ):
        for texts, sources in batches(iter_sourced(documents, split, BATCH_DOCUMENTS)):
            writer.add(texts, tokenizer.encode(texts), sources)
            bar.advance(len(texts))
            bar.note(f"{human_count(writer.tokens)} tokens")
    return writer.summary()
