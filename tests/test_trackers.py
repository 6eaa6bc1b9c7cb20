"""Trackers get every record, and nothing that they do reaches the training: libraries that raise or hang, and the real ones, offline."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from jielong import trackers
from jielong.errors import MissingExtraError
from jielong.trackers import NAMES, Place, Trackers, check_trackers, numbers, open_trackers

ROOT = Path(__file__).parents[1]


class Fake:
    """A backend that writes down what it is told; at the `breaks`-th number it raises, or waits until it is let go."""

    def __init__(self, place: Place, breaks: int = 0, gate: threading.Event | None = None) -> None:
        self.place, self.breaks, self.gate = place, breaks, gate
        self.said: list[tuple[Any, ...]] = []
        self.stuck = threading.Event()

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self.said.append((step, values))
        if self.breaks and len(self.said) == self.breaks:
            if self.gate is None:
                raise OSError("no space left\non the disk")
            self.stuck.set()
            assert self.gate.wait(60)

    def text(self, step: int, name: str, text: str) -> None:
        self.said.append((step, name, text))

    def go_back(self, step: int) -> None:
        self.said.append(("back", step))

    def close(self) -> None:
        self.said.append(("closed",))


def place(folder: Path) -> Place:
    return Place(folder, "project", "run", False, {"train": {"learning_rate": 0.1}})


def opened(folder: Path, limit: int = 100, **settings: Any) -> tuple[Trackers, Fake]:
    """Trackers with one fake behind them."""
    fake = Fake(place(folder), **settings)
    return Trackers({"fake": lambda place: fake}, place(folder), limit), fake


def test_what_a_tracker_is_told_in_order(tmp_path: Path) -> None:
    all_of_them, fake = opened(tmp_path)
    all_of_them.go_back(-1)
    all_of_them.sample(0, [{"prompt": "中国", "text": "人民"}, {"prompt": "a", "text": "b"}])
    all_of_them.record({"step": 1, "loss": 2.0})
    all_of_them.sample(1, [])
    all_of_them.event(1, "skipped", "not taken")
    all_of_them.close()
    assert fake.said == [
        ("back", -1),
        (0, "samples", "中国|人民\n\na|b"),
        (1, {"train/loss": 2.0}),
        (1, "events", "skipped: not taken"),
        ("closed",),
    ]


def test_only_finite_numbers_are_sent() -> None:
    record = {
        "step": 7,
        "loss": None,
        "grad_norm": math.inf,
        "auxiliary_loss": math.nan,
        "labels": 3,
        "late": True,
        "expert_use": [[1, 2]],
        "validation_bits_per_byte": 1.5,
        "skipped": "the loss is not finite",
    }
    assert numbers(record) == {"train/labels": 3.0, "validation/bits_per_byte": 1.5, "train/skipped": 1.0}


def test_without_trackers_nothing_happens(tmp_path: Path) -> None:
    before = threading.active_count()
    none = open_trackers([], tmp_path / "trackers", "project", "run", False, {})
    none.go_back(0)
    none.record({"no": "step is looked at"})
    none.sample(1, [{}])
    none.event(1, "stopped", "asked to")
    none.close()
    assert threading.active_count() == before and not list(tmp_path.iterdir())


def test_one_that_raises_at_its_opening_is_switched_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def opens(place: Place) -> Fake:
        raise SystemExit("no key")

    good = Fake(place(tmp_path))
    both = Trackers({"bad": opens, "good": lambda place: good}, place(tmp_path))
    for step in (1, 2, 3):
        both.record({"step": step, "loss": 1.0})
    both.close()
    assert [step for step, *_ in good.said] == [1, 2, 3, "closed"]
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("warning") == 1
    assert "tracker bad: switched off (SystemExit: no key); training and metrics.jsonl go on" in said.err


def test_one_that_raises_at_the_third_record_is_switched_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_of_them, fake = opened(tmp_path, breaks=3)
    for step in range(1, 10):
        all_of_them.record({"step": step, "loss": 1.0})
    all_of_them.close()
    all_of_them.record({"step": 10, "loss": 1.0})
    assert [step for step, *_ in fake.said] == [1, 2, 3]  # it is not even closed
    assert capsys.readouterr().err.count("switched off (OSError: no space left on the disk)") == 1


def test_one_that_hangs_is_left_behind_and_its_queue_does_not_grow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = threading.Event()
    all_of_them, fake = opened(tmp_path, limit=5, breaks=1, gate=gate)
    all_of_them.record({"step": 0})
    assert fake.stuck.wait(60)
    for step in range(1, 50):
        all_of_them.record({"step": step})
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and "does not keep up, its oldest records are dropped" in said
    all_of_them.close(0.05)
    assert "not done after 0.05 s, left behind with 5 record(s)" in capsys.readouterr().err
    gate.set()
    (thread,) = [one for one in threading.enumerate() if one.name == "tracker fake"] or [None]
    if thread is not None:
        thread.join(60)
    assert fake.said == [(0, {})] and capsys.readouterr().err == ""


def test_the_newest_records_survive_an_overflow(tmp_path: Path) -> None:
    gate = threading.Event()
    all_of_them, fake = opened(tmp_path, limit=5, breaks=1, gate=gate)
    all_of_them.record({"step": 0})
    assert fake.stuck.wait(60)
    for step in range(1, 50):
        all_of_them.record({"step": step})
    gate.set()
    all_of_them.close()
    assert [step for step, *_ in fake.said] == [0, 45, 46, 47, 48, 49, "closed"]


def test_a_missing_package_is_said_when_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"^wandb: not installed, needed by train\.trackers; install it with: "):
        open_trackers(["wandb"], tmp_path, "project", "run", False, {})


def test_a_folder_called_wandb_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(MissingExtraError, match="wandb"):
        check_trackers(["wandb"])


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = f"import sys, jielong.trackers as t; t.Trackers().close(); print([n for n in {NAMES} if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


def test_an_identity_stays(tmp_path: Path) -> None:
    path = tmp_path / "wandb.id"
    first = trackers._identity(path)
    assert trackers._identity(path) == first and path.read_text(encoding="utf-8") == first + "\n"
    path.write_text("not one of ours / at all", encoding="utf-8")
    assert trackers._identity(path) not in (first, "not one of ours / at all")


# ------------------------------------------------------------------------------------------------ the real libraries


def test_tensorboard_shows_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, losses in (
        (-1, {1: 4.0, 2: 3.0, 3: 9.0}),
        (2, {3: 2.0, 4: 1.0}),
    ):  # killed after step 3, resumed from step 2
        board = open_trackers(["tensorboard"], tmp_path, "project", "run", False, {"train": {"schedule": "wsd"}})
        board.go_back(start)
        for step, loss in losses.items():
            board.record({"step": step, "loss": loss, "grad_norm": None})
        board.go_back(3)  # the guard
        board.record({"step": 4, "loss": 0.5})
        board.sample(4, [{"prompt": "中国", "text": "人民\n# 1"}])
        board.close(60)
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(row.step, row.value) for row in read.Scalars("train/loss")] == [(1, 4.0), (2, 3.0), (3, 2.0), (4, 0.5)]
    assert read.Tags()["scalars"] == ["train/loss"]
    samples = {row.step: row.tensor_proto.string_val[0].decode() for row in read.Tensors("samples")}
    assert samples == {
        4: "    中国|人民\n    # 1"
    }  # this reader purges scalars only: texts of a step come once for each time
    assert '"schedule": "wsd"' in read.Tensors("recipe")[-1].tensor_proto.string_val[0].decode()


OFFLINE = """
import atexit, json, socket, sys, warnings
warnings.simplefilter("error")
looked_up = []
atexit.register(lambda: print(json.dumps(looked_up)))  # runs last
find = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: looked_up.append(str(host)) or find("127.0.0.1", *rest, **more)
from pathlib import Path
from jielong.trackers import open_trackers
for start in (-1, 2):
    tracker = open_trackers([sys.argv[1]], Path(sys.argv[2]), "jielong", "tiny", False, {"train": {"learning_rate": 0.1}})
    tracker.go_back(start)
    for step in range(start + 1, start + 4):
        tracker.record({"step": step, "loss": 1.0, "grad_norm": None})
    tracker.sample(start + 1, [{"prompt": "\\u4e2d\\u56fd", "text": "<b>"}])
    tracker.event(start + 3, "stopped", "asked to")
    tracker.close(60)
