"""A whole job on remote storage: read from a local S3, written back to it, with connections that drop on the way."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jielong import storage
from jielong.data.documents import iter_documents
from jielong.errors import InputError
from jielong.recipe import parse
from jielong.runs import Run
from jielong.workflow import run_stages
from tests.data.test_stage import poem
from tests.s3_server import BUCKET, MISSING, BreakingLine, s3_port, use

needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; they are in the extra test")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(storage, "LAST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(storage, "FIRST_BYTES", 1 << 12)
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 14)


def texts(first: int, count: int) -> list[str]:
    return [f"{poem(n)}这是第{n * 7919}号手稿里的话，别处没有。" for n in range(first, first + count)]


def fill(folder: Path) -> Path:
    """The same corpus as a folder: JSON lines, packed ones, a JSON array, Parquet, and a file that is none."""
    folder.mkdir()
    rows = [orjson.dumps({"text": text}) for text in texts(0, 900)]
    (folder / "a.jsonl").write_bytes(b"\n".join(rows[:300]) + b"\n{broken\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(b"\n".join(rows[300:600]), mtime=0))
    (folder / "c.json").write_bytes(b"[" + b",\n".join(rows[600:]) + b"]")
    pq.write_table(pa.table({"content": texts(900, 200)}), folder / "d.parquet")
    (folder / "README.md").write_text("no corpus", encoding="utf-8")
    return folder


def job(path: str, folder: Path, publish: str | None = None) -> Run:
    table = {
        "sources": [{"name": "poems", "path": path}],
        "processes": 1,
        "steps": [{"step": "exact"}],
    }
    run = Run(folder / "run")
    run_stages(parse({"data": table}, folder), run, ["data"], publish=publish)
    return run


def kept(folder: Path) -> list[tuple[str, str]]:
    return sorted(
        (row["id"], row["text"]) for split in ("train", "validation") for row in iter_documents(folder, split)
    )


@needs_s3
def test_a_job_from_s3_to_s3_with_dropped_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    local = job(str(fill(tmp_path / "corpus")), tmp_path / "local")
    port = s3_port()
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.makedirs(f"{BUCKET}-job", exist_ok=True)
    for file in (tmp_path / "corpus").iterdir():
        fs.put_file(str(file), f"{BUCKET}-job/raw/{file.name}")
    capsys.readouterr()
    with BreakingLine(port, down=[9_000, 20_000, 4_000, 30_000], up=[60_000, 90_000]) as line:
        use(monkeypatch, line.url)
        remote = job(f"s3://{BUCKET}-job/raw", tmp_path / "remote", f"s3://{BUCKET}-job/corpus")
        assert line.broken >= 4
    assert "trying again" in capsys.readouterr().err
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    assert kept(remote.stage("data") / "documents") == kept(local.stage("data") / "documents")
    counts = [json.loads((run.stage("data") / "manifest.json").read_bytes())["counts"] for run in (local, remote)]
    assert counts[0] == counts[1] and counts[0]["read"] == 1101 and counts[0]["rejected"] == {"bad_json": 1}
    sent = {name.partition("/corpus/")[2]: fs.cat_file(name) for name in fs.find(f"{BUCKET}-job/corpus")}
    made = {
        str(path.relative_to(remote.stage("data"))): path.read_bytes()
        for path in remote.stage("data").rglob("*")
        if path.is_file()
    }
    assert sent == made
    # what was published is a source in its turn, and the same job again reads and sends nothing
    capsys.readouterr()
    job(f"s3://{BUCKET}-job/raw", tmp_path / "remote", f"s3://{BUCKET}-job/corpus")
    assert "0 files sent" in capsys.readouterr().err
    again = job(f"s3://{BUCKET}-job/corpus/documents/*.parquet", tmp_path / "again")
    assert {text for _, text in kept(again.stage("data") / "documents")} == {
        text for _, text in kept(local.stage("data") / "documents")
    }
    # a changed object makes the stage stale
    fs.pipe_file(f"{BUCKET}-job/raw/a.jsonl", orjson.dumps({"text": poem(5000)}))
    job(f"s3://{BUCKET}-job/raw", tmp_path / "remote")
    assert poem(5000) in {text for _, text in kept(remote.stage("data") / "documents")}


def test_memory_is_a_place_too_and_nothing_there_is_said(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/corpus/a.jsonl", b"\n".join(orjson.dumps({"text": text}) for text in texts(0, 50)))
    fs.pipe_file("/corpus/.hidden.jsonl", b"{}")
    try:
        run = job("memory://corpus", tmp_path / "a")
        assert len(kept(run.stage("data") / "documents")) == 50
        row = next(iter_documents(run.stage("data") / "documents", "train"))
        assert json.loads(row["meta"])["file"] == "memory://corpus/a.jsonl"
        with pytest.raises(InputError, match=r"nothing found, got memory://corpus/\*\.csv"):
            job("memory://corpus/*.csv", tmp_path / "b")
    finally:
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]


def test_presets_compose_and_say_what_is_missing(tmp_path: Path) -> None:
    rows = [{"id": n, "title": f"标题{n}", "content": texts(n, 1)[0], "dataType": "新闻"} for n in range(40)] + [
        {"id": 9}
    ]
    (tmp_path / "part-2021.json").write_bytes(orjson.dumps(rows))
    table = {"sources": [{"name": "wudao", "path": "part-2021.json", "preset": "wudao"}], "steps": []}
    run = Run(tmp_path / "run")
    run_stages(parse({"data": table}, tmp_path), run, ["data"])
    documents = {text for _, text in kept(run.stage("data") / "documents")}
    assert f"标题3\n{texts(3, 1)[0]}" in documents and len(documents) == 40
    [reject] = [row for path in (run.stage("data") / "rejects").glob("*") for row in pq.read_table(path).to_pylist()]
    assert reject["rule"] == "missing_text" and "no text for preset wudao; there are: id" in reject["detail"]
