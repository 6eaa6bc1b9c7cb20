from __future__ import annotations

import errno
import multiprocessing
import os
from pathlib import Path

import pytest

from jielong import runs
from jielong.errors import RunError
from jielong.runs import (
    Run,
    describe_files,
    environment,
    hash_file,
    hash_json,
    holder,
    list_outputs,
    list_runs,
    open_run,
    publish,
)


def test_a_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    runs.write_json(path, {"文": 1})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"文": 2})
    assert path.read_text(encoding="utf-8") == '{\n  "文": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_publish_replaces_a_folder(tmp_path: Path) -> None:
    for number in (1, 2):
        partial = tmp_path / "data.partial"
        (partial / "deep").mkdir(parents=True)
        (partial / "deep" / f"{number}.txt").write_text(str(number), encoding="utf-8")
        publish(partial, tmp_path / "data")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    assert [p.name for p in (tmp_path / "data" / "deep").iterdir()] == ["2.txt"]


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 3_000_000)
    seen: list[int] = []
    first = hash_file(path, seen.append)
    assert sum(seen) == 9_000_000 and hash_file(path) == first
    path.write_bytes(b"abc" * 2_999_999 + b"abd")
    assert hash_file(path) != first
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 1, "b": 3})


def test_known_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1")
    rows = describe_files([("a/x", path)])
    assert rows[0]["label"] == "a/x"
    monkeypatch.setattr(runs, "hash_file", lambda path, progress: "read again")
    assert describe_files([("a/x", path)], rows) == rows
    os.utime(path, ns=(1, 1))
    assert describe_files([("a/x", path)], rows)[0]["xxh3_128"] == "read again"


def test_outputs_and_what_is_missing(tmp_path: Path) -> None:
    run = Run(tmp_path)
    folder = run.stage("data")
    (folder / "d").mkdir(parents=True)
    (folder / "d" / "a").write_bytes(b"123")
    (folder / "d" / "manifest.json").write_bytes(b"{}")  # a file of the stage's own, not the stage's manifest
    manifest = {"fingerprint": "", "section": {}, "counts": {}, "seed": 1, "outputs": list_outputs(folder)}
    runs.write_json(folder / "manifest.json", manifest)
    assert [row["path"] for row in list_outputs(folder)] == ["d/a", "d/manifest.json"]
    run.verify_outputs("data")
    (folder / "d" / "a").write_bytes(b"124")
    assert run.missing_outputs("data") == []
    with pytest.raises(RunError, match="d/a: damaged, its checksum differs"):
        run.verify_outputs("data")
    assert run.missing_outputs("data") == []
    (folder / "d" / "a").write_bytes(b"12")
    assert run.missing_outputs("data") == ["d/a"]
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="not valid JSON"):
        run.manifest("data")
    (folder / "manifest.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(RunError, match="not a manifest of ours"):
        run.manifest("data")
    assert run.manifest("train") is None


def test_a_kill_between_the_renames_of_publish_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    final, partial = tmp_path / "data", tmp_path / "data.partial"
    for folder, text in ((final, "old"), (partial, "new")):
        folder.mkdir()
        (folder / "x").write_text(text, encoding="utf-8")
    rename, count = Path.rename, [0]

    def killed(self: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(partial, final)
    monkeypatch.undo()
    assert not final.exists()
    runs.recover(final)
    assert (final / "x").read_text(encoding="utf-8") == "old"
    publish(partial, final)  # and the next attempt goes through
    assert (final / "x").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_file_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt"))
    path.write_bytes(b"1")
    rows = describe_files([(path.name, path)])
    runs.write_json(tmp_path / "a.json", rows)
    assert describe_files([(path.name, path)], rows) == rows


def hold(root: Path, ready: object, go: object) -> None:
    with Run(root).lock():
        ready.set()  # type: ignore[attr-defined]
        go.wait(20)  # type: ignore[attr-defined]


def test_one_process_a_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "r", ready, go))
    other.start()
    assert ready.wait(20)
    with pytest.raises(RunError, match=f"in use by process {other.pid}"), Run(tmp_path / "r").lock():
        pass
    go.set()
    other.join()
    with Run(tmp_path / "r").lock():
        pass  # free again


def test_set_aside_counts_up(tmp_path: Path) -> None:
    run = Run(tmp_path)
    (tmp_path / "replaced" / "train-mine").mkdir(parents=True)  # renamed by hand
    for number in (1, 2):
        run.stage("train").mkdir()
        assert run.set_aside("train") == tmp_path / "replaced" / f"train-{number}"
    assert not run.stage("train").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", ".hidden"])
def test_names_that_are_no_folders(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="name: not usable"):
        open_run(tmp_path, name)


def test_list_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path / "none") == []
    for name in ("b", "a", "not-a-run"):
        (tmp_path / name).mkdir()
    for name in ("b", "a"):
        (tmp_path / name / "recipe.toml").write_text("", encoding="utf-8")
    assert [run.name for run in list_runs(tmp_path)] == ["a", "b"]


def test_environment_says_what_it_ran_on() -> None:
    found = environment()
    assert found["packages"]["torch"] and found["python"] and found["jielong"]


def test_who_works_on_a_run(tmp_path: Path) -> None:
    run = Run(tmp_path / "a")
    assert holder(run.root) is None
    with run.lock():
        assert holder(run.root) == str(os.getpid())
    for text in ("", "x", str(2**22 + 1)):  # no process has the last number: it is above the system's largest
        (run.root / ".lock").write_text(text)
        assert holder(run.root) is None
