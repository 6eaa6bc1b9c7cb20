"""The run folder: names, atomic writes, manifests, and what is up to date.

    runs/<name>/
      recipe.toml            the recipe as it was resolved, every key written out
      <stage>/               one folder a stage; it appears whole or not at all
        manifest.json        fingerprint, recipe section, inputs and outputs with checksums, counts, versions, time
      train/                 grows while it runs: checkpoints/, metrics.jsonl, samples.jsonl; manifest.json at its end
      <stage>.work/          what a stage takes up again after a kill or a changed setting (data: measured documents)
      replaced/              trained models that a changed recipe replaced: moved here, never deleted
      report.html, report.md

A stage writes into `<stage>.partial/`, which is renamed to `<stage>/` when everything in it is on disk, so a reader never
sees half a stage and a kill leaves the previous result untouched. `train` is the exception: it lives for hours and is made
of checkpoints that are each published in this way.

The *fingerprint* of a stage is a hash of what determines its result: its recipe section (without the keys that change
nothing in the result), the seed, the content of its input files and the fingerprints of the stages it reads. A stage whose
manifest carries the fingerprint that the recipe asks for is up to date. Input files are recognised by size and
modification time, and read again only when one of the two has changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash

from jielong.errors import RunError
from jielong.launch import launched
from jielong.progress import Progress
from jielong.storage import AnyFile, Remote

PARTIAL = ".partial"
MANIFEST = "manifest.json"
HASH_CHUNK_BYTES = 1 << 22
HEIRS_SECONDS = 5.0  # the processes that a killed one had started end within a second of it (launch.py)
NAME_PATTERN = re.compile(r"[\w][\w.\-]*")
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "pydantic")


# ------------------------------------------------------------------------------------------------- atomic writes


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part: temporary name, flush, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries (names) to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def recover(final: Path) -> None:
    """Put back a folder that a kill between the two renames of `publish` left under its hidden name."""
    if not final.exists() and _old(final).exists():
        _old(final).rename(final)


def publish(partial: Path, final: Path) -> None:
    """Flush every file below `partial` and rename the folder to `final`, replacing what was there.

    A kill between the two renames leaves the previous folder under a hidden name, where `recover` finds it.
    """
    for file in sorted(partial.rglob("*")):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        else:
            sync_folder(file)
    sync_folder(partial)
    recover(final)
    shutil.rmtree(_old(final), ignore_errors=True)
    if final.exists():
        final.rename(_old(final))
    partial.rename(final)
    sync_folder(final.parent)
    shutil.rmtree(_old(final), ignore_errors=True)


# ----------------------------------------------------------------------------------------------------- checksums


def hash_file(path: AnyFile, progress: Callable[[int], None] | None = None) -> str:
    """xxh3_128 of a file's bytes, in hex. `progress` is called with the size of every chunk read."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """xxh3_128 of a value's canonical JSON, in hex."""
    return xxhash.xxh3_128(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def describe_files(
    files: Sequence[tuple[str, AnyFile]], known: list[dict[str, Any]] | None = None, label: str = "inputs"
) -> list[dict[str, Any]]:
    """Label, size, time and checksum of each (label, path); a checksum in `known` is reused where size and time are the same.

    A file behind a URL is not read for it: its size and version (an ETag, a time) stand for the content.
    `label` heads the progress bar that is drawn while files are read.
    """
    seen = {(row["path"], row["bytes"], row["mtime_ns"]): row["xxh3_128"] for row in known or []}
    rows: list[dict[str, Any]] = []
    for name, path in files:
        if isinstance(path, Remote):
            stands_for = hash_json([path.size, path.version]) if path.version else None
            rows.append({"label": name, "path": str(path), "bytes": path.bytes, "mtime_ns": 0, "xxh3_128": stands_for})
            continue
        facts = path.stat()
        place = os.fsencode(path).decode("utf-8", "backslashreplace")  # a file name may be no UTF-8; JSON must be
        rows.append({"label": name.encode("utf-8", "backslashreplace").decode(), "path": place, "bytes": facts.st_size,
                     "mtime_ns": facts.st_mtime_ns})  # fmt: skip
        rows[-1]["xxh3_128"] = seen.get((place, facts.st_size, facts.st_mtime_ns))
    unread = [(row, path) for row, (_, path) in zip(rows, files, strict=True) if row["xxh3_128"] is None]
    with Progress(f"{label}: reading", sum(row["bytes"] for row, _ in unread), "B") as bar:
        for row, path in unread:
            row["xxh3_128"] = hash_file(path, bar.advance)
    return rows


def list_outputs(folder: Path, checksums: bool = True) -> list[dict[str, Any]]:
    """Relative path, size and checksum of every file below a finished stage folder, but its manifest.

    checksums: False leaves them out (checkpoints carry their own).
    """
    return [
        {
            "path": str(file.relative_to(folder)),
            "bytes": file.stat().st_size,
            **({"xxh3_128": hash_file(file)} if checksums else {}),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / MANIFEST and not file.name.endswith(".tmp")
    ]


# ------------------------------------------------------------------------------------------------------ the run


TRAINED = ("align", "tune", "train")  # stages with checkpoints; the later one's model is the run's


def trained_stage(upstream: Iterable[str]) -> str:
    """The stage whose model is meant, of those that another one reads."""
    return next((stage for stage in TRAINED if stage in set(upstream)), "train")


def model_folder(place: Path) -> Path | None:
    """The model folder that a path means: itself, or of a run its newest checkpoint, the aligned or tuned one where there is one, but no
    reward model; None: neither.
    """
    if (place / "config.json").is_file():
        return place
    for stage in TRAINED:
        found = sorted(
            path
            for path in (place / stage / "checkpoints").glob("step-*")
            if (path / "config.json").is_file() and writes(path)
        )
        if found:
            return found[-1]
    return None


def scorer_folder(place: Path) -> Path | None:
    """The reward model that a path means: itself, or of a run the newest that it has made; None: neither."""
    if (place / "config.json").is_file():
        return place
    for folder in (place / "align" / "checkpoints", place / "align" / "reward" / "checkpoints"):
        found = sorted(path for path in folder.glob("step-*") if (path / "config.json").is_file() and not writes(path))
        if found:
            return found[-1]
    return None


def writes(folder: Path) -> bool:
    """Whether the model of a folder writes text: a reward model says what text is worth."""
    try:
        named = orjson.loads((folder / "config.json").read_bytes()).get("architectures") or [""]
    except (OSError, orjson.JSONDecodeError, AttributeError):  # whoever opens it will say so
        return True
    return not str(named[0]).endswith("ForSequenceClassification")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    root: Path

    @property
    def name(self) -> str:
        return self.root.name

    def stage(self, stage: str) -> Path:
        return self.root / stage

    @property
    def checkpoints(self) -> Path:
        return self.root / "train" / "checkpoints"

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a finished stage, or None."""
        path = self.stage(stage) / MANIFEST
        try:
            value = orjson.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except orjson.JSONDecodeError:
            raise RunError(
                f"{path}: not valid JSON; it was edited or damaged; delete this one file and run the same command again"
            ) from None
        if not isinstance(value, dict):
            raise RunError(f"{path}: not a manifest of ours; delete this one file and run the same command again")
        return value

    def verify_outputs(self, stage: str) -> None:
        """Compare the checksums of a finished stage with its files, before another stage reads them. Raises RunError.

        Token shards and checkpoints are left to their readers, which check their own.
        """
        for row in (self.manifest(stage) or {}).get("outputs", []):
            path = self.stage(stage) / row["path"]
            if "xxh3_128" in row and path.parent.name != "shards" and hash_file(path) != row["xxh3_128"]:
                raise RunError(
                    f"{path}: damaged, its checksum differs from the manifest's; make it again: "
                    f"jielong {stage} RECIPE --fresh"
                )

    def missing_outputs(self, stage: str) -> list[str]:
        """Files that a stage's manifest lists and that are gone or of another size."""
        folder = self.stage(stage)
        rows = (self.manifest(stage) or {}).get("outputs", [])
        return [
            row["path"]
            for row in rows
            if not (folder / row["path"]).is_file() or (folder / row["path"]).stat().st_size != row["bytes"]
        ]

    @contextlib.contextmanager
    def lock(self) -> Iterator[int | None]:
        """Hold the run for one process; a second one gets a RunError that names the first.

        Gives the file descriptor, for processes that are to inherit the lock: it is free when all of them are gone. They
        hold it already, and get None.
        """
        if launched():
            yield None
            return
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a+") as file:
            until = time.monotonic() + HEIRS_SECONDS
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    file.seek(0)
                    holder = file.read().strip()
                    if _lives(holder) or time.monotonic() > until:
                        raise RunError(
                            f"run {self.name}: in use by process {holder or '?'}; "
                            "wait for it, stop it, or give this run another --name"
                        ) from None
                time.sleep(0.1)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield file.fileno()

    def work(self, stage: str) -> Path:
        """Where a stage keeps what it takes up again after a kill, beside its folder; the stage itself cleans it up."""
        return self.root / f"{stage}.work"

    def set_aside(self, stage: str) -> Path:
        """Move a stage's folder to replaced/<stage>-<n> and return where it is now."""
        folder = self.root / "replaced"
        folder.mkdir(exist_ok=True)
        taken = [re.fullmatch(rf"{stage}-(\d+)", path.name) for path in folder.iterdir()]
        number = 1 + max((int(match[1]) for match in taken if match), default=0)
        target = folder / f"{stage}-{number}"
        self.stage(stage).rename(target)
        return target


