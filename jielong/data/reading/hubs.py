"""Datasets by their name on Hugging Face or ModelScope: `hf:owner/name` -> files on this machine.

    hf:owner/name                     every file of a kind that can be read
    hf:owner/name/data/zh             those in a folder (or one file)
    modelscope:owner/name/data/*.gz   those that a pattern fits; * also crosses folders, as in both clients
    hf:owner/name@revision/...        of a branch, tag or commit, so that the same corpus comes again

The official clients do the work (snapshot_download, dataset_snapshot_download): they resume, check sums, share one cache
with every other program on the machine, and read their own environment (HF_TOKEN, HF_ENDPOINT for a mirror, HF_HOME,
MODELSCOPE_CACHE, ...). What is in the cache is looked for again in the hub when there is a network, and used as it is when
there is none. Only files with a known ending are fetched, and none of those that describe a dataset (dataset_infos.json,
LICENSE.txt): read as text they would be bad records.

What the clients raise differs between them and between their versions, and some of it comes from their HTTP packages.
So errors are known by the names of their classes and by the HTTP status, without importing anything.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from jielong.errors import FULL, InputError, MissingExtraError

EXTRA = "hubs"  # the optional dependencies that hold both clients

_PATH = re.compile(r"(hf|modelscope):([\w.\-]+)/([\w.\-]+)(?:@([^/\s@][^/@]*))?(?:/(.*))?", re.ASCII)
_PAGES = {"hf": "https://huggingface.co/datasets/", "modelscope": "https://modelscope.cn/datasets/"}
_NOT_TEXT = (  # files beside the text that have the ending of a text
    *(
        "dataset_infos.json",
        "dataset_info.json",
        "dataset_dict.json",
        "state.json",
        "configuration.json",
        "config.json",
    ),
    *("LICENSE*.txt", "README*.txt", "requirements*.txt", ".*"),
)

# what the clients and their HTTP packages call their errors
_GATED = {"GatedRepoError"}
_REFUSED = {"NotLoginException", "AuthenticationError", "PermissionDeniedError", "LocalTokenNotFoundError"}
_NO_REVISION = {"RevisionNotFoundError", "NoValidRevisionError"}
_ABSENT = {"RepositoryNotFoundError", "NotExistError", "NotFoundError"}
_OFFLINE = {
    *("LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError", "ConnectError", "NetworkError"),
    *("Timeout", "TimeoutError", "TimeoutException", "ProxyError", "TransportError"),
}


@dataclass(frozen=True, slots=True)
class HubPath:
    """`hf:owner/name@revision/inside`, taken apart; `inside` is a folder, a file, a pattern, or empty."""

    hub: str
    owner: str
    name: str
    revision: str
    inside: str

    @property
    def dataset(self) -> str:
        """owner/name, as both hubs call it."""
        return f"{self.owner}/{self.name}"

    @property
    def page(self) -> str:
        """The page of the dataset, for people."""
        return _PAGES[self.hub] + self.dataset

    @property
    def is_pattern(self) -> bool:
        """Whether `inside` is a pattern rather than a folder or a file."""
        return any(character in self.inside for character in "*?[")


def is_hub(path: str) -> bool:
    """Whether a source's path names a dataset on a hub."""
    return path.startswith(("hf:", "modelscope:"))


def parse(path: str) -> HubPath:
    """Take a source's path apart. Raises InputError when it is not of that form."""
    found = _PATH.fullmatch(path.strip())
    inside = (found[5] or "").strip("/") if found else ""
    if found is None or ".." in inside.split("/"):
        raise InputError(
            f"data.sources: not the name of a dataset, got {path!r}; it is hf:owner/name or modelscope:owner/name, and then "
            "@revision, /folder or /pattern; correct it"
        )
    return HubPath(found[1], found[2], found[3], found[4] or "", inside)


