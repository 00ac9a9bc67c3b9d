"""One running imgstored for many tests, because a start costs more than most tests."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from imgctl import RemoteError

from tests.support.daemon import Daemon

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

#: What a daemon's state folder may have more than at its start though nothing is left over.
_STAYS = ("history.sqlite", "journal.sqlite", "locks/", "lists/")


class SharedDaemon:
    """Lends a daemon in which nothing is installed to one test after another.

    A test may do with it what it likes: whatever does not leave it as it was gets a new one for the next.
    With `crashing` it is tests/support/crashing_daemon.py, which dies where `Daemon.die_at` says.
    Its history goes on, and is no test's own.
    """

    def __init__(self, folder: Path, *, crashing: bool = False) -> None:
        self._folder = folder
        self._crashing = crashing
        self._daemon: Daemon | None = None
        self._common = ""  # its configuration without sources
        self._lent = ""
        self._bare: set[str] = set()  # the files of its state at the start
        self._seen: set[str] = set()
        self._made = 0

    def __enter__(self) -> SharedDaemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def lend(self, url: str, source: str) -> Daemon:
        """A daemon that has the server at `url` as its only source; `source` is that in its configuration."""
        if url in self._seen:
            self._discard()  # it may still believe an older list
        self._seen.add(url)
        if self._daemon is None:
            self._daemon = self._started(source)
        else:
            self._daemon.config_file.write_text(self._common + source)
            os.kill(self._daemon.pid, signal.SIGHUP)
            _wait_for_source(self._daemon, url)
        self._lent = self._daemon.config_file.read_text()
        return self._daemon

    def take_back(self) -> None:
        """Deletes what is installed. A daemon that is not as it was then is stopped."""
        daemon = self._daemon
        if daemon is None:
            return
        daemon.die_at("")
        if self._as_it_was(daemon):
            daemon.check_file_calls()
        else:
            self._discard()

    def _started(self, source: str) -> Daemon:
        self._made += 1
        daemon = Daemon(self._folder / str(self._made))
        self._common = daemon.config_file.read_text()
        daemon.config_file.write_text(self._common + source)
        daemon.start(dies="" if self._crashing else None)
        self._bare = _files(daemon)
        return daemon

    def _as_it_was(self, daemon: Daemon) -> bool:
        if daemon.process is None or daemon.process.poll() is not None:
            return False
        if daemon.config_file.read_text() != self._lent:
            return False
        try:
            with daemon.client() as client:
                if client.jobs():
                    return False
                while leaves := [image for image in client.list() if not image["clones"]]:
                    for image in leaves:
                        client.delete(image["manifest"]["uuid"])
        except RemoteError:
            return False
        return all(name.startswith(_STAYS) for name in _files(daemon) - self._bare)

    def _discard(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            daemon.__exit__(None, None, None)


def _wait_for_source(daemon: Daemon, url: str) -> None:
    deadline = time.monotonic() + daemon.timeout
    with daemon.client() as client:
        while [source["url"] for source in client.sources()] != [url]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"imgstored does not read its sources again:\n{daemon.log.read_text()}")
            time.sleep(0.005)


def _files(daemon: Daemon) -> set[str]:
    state = daemon.folder / "state"
    return {str(path.relative_to(state)) for path in state.rglob("*") if path.is_file()}
