"""Memory of a training step: what `jielong plan` predicts beside what is measured, phase by phase.

    python benchmarks/memory.py                          # on the CPU, four minutes
    python benchmarks/memory.py --device cuda --out benchmarks/results/2026-11-23-memory-cuda.json
    python benchmarks/memory.py --only wide,experts

Measured are bytes of tensors, exactly (`jielong/train/peaks.py` says how, and why resident memory is no measure); predicted is
`jielong/model/memory.py`. The goal is 10 % at the peak, for every shape. *beyond* is the harder figure: the error of what comes on
top of weights and optimizer state, which are known without any model. Weights are random and rows are noise in two documents
each; memory does not depend on what they say, except with experts, where it depends a little on how evenly they are used.
"""

from __future__ import annotations

import argparse
import gc
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from jielong.model.config import Config as ModelConfig
from jielong.model.memory import Work, training_memory
from jielong.model.transformer import CausalLM
from jielong.runs import write_json
from jielong.train.config import Config as TrainConfig
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch
from jielong.train.peaks import PHASES, measure_step


class Case(NamedTuple):
    """One shape of model and micro-batch."""

    model: dict[str, Any]
    rows: int
    length: int
    precision: str = "bfloat16"
    mask: bool = True
    batches: int = 1


DEEP = {
    "hidden_size": 320,
    "num_hidden_layers": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
}
WIDE = {
    "hidden_size": 1024,
    "num_hidden_layers": 3,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 6400,
}
WORDS = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 64_000,
}
SPARSE = {
    **DEEP,
    "num_hidden_layers": 6,
    "num_experts": 8,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
}
CPU = {
    "default, bfloat16": Case({"vocab_size": 6400}, 4, 512),
    "default, float32": Case({"vocab_size": 6400}, 4, 512, "float32"),
    "no mask": Case({"vocab_size": 6400}, 4, 512, "bfloat16", False),
    "two micro-batches": Case({"vocab_size": 6400}, 2, 512, "bfloat16", True, 2),
    "deep": Case(DEEP, 8, 256),
    "wide": Case(WIDE, 2, 512),
    "wide, few tokens": Case(WIDE, 1, 64, "float32"),
    "large vocabulary": Case(WORDS, 4, 256),
    "large vocabulary, untied": Case({**WORDS, "tie_word_embeddings": False}, 1, 128, "float32"),
    "long row": Case(DEEP, 1, 4096),
    "long row, window": Case({**DEEP, "sliding_window": 512}, 1, 4096, "float32"),
    "long row, shifted": Case({**DEEP, "shifted_attention": 1024}, 1, 4096),
    "eager": Case({**DEEP, "num_hidden_layers": 4, "attention": "eager"}, 2, 1024, "float32"),
    "alibi, qk_norm": Case({**DEEP, "position": "alibi", "qk_norm": True}, 2, 1024),
    "experts": Case(SPARSE, 4, 512),
    "experts, few tokens": Case(SPARSE, 1, 64, "float32", True, 2),
}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 32_000,
}
LARGE_SPARSE = {**LARGE, "num_hidden_layers": 12, "num_experts": 16, "moe_intermediate_size": 768}
CUDA = {
    "0.3 b, varlen": Case(LARGE, 8, 1024),
    "0.3 b, no mask": Case(LARGE, 8, 1024, "bfloat16", False),
    "0.3 b, two micro-batches": Case(LARGE, 4, 1024, "bfloat16", True, 2),
    "0.3 b, flex": Case({**LARGE, "attention": "flex"}, 4, 1024),
    "0.3 b, sdpa with a mask": Case({**LARGE, "attention": "sdpa"}, 4, 1024),
    "0.3 b, eager": Case({**LARGE, "attention": "eager"}, 2, 1024),
    "0.3 b, float32": Case(LARGE, 4, 1024, "float32"),
    "0.3 b, float32, no mask": Case(LARGE, 4, 1024, "float32", False),
    "0.3 b, few tokens": Case(LARGE, 1, 128),
    "large vocabulary": Case({**WORDS, "vocab_size": 150_000}, 8, 1024),
    "long row": Case(DEEP, 1, 16_384),
    "long row, window": Case({**DEEP, "sliding_window": 1024}, 1, 16_384),
    "long row, shifted": Case({**DEEP, "shifted_attention": 2048}, 1, 16_384),
    "alibi": Case({**LARGE, "position": "alibi"}, 4, 1024),
    "qk_norm": Case({**LARGE, "qk_norm": True}, 4, 1024),
    "experts": Case(LARGE_SPARSE, 4, 1024),
    "experts, float32": Case(LARGE_SPARSE, 2, 1024, "float32"),
}


