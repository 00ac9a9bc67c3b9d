"""Starts daemons by fork from a process that has imported all of them: thousands of starts cost little.

`python -m tests.proofs.forks` is that process. Each daemon is a process of its own, with the real `main`.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from werkzeug.routing import Rule

from tests.proofs.recording import SYNCED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

_NO_SYNC = "--no-sync"

#: What a daemon imports, and what that imports when it is needed.
_MODULES = (
    "httpx2",
    "isal.isal_zlib",
    "numpy",
    "zstandard",
    "imgstored.app",
    "imgstored.doctor.doctor",
    "imgstored.serve.application",
    "imgstored.serve.endpoint",
    "imgstored.serve.page",
    "imgstored.serve.publishing",
    "imgstored.serve.writers",
    "imgstored.transfer.decompress.deflate",
    "imgstored.transfer.decompress.zstd",
)


class Forks:
    """The process. `fork` starts a daemon, and returns its pid.

    `syncs` is False for daemons that believe that they sync, and do not: what is to be found then is found.
    `environment` is added to that of the process.
    """

    def __init__(self, *, syncs: bool = True, environment: Mapping[str, str] | None = None) -> None:
        self._syncs = syncs
        self._environment = environment or {}

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.proofs.forks", *([] if self._syncs else [_NO_SYNC])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **self._environment},
            text=True,
        )
        assert self._ask({"do": "hello"}) == {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def fork(self, config: Path, log: Path, notify: str, armed: Path | None) -> int:
        """Starts a daemon that says on the datagram socket `notify` when it is ready."""
        told = self._ask(
            {
                "do": "fork",
                "config": str(config),
                "log": str(log),
                "notify": notify,
                "armed": None if armed is None else str(armed),
            }
        )
        return int(told["pid"])

    def ended(self, pid: int, seconds: float) -> int | None:
        """The status of a daemon that has ended, negative for a signal; None if it has not after so long."""
        status: int | None = self._ask({"do": "wait", "pid": pid, "seconds": seconds})["status"]
        return status

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(what) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer


class Daemon:
    """One daemon after another on one folder."""

    def __init__(self, forks: Forks, folder: Path, *, armed: Path | None = None) -> None:
        self._forks = forks
        self.folder = folder
        self.config = folder / "imgstored.toml"
        self.socket = folder / "sock"
        self.log = folder / "log"
        self.pid = 0
        self._armed = armed
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(folder / "ready"))

    def start(self, seconds: float = 60) -> None:
        """Returns when it answers. Raises `RuntimeError` if it does not start."""
        self.log.write_bytes(b"")
        self._ready.settimeout(0.2)
        self.pid = self._forks.fork(self.config, self.log, str(self.folder / "ready"), self._armed)
        deadline = time.monotonic() + seconds
        while True:
            try:
                if b"READY=1" in self._ready.recv(1 << 12):
                    return
            except TimeoutError:
                status = self._forks.ended(self.pid, 0)
                if status is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"it did not start ({status}):\n{self.log.read_text()}") from None

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        status = self._forks.ended(self.pid, 60)
        assert status == -signal.SIGKILL, status

    def died(self, seconds: float) -> bool:
        """Whether it dies within so many seconds. Raises `RuntimeError` if it ends in any other way."""
        status = self._forks.ended(self.pid, seconds)
        if status not in (None, -signal.SIGKILL):
            raise RuntimeError(f"it ended with {status}:\n{self.log.read_text()}")
        return status is not None

    def status(self, seconds: float) -> int | None:
        """Its status if it ends within so many seconds, negative for a signal; None if it does not."""
        return self._forks.ended(self.pid, seconds)

    def stop(self) -> None:
        """SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        status = self._forks.ended(self.pid, 60)
        if status != 0:
            raise RuntimeError(f"it ended with {status}:\n{self.log.read_text()}")

    def close(self) -> None:
        """Ends what still runs."""
        if self.pid and self._forks.ended(self.pid, 0) is None:
            self.kill()
        self._ready.close()


def _serve() -> None:
    ended: dict[int, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if asked["do"] == "fork":
            answer["pid"] = _fork(asked)
            ended.pop(answer["pid"], None)  # of an earlier process with this number
        elif asked["do"] == "wait":
            answer["status"] = _waited(asked["pid"], asked["seconds"], ended)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _waited(pid: int, seconds: float, ended: dict[int, int]) -> int | None:
    deadline = time.monotonic() + seconds
    pause = 0.0005
    while pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() >= deadline:
            return None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)
    return ended[pid]


def _fork(asked: dict[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDWR)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.environ["NOTIFY_SOCKET"] = asked["notify"]
        if asked["armed"] is not None:
            from tests.proofs import fail_points

            fail_points.listen(Path(asked["armed"]))
        if "IMGSTORE_NO_MEMORY" in os.environ:
            from imgstored import daemon

            daemon.LEAST_SECONDS, daemon.LOOK_SECONDS = 0.0, 0.05
        from imgstored.__main__ import main

        status = main(["--config", asked["config"]])
    except BaseException:  # noqa: BLE001  (whatever it is, the child must not go on as the parent)
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _said(sync_all: Callable[[int], None]) -> Callable[[int], None]:
    """Syncs all of a file system, and says so to one that records what happens to it."""

    def synced(fd: int) -> None:
        sync_all(fd)
        with suppress(OSError):
            os.getxattr(fd, SYNCED)

    return synced


def _make_once() -> None:
    """What each daemon would make anew, and is always the same."""
    from imgstored.config.tables import Config
    from imgstored.config.text import faults
    from imgstored.library.library import Library
    from imgstored.serve.application import Application

    faults({}, Config)
    compiled: dict[tuple[str, bool], Callable[..., tuple[str, str]]] = {}
    compile_builder = Rule._compile_builder

    def once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        key = rule.rule, append_unknown
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    Rule._compile_builder = once  # type: ignore[method-assign]
    Application(Library(Path("/nowhere"), 0))


def _warm_up() -> None:
    """Imports all that a daemon imports, some of it late."""
    from imgstored.host import filesystem
    from tests.proofs import fail_points

    for module in _MODULES:
        import_module(module)
    _make_once()
    fail_points.install()
    filesystem.sync_all = _said(filesystem.sync_all)
    if _NO_SYNC in sys.argv:
        os.fsync = lambda fd: None  # type: ignore[assignment]
        filesystem.sync_all = lambda fd: None
    # What is there now is shared by all children: their collectors need not look at it.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _warm_up()
    _serve()
