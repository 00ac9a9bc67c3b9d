"""What only a mount has to do. It is read in other threads and processes only (see test_view.py)."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pyfuse3
import pytest
import structlog
import trio

from imgstored.errors import ConfigError
from imgstored.host.mounts import mounted_at
from imgstored.view import fuse, mountpoint, open_view
from imgstored.view.fuse import FuseView
from imgstored.view.operations import Operations
from imgstored.view.tree import ROOT_INODE, tree_of
from tests.view.images import image, running, uuid

aside = trio.to_thread.run_sync

#: A daemon's view in a process of its own, that says when it is mounted.
OTHER = """
import sys, trio
from pathlib import Path
from imgstored.view import open_view
from tests.view.images import image
async def main():
    async with trio.open_nursery() as nursery:
        await nursery.start(open_view("fuse", Path(sys.argv[1])).run, lambda: [image(1)])
        print("mounted", file=sys.stderr, flush=True)
trio.run(main)
"""


@pytest.fixture
def other(place):
    """Another process's view in the same place."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(place)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    assert process.stderr.readline() == b"mounted\n"
    yield process
    process.kill()
    process.wait()
    process.stderr.close()


def read(place, number):
    return json.loads((place / uuid(number) / "manifest.json").read_bytes())


def unmounted(place):
    return mounted_at(place) is None and list(place.iterdir()) == []


# -- the place -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fuse", "auto", "files"])
async def test_the_mount_of_a_killed_daemon_is_taken_over(place, other, mode):
    assert await aside(read, place, 1) == image(1).manifest
    other.send_signal(signal.SIGKILL)
    other.wait()
    with pytest.raises(OSError, match="not connected"):
        list(place.iterdir())
    view = open_view(mode, place)
    async with running(view, [image(2)]):
        assert await aside(read, place, 2) == image(2).manifest
        assert not await aside((place / uuid(1)).exists)
    assert mounted_at(place) is None


async def test_a_live_mount_of_another_is_refused_and_left(place, other):
    for mode in ("fuse", "files", "auto"):
        with pytest.raises(ConfigError, match=r"mount already|not empty") as caught:
            async with running(open_view(mode, place)):
                pass
        assert caught.value.hint
        assert await aside(read, place, 1) == image(1).manifest


async def test_a_folder_that_is_not_empty_is_refused_and_left(place):
    place.mkdir()
    (place / "letter").write_text("mine")
    for mode in ("fuse", "files", "auto"):
        with pytest.raises(ConfigError, match="not empty: it has letter") as caught:
            async with running(open_view(mode, place)):
                pass
        assert "view.path" in caught.value.hint
    assert [path.name for path in place.iterdir()] == ["letter"]


@pytest.mark.parametrize("mode", ["fuse", "files"])
async def test_a_place_that_is_no_folder_is_refused(place, mode):
    place.write_text("a file")
    with pytest.raises(ConfigError, match="cannot use") as caught:
        async with running(open_view(mode, place)):
            pass
    assert caught.value.hint
    assert place.read_text() == "a file"