def hub_files(path: str, endings: tuple[str, ...]) -> list[Path]:
    """The files of a dataset that have one of `endings` (".jsonl", ".jsonl.gz", ...), fetched if need be; sorted.

    Raises InputError for a wrong name, no network, a dataset that is not there or needs a token, and when nothing fits;
    MissingExtraError when the client is not installed; OSError when the disk is full.
    """
    place = parse(path)
    allowed = patterns(place, endings)
    fetch = _from_hugging_face if place.hub == "hf" else _from_modelscope
    ignored = [] if place.is_pattern else [pattern for name in _NOT_TEXT for pattern in (name, f"*/{name}")]
    try:
        folder = fetch(place, allowed, ignored)
    except MissingExtraError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and (error.errno in FULL or error.errno in (errno.EACCES, errno.EROFS)):
            raise
        raise _explain(error, place) from None
    files = []
    for parent, _, names in os.walk(folder):  # the folder also holds what was fetched for other sources
        for name in names:
            file = Path(parent, name)
            inside = file.relative_to(folder).as_posix()
            fits = any(fnmatchcase(inside, pattern) for pattern in allowed)
            if fits and name.endswith(endings) and not any(fnmatchcase(inside, pattern) for pattern in ignored):
                files.append(file)
    if not files:
        where = f" under {place.inside}" if place.inside else ""
        raise InputError(
            f"data.sources: nothing found, got {path}; the dataset has no file{where} that ends in "
            f"{', '.join(endings)}; look at its files on {place.page}"
        )
    return sorted(files)


def patterns(place: HubPath, endings: tuple[str, ...]) -> list[str]:
    """What the clients are asked for: fnmatch patterns of paths in the dataset."""
    if place.is_pattern:
        return [place.inside]
    if place.inside.endswith(endings):
        return [place.inside]
    start = f"{place.inside}/" if place.inside else ""
    return [f"{start}*{ending}" for ending in endings]


def _from_hugging_face(place: HubPath, allowed: list[str], ignored: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("huggingface_hub", EXTRA, f"to fetch hf:{place.dataset}") from None
    folder = snapshot_download(
        place.dataset,
        repo_type="dataset",
        revision=place.revision or None,
        allow_patterns=allowed,
        ignore_patterns=ignored or None,
    )
    return Path(str(folder))


def _from_modelscope(place: HubPath, allowed: list[str], ignored: list[str]) -> Path:
    try:
        client = importlib.import_module("modelscope.hub.snapshot_download")
    except ImportError:
        raise MissingExtraError("modelscope", EXTRA, f"to fetch modelscope:{place.dataset}") from None
    options = {"revision": place.revision} if place.revision else {}  # the default is for the client to know
    folder = client.dataset_snapshot_download(
        place.dataset,
        allow_file_pattern=allowed,  # these two names are in every version, the newer allow_patterns is not
        ignore_file_pattern=ignored or None,
        **options,
    )
    return Path(str(folder))


def _explain(error: BaseException, place: HubPath) -> InputError:
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    got = f"{place.hub}:{place.dataset}"
    login = (
        "log in with `hf auth login` or set HF_TOKEN"
        if place.hub == "hf"
        else "log in with `modelscope login` or set MODELSCOPE_API_TOKEN"
    )
    if names & _GATED:
        return InputError(
            f"data.sources: the dataset is given out only to those who accept its terms, got {got}; accept them on "
            f"{place.page}, then {login}"
        )
    if names & _NO_REVISION:
        return InputError(f"data.sources: no such revision, got {got}@{place.revision}; see {place.page}; correct it")
    if names & _REFUSED or (status in (401, 403) and not names & _ABSENT):
        return InputError(
            f"data.sources: the hub refuses the dataset, got {got}; it needs an account that may read it; {login}"
        )
    if names & _ABSENT or status == 404:
        return InputError(
            f"data.sources: no such dataset, or a private one, got {got}; check the spelling against {place.page}; if it "
            f"is private, {login}"
        )
    if names & _OFFLINE:
        mirror = ", or set HF_ENDPOINT to a mirror" if place.hub == "hf" else ""
        return InputError(
            f"data.sources: the hub cannot be reached and the cache does not hold all of it, got {got}; connect to the "
            f"network{mirror}, or fetch the files by hand from {place.page} and give their folder"
        )
    said = " ".join(str(error).split())[:200]
    return InputError(
        f"data.sources: the download failed, got {got} ({type(error).__name__}: {said}); run the same command again, it goes "
        f"on where it stopped; or fetch the files from {place.page} and give their folder"
    )
