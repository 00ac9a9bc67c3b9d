"""Signals are for trio's thread alone, and for the programs that are started."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from docs.make.rooms import modules
from imgstored.create.vmadm import Vmadm
from imgstored.doctor import pools as doctor_pools
from imgstored.errors import ImgstoreError
from imgstored.host import signals
from imgstored.transfer.decompress import bzip2
from imgstored.transfer.decompress.feed import Feed
from imgstored.view import mountpoint
from imgstored.zstream import disk, qemu

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINE = "11111111-aaaa-4bbb-8ccc-000000000009"
#: Tells which signals are blocked in the program that a shell becomes.
TELLS = '#!/bin/sh\ngrep SigBlk /proc/self/status >"{told}"\nexit 1\n'


def blocked(status: str) -> set[int]:
    """The signals of proc(5)'s SigBlk."""
    (line,) = (line for line in status.splitlines() if line.startswith("SigBlk:"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


def own() -> set[int]:
    return blocked(Path("/proc/thread-self/status").read_text())


def kinds() -> None:
    """Looks at the masks of all kinds of threads, in a process whose trio keeps no thread of before."""
    seen: dict[str, set[int]] = {}

    def nested() -> None:
        with ThreadPoolExecutor(1) as executor:
            seen["executor"] = executor.submit(own).result()
        thread = threading.Thread(target=lambda: seen.update(thread=own()))
        thread.start()
        thread.join()

    async def main() -> None:
        seen["trio"] = await trio.to_thread.run_sync(own)
        await trio.to_thread.run_sync(nested)
        timer = threading.Timer(0, lambda: seen.update(timer=own()))
        timer.start()
        await trio.to_thread.run_sync(timer.join)

    before = own()
    signals.run(main)
    assert own() == before
    sys.stdout.write(json.dumps({name: sorted(mask) for name, mask in seen.items()}))


def test_every_kind_of_thread_takes_no_signal() -> None:
    command = "from tests.host.test_signals import kinds; kinds()"
    done = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, check=True, timeout=60)
    seen = json.loads(done.stdout)
    assert seen.keys() == {"trio", "executor", "thread", "timer"}
    for mask in seen.values():
        assert set(mask) >= signals.BLOCKED


def test_it_ends_as_it_began_also_by_an_error() -> None:
    async def fails() -> None:
        raise ValueError

    before = own()
    with pytest.raises(ValueError):  # noqa: PT011 - which is our own
        signals.run(fails)
    assert own() == before


def test_trio_hears_a_signal_that_no_thread_takes() -> None:
    async def main() -> int:
        with trio.open_signal_receiver(signal.SIGUSR1) as received:
            await trio.to_thread.run_sync(os.kill, os.getpid(), signal.SIGUSR1)
            with trio.fail_after(30):
                async for number in received:
                    return number
        raise AssertionError

    assert signals.run(main) == signal.SIGUSR1


def test_a_call_in_a_thread_is_not_interrupted() -> None:
    """What a channel program's hook sees of a signal that illumos gave to its thread, seen by poll(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    inside: list[int] = []
    found: list[tuple[int, int]] = []

    def ioctl() -> None:
        request = (ctypes.c_byte * 8).from_buffer_copy(
            reader.to_bytes(4, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + bytes(2)
        )
        inside.extend((threading.get_native_id(), threading.get_ident()))
        found.append((libc.poll(request, 1, 30_000), ctypes.get_errno()))

    def asleep() -> bool:
        stat = Path(f"/proc/self/task/{inside[0]}/stat").read_text() if inside else ""
        return stat.rpartition(")")[2].split()[:1] == ["S"]

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as received, trio.fail_after(60):
            # Not one of trio's, which would have the signal still when it is used again.
            thread = threading.Thread(target=ioctl)
            thread.start()
            while not asleep():  # noqa: ASYNC110 - a thread, not a task
                await trio.sleep(0.001)
            # As if the kernel had chosen that thread; and for the process.
            signal.pthread_kill(inside[1], signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            async for _ in received:
                break
            os.write(writer, b".")
            thread.join()

    try:
        signals.run(main)
    finally:
        os.close(reader)
        os.close(writer)
    assert found == [(1, 0)]


def in_new_thread(work: Callable[[], None]) -> None:
    """As the daemon's threads run; trio's may be from another test, and of its mask."""

    async def main() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        await trio.to_thread.run_sync(thread.join)

    signals.run(main)


# -- programs ------------------------------------------------------------------------------------------------


def vmadm(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Vmadm(str(program)).machine(MACHINE)


def lbzip2_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(bzip2.decode_by_program(Feed(iter([b"BZh9"])), str(program), 1))


def qemu_img(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "PROGRAMS", (str(program),))
    image = program.parent / "disk"
    # A qcow2 of version 2 with 1 MiB in it.
    head = b"QFI\xfb" + bytes([0, 0, 0, 2]) + bytes(16) + (1 << 20).to_bytes(8, "big")
    image.write_bytes(head.ljust(qemu.HEAD, b"\0"))
    with disk.open_disk(image):
        pass


def zpool(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor_pools.zpool_findings("pool zones", "zones", str(program))


def fusermount(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountpoint, "_FUSERMOUNT", (str(program),))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    mountpoint.unmount(program.parent)


@pytest.mark.parametrize("start", [vmadm, lbzip2_program, qemu_img, zpool, fusermount])
def test_a_program_begins_with_no_signal_blocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[Path, pytest.MonkeyPatch], None]
) -> None:
    program, told = tmp_path / "program", tmp_path / "told"
    program.write_text(TELLS.format(told=told))
    program.chmod(0o755)
    after: list[set[int]] = []

    def in_thread() -> None:
        with suppress(ImgstoreError):  # it says that the program failed
            start(program, monkeypatch)
        after.append(own())

    in_new_thread(in_thread)
    assert blocked(told.read_text()) == set()
    assert after[0] >= signals.BLOCKED


def test_no_program_is_started_otherwise() -> None:
    """A new place that starts one is found here."""
    found = set()
    for module, tree in modules().items():
        guarded = {
            id(node)
            for each in ast.walk(tree)
            if isinstance(each, ast.With)
            and any(ast.unparse(item.context_expr) == "signals.for_child()" for item in each.items)
            for node in ast.walk(each)
        }
        starts = {
            ast.unparse(node.func)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func)
            in {
                "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "subprocess.call",
                "subprocess.check_call", "subprocess.check_output", "subprocess.run", "trio.run_process",
                "trio.lowlevel.open_process",
            }
            and id(node) not in guarded
        }  # fmt: skip
        found |= {(module, start) for start in starts}
    # The daemon itself, before there is any thread.
    assert found == {("__main__", "os.fork")}


def test_trio_runs_only_so() -> None:
    runs = {
        module
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "trio.run"
    }
    # The trial at the start begins no thread that outlives it.
    assert runs == {"host.signals", "eventloop.wakeup"}


def test_a_killed_program_does_not_need_the_mask(tmp_path: Path) -> None:
    """SIGTERM ends a program that was started from a thread in which it is blocked."""
    ended: list[int] = []

    def start() -> None:
        with signals.for_child():
            process = subprocess.Popen(["/bin/sleep", "1000"])
        process.terminate()
        ended.append(process.wait(timeout=30))

    in_new_thread(start)
    assert ended == [-signal.SIGTERM]
