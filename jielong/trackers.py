"""Records of a run, sent to TensorBoard, wandb or SwanLab beside metrics.jsonl; harmless whatever they do.

metrics.jsonl is the record of a run; a tracker is a copy of it for people who like to look elsewhere. So nothing that a tracker does
may hold training up, let alone end it:

    record -> queue of at most LIMIT -> a thread for each tracker -> the library

- `Trackers` only ever appends to queues (microseconds). The libraries are imported, opened, fed and closed in their threads.
- Whatever a library raises, at its opening or at its thousandth record (disk, network, its own mistakes), is said once as a warning, and that
  tracker is off from there on.
- One that hangs fills its queue; then its oldest records are dropped, which is said once. `close` waits CLOSE_SECONDS for all of them
  together, and leaves behind the threads that are not done by then: they are daemons, so the process can end.
- What the libraries put into the process is kept small: no capturing of the console, no prompts for keys, no hooks at the
  end of the process that wait for the network without an end, nothing on standard output.

Without `online` nothing goes over the network. wandb 0.31 needs its settings before `init` for that: told by `init(mode="offline")`
alone it looks up its server's address for telemetry all the same (seen with strace).

When a run goes on (or the guard takes it back) records of the same steps come again, and each library sees to it in its own way:

    tensorboard   a new file that begins with a purge: what older files say of later steps is not shown, no curve doubles
    wandb         the same run, by its id in wandb.id (offline: one more folder of that id, which `wandb sync` appends); the axis is the
                  metric `step`, since wandb's own counter can not go back and would drop the records; steps that were made twice are
                  drawn twice
    swanlab       online the same run, by its id in swanlab.id; offline one folder each time, for `swanlab sync --id`;
                  steps that were made twice go out twice (what its server makes of them was not tried)

Source: the documentation and the code of tensorboard 2.21, wandb 0.31 and swanlab 0.10.
"""

from __future__ import annotations

import html
import importlib.util
import json
import math
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from jielong.errors import MissingExtraError
from jielong.progress import say
from jielong.runs import write_text

LIMIT = 10_000  # records that wait for a tracker: some megabytes
FLUSH_SECONDS = 5  # so much a kill costs of an event file
CLOSE_SECONDS = 10.0  # how long the end of a run waits for all trackers together
NAMES = ("tensorboard", "wandb", "swanlab")
_IDENTITY = re.compile(r"[0-9a-z]{8,32}")


@dataclass(frozen=True)
class Place:
    """Where a tracker writes, and under which name."""

    folder: Path  # train/trackers
    project: str
    run_name: str
    online: bool
    settings: dict[str, Any]  # what the run was asked for: JSON-able, shown by the tracker as its configuration


class Backend(Protocol):
    """A library, as one thread uses it. Every method may raise anything."""

    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Finite numbers of a step."""

    def text(self, step: int, name: str, text: str) -> None:
        """Something to read."""

    def go_back(self, step: int) -> None:
        """Steps after this one are made again."""

    def close(self) -> None:
        """Nothing more comes."""


Open = Callable[[Place], Backend]


def check_trackers(names: Iterable[str]) -> None:
    """Raises MissingExtraError for a tracker that is not installed; imports nothing."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # a folder wandb/ that lies about is a spec without an origin
            raise MissingExtraError(name, "trackers", "by train.trackers")


def open_trackers(
    names: Iterable[str], folder: Path, project: str, run_name: str, online: bool, settings: dict[str, Any]
) -> Trackers:
    """Trackers by their names (of NAMES), writing below `folder`; returns at once, the libraries open in their threads.

    online: wandb and swanlab send over the network; else to files. settings: shown there as the run's configuration; JSON-able.
    Raises MissingExtraError for one that is not installed.
    """
    names = list(names)
    check_trackers(names)
    place = Place(folder, project, run_name, online, settings)
    opens: dict[str, Open] = {"tensorboard": Tensorboard, "wandb": Wandb, "swanlab": Swanlab}
    return Trackers({name: opens[name] for name in names}, place)


