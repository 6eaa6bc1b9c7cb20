"""Datasets of the hubs, with clients that fetch from a folder of the test's own."""

from __future__ import annotations

import errno
import inspect
import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from jielong.data.reading.hubs import HubPath, hub_files, is_hub, parse, patterns
from jielong.errors import InputError, MissingExtraError

ENDINGS = (".jsonl", ".jsonl.gz", ".parquet", ".json", ".txt")
FILES = (
    "a.jsonl",
    "data/zh/b.jsonl.gz",
    "data/zh/c.parquet",
    "data/en/d.jsonl",
    "data/picture.png",
    "dataset_infos.json",
    "data/LICENSE.txt",
    ".hidden.jsonl",
)
SIGNATURE = inspect.signature(huggingface_hub.snapshot_download)  # before anything replaces it


class Client:
    """Both clients at once: what was asked, and files copied from a hub in a folder to a cache that is kept."""

    def __init__(self, folder: Path) -> None:
        self.hub, self.cache = folder / "hub", folder / "cache"
        self.calls: list[dict[str, Any]] = []
        self.error: BaseException | None = None
        for name in FILES:
            (self.hub / name).parent.mkdir(parents=True, exist_ok=True)
            (self.hub / name).write_bytes(b"x")

    def hugging_face(self, *args: Any, **options: Any) -> str:
        bound = SIGNATURE.bind(*args, **options)  # the real client would take this call
        assert bound.arguments["repo_type"] == "dataset"
        return self.fetch(bound.arguments["allow_patterns"], bound.arguments["ignore_patterns"], bound.arguments)

    def modelscope(
        self,
        dataset_id: str,
        revision: str = "master",
        *,
        allow_file_pattern: list[str] | None = None,
        ignore_file_pattern: list[str] | None = None,
    ) -> str:
        return self.fetch(
            allow_file_pattern, ignore_file_pattern, {"repo_id": dataset_id, "revision": revision, "from": "modelscope"}
        )

    def fetch(self, allow: list[str] | None, ignore: list[str] | None, call: dict[str, Any]) -> str:
        self.calls.append(dict(call))
        if self.error is not None:
            raise self.error
        for file in self.hub.rglob("*"):
            name = file.relative_to(self.hub).as_posix()
            wanted = any(fnmatchcase(name, pattern) for pattern in allow or ["*"])
            if file.is_file() and wanted and not any(fnmatchcase(name, pattern) for pattern in ignore or []):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, self.cache / name)
        return str(self.cache)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", client.hugging_face)
    module = ModuleType("modelscope.hub.snapshot_download")
    module.dataset_snapshot_download = client.modelscope  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return client


def fetched(client: Client, path: str) -> list[str]:
    return [file.relative_to(client.cache).as_posix() for file in hub_files(path, ENDINGS)]


@pytest.mark.parametrize("hub", ["hf", "modelscope"])
def test_what_is_fetched(client: Client, hub: str) -> None:
    whole = ["a.jsonl", "data/en/d.jsonl", "data/zh/b.jsonl.gz", "data/zh/c.parquet"]
    assert fetched(client, f"{hub}:owner/name") == whole
    assert not (client.cache / "dataset_infos.json").exists() and not (client.cache / "data/picture.png").exists()
    assert fetched(client, f"{hub}:owner/name/data/zh") == ["data/zh/b.jsonl.gz", "data/zh/c.parquet"]
    assert fetched(client, f"{hub}:owner/name/data/zh/") == ["data/zh/b.jsonl.gz", "data/zh/c.parquet"]
    assert fetched(client, f"{hub}:owner/name/data/*.jsonl") == ["data/en/d.jsonl"]
    assert fetched(client, f"{hub}:owner/name/a.jsonl") == ["a.jsonl"]
    assert client.calls[0]["repo_id"] == "owner/name"


def test_the_revision_is_handed_on(client: Client) -> None:
    fetched(client, "hf:owner/name@refs-1.0/data")
    fetched(client, "hf:owner/name")
    fetched(client, "modelscope:owner/name@v2")
    fetched(client, "modelscope:owner/name")
    assert [call["revision"] for call in client.calls] == ["refs-1.0", None, "v2", "master"]


def test_only_this_source_is_taken_from_a_shared_cache(client: Client) -> None:
    fetched(client, "hf:owner/name")
    assert fetched(client, "hf:owner/name/data/en") == ["data/en/d.jsonl"]


