"""One quantization from beginning to end: the text, the method, the comparison. What the stage and the command share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jielong.model.adapters import base_of, is_adapter
from jielong.progress import say
from jielong.quantize.config import DISTILLED, Config
from jielong.quantize.folders import shape_of
from jielong.quantize.making import Material, check, make
from jielong.quantize.text import Text, divided, held_out, run_of, text_of_files
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.reading import Shards

COMPARISON = "compare"  # folder of the comparison, beside the model's
Compare = Callable[
    [dict[str, Path], Text, Path, int], dict[str, Any]
]  # models by name, text, folder, tokens -> what was found


@dataclass(frozen=True)
class Texts:
    """What there is to look at."""

    calibration: Text | None
    measured: Text | None  # no document of it was calibrated on, unless there is but one
    training: Shards | None


def tokenizer_of(folder: Path) -> TokenizerFolder:
    """The tokenizer of a model folder; of an adapter that has none beside it, its base's."""
    while is_adapter(folder) and not (folder / "tokenizer.json").is_file():
        folder = base_of(folder)
    return open_folder(folder)


@contextlib.contextmanager
def texts_for(config: Config, source: Path, tokenizer: TokenizerFolder, trained: bool = False) -> Iterator[Texts]:
    """The text of the table's files, and of the run that the model lies in. trained: on the files, where there is no run; then nothing of
    them is left to measure on.
    """
    run, vocabulary = run_of(source), shape_of(source).vocabulary
    shards = held_out(run, vocabulary) if run is not None else None
    with contextlib.ExitStack() as stack:
        if config.calibration:
            given = stack.enter_context(text_of_files(config.calibration, tokenizer))
            if shards is None:
                calibration, measured = divided(given.shards, config.calibration_tokens)
            else:
                calibration, measured = given, Text(shards, tuple(range(shards.documents)))
        elif shards is not None:
            calibration, measured = divided(shards, config.calibration_tokens)
        else:
            yield Texts(None, None, None)
            return
        training = _training(run, measured.shards)
        yield Texts(calibration, None if training is None and trained else measured, training or calibration.shards)


def _training(run: Path | None, like: Shards) -> Shards | None:
    """The training split beside held-out shards of a run."""
    if run is None or not like.folder.is_relative_to(run):
        return None
    return Shards(like.folder, "train")


def quantize(
    config: Config, source: Path, out: Path, work: Path, seed: int, compare: Compare | None = None
) -> dict[str, Any]:
    """Write the quantized model `out`; returns the counts. work: folder that a broken-off distillation goes on in, gone at the end.

    compare: measures models beside each other, into the folder "compare" beside `out`; None, or no text: nothing is measured.
    """
    tokenizer = tokenizer_of(source)
    check(config, source, bool(config.calibration) or _has_text(source))
    with texts_for(config, source, tokenizer, config.method in DISTILLED and config.distilled) as texts:
        material = Material(source, tokenizer, texts.calibration, texts.training, work, seed)
        counts = make(config, material, out)
        if compare is not None and config.compare:
            if texts.measured is None:
                missing = texts.calibration is None
                more = "; give some: --calibration FILE" if missing else ", and it was trained on what was given"
                say(f"quantize: nothing is measured, the model lies in no run that held text out{more}")
            else:
                found = compare(
                    {"full": source, config.method: out}, texts.measured, out.parent / COMPARISON, config.compare_tokens
                )
                counts |= {"compared": found}
    shutil.rmtree(work, ignore_errors=True)
    return counts


def _has_text(source: Path) -> bool:
    run = run_of(source)
    return run is not None and held_out(run, shape_of(source).vocabulary) is not None
