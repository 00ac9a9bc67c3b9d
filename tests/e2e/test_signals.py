"""Signals come to the daemon's main thread alone, whatever its threads are at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from imgstored.host.signals import BLOCKED
from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import started, until
from tests.host.test_signals import blocked
from tests.support.daemon import CHAIN_BASE, Daemon


class HeldUpDaemon(Daemon):
    """Its first import is in a system call until `let_go`."""

    def start(self, *, dies: str | None = None) -> None:
        (self.folder / "inside").unlink(missing_ok=True)
        if not (self.folder / "gate").exists():
            os.mkfifo(self.folder / "gate")
        with self.log.open("ab") as log:
            program = ["tests.support.interruptible_pool", str(self.folder)]
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program, "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: self.process.poll() is not None or "ready" in self.log.read_text())

    def let_go(self) -> None:
        fd = os.open(self.folder / "gate", os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, b".")
        os.close(fd)

    def masks(self) -> dict[int, set[int]]:
        """The blocked signals of each thread."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return {int(task.name): blocked((task / "status").read_text()) for task in tasks}


def test_a_signal_during_a_call_of_the_pool_is_the_main_threads(tmp_path, served):
    daemon = HeldUpDaemon(tmp_path / "store", config=static_source(served.url))
    with daemon:
        importing = started(daemon, "import", CHAIN_BASE)
        until((daemon.folder / "inside").exists)
        # Only while it waits, which is nearly always.
        until(lambda: not daemon.masks()[daemon.pid] & BLOCKED)
        masks = daemon.masks()
        del masks[daemon.pid]
        # trio's threads and those of the import; each inherits it.
        assert len(masks) >= 3
        assert {thread: BLOCKED - mask for thread, mask in masks.items() if not mask >= BLOCKED} == {}
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "read the configuration again" in daemon.log.read_text())
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in daemon.log.read_text())
        assert not (daemon.folder / "outcome").exists()
        daemon.let_go()
        until((daemon.folder / "outcome").exists)
        assert daemon.process.wait(timeout=daemon.timeout) == 0
        importing.communicate(timeout=60)
    assert (daemon.folder / "outcome").read_text() == "1 0"