class Trackers:
    """All trackers of a run; without any, every method is a no-op. Nothing here raises or waits, but `close`, and that not for long."""

    def __init__(self, opens: dict[str, Open] | None = None, place: Place | None = None, limit: int = LIMIT) -> None:
        self._lines = [_Line(name, opened, place, limit) for name, opened in (opens or {}).items() if place]

    def record(self, record: dict[str, Any]) -> None:
        """A record of metrics.jsonl; of its values those that are finite numbers."""
        if self._lines:
            values = numbers(record)
            self._send(lambda backend: backend.numbers(record["step"], values))

    def sample(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Continuations that the model wrote: {"prompt", "text"} each."""
        if rows:
            text = "\n\n".join(f"{row.get('prompt', '')}|{row.get('text', '')}" for row in rows)
            self._send(lambda backend: backend.text(step, "samples", text))

    def event(self, step: int, event: str, text: str) -> None:
        """Something out of the ordinary."""
        self._send(lambda backend: backend.text(step, "events", f"{event}: {text}"))

    def go_back(self, step: int) -> None:
        """The run stands at `step`, at its beginning or because the guard took it there; -1: before everything."""
        self._send(lambda backend: backend.go_back(step))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Have everything written, for at most so many seconds."""
        for line in self._lines:
            line.end()
        until = time.monotonic() + seconds
        for line in self._lines:
            line.wait(max(0.0, until - time.monotonic()), seconds)

    def _send(self, work: Callable[[Backend], None]) -> None:
        for line in self._lines:
            line.put(work)


class _Line:
    """The queue of a tracker and the thread that empties it."""

    def __init__(self, name: str, opened: Open, place: Place, limit: int) -> None:
        self._name, self._open, self._place = name, opened, place
        self._waiting: deque[Callable[[Backend], None]] = deque(maxlen=limit)
        self._changed = threading.Condition()
        self._off = self._ended = self._overflowed = False
        self._thread = threading.Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, work: Callable[[Backend], None]) -> None:
        with self._changed:
            if self._off:
                return
            first = len(self._waiting) == self._waiting.maxlen and not self._overflowed
            self._overflowed |= first
            self._waiting.append(work)
            self._changed.notify()
        if first:
            self._warn("does not keep up, its oldest records are dropped; metrics.jsonl has them")

    def end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def wait(self, seconds: float, of: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            with self._changed:
                self._off = True
                left = len(self._waiting)
                self._waiting.clear()
            self._warn(f"not done after {of:g} s, left behind with {left} record(s); metrics.jsonl has them")

    def _next(self) -> Callable[[Backend], None] | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or self._ended)
            return self._waiting.popleft() if self._waiting else None

    def _run(self) -> None:
        try:
            backend = self._open(self._place)
            while (work := self._next()) is not None:
                work(backend)
            if not self._off:
                backend.close()
        except BaseException as error:  # a library may even call sys.exit; this thread is only its own
            with self._changed:
                said, self._off = self._off, True
                self._waiting.clear()
            if not said:
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self._warn(f"switched off ({type(error).__name__}: {reason}); training and metrics.jsonl go on")

    def _warn(self, text: str) -> None:
        say(f"train: warning: tracker {self._name}: {text}")


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, under the names that trackers group by: validation_loss -> validation/loss, else train/.

    A step that was not taken is `train/skipped` 1.
    """
    found = {
        key.replace("validation_", "validation/", 1) if key.startswith("validation_") else f"train/{key}": float(value)
        for key, value in record.items()
        if key != "step" and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
    return found | ({"train/skipped": 1.0} if "skipped" in record else {})


def _identity(path: Path) -> str:
    """The id under which a tracker knows this run, the same whenever it goes on."""
    known = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    if _IDENTITY.fullmatch(known) is None:
        known = secrets.token_hex(6)
        write_text(path, known + "\n")
    return known


class Tensorboard:
    """Event files in `tensorboard/`: tensorboard --logdir runs.

    By tensorboard's own writer: torch's imports much of torch, and in a thread that may cross with what training imports.
    """

    def __init__(self, place: Place) -> None:
        self._folder, self._settings = place.folder / "tensorboard", place.settings
        self._writer: Any = None

    def numbers(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step, [Summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def text(self, step: int, name: str, text: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto

        shown = "\n".join("    " + line for line in text.splitlines())  # code in Markdown: every character as it is
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[shown.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        self._write(step, [Summary.Value(tag=name, metadata=plugin, tensor=tensor)])

    def go_back(self, step: int) -> None:
        """A new file, which tells readers to forget what older files say of later steps."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.close()
        self._writer = EventFileWriter(str(self._folder), flush_secs=FLUSH_SECONDS)
        purge = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=purge))
        settings = json.dumps(self._settings, indent=2, ensure_ascii=False, default=str)
        self.text(max(0, step), "recipe", settings)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write(self, step: int, values: list[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            self.go_back(-1)
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


class Wandb:
    """A run of wandb; offline in `wandb/offline-run-.../`, for `wandb sync`."""

    def __init__(self, place: Place) -> None:
        import wandb

        place.folder.mkdir(parents=True, exist_ok=True)
        mode: Literal["online", "offline"] = "online" if place.online else "offline"
        wandb.setup(wandb.Settings(mode=mode, silent=True))  # before init: offline it would send telemetry else
        if place.online and not wandb.login(prompt=False):
            raise RuntimeError("no API key; run `wandb login` once, or set WANDB_API_KEY")
        quiet = wandb.Settings(
            mode=mode, silent=True, console="off", disable_git=True, disable_code=True, save_code=False,
            x_disable_meta=True, x_save_requirements=False, finish_timeout=CLOSE_SECONDS,
        )  # fmt: skip
        self._run = wandb.init(
            project=place.project, name=place.run_name, dir=str(place.folder), config=place.settings, mode=mode,
            id=_identity(place.folder / "wandb.id"), resume="allow", reinit="create_new", settings=quiet,
        )  # fmt: skip
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log({"step": step, **values})

    def text(self, step: int, name: str, text: str) -> None:
        import wandb

        self._run.log({"step": step, name: wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)})

    def go_back(self, step: int) -> None:
        """Nothing to do: the axis is `step`."""

    def close(self) -> None:
        self._run.finish()


class Swanlab:
    """A run of SwanLab; offline in `swanlab/run-.../`, for `swanlab sync`."""

    def __init__(self, place: Place) -> None:
        import atexit

        import swanlab
        from swanlab.sdk.internal.pkg import console

        console.c.quiet = True  # it greets on standard output, where only results belong; there is no setting for it
        where = place.folder / "swanlab"
        where.mkdir(parents=True, exist_ok=True)
        quiet = swanlab.Settings(
            interactive=False,
            terminal=swanlab.Settings.Terminal(proxy_type="none"),
            probe=swanlab.Settings.Probe(hardware=False, runtime=False, requirements=False, git=False),
        )
        identity = _identity(place.folder / "swanlab.id")
        self._run = swanlab.init(
            project=place.project, name=place.run_name, mode="online" if place.online else "offline", log_dir=str(where),
            config=place.settings, id=identity, resume="allow", settings=quiet,
        )  # fmt: skip
        atexit.unregister(
            self._run._handle_atexit
        )  # at the end of the process it would wait for the network without an end
        self._text = swanlab.Text

    def numbers(self, step: int, values: dict[str, float]) -> None:
        if values:
            self._run.log(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: self._text(text)}, step=step)

    def go_back(self, step: int) -> None:
        """Nothing to do: a step may come again."""

    def close(self) -> None:
        self._run.finish(async_log_timeout=int(CLOSE_SECONDS))