def test_paths() -> None:
    assert is_hub("hf:a/b") and is_hub("modelscope:a/b") and not is_hub("hf/a/b") and not is_hub("builtin:reviews")
    assert parse("hf:a-1/b.c@main/x/*.gz") == HubPath("hf", "a-1", "b.c", "main", "x/*.gz")
    assert parse("modelscope:a/b").page == "https://modelscope.cn/datasets/a/b"
    assert patterns(parse("hf:a/b"), (".txt", ".txt.gz")) == ["*.txt", "*.txt.gz"]
    for wrong in ("hf:", "hf:name", "hf:a/b@", "hf:/a/b", "hf:a/b/../c", "hf://datasets/a/b", "hf:a b/c"):
        with pytest.raises(InputError, match="not the name of a dataset, got 'hf:"):
            hub_files(wrong, ENDINGS)


def test_nothing_that_can_be_read(client: Client) -> None:
    with pytest.raises(InputError, match=r"nothing found, got hf:owner/name/fr; .* under fr that ends in \.jsonl"):
        hub_files("hf:owner/name/fr", ENDINGS)
    with pytest.raises(InputError, match=r"look at its files on https://modelscope\.cn/datasets/owner/name$"):
        hub_files("modelscope:owner/name", (".csv",))


def test_a_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"huggingface_hub: not installed, .* hf:a/b; .*'jielong\[hubs\]'"):
        hub_files("hf:a/b", ENDINGS)
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(MissingExtraError, match=r"modelscope: not installed, .*'jielong\[hubs\]'"):
        hub_files("modelscope:a/b", ENDINGS)


def answer(status: int) -> Any:
    return SimpleNamespace(status_code=status, headers={}, request=None)


def of_hub(kind: type[Exception], status: int) -> Exception:
    """An error of the Hugging Face client as if the server had answered with a status."""
    error = kind.__new__(kind, "said")
    error.args, error.response = ("said",), answer(status)  # type: ignore[attr-defined]
    return error


def named(name: str, base: type[Exception] = Exception, **attributes: Any) -> Exception:
    """An error of a package that is not installed here, known by its name."""
    error: Exception = type(name, (base,), {})("said\n  so")
    for key, value in attributes.items():
        setattr(error, key, value)
    return error


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_hub(errors.GatedRepoError, 403), r"accept them on https://huggingface\.co/datasets/a/b, then .*HF_TOKEN"),
        (lambda: of_hub(errors.RepositoryNotFoundError, 401), r"no such dataset, or a private one, got hf:a/b; .*HF_TOKEN"),
        (lambda: of_hub(errors.RevisionNotFoundError, 404), r"no such revision, got hf:a/b@v1"),
        (lambda: of_hub(errors.HfHubHTTPError, 403), r"refuses the dataset, got hf:a/b"),
        (lambda: of_hub(errors.HfHubHTTPError, 503), r"the download failed, got hf:a/b \(HfHubHTTPError: said\)"),
        (lambda: errors.LocalEntryNotFoundError("x"), r"cannot be reached and .*, got hf:a/b; .*HF_ENDPOINT to a mirror"),
        (lambda: errors.OfflineModeIsEnabled("x"), r"cannot be reached"),
        (lambda: named("ConnectError"), r"cannot be reached"),
        (lambda: errors.HFValidationError("too\nlong"), r"the download failed, .*HFValidationError: too long"),
    ],
)  # fmt: skip
def test_errors_of_hugging_face(client: Client, make: Callable[[], Exception], message: str) -> None:
    client.error = make()
    with pytest.raises(InputError, match=r"data\.sources: .*" + message) as caught:
        hub_files("hf:a/b@v1", ENDINGS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named("NotExistError"), r"no such dataset, .*modelscope\.cn/datasets/a/b"),
        (lambda: named("HTTPError", OSError, response=answer(404)), r"no such dataset"),
        (lambda: named("HTTPError", OSError, response=answer(401)), r"refuses the dataset, .*MODELSCOPE_API_TOKEN"),
        (lambda: named("NotLoginException"), r"refuses the dataset, got modelscope:a/b"),
        (lambda: named("NoValidRevisionError"), r"no such revision"),
        (lambda: ConnectionError("x"), r"cannot be reached .*; connect to the network, or fetch"),
        (lambda: named("ReadTimeout", TimeoutError), r"cannot be reached"),
        (lambda: named("FileIntegrityError"), r"the download failed, .*\(FileIntegrityError: said so\)"),
    ],
)
def test_errors_of_modelscope(client: Client, make: Callable[[], Exception], message: str) -> None:
    client.error = make()
    with pytest.raises(InputError, match=r"data\.sources: .*" + message):
        hub_files("modelscope:a/b", ENDINGS)


def test_a_full_disk_stays_what_it_is(client: Client) -> None:
    client.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left"):
        hub_files("hf:a/b", ENDINGS)
