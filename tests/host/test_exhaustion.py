"""What the process has run out of, and what follows of that."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import structlog
import trio

from imgstored import log
from imgstored.config.tables import LogTable
from imgstored.errors import InternalError, PoolError
from imgstored.host import exhaustion


@pytest.fixture(autouse=True)
def nothing_noted(monkeypatch):
    monkeypatch.setattr(exhaustion, "_doubtful", False)


def caused_by(cause):
    error = PoolError("it failed")
    error.__cause__ = ValueError("x")
    error.__cause__.__context__ = cause
    return error


SHORT = "too little memory"


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (MemoryError(), SHORT),
        (OSError(errno.ENOMEM, "x"), SHORT),
        (SystemError("<f> returned NULL without setting an exception"), SHORT),
        (RuntimeError("can't allocate read lock"), SHORT),
        (SystemError("error return without exception set"), SHORT),
        (TypeError("stat: path should be string, bytes, os.PathLike or integer, not PosixPath"), SHORT),
        (TypeError("rename: src should be string, bytes or os.PathLike, not PosixPath"), SHORT),
        (TypeError("listdir: path should be string, bytes, integer or None, not PosixPath"), SHORT),
        (TypeError("expected str, bytes or os.PathLike object, not PosixPath"), SHORT),
        (ExceptionGroup("x", [KeyError("x"), MemoryError()]), SHORT),
        (
            RuntimeError("can't start new thread"),
            "no memory for a thread, or as many threads as it may have",
        ),
    ],
)
def test_what_has_run_out(cause, what):
    found = exhaustion.behind(caused_by(cause))
    assert found.what == what
    mistake = InternalError.unexpected("a query", caused_by(cause))
    assert (mistake.message, mistake.hint) == (f"a query failed: the daemon has {what}", found.hint)


def test_an_error_without_a_shortage_is_none_of_it():
    error = caused_by(FileNotFoundError(errno.ENOENT, "no such file"))
    assert exhaustion.behind(error) is None
    error.__context__ = error  # a circle
    assert exhaustion.behind(error) is None
    message = InternalError.unexpected("a query", error).message
    assert message == "a query failed because of a fault in imgstored"


def test_memory_alone_leaves_doubts():
    for error in (KeyError("x"), OSError(errno.EMFILE, "x"), caused_by(ValueError("x"))):
        exhaustion.note(error)
    assert not exhaustion.is_noted()
    exhaustion.note(caused_by(MemoryError()))
    assert exhaustion.is_noted()


def test_a_logged_traceback_is_noted(capsys):
    log.set_up(LogTable())
    try:
        [][0]
    except IndexError as error:
        error.__context__ = MemoryError()
        structlog.get_logger("x").exception("something failed")
    assert exhaustion.is_noted()
    assert "something failed" in capsys.readouterr().err
    structlog.reset_defaults()


def test_a_log_without_memory_fails_nothing(capsys):
    class Greedy:
        def __repr__(self) -> str:
            raise MemoryError

    log.set_up(LogTable())
    structlog.get_logger("x").warning("something failed", value=Greedy())
    assert exhaustion.is_noted()
    structlog.reset_defaults()


@pytest.fixture
def watched(monkeypatch):
    """Threads are watched, as in the daemon."""
    monkeypatch.setattr(trio.to_thread, "run_sync", trio.to_thread.run_sync)
    monkeypatch.setattr(exhaustion, "_calls", set())
    exhaustion.watch_threads()


async def test_a_thread_whose_result_is_lost_is_noted(monkeypatch, capfd, watched):
    """Wherever it was lost: here before trio has been asked to take it. Other threads go on meanwhile."""

    def out_of_memory(*_):
        raise MemoryError

    async def works() -> None:
        while True:
            await trio.to_thread.run_sync(time.sleep, 0.001)

    release = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exhaustion.look_for_lost_results, 0.01)
        nursery.start_soon(partial(trio.to_thread.run_sync, release.wait, abandon_on_cancel=True))
        await trio.to_thread.run_sync(time.sleep, 0.5)
        assert not exhaustion.is_noted()
        with monkeypatch.context() as patched:
            patched.setattr(trio._threads, "contextlib", SimpleNamespace(suppress=out_of_memory))
            release.set()
            said = ""
            while "Exception while delivering result of thread" not in said:
                said += capfd.readouterr().err
                await trio.sleep(0.01)
        nursery.start_soon(works)
        with trio.fail_after(30):
            while not exhaustion.is_noted():  # noqa: ASYNC110 (a task notes it)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_threads_that_have_much_to_do_lose_nothing(watched):
    """A thread that goes on with other work before its result was taken is not missing."""

    async def works() -> None:
        for _ in range(100):
            await trio.to_thread.run_sync(time.sleep, 0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exhaustion.look_for_lost_results, 0.02)
        async with trio.open_nursery() as working:
            for _ in range(30):
                working.start_soon(works)
        nursery.cancel_scope.cancel()
    assert not exhaustion.is_noted()
    assert exhaustion._calls == set()


async def test_a_watched_thread_has_its_name(watched):
    assert (await trio.to_thread.run_sync(lambda: threading.current_thread().name)).startswith(
        "<lambda> from "
    )


#: A daemon whose end hangs, as tasks do that were lost; it is told in one of three ways to end.
HANGS = """
import signal, sys, time, structlog
from imgstored import daemon
from imgstored.host import exhaustion
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
daemon._STOP_SECONDS, daemon.LOOK_SECONDS, daemon.LEAST_SECONDS = 0.1, 0.01, 0.0
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
end = daemon.End()
{tells}
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("tells", "said", "status"),
    [
        ("end.begin()", "", 0),
        ("end.begin(1); end.begin()", "", 1),
        ("exhaustion.note(MemoryError())", "asked to end\n", 1),
    ],
)
def test_a_daemon_that_does_not_end_is_ended(tells, said, status):
    command = [sys.executable, "-c", HANGS.format(tells=tells)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == (said, status), done.stderr


#: Nobody reads the log, and the pipe that it goes to is full.
FULL = """
import fcntl, os
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, bytes(1 << 12))
except BlockingIOError:
    os.set_blocking(writer, True)
os.dup2(writer, 2)
"""

#: The look for lost threads fails by what CPython says where it has lost an error.
UNSAID = """
def fails(self):
    raise SystemError("error return without setting an exception")
daemon.End._look_for_lost_threads = fails
time.sleep(0.1)
end.begin(1)
"""


@pytest.mark.parametrize("tells", [FULL + "end.begin(1)", FULL + "exhaustion.note(MemoryError())", UNSAID])
def test_nothing_holds_up_its_end(tells):
    command = [sys.executable, "-c", HANGS.format(tells=tells)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, timeout=40, check=False)
    assert done.returncode == 1


def test_a_daemon_that_ends_by_itself_is_left_alone():
    script = HANGS.partition("deadline")[0].format(tells="end.begin(1); end.done()") + "time.sleep(0.5)"
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == 0


#: A thread dies before it has begun, as for want of memory, and who started it waits for ever.
DIES = """
import threading
daemon._BEGIN_SECONDS = 0.1
class Dies(threading.Thread):
    def _set_ident(self):
        raise MemoryError
Dies(daemon=True).start()
"""


def test_a_thread_that_dies_before_it_begins_ends_the_daemon():
    command = [sys.executable, "-c", HANGS.format(tells=DIES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("asked to end\n", 1), done.stderr


#: The thread that ends such a daemon lacks memory itself, again and again.
GREEDY = """
import time
def out_of_memory(*_):
    if len(failed) < 20:
        failed.append(1)
        raise MemoryError
    return real()
failed, real = [], time.monotonic
time.monotonic, deadline = out_of_memory, real() + 60
while real() < deadline:
    time.sleep(0.01)
"""


def test_what_ends_a_daemon_survives_a_lack_of_memory():
    script = HANGS.partition("deadline")[0].format(tells="exhaustion.note(MemoryError())") + GREEDY
    script = script.replace("daemon.LOOK_SECONDS, ", "").replace("0.1, 0.01, 0.0", "0.1, 0.0")
    script = script.replace("daemon._STOP_SECONDS", "daemon.LOOK_SECONDS = 0.2\ndaemon._STOP_SECONDS")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.returncode) == ("asked to end\n", 1), done.stderr
