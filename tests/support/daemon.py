"""Runs the real imgstored, and the real imgctl against it, in their own folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgctl import Client, RemoteError

from tests.support import file_calls
from tests.support.checked_client import CheckedClient
from tests.support.waits_by import WAITS_BY, has_epoll
from tests.support.without import environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

CHAIN_BASE = "11111111-aaaa-4bbb-8ccc-000000000001"
CHAIN_TOP = "11111111-aaaa-4bbb-8ccc-000000000002"
ZVOL = "11111111-aaaa-4bbb-8ccc-000000000003"
#: Those that were killed and did not end.
_LASTING: list[subprocess.Popen[bytes]] = []


class Daemon:
    """imgstored as a child process. `folder` keeps its state: another one can go on where it stopped.

    `before` is what runs it: a command that ends with `exec "$@"`.
    `timeout` is how many seconds it may take to start, and to stop, on a busy machine. Neither it nor imgctl
    finds the Python packages `without`.
    """

    program = "imgstored"  #: the module that is run

    def __init__(
        self,
        folder: Path,
        *,
        top: str = "",
        config: str = "",
        view: str = "files",
        timeout: float = 30,
        before: Sequence[str] = (),
        without: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.environment = environment(*without) if without else dict(os.environ)
        self.timeout = timeout
        #: Words of a command that runs it by exec, as `unshare` does.
        self.before = tuple(before)
        self.socket = folder / "imgstored.sock"
        self.images = folder / "images"
        self.log = folder / "imgstored.log"
        self._dies = folder / "dies"
        self._file_calls = folder / "file-calls"
        folder.mkdir(exist_ok=True)
        self.images.mkdir(exist_ok=True)
        self.config_file = folder / "imgstored.toml"
        self.config_file.write_text(
            f'state = "{folder}/state"\n{top}\n'
            f'[socket]\npath = "{self.socket}"\n'
            f'[view]\nmode = "{view}"\npath = "{self.images}"\n' + config
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if str(self.images) in Path("/proc/mounts").read_text():
            # A daemon that was killed could not.
            subprocess.run(["/usr/bin/fusermount3", "-u", "-z", str(self.images)], check=True)
        if error is None:
            self.check_file_calls()

    def check_file_calls(self) -> None:
        """Fails if it called files in its event loop's thread."""
        if self._file_calls.exists():
            calls = self._file_calls.read_text().splitlines()
            self._file_calls.unlink()
            raise AssertionError(file_calls.message(calls))

    def start(self, *, dies: str | None = None) -> None:
        """Starts, and returns once it answers. With `dies`, as of `die_at`, it can be told where to die."""
        program = ["tests.support.watched_daemon"] if self.program == "imgstored" else [self.program]
        if dies is not None:
            program = ["tests.support.crashing_daemon", str(self._dies)]
            self.die_at(dies)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-m", *program, "--config", str(self.config_file)],
                env={**self.environment, file_calls.REPORT: str(self._file_calls)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + self.timeout
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"imgstored did not start:\n{self.log.read_text()}")
            time.sleep(0.005)
        assert has_epoll(self.pid) == (WAITS_BY == "epoll"), f"it is to wait by {WAITS_BY}"

    def die_at(self, point: str) -> None:
        """Where it dies, if started with `dies`: a point of tests/support/crashing_daemon.py, or ""."""
        self._dies.write_text(point)

    def _answers(self) -> bool:
        try:
            with Client(str(self.socket)) as client:
                client.call("hello", client="tests", protocol=1)
        except RemoteError:
            return False
        return True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """SIGTERM; returns the exit status. Raises if that takes more than `timeout`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=self.timeout)

    def kill(self) -> None:
        """SIGKILL. Raises, with where in the kernel it is, if it does not end in `timeout` seconds."""
        assert self.process is not None
        self.process.kill()
        try:
            self.process.wait(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            # Its end would be waited for again, and be warned of in another test.
            where = threads_of(self.pid)
            _LASTING.append(self.process)
            self.process = None
            raise RuntimeError(f"imgstored was killed, and does not end:\n{where}") from None

    def client(self) -> Client:
        """A client that fails for what is not as the protocol says."""
        return CheckedClient(str(self.socket))

    def imgctl(
        self, *arguments: str, check: bool = False, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs the real command."""
        return subprocess.run(
            [sys.executable, "-m", "imgctl", *arguments],
            env={**self.environment, "IMGSTORED_SOCKET": str(self.socket)},
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )


def threads_of(pid: int) -> str:
    """Each thread of a process: its name, state and signals, and where in the kernel it is."""
    wanted = ("Name:", "State:", "SigPnd:", "ShdPnd:", "SigBlk:")
    shown = []
    for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
        with contextlib.suppress(OSError):
            status = [line for line in (task / "status").read_text().splitlines() if line.startswith(wanted)]
            shown.append(f"{task.name} {' '.join(status)}\n{(task / 'stack').read_text()}")
    return "\n".join([*shown, *_runnable(), _processors()])


def _runnable() -> list[str]:
    """Each thread of the machine that runs or waits for a processor, and the processor."""
    shown = []
    for stat in Path("/proc").glob("[0-9]*/task/*/stat"):
        with contextlib.suppress(OSError):
            name, fields = stat.read_text().rsplit(")", 1)
            if fields.split()[0] == "R":
                shown.append(f"{name}) runnable on processor {fields.split()[36]}")
    return shown


def _processors() -> str:
    """What each processor does, as the kernel of the guest tells."""
    if not os.environ.get("IMGSTORE_GUEST"):
        return ""
    Path("/proc/sysrq-trigger").write_text("l")
    time.sleep(1)
    return subprocess.run(["dmesg"], capture_output=True, text=True, check=False).stdout[-6000:]