@dataclass(frozen=True)
class StageContext:
    """What a stage's `run` function is given: where to read, where to write, and the recipe's seed."""

    run: Run
    out: Path  # the folder to write into; published as run.stage(stage) when the function returns
    seed: int
    fingerprint: str = ""
    upstream: dict[str, str] = field(default_factory=dict)  # stage -> fingerprint
    begin: Callable[[], None] = lambda: (
        None
    )  # a live stage calls it when nothing can be refused any more: makes room in `out`
    inputs: list[dict[str, Any]] = field(default_factory=list)  # label, size, checksum of each input file


def _lives(process: str) -> bool:
    """Whether a process of this machine is there; True where the text is no process id."""
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OverflowError, PermissionError):
        return True
    return True


def holder(root: Path) -> str | None:
    """The process of this machine that works on a run, by its lock; None: nobody. root: the run's folder."""
    try:
        text = (root / ".lock").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return text if text.isdigit() and _lives(text) else None


def open_run(runs_dir: Path, name: str) -> Run:
    """The run folder of that name below `runs_dir` (not created yet). Raises RunError for a name that is no file name."""
    if not NAME_PATTERN.fullmatch(name) or name in (".", ".."):
        raise RunError(f"name: not usable as a folder name, got {name!r}; use letters, digits, '.', '_' and '-'")
    return Run(runs_dir / name)


def list_runs(runs_dir: Path) -> list[Run]:
    """All run folders below `runs_dir`, by name."""
    if not runs_dir.is_dir():
        return []
    return [Run(path) for path in sorted(runs_dir.iterdir()) if (path / "recipe.toml").is_file()]


# ------------------------------------------------------------------------------------------------- provenance


def environment() -> dict[str, Any]:
    """Versions, commit and hardware, for the manifest. Nothing is imported to find out."""
    versions = {}
    for package in RECORDED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    from jielong import __version__

    return {
        "jielong": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _commit() -> str | None:
    """The commit of this code, when it runs from a git checkout of its own."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def now() -> str:
    """The local time in ISO form, for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