"""


def offline(name: str, folder: Path) -> tuple[list[Path], str]:
    """Two stretches of one run in a process of their own; the files, and the id. Nothing is looked up, nothing chatters."""
    done = subprocess.run([sys.executable, "-c", OFFLINE, name, str(folder)], capture_output=True, text=True, cwd=ROOT,
                          timeout=120, check=True)  # fmt: skip
    assert "warning" not in done.stderr, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[]], done.stdout
    return [path for path in sorted(folder.rglob("*")) if path.is_file()], (folder / f"{name}.id").read_text().strip()


def test_wandb_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="the extra trackers")
    files, identity = offline("wandb", tmp_path)
    logs = [path for path in files if path.name == f"run-{identity}.wandb"]
    assert len(logs) == 2  # one folder for each stretch, both of the same run
    assert all(b"train/loss" in path.read_bytes() and b"learning_rate" in path.read_bytes() for path in logs)
    assert any(path.suffix == ".html" and "中国|&lt;b&gt;" in path.read_text(encoding="utf-8") for path in files)


def test_swanlab_offline(tmp_path: Path) -> None:
    if importlib.util.find_spec("swanlab") is None:
        pytest.skip("the extra trackers: swanlab is not installed")
    files, identity = offline("swanlab", tmp_path)
    logs = [path for path in files if path.name == f"run-{identity}.swanlab"]
    assert len(logs) == 2 and all(b"train/loss" in path.read_bytes() for path in logs)
    assert any("learning_rate" in path.read_text(encoding="utf-8") for path in files if path.name == "config.yaml")
    assert any(path.suffix == ".txt" and "中国|<b>" in path.read_text(encoding="utf-8") for path in files)
