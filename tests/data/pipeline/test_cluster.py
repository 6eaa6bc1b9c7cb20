"""The Ray engine beside the local one: the same bytes, with a worker killed on the way; errors as they are locally."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jielong.data.config import Config, Source
from jielong.data.pipeline import cluster
from jielong.data.pipeline.chunks import finished
from jielong.data.pipeline.cluster import RayCrew
from jielong.data.pipeline.docs import Raw
from jielong.data.pipeline.passes import Setting, Task
from jielong.data.pipeline.plan import make_plan
from jielong.data.stage import inputs, run
from jielong.errors import DataError, MissingExtraError
from jielong.runs import Run, StageContext

pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A local cluster of two workers, for all tests of this file."""
    ray = cluster._ray()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    yield ray
    ray.shutdown()


def setting(folder: Path) -> Setting:
    return Setting(make_plan(()), (str(folder),), ("甲",), ((0, "a.txt", "a.txt"),), (), 1, (0.1,))


def tasks(count: int) -> Iterator[Task]:
    for number in range(count):
        yield Task(number, 0, Raw(number, (1, 0), [f"第{number}篇文章。"], [(0, 0, 1, 0)]))


def corpus(folder: Path) -> Path:
    """Some thousand documents in two files, several chunks: cleaned, filtered, exact and near copies, a line that all have."""
    folder.mkdir()
    for file in range(2):
        rows = [
            f"第{n}条：<b>今天</b>我们谈谈第{n}个话题，{'山水' * (n % 7)}风景如画，{n * 7919 % 1000}人到场，电话13812345678。\n"
            "这一行在每一篇文档里都有，所以它会被整个地去掉，读者不会再看见它。"
            for n in range(file * 2500, file * 2500 + 3000)
        ]
        (folder / f"{file}.txt").write_text("\n\n".join(rows), encoding="utf-8")
    return folder


def stage(folder: Path, text: Path, engine: str) -> dict[str, bytes]:
    """Run the data stage; its result, file by file."""
    config = Config(sources=(Source(name="文", path=str(text), document="paragraph"),), engine=engine, processes=2,  # type: ignore[arg-type]
                    chunk_megabytes=1)  # fmt: skip
    out = folder / "data"
    out.mkdir(parents=True)
    rows = [{"label": label, "xxh3_128": label} for label, _ in inputs(config, folder)]
    run(config, StageContext(Run(folder), out, 1, "", rows), folder)
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def test_the_same_bytes_as_locally_with_a_worker_killed(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = corpus(tmp_path / "text")
    local = stage(tmp_path / "a" / "run", text, "local")
    killed: list[int] = []
    original = RayCrew.do

    def do(crew: RayCrew, given: Any) -> Iterator[int]:
        for number in original(crew, given):
            if not killed:
                pid = ray.get(crew._actors[0].__ray_call__.remote(lambda _: os.getpid()))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            yield number

    monkeypatch.setattr(RayCrew, "do", do)
    found = stage(tmp_path / "b" / "run", text, "ray")
    assert killed
    assert found.keys() == local.keys() and {"report.json", "documents/train-00000.parquet"} <= found.keys()
    assert all(found[name] == local[name] for name in local)


def test_every_task_is_done_once(ray: Any, tmp_path: Path) -> None:
    with RayCrew(setting(tmp_path), 2) as crew:
        assert sorted(crew.do(tasks(7))) == finished(tmp_path) == list(range(7))
        assert list(crew.do(iter([]))) == []


class Poison:
    """Ends the process that unpacks it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


def test_a_chunk_that_kills_its_worker_stops_the_run(ray: Any, tmp_path: Path) -> None:
    deadly = Task(1, 0, Raw(1, (1, 0), [Poison()], [(0, 0, 1, 0)]))  # type: ignore[list-item]
    died = pytest.raises(DataError, match=r"a worker process died 3 times, got chunk 1 under way each time")
    with RayCrew(setting(tmp_path), 1) as crew, died:
        list(crew.do(iter([deadly])))


def test_what_a_task_raises_arrives(ray: Any, tmp_path: Path) -> None:
    with RayCrew(setting(tmp_path), 1) as crew, pytest.raises(DataError, match=r"00007.*cannot be read|damaged"):
        plan = make_plan(Config(sources=(Source(name="甲", path="a"),)).steps)
        crew._actors = [
            ray.remote(cluster.Worker).remote(Setting(plan, (str(tmp_path),) * 3, ("甲",), (), (), 1, (0.1,)))
        ]
        (tmp_path / "decided").mkdir()
        list(crew.do(iter([Task(7, 1)])))


def test_a_folder_that_is_not_shared(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "is_done", lambda work, number: False)
    with RayCrew(setting(tmp_path), 1) as crew, pytest.raises(DataError, match=r"file system that all nodes share"):
        list(crew.do(tasks(1)))


def test_no_cluster_and_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = cluster._ray()

    def refuse(**_: Any) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(DataError, match=r"no Ray cluster, got RAY_ADDRESS=ray://head:10001 \(nobody answers\)"):
        RayCrew(setting(tmp_path), 1).__enter__()
    original = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'jielong\[ray\]'"):
        RayCrew(setting(tmp_path), 1).__enter__()
