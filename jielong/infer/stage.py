"""The infer stage: the recipe's prompts, continued by the trained model, or answered by the tuned one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from jielong.infer.config import Config
from jielong.runs import StageContext, trained_stage, write_bytes

FORMAT = 1


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: none."""
    return []


def run(config: Config, context: StageContext, folder: Path) -> dict[str, Any]:
    """Write samples.jsonl into context.out; return how many prompts were continued and how they ended."""
    from jielong.infer.answering import answer_questions
    from jielong.infer.batch import continue_prompts
    from jielong.infer.models import open_model
    from jielong.train.checkpoints import require_newest

    stage = trained_stage(context.upstream)
    checkpoint = require_newest(context.run.stage(stage) / "checkpoints")
    model, tokenizer, _ = open_model(str(checkpoint), context.run.root.parent, config.device, config.precision)
    if stage != "train":
        made = [context.run.manifest(name) for name in dict.fromkeys((stage, "tune"))]
        system = next((found for one in made if one and (found := one["section"].get("system"))), "")
        written = answer_questions(model, tokenizer, list(config.prompts), config, system)
    else:
        written = continue_prompts(model, tokenizer, list(config.prompts), config)
    rows = [asdict(row) for row in written]
    write_bytes(context.out / "samples.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in rows))
    ends: dict[str, int] = {}
    for row in rows:
        ends[row["stopped"]] = ends.get(row["stopped"], 0) + 1
    return {"prompts": len(rows), "tokens": sum(row["tokens"] for row in rows), "stopped": ends}
