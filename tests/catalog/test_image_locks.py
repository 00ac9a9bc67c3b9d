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
from imgstored.errors import ConfigError, ImageLockedError, InvalidUUIDError, PoolError
from tests.support.image_site import BASE, ZVOL
from tests.support.lock_holder import LockHolder, is_free, lock_file
from tests.support.other_user import LOCK, UID, OtherUser


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def locks(folder):
    return ImageLocks(folder)


async def test_a_lock_that_nobody_has_is_taken_at_once_and_its_file_stays(locks, folder):
    async with locks.held(BASE, lambda who: pytest.fail(f"{who} was waited for")) as waited:
        assert not waited
        assert not is_free(folder, BASE)
        assert is_free(folder, ZVOL)
    assert is_free(folder, BASE)
    assert stat.S_IMODE(lock_file(folder, BASE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_another_process_is_waited_for_and_that_is_said_once(locks, folder, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_ANNOUNCE_AFTER", 0.05)
    said = trio.Event()
    times = []

    def on_wait(holder: str) -> None:
        times.append(holder)
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
    assert [holder.split()[:2] for holder in times] == [["pid", str(imgadm.pid)]]


@pytest.mark.slow
async def test_it_is_said_after_a_second_and_the_lock_of_who_was_killed_is_free(locks, folder):
    began, times, said = trio.current_time(), [], trio.Event()

    def on_wait(_: str) -> None:
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


@pytest.fixture
def imgadms(folder, locks):
    """A lock file as imgadm makes it, in a folder that everybody gets through."""
    folder.chmod(0o755)
    path = lock_file(folder, BASE)
    path.touch()
    path.chmod(0o644)
    return path


async def test_a_lock_that_cannot_be_imgadms_is_not_waited_for_as_long(locks, folder, imgadms, monkeypatch):
    """Anybody can take a read lock of a file that all may read, and a write lock waits for that."""
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_ANNOUNCE_AFTER", 0.05)
    monkeypatch.setattr(image_locks, "_FOREIGN_TIMEOUT", 0.2)
    told: list[str] = []
    with (
        OtherUser(folder, LOCK, imgadms.name, "lockf", "LOCK_SH") as other,
        trio.fail_after(30),
        pytest.raises(ImageLockedError, match=f"is held by pid {other.pid} ") as refused,
    ):
        async with locks.held(BASE, told.append, seconds=3600):
            pytest.fail("it was not free")
    assert told == [str(refused.value).rpartition("held by ")[2]]
    assert refused.value.data == {"pid": other.pid}
    assert "this is no imgadm" in refused.value.hint
    assert (locks._queues, locks._taken) == ({}, {})
    async with locks.held(BASE):
        assert not is_free(folder, BASE)


async def test_imgadm_is_waited_for_up_to_a_limit(locks, folder, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    monkeypatch.setattr(image_locks, "_FOREIGN_TIMEOUT", 0.0)
    with LockHolder(folder, BASE) as imgadm, trio.fail_after(30):
        began = trio.current_time()
        with pytest.raises(ImageLockedError, match=f"is held by pid {imgadm.pid} ") as refused:
            async with locks.held(BASE, seconds=0.3):
                pytest.fail("it was not free")
    assert trio.current_time() - began > 0.3
    assert "try again" in refused.value.hint


async def test_who_waits_for_another_request_waits_up_to_a_limit(locks, monkeypatch):
    monkeypatch.setattr(image_locks, "_PAUSE", 0.01)
    expected = pytest.raises(ImageLockedError, match="another request of this imgstored")
    async with locks.held(BASE):
        with trio.fail_after(30), expected:
            async with locks.held(BASE, seconds=0.1):
                pytest.fail("it was not free")


def test_imgadms_file_is_roots_alone_from_then_on(locks, folder, imgadms):
    with OtherUser(folder, LOCK, imgadms.name, "lockf", "LOCK_SH"):
        pass
    with locks.tried(BASE) as got:
        assert got
    assert stat.S_IMODE(imgadms.stat().st_mode) == 0o600
    if os.geteuid() != UID:
        with pytest.raises(RuntimeError), OtherUser(folder, LOCK, imgadms.name, "lockf", "LOCK_SH"):
            pass


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
