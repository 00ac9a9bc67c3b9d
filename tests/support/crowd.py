"""A user without rights who has many connections to the daemon, and asks on all of them.

usage: python -m tests.support.crowd SOCKET CONNECTIONS REQUESTS METHOD PARAMS READS

PARAMS is JSON. With READS = 1 it reads, and asks again for each answer; else it reads nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NOBODY = 65534


class Crowd:
    """Runs it as a child process; ends with the block."""

    def __init__(
        self, path: Path, method: str, *, connections: int, requests: int, reads: bool, **params: Any
    ) -> None:
        words = [str(path), str(connections), str(requests), method, json.dumps(params), str(int(reads))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Crowd:
        assert self._process.stdout is not None
        # All is sent, or waits in the kernel.
        assert self._process.stdout.readline() == "asked\n"
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()


def _ask(path: str, connections: int, requests: int, method: str, params: Any) -> list[socket.socket]:
    data = b"".join(msgpack.packb([0, number, method, [params]]) for number in range(requests))
    made = []
    for _ in range(connections):
        one = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):  # it may be refused already
            one.connect(path)
            one.setblocking(False)
            one.send(data)
        made.append(one)
    return made


def _read(connections: Sequence[socket.socket], method: str, params: Any) -> None:
    selector = selectors.DefaultSelector()
    for one in connections:
        selector.register(one, selectors.EVENT_READ, msgpack.Unpacker(raw=False))
    while True:
        for key, _ in selector.select():
            client: Any = key.fileobj
            try:
                data = client.recv(1 << 18)
            except OSError:
                data = b""
            if not data:
                selector.unregister(client)
                continue
            key.data.feed(data)
            for kind, id_, *_rest in key.data:
                if kind == 1 and id_ is not None:
                    with contextlib.suppress(OSError):
                        client.send(msgpack.packb([0, id_, method, [params]]))


def main(path: str, connections: str, requests: str, method: str, params: str, reads: str) -> None:
    """Asks, and says so; ends when it is killed."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    made = _ask(path, int(connections), int(requests), method, json.loads(params))
    sys.stdout.write("asked\n")
    sys.stdout.flush()
    if int(reads):
        _read(made, method, json.loads(params))
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
