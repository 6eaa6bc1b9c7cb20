"""A run folder whose data stage is finished, and what must hold of any tokenizer stage's result, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jielong.data.config import Config as DataConfig
from jielong.data.config import Source
from jielong.data.documents import iter_texts
from jielong.data.stage import run as run_data
from jielong.runs import Run, StageContext, write_json
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.manifest import COUNTED
from jielong.tokenizer.shards.reading import Shards
from tests.corpus import write_jsonl


def finished_data(folder: Path, rows: list[str], **settings: Any) -> StageContext:
    """The context of a tokenizer stage behind a data stage of some documents."""
    path = write_jsonl(folder / "news.jsonl", rows)
    data = folder / "run" / "data"
    data.mkdir(parents=True)
    config = DataConfig(
        sources=(Source(name="news", path=str(path)),), validation_fraction=0.2, processes=1, **settings
    )
    counts = run_data(config, StageContext(Run(folder / "run"), data, 1), folder)
    write_json(data / "manifest.json", {"counts": counts, "fingerprint": "", "section": {}, "outputs": [], "seed": 1})
    return another(StageContext(Run(folder / "run"), data, 1), "tokenizer")


def another(context: StageContext, name: str) -> StageContext:
    """The same run with a fresh folder for the result."""
    out = context.run.root / name
    out.mkdir()
    return StageContext(context.run, out, 1)


def rows_of(context: StageContext, split: str) -> list[str]:
    """The documents of a split as the data stage left them."""
    return [text for batch in iter_texts(context.run.stage("data") / "documents", split) for text in batch]


def check_shards(context: StageContext, counts: dict[str, Any]) -> None:
    """Every document of both splits comes back from the shards, in order, and the counts are sums over documents."""
    tokenizer = open_folder(context.out)
    for split in ("train", "validation"):
        shards = Shards(context.out / "shards", split)
        shards.verify()
        rows = rows_of(context, split)
        assert [tokenizer.decode(document[:-1].tolist()) for document in shards] == rows
        assert all(document[-1] == tokenizer.end_id for document in shards)
        of_sources = counts[split]["by_source"].values()
        assert all(sum(row[key] for row in of_sources) == counts[split][key] for key in COUNTED)
        assert counts[split] == {
            "documents": len(rows),
            "tokens": sum(len(ids) + 1 for ids in tokenizer.encode(rows)),
            "bytes": sum(len(text.encode()) for text in rows),
            "chars": sum(map(len, rows)),
            "by_source": counts[split]["by_source"],
        }
