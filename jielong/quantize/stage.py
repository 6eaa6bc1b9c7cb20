"""The quantize stage: the model that the recipe made, in fewer bits, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.quantize.config import Config
from jielong.runs import StageContext, trained_stage

if TYPE_CHECKING:
    from jielong.quantize.running import Compare

FORMAT = 1
MODEL = "model"  # folder of the result, in the stage's


def inputs(config: Config, folder: Path) -> list[tuple[str, Any]]:
    """Files outside the run that determine the result: calibration text."""
    from jielong.data.reading.readers import expand

    return [(f"calibration/{file.name}", file) for path in config.calibration for file in expand(path, folder)]


def run(config: Config, context: StageContext, folder: Path, compare: Compare) -> dict[str, Any]:
    """Write the quantized model into context.out / "model", and beside it how it compares with the full one; returns the counts."""
    from jielong.quantize.running import quantize
    from jielong.train.checkpoints import require_newest

    source = require_newest(context.run.stage(trained_stage(context.upstream)) / "checkpoints")
    work = context.run.root / "quantize.work"
    return quantize(config, source, context.out / MODEL, work, context.seed, compare)
