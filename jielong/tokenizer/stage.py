"""The tokenizer stage: train or import a tokenizer, then turn both splits into token shards."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jielong.data.cleaning.scan import encode as encode_utf8
from jielong.data.documents import iter_texts
from jielong.errors import TokenizerError
from jielong.progress import Progress, say
from jielong.runs import StageContext, hash_json, write_json
from jielong.tokenizer import bpe, unigram
from jielong.tokenizer.config import Config
from jielong.tokenizer.encoding_arrays import BATCH_DOCUMENTS, batches, bulk_encoder
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, identity_loss, input_files, open_folder
from jielong.tokenizer.importing.extending import extend, extend_with
from jielong.tokenizer.shards.chunks import whole
from jielong.tokenizer.shards.making import SPLITS, make_shards
from jielong.tokenizer.shards.manifest import Scheme
from jielong.tokenizer.shards.workers import Setting
from jielong.tokenizer.training.long_runs import MIN_DOCUMENTS, LongRuns, han_of, write_candidates

FORMAT = 3
LOOKED_AT = 100  # validation texts that are decoded again, to see whether a given tokenizer loses anything
EXAMPLES = ("中国人民银行今天宣布，下调存款准备金率0.5个百分点。", "人工智能是研究、开发用于模拟人的智能的科学。",
            "床前明月光，疑是地上霜。", "def hello(): print('你好, world 2024')")  # fmt: skip


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: those of a given tokenizer, and of what extends it."""
    if config.path is None:
        return []
    found = input_files(absolute_path(config.path, folder))
    if config.extend_with is not None:
        other = absolute_path(config.extend_with, folder)
        if not other.exists():
            raise TokenizerError(f"tokenizer.extend_with: no such folder or file, got {other}; give another tokenizer")
        found += [(f"extend_with/{name}", path) for name, path in input_files(other)]
    if config.extend_words is not None:
        words = absolute_path(config.extend_words, folder)
        if not words.is_file():
            raise TokenizerError(f"tokenizer.extend_words: no such file, got {words}; give a file with a word a line")
        found.append(("extend_words", words))
    return found


def absolute_path(path: str, folder: Path) -> Path:
    """A path of the recipe."""
    return (folder / Path(path).expanduser()).resolve()


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write the tokenizer folder and `shards/` into context.out; return the counts for the manifest."""
    data = context.run.manifest("data")
    assert data is not None, "the data stage runs first"
    documents = context.run.stage("data") / "documents"
    if config.path is None:
        _train_once(config, context, documents, data["counts"])
    else:
        _take(config, folder, context.out)
    tokenizer = open_folder(context.out, config.end_token)
    if config.path is not None:
        _tell_loss(tokenizer, itertools.chain.from_iterable(iter_texts(documents, "validation", BATCH_DOCUMENTS)))
    setting = Setting(context.out, scheme_of(config, tokenizer), tuple(data["counts"]["by_source"]), config.end_token)
    splits = make_shards(
        setting, documents, data["fingerprint"], context.run.work("tokenizer"), context.out / "shards",
        config.shard_tokens, config.processes,
    )  # fmt: skip
    for split in SPLITS:
        assert splits[split]["documents"] == data["counts"][split], "documents in shards and in the data stage differ"
    if splits["train"]["tokens"] < tokenizer.size:
        say(
            f"tokenizer: the corpus is smaller than the vocabulary: {splits['train']['tokens']:,} training tokens for "
            f"{tokenizer.size:,} ids, so most ids are never trained; more text or a smaller tokenizer makes better use of it"
        )
    write_json(context.out / "examples.json", [{"text": text, "tokens": tokenizer.cut(text)} for text in EXAMPLES])
    # the validation text was not trained on: it gives the honest compression
    held_out = splits["validation"]
    return {
        "kind": config.kind if config.path is None else "folder",
        "vocab_size": tokenizer.size,
        "dtype": setting.scheme.dtype,
        "bytes_per_token": held_out["bytes"] / held_out["tokens"],
        "chars_per_token": held_out["chars"] / held_out["tokens"],
        **{name: {k: v for k, v in split.items() if k != "files"} for name, split in splits.items()},
    }


def _take(config: Config, folder: Path, out: Path) -> None:
    """A given tokenizer, as it is or extended, into the stage's folder."""
    assert config.path is not None
    opened = open_folder(absolute_path(config.path, folder), config.end_token, config.pattern)
    for line in opened.specials.lines():
        say(f"tokenizer: {line}")
    if config.extend_words is None and config.extend_with is None:
        copy_folder(opened, out)
        return
    if config.extend_with is not None:
        found = extend_with(opened, open_folder(absolute_path(config.extend_with, folder)), out, config.extend_count)
    else:
        words = read_words(absolute_path(str(config.extend_words), folder))
        found = extend(opened, words, out, config.extend_count)
    say(
        f"tokenizer: {len(found.tokens):,} tokens added behind the {found.old_size:,} old ones, {len(found.known):,} were there "
        f"already, {len(found.refused):,} cannot be added"
    )


