"""Files and finished folders brought to a URL: whole or not at all, and going on where a kill stopped them.

Writing to S3 is one request, or parts that are each tried again on their own, every one with its MD5, which the store
checks. An object appears whole or not at all; a kill leaves parts that nobody sees (let the bucket's lifecycle rule
delete them). Other stores get a hidden file that is renamed when its size is right: half a file under its own name is
what a closed connection or an exception leaves in most drivers.

A folder is compared before it is sent. S3 objects carry the MD5 of their file as metadata (an ETag is one only for a
single part without encryption); of other stores, files of the right size are read back. MD5 runs at about 600 MB/s a core,
faster than the lines it guards. Objects are sent UPLOADS at a time, each with one part in memory.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from jielong.errors import InputError
from jielong.progress import Progress
from jielong.storage import UPLOADING, Place, Remote, open_read, reach, retry, shown

PART_BYTES = 1 << 24  # of one part of an object; S3 asks for at least 5 MiB
MOST_PARTS = 10_000  # of one object, by S3's rules; larger files have larger parts
UPLOADS = 4  # files of a folder that are sent at the same time
MD5_KEY = "jielong-md5"  # in an S3 object's metadata

T = TypeVar("T")


def upload(local: Path, url: str) -> None:
    """Write a local file to a URL, where it appears whole or not at all, and replaces what was there.

    Raises InputError when access is refused, or when the file cannot be sent after ATTEMPTS attempts.
    """
    _send(local, _writable(url), threading.Event())


def upload_folder(local: Path, url: str, last: str | None = "manifest.json") -> list[str]:
    """Bring a folder to a URL; the names of the files that had to be sent, `last` at the end.

    What is there already with the same content is not sent again, so the same call goes on after a kill. A reader that
    waits for `last` never sees half a folder: an old one is deleted before the first file changes, and ours is written
    when all others are there. Raises InputError before anything is changed when the place holds files that the folder
    does not: whoever reads all that is there would take them for a part of it.
    """
    top = _writable(url.rstrip("/"))
    files = {file.relative_to(local).as_posix(): file for file in sorted(local.rglob("*"))
             if file.is_file() and not file.name.endswith(".tmp")}  # fmt: skip
    there = {file.url.removeprefix(f"{top.url}/"): file for file in retry(lambda: _below(top), url, "listing")}
    if foreign := sorted(there.keys() - files.keys()):
        raise InputError(
            f"url: {len(foreign)} other files are there, got {shown(url)} with {foreign[0]}; "
            "give an empty place or one with an earlier upload of this folder, or delete them"
        )
    places = {name: Place(top.fs, f"{top.url}/{name}", f"{top.path}/{name}") for name in files}
    stop = threading.Event()

    def compare(name: str) -> bool:
        remote, place = there.get(name), places[name]
        if remote is None or remote.size != files[name].stat().st_size:
            return False
        digest = _md5(files[name])
        return remote.version == f"etag:{digest}" or retry(
            lambda: _is_same(place, digest), place.url, "comparing", stop
        )

    same = _at_once(compare, list(files), "comparing", files, stop)
    todo = [name for name in files if not same[name]]
    if last in there and any(name != last for name in todo):
        retry(lambda: _delete(places[str(last)]), places[str(last)].url, "deleting", stop)
        todo = list(dict.fromkeys([*todo, str(last)]))
    first = [name for name in todo if name != last]
    _at_once(lambda name: _send(files[name], places[name], stop), first, f"uploading to {shown(url)}", files, stop)
    if last in todo:
        _send(files[str(last)], places[str(last)], stop)
        first.append(str(last))
    return first


def _writable(url: str) -> Place:
    place = reach(url)
    if place.is_http:
        raise InputError(f"url: cannot be written over HTTP, got {shown(url)}; give for example s3://bucket/folder")
    return place


def _below(top: Place) -> list[Remote]:
    try:
        facts = top.facts()
    except FileNotFoundError:
        return []
    found = {top.path: facts} if facts["type"] != "directory" else top.fs.find(top.path, detail=True)
    return [top.remote(facts) for name, facts in found.items() if not name.endswith(("/", UPLOADING))]


def _at_once(
    work: Callable[[str], T], names: list[str], label: str, files: dict[str, Path], stop: threading.Event
) -> dict[str, T]:
    """What `work` says of each name, UPLOADS of them at a time; the first error stops all others."""
    done: dict[str, T] = {}
    sizes = {name: files[name].stat().st_size for name in names}
    with Progress(label, sum(sizes.values()), "B") as bar, ThreadPoolExecutor(UPLOADS, "jielong-write") as pool:
        running = {pool.submit(work, name): name for name in names}
        try:
            for future in as_completed(running):
                done[running[future]] = future.result()
                bar.advance(sizes[running[future]])
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return done


def _md5(file: Path) -> str:
    """MD5 in hex: what the stores speak. It guards against accidents here, not against anyone."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _is_same(place: Place, digest: str) -> bool:
    """Whether a file that has the right size has this MD5: by what the store kept of it, or else by reading it."""
    if place.is_s3:
        return bool(_head(place)["Metadata"].get(MD5_KEY) == digest)
    with open_read(place.url) as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == digest


