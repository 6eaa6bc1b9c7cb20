"""What each way to quantize costs: a trained model beside what is made of it, in quality, size, memory and speed.

    python benchmarks/quantize.py --model mateconv --out benchmarks/results/2026-11-24-quantize-cpu.json
    python benchmarks/quantize.py --model runs/mine/train/checkpoints/step-00001000 --methods int8,int4,gptq --calibration 'text/*.jsonl'

It is `jielong quantize MODEL --compare` with a list of methods, written down with date, versions and machine: bits per byte on held-out documents
that no method has looked at, KL from the full model, agreement of first choices and of greedy continuations, bytes on disk and in memory, tokens a
second at batch 1 with the models in turn. Methods at the same bits and groups stand beside each other (rtn:4:128, gptq:4:128, awq), and models of
signs twice, rounded alone and distilled.

Methods whose library is not installed are left out and named. Texts are not written down.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from jielong.charts import standalone
from jielong.errors import MissingExtraError
from jielong.evaluate.models_compared_page import WIDE, picture, table_rows
from jielong.hooks import compare_models
from jielong.infer.models import find_model
from jielong.quantize import libraries
from jielong.quantize.comparing import compare
from jielong.quantize.config import Config
from jielong.quantize.folders import shape_of
from jielong.quantize.running import quantize
from jielong.recipe import overrides_of
from jielong.runs import write_json, write_text
from jielong.show import table

METHODS = "int8,rtn:4:128,gptq:4:128,awq,rtn:3:128,gptq:3:128,rtn:2:32,gptq:2:32,llm-int8,nf4,torchao-int8,torchao-8da4w,onebit,bitnet"
PACKAGES = ("torch", "transformers", "gptqmodel", "optimum", "bitsandbytes", "torchao", "numpy")


def version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> None:
    """Make, measure, print; with --out, write JSON and the picture beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a run's name or a model folder")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--set", action="append", default=[], help="quantize.KEY=VALUE (repeatable)")
    parser.add_argument("--calibration", action="append", help="files of text, for a model that lies in no run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    given: dict[str, Any] = overrides_of("quantize", options.set)
    if options.calibration:
        given["calibration"] = options.calibration
    source = find_model(options.model, options.runs_dir)
    shape, wanted, missing = shape_of(source), [], []
    for entry in options.methods.split(","):
        method = entry.split(":")[0]
        try:
            if method in libraries.PACKAGES:
                libraries.check(Config(method=method), shape)
            wanted.append(entry)
        except MissingExtraError as error:
            missing.append({"method": entry, "why": str(error)})
            print(f"left out: {entry} ({error})")
    began = time.strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory() as folder:
        rounded = []
        for method in ("onebit", "bitnet"):
            if method in wanted:  # by rounding alone, beside the distilled one
                out = Path(folder) / f"{method}-rounded"
                quantize(Config(method=method, distilled=False, compare=False), source, out, Path(folder) / "work", 1)
                rounded.append(str(out))
        found = compare(
            options.model, source, ",".join([*wanted, *rounded]), given, Path(folder) / "compared", options.runs_dir, compare_models
        )  # fmt: skip
    print(table(*table_rows(found)))
    if options.out is not None:
        rows = [{key: value for key, value in row.items() if key != "samples"} for row in found["models"]]
        machine = {"processor": platform.processor() or platform.machine(), "threads": found["threads"], "gpu": None}
        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
        write_json(options.out, {
            "date": began,
            "what": "quantized models beside the full one: bits per byte, KL, agreement, bytes, tokens a second at batch 1",
            "model": {"name": options.model if "/" not in options.model else source.name, **json.loads(shape.model_dump_json(exclude_none=True))},
            "options": {"methods": options.methods, "set": options.set},
            "versions": {package: found_ for package in PACKAGES if (found_ := version(package)) is not None},
            "machine": machine,
            "text": found["text"],
            "left_out": missing,
            "rows": rows,
        })  # fmt: skip
        write_text(options.out.with_suffix(".svg"), standalone(picture(found, WIDE)))


if __name__ == "__main__":
    main()
