"""What systemd hears: on real sockets, of the class, and of the real daemon's process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from imgstored.host.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds, however busy the machine is.
TIMEOUT = 30


class Listener:
    """Systemd's side: a datagram socket with a path, or an abstract one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(TIMEOUT)

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> str:
        """The next message, which may be still to come."""
        return self._socket.recv(4096).decode()

    def waiting(self) -> list[str]:
        """What was said and not heard yet."""
        messages = []
        self._socket.settimeout(0)
        try:
            while True:
                messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return messages
        finally:
            self._socket.settimeout(TIMEOUT)


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    name = f"imgstored-test-{os.getpid()}-{tmp_path.name}"
    made = Listener(str(tmp_path / "notify") if request.param == "path" else f"@{name}")
    yield made
    made.close()


def test_what_is_said(listener):
    notifier = Notifier(listener.address)
    notifier.ready()
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    ready, reloading, again, stopping = (listener.heard() for _ in range(4))
    assert (ready, again, stopping) == ("READY=1", "READY=1", "STOPPING=1")
    state, when = reloading.split("\n")
    assert state == "RELOADING=1"
    key, value = when.split("=")
    assert key == "MONOTONIC_USEC"
    assert 0 <= time.monotonic() * 1e6 - int(value) < TIMEOUT * 1e6


def test_without_systemd_nothing_is_said_and_nothing_fails():
    notifier = Notifier.of({})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    trio.run(notifier.watch)


def test_a_listener_that_is_gone_is_no_error(tmp_path):
    notifier = Notifier(str(tmp_path / "none"))
    notifier.ready()
    notifier.stopping()


def test_the_environment_is_read_and_then_forgotten(listener):
    environment = {"NOTIFY_SOCKET": listener.address, "WATCHDOG_USEC": "20000", "HOME": "/"}
    notifier = Notifier.of(environment)
    assert environment == {"HOME": "/"}
    notifier.ready()
    assert listener.heard() == "READY=1"

    async def main() -> None:
        with trio.move_on_after(TIMEOUT) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(notifier.watch)
                for _ in range(3):
                    assert await trio.to_thread.run_sync(listener.heard) == "WATCHDOG=1"
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught

    trio.run(main)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_waits_for_signs_of_life(listener, environment):
    notifier = Notifier.of({"NOTIFY_SOCKET": listener.address, **environment})
    trio.run(notifier.watch)
    assert listener.waiting() == []


def hang(listener: Listener) -> None:
    """The fault itself: something that blocks, where a hundred signs are due."""
    listener.waiting()
    time.sleep(0.2)
    assert listener.waiting() == []


def test_a_loop_that_hangs_gives_no_sign_of_life(listener):
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Notifier(listener.address, alive=0.002).watch)
            await trio.to_thread.run_sync(listener.heard)
            hang(listener)
            await trio.to_thread.run_sync(listener.heard)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_who_waits_at_the_pipe_is_told_once():
    reading, writing = os.pipe()
    notifier = Notifier(waiting=writing)
    notifier.ready()
    assert os.read(reading, 10) == b"\n"
    assert os.read(reading, 10) == b""
    notifier.ready()
    os.close(reading)


def test_nobody_waits_at_the_pipe_any_more():
    reading, writing = os.pipe()
    os.close(reading)
    Notifier(waiting=writing).ready()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writing)


@contextmanager
def daemon(folder: Path, listener: Listener, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    config = folder / "imgstored.toml"
    config.write_text(f'state = "{folder}/state"\n[socket]\npath = "{folder}/s.sock"\n[view]\nmode = "off"\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "imgstored", "--config", str(config)],
        env={**os.environ, "NOTIFY_SOCKET": listener.address, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_daemon_says_when_it_is_ready_reloading_and_stopping(tmp_path, listener):
    with daemon(tmp_path, listener) as process:
        assert listener.heard() == "READY=1"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s.sock"))
        process.send_signal(signal.SIGHUP)
        assert listener.heard().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert listener.heard() == "READY=1"
        # A file that is wrong changes nothing, and the daemon is ready all the same.
        (tmp_path / "imgstored.toml").write_text("nonsense")
        process.send_signal(signal.SIGHUP)
        assert listener.heard().startswith("RELOADING=1")
        assert listener.heard() == "READY=1"
        process.terminate()
        assert listener.heard() == "STOPPING=1"
        assert process.wait(TIMEOUT) == 0


def test_the_daemon_gives_signs_of_life_until_it_hangs(tmp_path, listener):
    with daemon(tmp_path, listener, WATCHDOG_USEC="100000") as process:
        assert listener.heard() == "READY=1"
        assert [listener.heard() for _ in range(4)] == ["WATCHDOG=1"] * 4
        process.send_signal(signal.SIGSTOP)
        while "State:\tT" not in Path(f"/proc/{process.pid}/status").read_text():
            time.sleep(0.01)
        listener.waiting()
        time.sleep(0.3)
        assert listener.waiting() == []
        process.send_signal(signal.SIGCONT)
        assert listener.heard() == "WATCHDOG=1"


def test_a_start_that_fails_is_never_ready(tmp_path, listener):
    (tmp_path / "state").touch()
    with daemon(tmp_path, listener) as process:
        assert process.wait(TIMEOUT) != 0
        assert listener.waiting() == []