def _tell_loss(tokenizer: TokenizerFolder, texts: Iterator[str]) -> None:
    """Say so when text is not what it was after encode and decode; a tokenizer that is trained here loses nothing."""
    loss = identity_loss(tokenizer, itertools.islice(texts, LOOKED_AT))
    if loss.changed:
        say(
            f"tokenizer: {loss.changed} of {loss.texts} texts come back changed from encode and decode: {loss.before!r} as "
            f"{loss.after!r}"
        )


def read_words(path: Path) -> list[str]:
    """A word a line, blanks around it and empty lines left out. Raises TokenizerError for a file that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise TokenizerError(f"tokenizer.extend_words: not UTF-8, got {path}; convert it") from None
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise TokenizerError(f"tokenizer.extend_words: no words, got {path}; write one word a line")
    return words


def clean_up(context: StageContext) -> None:
    """When the result is published: what was kept for the case of a kill goes."""
    shutil.rmtree(context.run.work("tokenizer"), ignore_errors=True)


def scheme_of(config: Config, tokenizer: TokenizerFolder) -> Scheme:
    """How the recipe wants documents written. Raises TokenizerError where the tokenizer has no beginning token, or too many
    ids for the dtype."""
    if config.bos and tokenizer.start_id is None:
        raise TokenizerError(
            f"tokenizer.bos: the tokenizer has no beginning token, got true for {tokenizer.path}; set it to false, or name "
            "the token as bos_token in its tokenizer_config.json"
        )
    start = tokenizer.start_id if config.bos else None
    return Scheme(tokenizer.size, tokenizer.end_id, start, config.eos, config.dtype)


def _train_once(config: Config, context: StageContext, documents: Path, counts: dict[str, Any]) -> None:
    """Train into context.out; what is trained is kept in the work folder, so that a kill later on does not train again."""
    work = context.run.work("tokenizer")
    name = hash_json([context.fingerprint, config.result_fields(), counts])[:16]
    kept = work / f"trained-{name}"
    if not kept.is_dir():
        for old in work.glob("trained-*"):
            shutil.rmtree(old)
        with whole(kept) as scratch:
            _train(config, documents, counts, scratch)
    shutil.copytree(kept, context.out, dirs_exist_ok=True)


def _train(config: Config, documents: Path, counts: dict[str, Any], out: Path) -> None:
    def texts() -> Iterator[str]:
        whole = iter_texts(documents, "train", BATCH_DOCUMENTS)
        return bpe.sample(whole, counts["bytes"], config.max_train_bytes)

    with Progress("tokenizer: reading", min(counts["bytes"], config.max_train_bytes), "B") as bar:

        def counted() -> Iterator[str]:
            for text in texts():
                bar.advance(len(text.encode("utf-8")))
                yield text

        if config.kind == "bpe":
            tokenizer = bpe.train(
                counted(), config.vocab_size, config.specials, config.min_frequency, config.split_digits,
                config.split_letters, config.user_words,
            )  # fmt: skip
            learned = None
        else:
            tokenizer, learned = unigram.train(
                counted(), config.kind, config.vocab_size, config.specials, config.min_frequency, config.split_digits,
                config.split_letters, config.user_words, config.character_coverage,
                config.processes or os.cpu_count() or 1, lambda one: say(one.line()),
            )  # fmt: skip
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        say(
            f"tokenizer: the text has no more to make tokens of: {size} tokens instead of {config.vocab_size} "
            "(more text, or a smaller tokenizer.vocab_size, makes them equal)"
        )
    bpe.save(tokenizer, out)
    if learned is not None:
        write_json(out / "rounds.json", [asdict(one) for one in learned.rounds])
        _write_long_runs(open_folder(out), texts(), out / "long_pieces.tsv")


def _write_long_runs(tokenizer: TokenizerFolder, texts: Iterator[str], path: Path) -> None:
    """Texts of long pieces that many documents share, for the data stage's step `fragments`."""
    runs, encode = LongRuns(han_of(tokenizer)), bulk_encoder(tokenizer)
    for batch, _ in batches([(text, "")] for text in texts):
        runs.add(*encode(*encode_utf8(batch)))
    rows = [(tokenizer.decode(ids.tolist()), documents, times) for ids, documents, times in runs.most(MIN_DOCUMENTS)]
    write_candidates(path, rows)
    if rows:
        say(
            f"tokenizer: {len(rows)} long texts stand in {MIN_DOCUMENTS} documents or more: look at {path.name} for adverts"
        )