def noise(rows: int, length: int, vocabulary: int, seed: int) -> Batch:
    """Rows of random tokens, each two documents."""
    ids = np.random.default_rng(seed).integers(0, vocabulary, (rows, length))
    documents = np.zeros((rows, length), dtype=np.int64)
    documents[:, length // 2 :] = 1
    places = np.tile(np.arange(length), (rows, 1)) - documents * (length // 2)
    return Batch(ids, ids, places, documents)


def measure(name: str, case: Case, device: str) -> dict[str, Any]:
    """One row of the table."""
    config = ModelConfig(**{"max_position_embeddings": case.length, **case.model})
    with torch.device(device):
        model = CausalLM(config)
    engine = TorchEngine(model, TrainConfig(precision=case.precision, document_mask=case.mask, device=device))
    batches = [noise(case.rows, case.length, config.vocabulary, number) for number in range(case.batches)]
    found = measure_step(engine, batches)
    capability = torch.cuda.get_device_capability()[0] if device == "cuda" else 0
    work = Work(case.rows, case.length, case.precision, device, case.mask, case.batches > 1, capability)
    expected = training_memory(config, work)
    return {
        "case": name,
        "kernel": engine.attention[0],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "before": found.before,
        "measured": {phase: getattr(found, phase) for phase in PHASES} | {"peak": found.peak},
        "predicted": {phase: expected.phase(phase) for phase in PHASES} | {"peak": expected.peak},
        "moment": expected.moment,
        "error": expected.peak / found.peak - 1,
        "error_beyond": (expected.peak - found.before) / (found.peak - found.before) - 1,
    }


def main() -> None:
    """Measure and print the table; with --out, write it as JSON too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", default="", help="names of cases, with commas; a part of a name is enough")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cases = CPU if options.device == "cpu" else CUDA
    wanted = [word.strip() for word in options.only.split(",") if word.strip()]
    rows = []
    print(f"{'case':28} {'kernel':7} {'measured':>10} {'predicted':>10} {'error':>7} {'beyond':>7}   where")
    for name, case in cases.items():
        if wanted and not any(word in name for word in wanted):
            continue
        row = measure(name, case, options.device)
        rows.append(row)
        print(
            f"{name:28} {row['kernel']:7} {row['measured']['peak'] / 1e6:>7,.1f} MB {row['predicted']['peak'] / 1e6:>7,.1f} MB "
            f"{row['error']:>+7.1%} {row['error_beyond']:>+7.1%}   {row['moment']}",
            flush=True,
        )
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    worst = max((abs(row["error"]) for row in rows), default=0.0)
    print(f"\nthe largest error at the peak: {worst:.1%} (goal: 10 %)")
    if options.out is not None:
        write_json(
            options.out,
            {
                "date": time.strftime("%Y-%m-%d"),
                "what": "bytes of tensors in a training step: predicted by jielong plan, and measured",
                "options": {"device": options.device, "only": options.only},
                "versions": {"torch": torch.__version__},
                "machine": {
                    "processor": platform.processor() or platform.machine(),
                    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
                },
                "largest_error": worst,
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
