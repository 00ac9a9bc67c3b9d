"""Trio is imported, runs, and is woken; and what is said if not."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest
import trio
from trio._core._wakeup_socketpair import WakeupSocketpair

from imgstored.errors import ConfigError
from imgstored.eventloop import trial
from tests.support.threads import no_threads_left
from tests.support.waits_by import WAITS_BY


def test_what_trio_waits_by():
    with no_threads_left():
        assert trial.waits_by() == WAITS_BY


async def test_beside_a_trio_that_runs_already():
    """As the doctor does it in the daemon."""
    assert await trio.to_thread.run_sync(trial.waits_by) == WAITS_BY


def test_an_import_that_fails(monkeypatch):
    monkeypatch.delitem(sys.modules, "imgstored.eventloop.wakeup")
    monkeypatch.delattr("imgstored.eventloop.wakeup")
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ConfigError, match="trio cannot be imported: ModuleNotFoundError: ") as caught:
        trial.waits_by()
    assert sys.executable in caught.value.message
    assert "trio" in caught.value.hint


def test_a_run_that_fails(monkeypatch):
    def refused(*_: object, **__: object) -> None:
        raise OSError(22, "Invalid argument")

    # As the first thing to be tried on illumos could: its socket pair with buffers of one byte.
    monkeypatch.setattr("socket.socketpair", refused)
    with pytest.raises(ConfigError, match=r"trio does not run: .*Invalid argument"):
        trial.waits_by()


@pytest.mark.parametrize("works", [0, 1])
def test_a_thread_that_does_not_wake_it(monkeypatch, works):
    """The bytes that threads send do not come, or not a second time: trio sleeps on."""
    awake = WakeupSocketpair.wakeup_thread_and_signal_safe
    lost: list[WakeupSocketpair] = []

    def wake(self: WakeupSocketpair) -> None:
        lost.append(self)
        if len(lost) <= works:
            awake(self)

    before = set(threading.enumerate())
    monkeypatch.setattr(WakeupSocketpair, "wakeup_thread_and_signal_safe", wake)
    with pytest.raises(ConfigError, match=r"trio was not woken by a thread within 0\.5 s"):
        trial.waits_by(timeout=0.5)
    assert len(lost) == works + 1
    # It sleeps still, in a thread of its own.
    monkeypatch.undo()
    awake(lost[-1])
    while set(threading.enumerate()) - before:
        time.sleep(0.01)


def test_a_fork_may_follow():
    trial.waits_by()
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if trial.waits_by() == WAITS_BY else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