async def test_the_mount_is_where_a_link_leads(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    place.mkdir()
    async with running(open_view("fuse", tmp_path / "link"), [image(1)]):
        assert await aside(read, place, 1) == image(1).manifest
    assert unmounted(place)


async def test_files_of_ours_give_way_to_a_mount_and_come_back(place):
    async with running(open_view("files", place), [image(1), image(2, origin=1)]):
        pass
    async with running(open_view("fuse", place), [image(3)]):
        assert await aside(read, place, 3) == image(3).manifest
    assert unmounted(place)
    async with running(open_view("files", place), [image(1)]):
        assert read(place, 1) == image(1).manifest


async def test_auto_that_takes_files_shows_what_is_installed_by_then(place, tmp_path, monkeypatch):
    """An image that comes while the mount is tried is shown, and one that goes is not."""
    installed = [image(1), image(2)]

    async def fails(*_, **__):
        installed[:] = [image(2), image(3)]
        raise ConfigError("it cannot be mounted")

    monkeypatch.setattr(FuseView, "run", fails)
    view = open_view("auto", place)
    async with trio.open_nursery() as nursery:
        await nursery.start(view.run, lambda: installed)
        assert view.kind == "files"
        assert [read(place, number)["uuid"] for number in (2, 3)] == [uuid(2), uuid(3)]
        assert not (place / uuid(1)).exists()
        nursery.cancel_scope.cancel()


async def test_there_is_one_mount_a_process_and_auto_takes_files_then(place, tmp_path):
    async with running(open_view("fuse", place), [image(1)]):
        with pytest.raises(ConfigError, match="has a FUSE mount already"):
            async with running(open_view("fuse", tmp_path / "second")):
                pass
        second = open_view("auto", tmp_path / "second")
        async with running(second, [image(2)]):
            assert second.kind == "files"
            await second.add(image(3))
            assert read(tmp_path / "second", 2) == image(2).manifest
            assert read(tmp_path / "second", 3) == image(3).manifest
        assert await aside(read, place, 1) == image(1).manifest


# -- the end -------------------------------------------------------------------------------------------------


async def test_it_is_unmounted_at_the_end(place):
    async with running(open_view("fuse", place), [image(1)]):
        assert mounted_at(place).kind == "fuse.imgstored"
    assert unmounted(place)


@pytest.mark.alone
async def test_it_is_unmounted_when_somebody_is_in_there(place, sits):
    async with running(open_view("fuse", place), [image(1)]):
        sitting = await aside(sits, place / uuid(1))
        assert (await aside(sitting.stdout.readline)) == b"in\n"
        begun = time.monotonic()
    assert time.monotonic() - begun < 1
    assert unmounted(place)
    sitting.communicate(timeout=5)


@pytest.fixture
def sits():
    """Starts processes that stay in a folder, and have a file of it open."""
    started = []

    def sit_down(folder):
        process = subprocess.Popen(
            ["sh", "-c", 'cd "$0" && exec 3<manifest.json && echo in && read x', folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield sit_down
    for process in started:
        process.kill()
        process.communicate()


async def test_somebody_else_unmounts_it(place):
    view = open_view("fuse", place)
    async with running(view, [image(1)]):
        await aside(mountpoint.unmount, place)
        assert await aside(unmounted, place)
        await view.add(image(2))
        await view.remove(image(1))
        (place / "theirs").touch()
    assert [path.name for path in place.iterdir()] == ["theirs"]


@pytest.fixture
def impatient(monkeypatch):
    """Looks often at whether it is still mounted."""
    monkeypatch.setattr(fuse, "_INTERVAL", 0.02)


async def until(condition):
    with trio.fail_after(20):
        while not await aside(condition):  # noqa: ASYNC110 - the kernel or a thread is waited for
            await trio.sleep(0.02)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
async def test_it_is_put_back(place, used, sits):
    """Somebody in there keeps the kernel from ending it, and so from telling us."""
    view = open_view("auto", place)
    async with running(view, [image(1), image(2)]):
        if used:
            sitting = await aside(sits, place / uuid(1))
            assert (await aside(sitting.stdout.readline)) == b"in\n"
        for number in (3, 4):
            # Something in the folder, so that it stays unmounted until the test goes on.
            await aside(_unmount_and_block, place)
            await until(lambda: view.kind == "off")
            await view.add(image(number))
            await view.remove(image(number - 2))
            assert [path.name for path in await aside(list, place.iterdir())] == ["theirs"]
            (place / "theirs").unlink()
            await until(lambda: view.kind == "fuse")
            assert mounted_at(place).kind == "fuse.imgstored"
            assert await aside(read, place, number) == image(number).manifest
            assert not await aside((place / uuid(number - 2)).exists)
            await view.add(image(number + 10))
            assert await aside(read, place, number + 10) == image(number + 10).manifest
        if used:
            await aside(sitting.communicate)
    assert unmounted(place)


def _unmount_and_block(place):
    mountpoint.unmount(place)
    # If it was put back in between, once more.
    while True:
        try:
            (place / "theirs").touch()
        except OSError:
            mountpoint.unmount(place)
        else:
            return


@pytest.mark.usefixtures("impatient")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount over it")
async def test_what_somebody_mounts_over_it_is_left_alone(place):
    view = open_view("fuse", place)
    async with running(view, [image(1)]):
        await aside(_mount_over, place)
        try:
            await until(lambda: view.kind == "off")
            (place / "theirs").write_text("still here")
            await trio.sleep(0.1)
            assert (view.kind, (place / "theirs").read_text()) == ("off", "still here")
        finally:
            await aside(lambda: subprocess.run(["umount", "-l", place], check=True))
        await until(lambda: view.kind == "fuse")
        assert await aside(read, place, 1) == image(1).manifest
        await aside(_mount_over, place)
    assert mounted_at(place).kind == "tmpfs"


def _mount_over(place):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "over", place], check=True)


@pytest.mark.usefixtures("impatient")
async def test_a_view_that_fails_is_put_back(place, monkeypatch):
    real, failing = fuse._main, trio.Event()

    async def fails():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(real)
            await failing.wait()
            raise RuntimeError("a defect")

    monkeypatch.setattr(fuse, "_main", fails)
    view = open_view("fuse", place)
    async with running(view, [image(1)]):
        assert await aside(read, place, 1) == image(1).manifest
        monkeypatch.setattr(fuse, "_main", real)
        failing.set()
        await until(lambda: view.kind == "off")
        await until(lambda: view.kind == "fuse")
        assert await aside(read, place, 1) == image(1).manifest
    assert unmounted(place)


async def test_readers_who_wait_at_the_end_are_let_go(place):
    with trio.fail_after(10):
        view = open_view("fuse", place)
        async with trio.open_nursery() as readers, running(view, [image(n) for n in range(50)]):
            for _ in range(8):
                readers.start_soon(aside, _read_until_gone, place)
            await trio.sleep(0.1)


def _read_until_gone(place):
    with suppress(OSError):
        for number in itertools.cycle(range(50)):
            read(place, number)


# -- faults --------------------------------------------------------------------------------------------------


async def test_an_unexpected_error_is_an_answer_and_a_line_in_the_log(place):
    async with running(open_view("fuse", place), [image(1, strange=object()), image(2)]):
        with structlog.testing.capture_logs() as logs, pytest.raises(OSError, match="Input/output error"):
            await aside(read, place, 1)
        assert await aside(read, place, 2) == image(2).manifest
        assert any(line["log_level"] == "error" and line.get("exc_info") for line in logs)


class KillWhoAsks(trio.abc.Instrument):
    """Kills the process whose question has just woken us up, before we read it."""

    def __init__(self, process):
        self.process = process
        self.killed = trio.Event()

    def after_io_wait(self, timeout):
        if self.killed.is_set():
            return
        # It has asked, and may not have gone to sleep yet.
        deadline = time.monotonic() + 0.2
        while not (waits := _waits_for_an_answer(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.001)
        if waits:
            self.process.kill()
            time.sleep(0.2)  # not until it has ended: for that it may have to ask us
            self.killed.set()


def _waits_for_an_answer(pid):
    return Path(f"/proc/{pid}/wchan").read_text().startswith(("request_wait_answer", "fuse_"))


@pytest.mark.alone
async def test_a_question_that_is_taken_back_holds_up_nobody(place):
    view = open_view("fuse", place)
    async with running(view, [image(1)]):
        asking = await aside(_ask_later, place / uuid(1) / "manifest.json")
        killer = KillWhoAsks(asking)
        trio.lowlevel.add_instrument(killer)
        alarm = threading.Timer(5, lambda: read(place, 1))  # a question that would let us go on
        alarm.start()
        try:
            asking.stdin.close()
            begun = time.monotonic()
            with trio.move_on_after(4):
                await killer.killed.wait()
            await trio.sleep(0.05)
            took = time.monotonic() - begun
        finally:
            trio.lowlevel.remove_instrument(killer)
            alarm.cancel()
            asking.stdout.close()
            await aside(asking.wait)
        assert killer.killed.is_set(), "nobody was killed while asking"
        assert took < 3
        assert await aside(read, place, 1) == image(1).manifest


def _ask_later(path):
    process = subprocess.Popen(
        ["sh", "-c", 'echo ready; read x; exec cat "$0"', path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.alone
async def test_a_reader_who_is_stuck_holds_up_nobody(place, monkeypatch):
    """The kernel waits for ever when a reader's memory does: which needs a second file system that hangs."""
    stuck, go_on = threading.Event(), threading.Event()

    def wait(*_):
        stuck.set()
        go_on.wait(20)

    monkeypatch.setattr(pyfuse3, "invalidate_entry", wait)
    monkeypatch.setattr(fuse, "_FORGET_LIMIT", 0.1)
    monkeypatch.setattr(fuse, "_STOP_LIMIT", 0.1)
    view = open_view("fuse", place)
    begun = time.monotonic()
    try:
        async with running(view):
            for number in range(8):  # more than there are threads
                await view.add(image(number))
            assert stuck.is_set()
            assert await aside(read, place, 7) == image(7).manifest
        assert unmounted(place)
        assert time.monotonic() - begun < 3
        with pytest.raises(ConfigError, match="has a FUSE mount already"):
            async with running(FuseView(place)):
                pass
    finally:
        go_on.set()
    with trio.fail_after(5):
        await view._all_forgotten()
    monkeypatch.undo()
    async with running(FuseView(place), [image(1)]):
        assert await aside(read, place, 1) == image(1).manifest


# -- what the kernel is told and forgets ---------------------------------------------------------------------


async def test_what_the_kernel_has_forgotten_is_let_go():
    tree = tree_of([image(1)], time.time_ns)
    operations = Operations(tree)
    name = uuid(1).encode()
    folder = await operations.lookup(ROOT_INODE, name, None)
    await operations.lookup(ROOT_INODE, name, None)
    file = await operations.lookup(folder.st_ino, b"manifest.json", None)
    opened = await operations.open(file.st_ino, os.O_RDONLY, None)
    tree.remove(image(1))
    assert (await operations.getattr(folder.st_ino, None)).st_ino == folder.st_ino
    await operations.forget([(folder.st_ino, 1), (file.st_ino, 1)])
    assert (await operations.getattr(folder.st_ino, None)).st_ino == folder.st_ino
    await operations.forget([(folder.st_ino, 1), (ROOT_INODE, 5)])
    for inode in (folder.st_ino, file.st_ino):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.getattr(inode, None)
        assert caught.value.errno == errno.ESTALE
    assert json.loads(await operations.read(opened.fh, 0, 1 << 20)) == image(1).manifest
    await operations.release(opened.fh)
    assert (list(operations._known), operations._lookups, operations._open_files) == ([ROOT_INODE], {}, {})


async def test_every_change_is_refused_even_if_the_mount_lets_it_through():
    operations = Operations(tree_of([image(1)], time.time_ns))
    for name in ("mkdir", "unlink", "rename", "create", "write", "setattr", "setxattr"):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(operations, name)(ROOT_INODE, b"x", None)
        assert caught.value.errno == errno.EROFS
    folder = await operations.lookup(ROOT_INODE, uuid(1).encode(), None)
    file = await operations.lookup(folder.st_ino, b"manifest.json", None)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.open(file.st_ino, os.O_RDWR, None)
    assert caught.value.errno == errno.EROFS


async def test_the_kernel_answers_again_by_itself(place, monkeypatch):
    asked = []
    real = Operations.lookup

    async def counted(self, parent, name, ctx):
        asked.append(name)
        return await real(self, parent, name, ctx)

    monkeypatch.setattr(Operations, "lookup", counted)
    async with running(open_view("fuse", place), [image(1)]):
        for _ in range(20):
            assert await aside(read, place, 1) == image(1).manifest
    assert asked.count(b"manifest.json") == 1


# -- the first look ------------------------------------------------------------------------------------------

#: Reads a file until it is there; ends with the number of the first other error.
PATIENT = """
import errno, sys
while True:
    try:
        open(sys.argv[1]).close()
    except OSError as error:
        if error.errno == errno.ENOENT:
            continue
        sys.exit(error.errno)
    break
"""


def _patient_reader(path):
    somebody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    return subprocess.Popen([*somebody, sys.executable, "-c", PATIENT, str(path)])


async def test_nothing_is_forgotten_during_the_first_look(place, monkeypatch):
    """The kernel would drop the answer, and with it the permissions of the root: EACCES for all but root.

    A reader asks about the root before the view's own look has its answer, and something changes then.
    """
    real, forget = Operations.getattr, pyfuse3.invalidate_inode
    forgotten, reader_asked, reader_answered = threading.Event(), threading.Event(), trio.Event()
    readers = []

    async def while_something_changes(self, inode, ctx):
        if inode == ROOT_INODE and readers and ctx.pid == readers[0].pid and not reader_asked.is_set():
            reader_asked.set()
            nursery.start_soon(view.add, image(2))
            await aside(forgotten.wait, 0.5)
            reader_answered.set()
        elif inode == ROOT_INODE and not reader_answered.is_set():
            await reader_answered.wait()  # the view's own look
        return await real(self, inode, ctx)

    def noticed(*args, **kwargs):
        forget(*args, **kwargs)
        forgotten.set()

    def read_once_mounted():
        while mounted_at(place) is None:
            time.sleep(0.001)
        readers.append(_patient_reader(place / uuid(1) / "manifest.json"))
        return readers[0].wait()

    monkeypatch.setattr(fuse, "_LOOK_LIMIT", 60)
    monkeypatch.setattr(Operations, "getattr", while_something_changes)
    monkeypatch.setattr(pyfuse3, "invalidate_inode", noticed)
    view = open_view("fuse", place)
    ends = []

    async def wait_for_reader():
        ends.append(await aside(read_once_mounted))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_reader)
        async with running(view, [image(1)]):
            with trio.fail_after(60):
                while not ends:  # noqa: ASYNC110 - what is waited for is a process
                    await trio.sleep(0.01)
            assert ends == [0]
            assert reader_asked.is_set()
            assert await aside(forgotten.wait, 20)
            assert await aside(read, place, 2) == image(2).manifest


async def test_cold_starts(place):
    """With readers who have waited for it, and changes at once: every second one got EACCES."""
    for number in range(25):
        cold = place / str(number)
        cold.mkdir(parents=True)
        readers = [_patient_reader(cold / uuid(1) / "manifest.json") for _ in range(2)]
        view = open_view("fuse", cold)
        async with running(view, [image(1)]):
            for other in range(2, 6):
                await view.add(image(other))
            assert [await aside(reader.wait) for reader in readers] == [0, 0]


async def test_a_mount_that_does_not_answer_at_first_holds_up_nobody_for_long(place, monkeypatch):
    monkeypatch.setattr(fuse, "_LOOK_LIMIT", 0.05)
    real, go_on = Operations.getattr, trio.Event()

    async def slow(self, inode, ctx):
        await go_on.wait()
        return await real(self, inode, ctx)

    monkeypatch.setattr(Operations, "getattr", slow)
    view = open_view("fuse", place)
    with structlog.testing.capture_logs() as logs:
        async with running(view, [image(1)]):
            assert any(line["event"] == "the view does not answer" for line in logs)
            go_on.set()
            await view.add(image(2))
            assert await aside(read, place, 2) == image(2).manifest
    assert unmounted(place)


# -- what is missing -----------------------------------------------------------------------------------------


def test_without_pyfuse3_fuse_says_what_to_install_and_auto_takes_files(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyfuse3", None)
    monkeypatch.delitem(sys.modules, "imgstored.view.fuse")
    monkeypatch.delitem(sys.modules, "imgstored.view.operations")
    with pytest.raises(ConfigError, match="FUSE is not possible here") as caught:
        open_view("fuse", place)
    assert "imgstore[fuse]" in caught.value.hint
    assert open_view("auto", place).kind == "files"


async def test_off_shows_nothing(place):
    view = open_view("off", place)
    async with running(view, [image(1)]):
        await view.add(image(2))
        await view.remove(image(2))
    assert view.kind == "off"
    assert not place.exists()


async def test_auto_mounts_where_it_can(place):
    view = open_view("auto", place)
    assert view.kind == "auto"
    async with running(view, [image(1)]):
        assert view.kind == "fuse"
        await view.add(image(2))
        assert await aside(read, place, 2) == image(2).manifest
        await view.remove(image(2))
        assert not await aside((place / uuid(2)).exists)
