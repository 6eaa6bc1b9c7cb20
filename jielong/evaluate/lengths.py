"""What a longer context gives and costs: bits per byte and passkey accuracy against the length of a row.

Bits per byte are compared on the *same* tokens. From long documents, stretches of as many tokens as the longest length are
taken; the last TARGET_TOKENS of each are predicted once for every length, from the last L tokens before its end.
So the lengths differ in nothing but how far back the model sees, and the curve can only fall because of what stands
there. (Rows of each length over a whole text would compare other things: a short row has a larger share of
tokens at its beginning that see almost nothing, and that alone makes a curve fall.) Every row begins with the
start token, in the place of the token that stood there, as a prompt does.

Consequences, all stated in the result: documents shorter than the longest length have no place in the curve (they are
counted); a document gives at most WINDOWS_A_DOCUMENT stretches, so that no book decides alone; and since every length sees the same
tokens, the change against the shortest length has a far smaller error than the figures themselves: it is given with
its standard error over the stretches.

Bytes are counted from the text: a stretch's target begins and ends where decoding gives whole characters, and its bytes are
what decoding it adds. Lengths beyond the trained one are the point of it; `scalings` measures the same weights under stretched
rotary frequencies as well (`with_scaling`).

One row at a time goes through a key-value cache, in parts, and logits are made of the targets
alone: memory is the weights, the cache of the longest row and one part. Cost: for each length, (windows + prompts) x length tokens
of a forward pass.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError

from jielong.errors import DataError, InputError
from jielong.evaluate.passkey import CANDIDATES, CHANCE, DEPTHS, measure_passkey, new_cache, read, start_of
from jielong.infer.cache import KVCache
from jielong.model.config import SCALED, Config, RopeScaling
from jielong.model.transformer import CausalLM
from jielong.progress import Progress
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards

LENGTHS = (256, 512, 1024, 2048)
SHORTEST = 16  # tokens; a target of half of it still says something
TARGET_TOKENS = 128  # predicted in each stretch; half of the shortest length where that is less
WINDOWS, WINDOWS_A_DOCUMENT = 64, 4
TRIALS = 5  # passkey prompts at each depth
CLEAN_TRIES = 16  # tokens that a bound is moved by until characters are whole
ENCODED_TOGETHER = 64  # documents

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A stretch of a document as long as the longest length; its last `target` tokens, of `bytes` of text, are predicted."""

    ids: Ids
    target: int
    bytes: int


@dataclass
class Windows:
    """The stretches that were chosen, and what was passed over."""

    target: int  # tokens, at least; a few more where characters are cut
    chosen: list[Window] = field(default_factory=list)
    documents: int = 0  # read
    long_documents: int = 0  # at least as long as the longest length
    longest_document: int = 0  # tokens


# ------------------------------------------------------------------------------------------------------ documents


def documents_of(shards: Shards) -> Iterator[Ids]:
    """The token ids of each document of a split, without its start and end ids."""
    for number in range(shards.documents):
        ids = shards.targets(number)
        yield np.asarray(ids[:-1] if len(ids) and ids[-1] == shards.end_id else ids, dtype=np.int64)


def tokenised(texts: Iterable[str], tokenizer: TokenizerFolder) -> Iterator[Ids]:
    """The token ids of each text."""
    batch: list[str] = []

    def encoded() -> Iterator[Ids]:
        return (np.asarray(ids, dtype=np.int64) for ids in tokenizer.encode(batch))

    for text in texts:
        batch.append(text)
        if len(batch) == ENCODED_TOGETHER:
            yield from encoded()
            batch.clear()
    yield from encoded()


def texts_of(paths: list[str]) -> Iterator[str]:
    """The readable documents of raw files, in any form that the data stage reads. Raises InputError for no such file."""
    from jielong.data.config import Source
    from jielong.data.reading.readers import Record, expand, read_file

    for path in paths:
        for file in expand(path, Path.cwd()):
            for record in read_file(file, Source(name="text", path=path), lambda done: None):
                if isinstance(record, Record):
                    yield record.text


def run_shards(model_folder: Path) -> Shards | None:
    """The validation split of the run that a checkpoint belongs to; None for a model of no run."""
    parents = model_folder.resolve().parents  # runs/<name>/train/checkpoints/<step>
    if model_folder.resolve().parent.name != "checkpoints" or len(parents) < 3:
        return None
    folder = parents[2] / "tokenizer" / "shards"
    return Shards(folder, "validation") if folder.is_dir() else None


