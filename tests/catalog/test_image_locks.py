"""imgadm's per-image lock, beside a second process that takes it."""

from __future__ import annotations

import errno
import os
import stat

import pytest
import trio
import trio.testing

from imgstored.catalog import image_locks
from imgstored.catalog.image_locks import ImageLocks
from imgstored.errors import ConfigError, InvalidUUIDError, PoolError
from tests.support.image_site import BASE, ZVOL
from tests.support.lock_holder import LockHolder, is_free, lock_file


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def locks(folder):
    return ImageLocks(folder)


async def test_a_lock_that_nobody_has_is_taken_at_once_and_its_file_stays(locks, folder):
    async with locks.held(BASE, lambda: pytest.fail("nobody was waited for")) as waited:
        assert not waited
        assert not is_free(folder, BASE)
        assert is_free(folder, ZVOL)
    assert is_free(folder, BASE)
    assert stat.S_IMODE(lock_file(folder, BASE).stat().st_mode) == 0o644


async def test_another_process_is_waited_for_and_that_is_said_once(locks, folder, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_ANNOUNCE_AFTER", 0.05)
    said = trio.Event()
    times = []

    def on_wait() -> None:
        times.append(trio.current_time())
        said.set()

    with LockHolder(folder, BASE) as imgadm:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with locks.held(BASE, on_wait) as waited:
                    assert waited
                    assert not is_free(folder, BASE)

            nursery.start_soon(wait)
            await said.wait()
            await trio.sleep(0.1)
            imgadm.release()
    assert len(times) == 1


@pytest.mark.slow
async def test_it_is_said_after_a_second_and_the_lock_of_who_was_killed_is_free(locks, folder):
    began, times, said = trio.current_time(), [], trio.Event()

    def on_wait() -> None:
        times.append(trio.current_time() - began)
        said.set()

    with LockHolder(folder, BASE) as imgadm, trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with locks.held(BASE, on_wait) as waited:
                    assert waited

            nursery.start_soon(wait)
            await said.wait()
            imgadm.kill()
    assert len(times) == 1
    assert times[0] > 1


async def test_within_the_process_they_take_turns(locks, folder, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    inside, order = 0, []

    async def work(number: int) -> None:
        nonlocal inside
        async with locks.held(BASE) as waited:
            inside += 1
            assert inside == 1
            order.append((number, waited))
            await trio.sleep(0.03)
            # A failed try must not give the lock up: it is a POSIX lock of this process.
            with locks.tried(BASE) as got:
                assert not got
            assert not await trio.to_thread.run_sync(is_free, folder, BASE)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(work, number)
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert order == [(0, False), (1, True), (2, True)]


async def test_who_is_cancelled_while_waiting_leaves_the_line(locks, folder, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with locks.held(BASE):
                raise AssertionError("it was not free")

    async with locks.held(BASE), trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(wait, scope)
        await trio.testing.wait_all_tasks_blocked(0.001)
        scope.cancel()
    async with locks.held(BASE) as waited:
        assert not waited
    assert is_free(folder, BASE)
    assert (locks._queues, locks._taken) == ({}, {})


def test_a_thread_gets_it_or_is_told_no(locks, folder):
    with locks.tried(BASE) as got:
        assert got
        assert not is_free(folder, BASE)
    with LockHolder(folder, BASE), locks.tried(BASE) as got:
        assert not got
    with locks.tried(BASE) as got:
        assert got


async def test_the_lock_ends_with_an_error_in_the_block(locks, folder):
    with pytest.raises(ZeroDivisionError):
        async with locks.held(BASE):
            raise ZeroDivisionError
    assert is_free(folder, BASE)


async def test_where_there_can_be_no_lock_it_is_said_what_to_do(locks, folder, tmp_path, monkeypatch):
    lock_file(folder, BASE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="lock file") as refused:
        async with locks.held(BASE):
            pass
    assert refused.value.hint
    assert not (tmp_path / "elsewhere").exists()
    lock_file(folder, BASE).unlink()
    folder.rmdir()
    with pytest.raises(ConfigError, match="No such file"), locks.tried(BASE):
        pass
    with pytest.raises(InvalidUUIDError), locks.tried("../x"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="imgadm_locks"):
        ImageLocks(tmp_path / "file")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(PoolError, match="no space for the lock file"), locks.tried(BASE):
        pass
