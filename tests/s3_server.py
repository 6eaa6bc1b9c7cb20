"""A local S3 (moto, in a process of its own) and a line to it that breaks: what tests of remote paths talk to.

Everything listens on 127.0.0.1 only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest

BUCKET = "corpus"
ALWAYS = itertools.repeat  # BreakingLine(port, down=ALWAYS(50)): after every 50 bytes
MISSING = [name for name in ("s3fs", "moto", "flask", "flask_cors") if importlib.util.find_spec(name) is None]
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # no request leaves this machine to look for credentials
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@functools.cache
def s3_port() -> int:
    """The port of an S3, started at the first call; it ends when its standard input does, so it never outlives the tests."""
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    atexit.register(process.communicate)
    assert process.stdout is not None
    return int(process.stdout.readline())


class BreakingLine:
    """A TCP proxy that resets the connection after so many bytes, as often as there are numbers.

    `down` counts what comes from the server, `up` what goes to it, over all connections since the last break.
    """

    def __init__(self, port: int, down: Iterable[int] = (), up: Iterable[int] = ()) -> None:
        self._target = ("127.0.0.1", port)
        self._plans = {"down": iter(down), "up": iter(up)}
        self._left = {way: next(plan, None) for way, plan in self._plans.items()}
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._closing = False
        self.broken = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> BreakingLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += (near, far)
            for source, target, way in ((far, near, "down"), (near, far, "up")):
                thread = threading.Thread(target=self._pump, args=(source, target, way), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                data, cut = self._until_break(data, way)
                target.sendall(data)
                if cut:
                    for end in (source, target):
                        # linger 0: a reset, as of a router that forgot the connection
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        with contextlib.suppress(OSError):
                            end.shutdown(socket.SHUT_RDWR)
                    break
        for end in (source, target):
            end.close()

    def _until_break(self, data: bytes, way: str) -> tuple[bytes, bool]:
        with self._lock:
            left = self._left[way]
            if left is None:
                return data, False
            if len(data) < left:
                self._left[way] = left - len(data)
                return data, False
            self._left[way] = next(self._plans[way], None)
            self.broken += 1
            return data[:left], True


def use(monkeypatch: pytest.MonkeyPatch, url: str) -> Any:
    """Point S3 at a URL, by the environment alone; the driver for it."""
    import s3fs

    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    s3fs.S3FileSystem.clear_instance_cache()
    return s3fs.S3FileSystem()