def choose_windows(
    documents: Iterable[Ids], tokenizer: TokenizerFolder, lengths: Sequence[int], count: int, seed: int
) -> Windows:
    """At most `count` stretches for these lengths, drawn from all that the documents offer (reservoir sampling, so that
    documents may be a stream), each draw equally likely."""
    longest = max(lengths)
    found = Windows(min(TARGET_TOKENS, min(lengths) // 2))
    chance, offered = random.Random(seed), 0
    for ids in documents:
        found.documents += 1
        found.longest_document = max(found.longest_document, len(ids))
        if len(ids) < longest:
            continue
        found.long_documents += 1
        spare = len(ids) - longest
        for place in range(most := min(WINDOWS_A_DOCUMENT, 1 + spare // found.target)):
            end = longest + (spare * place // (most - 1) if most > 1 else 0)
            offered += 1
            slot = len(found.chosen) if len(found.chosen) < count else chance.randrange(offered)
            if slot >= count:
                continue
            if (window := _window(ids, end, longest, tokenizer, found.target)) is None:
                offered -= 1
            elif slot == len(found.chosen):
                found.chosen.append(window)
            else:
                found.chosen[slot] = window
    return found


def _window(ids: Ids, end: int, length: int, tokenizer: TokenizerFolder, target: int) -> Window | None:
    """The `length` tokens before `end`, moved so that the target goes from one whole character to another; None: that
    is not to be had, or the target is no text."""
    listed = ids[end - length : end + CLEAN_TRIES].tolist()

    def clean(places: Iterable[int]) -> int | None:
        """The first bound that cuts no character."""
        return next((at for at in places if not tokenizer.decode(listed[:at]).endswith("\ufffd")), None)

    last = clean(range(length, len(listed) + 1))
    first = clean(range(last - target, max(last - target - CLEAN_TRIES, 0), -1)) if last is not None else None
    if last is None or first is None:
        return None
    size = len(tokenizer.decode(listed[:last]).encode("utf-8")) - len(tokenizer.decode(listed[:first]).encode("utf-8"))
    return Window(np.asarray(listed[last - length : last], dtype=np.int64), last - first, size) if size > 0 else None


# ------------------------------------------------------------------------------------------------------- schemes


def parse_scaling(text: str) -> RopeScaling:
    """ "yarn:4" -> RopeScaling. Raises InputError."""
    kind, _, factor = text.partition(":")
    try:
        number = float(factor)
    except ValueError:
        number = math.nan
    allowed = [name for name in SCALED if name != "clex"]
    if kind not in allowed or not 1 <= number < math.inf:
        raise InputError(
            f"--rope-scaling: not TYPE:FACTOR, got {text!r}; TYPE is one of {', '.join(allowed)} (clex is learned, so it cannot be "
            "put on afterwards), FACTOR a number of at least 1; give for example yarn:4"
        )
    return RopeScaling.model_validate({"rope_type": kind, "factor": number})


def parse_lengths(text: str) -> list[int]:
    """ "256,512" -> [256, 512], each once, rising. Raises InputError."""
    try:
        lengths = sorted({int(part) for part in text.split(",")})
    except ValueError:
        lengths = []
    if not lengths or lengths[0] < SHORTEST:
        raise InputError(
            f"--context-lengths: not a list of lengths, got {text!r}; each is a number of tokens, at least {SHORTEST}; give for example "
            f"{','.join(map(str, LENGTHS))}"
        )
    return lengths


def with_scaling(model: CausalLM, scaling: RopeScaling) -> CausalLM:
    """The same weights, not copied, under stretched rotary frequencies; what the model had of that kind is replaced.

    The trained length is the model's own, and its context becomes factor times as long. Raises InputError for positions that are not
    rotary and for clex, whose weights the model does not have.
    """
    original = model.config.original_length
    if scaling.rope_type == "clex":
        raise InputError("rope_scaling: clex is learned and cannot be put on a trained model; use another rope_type")
    stretched = scaling.model_copy(update={"original_max_position_embeddings": original})
    longest = max(original, round(original * (scaling.factor or 1.0)))
    table = model.config.model_dump() | {"rope_scaling": stretched.model_dump(), "max_position_embeddings": longest}
    try:
        config = Config.model_validate(table)
    except ValidationError as error:
        raise InputError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None
    with torch.device("meta"):
        twin = CausalLM(config)
    wanted = twin.state_dict().keys()
    twin.load_state_dict({name: value for name, value in model.state_dict().items() if name in wanted}, assign=True)
    if config.tie_word_embeddings:
        twin.lm_head.weight = twin.model.embed_tokens.weight
    return twin.train(model.training)


def scheme_name(config: Config) -> str:
    """A word for how positions are made: rope, alibi, none, or the type and factor of a scaling."""
    scaling = config.rope_scaling
    return config.position if scaling is None else f"{scaling.rope_type}:{scaling.factor:g}"


# ----------------------------------------------------------------------------------------------------- measuring


@torch.no_grad()
def window_nats(model: CausalLM, window: Window, length: int, start_id: int, cache: KVCache | None = None) -> float:
    """Cross-entropy of a stretch's target, nats, seen from the last `length` tokens before its end.

    The first of them is replaced by start_id. cache: an empty one of at least that length, to be used again.
    """
    ids = window.ids[-length:].tolist()
    cache = cache or new_cache(model, length)
    hidden_TC = read(model, [start_id, *ids[:-1]], cache, window.target)
    cache.length = 0
    labels_T = torch.tensor(ids[-window.target :], device=hidden_TC.device)
    return float(F.cross_entropy(model.lm_head(hidden_TC).float(), labels_T, reduction="sum"))


def evaluate_lengths(
    model: CausalLM,
    tokenizer: TokenizerFolder,
    lengths: Sequence[int],
    documents: Iterable[Ids] = (),
    scalings: Sequence[RopeScaling] = (),
    windows: int = WINDOWS,
    trials: int = TRIALS,
    seed: int = 1,
) -> dict[str, Any]:
    """Bits per byte and passkey accuracy at each length (tokens), as the model is and under each of `scalings`.

    documents: token ids without start or end (`documents_of`, `tokenised`). Figures that could not be had are None: bits per byte
    where no document is long enough, a passkey that a length has no room for. The model's mode is put back.
    """
    lengths = sorted(set(lengths))
    models = [model, *(with_scaling(model, scaling) for scaling in scalings)]
    chosen = choose_windows(documents, tokenizer, lengths, windows, seed)
    training, schemes = model.training, []
    work = len(models) * sum(lengths) * (len(chosen.chosen) + trials * len(DEPTHS))
    try:
        with Progress("evaluate: context lengths", work, "tokens") as bar:
            for one in models:
                one.eval()
                bar.note(scheme_name(one.config))
                schemes.append(_scheme(one, tokenizer, chosen, lengths, trials, seed, bar))
    finally:
        model.train(training)
    return {
        "lengths": lengths,
        "trained_length": model.config.original_length,
        "seed": seed,
        "text": {
            "windows": len(chosen.chosen),
            "target_tokens": sum(window.target for window in chosen.chosen),
            "bytes": sum(window.bytes for window in chosen.chosen),
            "documents": chosen.documents,
            "long_documents": chosen.long_documents,
            "longest_document": chosen.longest_document,
        },
        "passkey": {"trials": trials, "depths": list(DEPTHS), "candidates": CANDIDATES, "chance": CHANCE},
        "schemes": schemes,
    }


def measure_model(
    name: str,
    runs_dir: Path,
    lengths: Sequence[int],
    data: list[str] | None = None,
    scalings: Sequence[RopeScaling] = (),
) -> dict[str, Any]:
    """`evaluate_lengths` of what a user names as MODEL, and its folder as `model`.

    data: raw files; None: the validation documents of the model's run, and of a model of no run the passkey alone. Raises
    InputError and ModelError for a model that cannot be opened, DataError for files without a document.
    """
    from jielong.infer.models import open_model

    model, tokenizer, folder = open_model(name, runs_dir)
    documents: Iterator[Ids] = iter(())
    if data:
        documents = tokenised(texts_of(data), tokenizer)
        if (first := next(documents, None)) is None:
            raise DataError(f"--data: no readable document, got {', '.join(data)}; look at them with: jielong check")
        documents = itertools.chain([first], documents)
    elif (shards := run_shards(folder)) is not None:
        shards.verify()
        documents = documents_of(shards)
    return {"model": str(folder), **evaluate_lengths(model, tokenizer, lengths, documents, scalings)}


def _scheme(
    model: CausalLM, tokenizer: TokenizerFolder, windows: Windows, lengths: list[int], trials: int, seed: int, bar: Progress
) -> dict[str, Any]:  # fmt: skip
    """The rows of one model: a row for each length."""
    start_id, config = start_of(tokenizer), model.config
    rows: list[dict[str, Any]] = []
    shortest: list[float] = []
    for length in lengths:
        cache, nats = new_cache(model, length), []
        for window in windows.chosen:
            nats.append(window_nats(model, window, length, start_id, cache))
            bar.advance(length)
        del cache
        shortest = shortest or nats
        row = {"length": length, "beyond": length > config.original_length, **_bits(windows.chosen, nats, shortest)}
        rows.append(row | {"passkey": measure_passkey(model, tokenizer, length, trials, seed, bar.advance)})
    scaling = config.rope_scaling.model_dump() if config.rope_scaling is not None else None
    return {"name": scheme_name(config), "position": config.position, "rope_scaling": scaling, "rows": rows}


def _bits(windows: list[Window], nats: list[float], shortest: list[float]) -> dict[str, float | None]:
    """Bits per byte; its change against the shortest length, and the standard error of that over the stretches.

    Both are ratios of sums over stretches, so the error is that of a ratio: of the parts (change - ratio x bytes) of each.
    """
    if not windows:
        return dict.fromkeys(("bits_per_byte", "loss", "change", "change_error"))
    size, tokens = sum(window.bytes for window in windows), sum(window.target for window in windows)
    changes = [(one - other) / math.log(2) for one, other in zip(nats, shortest, strict=True)]
    change = sum(changes) / size
    rests = [one - change * window.bytes for one, window in zip(changes, windows, strict=True)]
    error = statistics.stdev(rests) * math.sqrt(len(rests)) / size if len(rests) > 1 else None
    return {
        "bits_per_byte": sum(nats) / math.log(2) / size,
        "loss": sum(nats) / tokens,
        "change": change,
        "change_error": error,
    }
