"""A tiny corpus, tokenizer and model, made once: enough to train for a few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM, Losses, initialise
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config as TokenizerConfig
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.job import Job, plan
from jielong.train.loop import train

TEXTS = [f"第{n}条新闻：中国人民今天很高兴，因为天气{'很好' if n % 2 else '不错'}，温度是{n}度。" for n in range(60)]
SHAPE = ModelConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                    max_position_embeddings=16)  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    bpe.save(bpe.train(TEXTS, 300, TokenizerConfig().specials, 2, True), folder)
    tokenizer = open_folder(folder)
    with ShardWriter(folder / "shards", "train", Scheme(tokenizer.size, tokenizer.end_id), 400) as writer:
        writer.add(TEXTS, tokenizer.encode(TEXTS))
    write_manifest(folder / "shards", Scheme(tokenizer.size, tokenizer.end_id), {"train": writer.summary()})
    return folder


@pytest.fixture
def tokenizer(corpus: Path) -> TokenizerFolder:
    return open_folder(corpus)


@pytest.fixture
def model(tokenizer: TokenizerFolder) -> CausalLM:
    fresh = CausalLM(SHAPE.with_vocab(tokenizer.size))
    initialise(fresh, 1)
    return fresh


RunTraining = Callable[..., dict[str, Any]]
SETTINGS = {"tokens": 12 * 64, "tokens_per_step": 64, "micro_batch_tokens": 64, "learning_rate": 0.01,
            "precision": "float32", "evaluate_every_steps": None, "sample_every_steps": None}  # fmt: skip


def make_job(corpus: Path, folder: Path, shape: ModelConfig = SHAPE, processes: int = 1, **settings: Any) -> Job:
    """A run of a few steps in a folder. Validation says 1 bit a byte; there are no samples."""
    config = Config.model_validate(SETTINGS | settings)
    shards, tokenizer = Shards(corpus / "shards", "train"), open_folder(corpus)
    longest = shape.max_position_embeddings
    arithmetic = plan(config, longest, shards.available(), processes, shards.documents)
    return Job(config, arithmetic, shape.with_vocab(tokenizer.size), folder, shards, tokenizer, 1, "fingerprint",
               lambda model, autocast: {"loss": 1.0, "bits_per_byte": 1.0}, lambda model, step: [])  # fmt: skip


def make_model(job: Job) -> CausalLM:
    """The job's newest whole checkpoint, or a fresh model."""
    from jielong.model.hf import load_folder
    from jielong.train.checkpoints import choose, clean

    clean(job.folder / "checkpoints")
    checkpoint = choose(job.folder / "checkpoints")
    if checkpoint is not None:
        return load_folder(checkpoint)
    model = CausalLM(job.model)
    initialise(model, 1)
    return model


@pytest.fixture
def run_training(corpus: Path) -> RunTraining:
    """Train in a folder with some settings, from its newest checkpoint if there is one."""

    def run(folder: Path, fail_at: int | None = None, shape: ModelConfig = SHAPE, **settings: Any) -> dict[str, Any]:
        job = make_job(corpus, folder, shape, **settings)
        engine = TorchEngine(make_model(job), job.configs[0])
        if fail_at is not None:
            forward, count = engine.forward, [0]

            def failing(batch: Any, last: bool = True) -> Losses:
                count[0] += 1
                if count[0] == fail_at:
                    raise RuntimeError("injected fault")
                return forward(batch, last)

            engine.forward = failing  # type: ignore[method-assign]
        return train(job, engine)

    return run