def _delete(place: Place) -> None:
    with contextlib.suppress(FileNotFoundError):  # the answer to an earlier attempt was lost
        place.fs.rm_file(place.path)


def _send(local: Path, place: Place, stop: threading.Event) -> None:
    digest, size = _md5(local), local.stat().st_size
    with local.open("rb") as source:
        if place.is_s3:
            _send_to_s3(source, size, digest, place, stop)
        else:
            _send_and_rename(source, size, digest, place, stop)


def _changing(place: Place) -> InputError:
    return InputError(f"file: it changed while it was being sent to {shown(place.url)}; run the same command again")


# S3: an object appears when its request, or the last one of several, is complete


def _head(place: Place) -> dict[str, Any]:
    bucket, key, _ = place.fs.split_path(place.path)
    head: dict[str, Any] = {"Metadata": {}} | place.fs.call_s3("head_object", Bucket=bucket, Key=key)
    return head


def _send_to_s3(source: BinaryIO, size: int, digest: str, place: Place, stop: threading.Event) -> None:
    bucket, key, _ = place.fs.split_path(place.path)

    def call(method: str, doing: str, **options: Any) -> dict[str, Any]:
        def attempt() -> dict[str, Any]:
            return dict(place.fs.call_s3(method, Bucket=bucket, Key=key, **options))

        return retry(attempt, place.url, doing, stop)

    def body(data: bytes) -> dict[str, Any]:
        md5 = hashlib.md5(data, usedforsecurity=False)
        whole.update(data)
        return {"Body": data, "ContentMD5": base64.b64encode(md5.digest()).decode()}

    whole, metadata = hashlib.md5(usedforsecurity=False), {MD5_KEY: digest}
    if size <= PART_BYTES:
        sending = body(source.read())
        if whole.hexdigest() != digest:
            raise _changing(place)
        call("put_object", "writing", Metadata=metadata, **sending)
    else:
        upload_id = call("create_multipart_upload", "writing", Metadata=metadata)["UploadId"]
        try:
            parts: list[dict[str, Any]] = []
            while data := source.read(max(PART_BYTES, -(-size // MOST_PARTS))):
                number = len(parts) + 1
                doing = f"writing part {number}"
                answer = call("upload_part", doing, PartNumber=number, UploadId=upload_id, **body(data))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            if whole.hexdigest() != digest:
                raise _changing(place)
            _complete(place, upload_id, parts, digest, stop)
        except BaseException:
            with contextlib.suppress(Exception):  # the bucket's lifecycle rule is the other one who takes parts away
                place.fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id)
            raise
    head = retry(lambda: _head(place), place.url, "verifying", stop)
    if (head["ContentLength"], head["Metadata"].get(MD5_KEY)) != (size, digest):
        raise InputError(f"url: something else was written at the same time, got {shown(place.url)}; try again")


def _complete(place: Place, upload_id: str, parts: list[dict[str, Any]], digest: str, stop: threading.Event) -> None:
    """Make the parts an object. When the answer to a request that did so is lost, the next one finds no upload any more."""
    bucket, key, _ = place.fs.split_path(place.path)

    def attempt() -> None:
        try:
            place.fs.call_s3(
                "complete_multipart_upload",
                Bucket=bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
            )
        except FileNotFoundError:
            if _head(place)["Metadata"].get(MD5_KEY) != digest:
                raise

    retry(attempt, place.url, "putting the parts together", stop)


# other stores: a hidden file, then its name


def _send_and_rename(source: BinaryIO, size: int, digest: str, place: Place, stop: threading.Event) -> None:
    fs = place.fs
    parent, _, name = place.path.rpartition("/")
    hidden = f"{parent}/.{name}{UPLOADING}"

    def write() -> None:
        source.seek(0)
        whole = hashlib.md5(usedforsecurity=False)
        fs.makedirs(parent, exist_ok=True)
        with fs.open(hidden, "wb") as target:
            while data := source.read(PART_BYTES):
                if stop.is_set():
                    break
                target.write(data)
                whole.update(data)
        fs.invalidate_cache()
        if (written := fs.info(hidden)["size"]) != size or stop.is_set():
            raise EOFError(f"{written} of {size} bytes were written")
        if whole.hexdigest() != digest:
            raise _changing(place)

    def rename() -> None:
        fs.invalidate_cache()
        if not fs.exists(hidden):  # the answer to an earlier attempt was lost
            if fs.info(place.path)["size"] != size:
                raise FileNotFoundError(place.path)
            return
        try:
            fs.mv(hidden, place.path)
        except OSError:  # not every store renames over a file
            if not fs.exists(hidden) or not fs.exists(place.path):
                raise
            fs.rm_file(place.path)
            fs.mv(hidden, place.path)

    try:
        retry(write, place.url, "writing", stop)
        retry(rename, place.url, "renaming", stop)
    except BaseException:
        with contextlib.suppress(Exception):
            fs.rm_file(hidden)
        raise
