"""The pipes to and from the kernel: one thread is in the kernel, and the other moves the bytes.

Only closing our end ends the kernel's side: it then sees the end of the stream, or a broken pipe. That also
works when the process is killed, because the thread in the kernel has its own table of open files.

Normally all threads of a process share one table, which stays open until the last of them is gone. So a
thread in the kernel that waits for its pipe keeps our end of that pipe open. SIGKILL should end it
nevertheless; but with OpenZFS 2.1 on Linux 6.1, two receives slept on with the signal pending, each waiting
for the pipe whose other end it kept open, and the process stayed for ever. If the thread's table has only the
kernel's end, ours is closed when all other threads are gone, and the kernel sees the end of the stream.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import sys
import threading
import time
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from imgstored.zstream.fletcher4 import Buffer

#: Bytes that a pipe holds, where that can be set; Linux allows as much to all users.
CAPACITY: Final = 1 << 20

#: The maximum of bytes of a stream that are written, but in no transaction group yet: in the pipe, in the
#: queue of the kernel's receive (`zfs_recv_queue_length`: 16 MiB by default, module/zfs/dmu_recv.c), the
#: record on either side of that, and the batch that is being written (`zfs_recv_write_batch_size`: 1 MiB).
QUEUE: Final = CAPACITY + (16 << 20) + (3 << 20)

#: Seconds without progress: the kernel takes or gives nothing, or nobody reads its bytes. The kernel waits
#: without end for disks that are gone, and keeps a snapshot while it sends it.
STALL: Final = 600.0

#: unshare(2), from Linux include/uapi/linux/sched.h; Python has os.unshare since 3.12.
_CLONE_FILES: Final = 0x400
_DEVICE: Final = "/dev/zfs"
_STANDARD: Final = (0, 1, 2)


class Inlet:
    """Runs `kernel(fd)`, which reads from fd, in a thread, and writes to the other end."""

    def __init__(self, pool: str, kernel: Callable[[int], None]) -> None:
        self._pool = pool
        reader, self._writer = _pipe()
        os.set_blocking(self._writer, False)
        self._stall = STALL
        self._failures: list[BaseException] = []
        try:
            self._thread = _in_kernel(kernel, reader, "zfs receive", self._failures)
        except BaseException:
            os.close(self._writer)
            raise

    def write(self, data: Buffer) -> bool:
        """Writes all of it; False if the kernel takes no more, for which `finish` gives the reason.

        Raises `PoolError` if the kernel takes nothing for `STALL` seconds.
        """
        view = memoryview(data).cast("B")
        while len(view):
            try:
                view = view[os.write(self._writer, view) :]
            except BlockingIOError:
                self._wait()
            except BrokenPipeError:
                return False
        return True

    def finish(self) -> BaseException | None:
        """Says that there is no more, and waits for the kernel; what it failed with, or None.

        Raises `PoolError` if that takes longer than `STALL` seconds.
        """
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self._thread.join(self._stall)
        if self._thread.is_alive():
            raise self._stalled()
        return self._failures[0] if self._failures else None

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._writer, select.POLLOUT)
        if not poll.poll(STALL * 1000):
            raise self._stalled()

    def _stalled(self) -> PoolError:
        self._stall = 1.0
        return PoolError(
            f'pool "{self._pool}" has taken nothing for {STALL:.0f} seconds',
            hint="see `zpool status`: a pool whose disks are gone waits for them",
        )


def outlet(pool: str, kernel: Callable[[int], None]) -> Generator[bytes, None, None]:
    """Yields the bytes that `kernel(fd)` writes to fd in a thread; then raises its error, if there is one.

    The thread begins with the first piece. When the iterator ends or is closed, it waits up to `STALL`
    seconds for the thread; only a kernel that waits for disks that are gone keeps the thread longer. Raises
    `PoolError` if the kernel gives nothing, or the caller takes no piece, for `STALL` seconds.
    """
    reader, writer = _pipe()
    failures: list[BaseException] = []
    try:
        # Before the kernel, which would wait for ever for somebody to read.
        tap = _Tap(pool, reader)
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    try:
        thread = _in_kernel(kernel, writer, "zfs send", failures)
    except BaseException:
        tap.close()
        raise
    try:
        while piece := tap.read():
            yield piece
    finally:
        tap.close()
        # A kernel that waits for disks that are gone does not notice the closed end.
        thread.join(1.0 if tap.stalled else STALL)
    if failures:
        raise failures[0]


class _Tap:
    """Our end of a pipe from the kernel. A thread closes it when nobody has read for too long."""

    def __init__(self, pool: str, fd: int) -> None:
        self.stalled = False
        self._pool = pool
        self._fd = fd
        self._lock = threading.Lock()
        self._idle_since: float | None = None  # None while somebody reads
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="zfs send's reader", daemon=True).start()

    def read(self) -> bytes:
        """The next piece; nothing at the end. Raises `PoolError`."""
        with self._lock:
            if self._fd < 0:
                raise PoolError(
                    f'what was sent from pool "{self._pool}" was not taken for {STALL:.0f} seconds',
                    hint="check the disk of the output file",
                )
            self._idle_since = None
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(STALL * 1000):
            self.stalled = True
            raise PoolError(
                f'pool "{self._pool}" has given nothing for {STALL:.0f} seconds',
                hint="see `zpool status`: a pool whose disks are gone waits for them",
            )
        piece = os.read(self._fd, CAPACITY)
        with self._lock:
            self._idle_since = time.monotonic()
        return piece

    def close(self) -> None:
        """The kernel then finds a broken pipe."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        self._closed.set()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _watch(self) -> None:
        while not self._closed.wait(STALL / 10):
            with self._lock:
                if self._idle_since is not None and time.monotonic() - self._idle_since > STALL:
                    self._close()


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, CAPACITY)
    return reader, writer


def _in_kernel(
    kernel: Callable[[int], None], fd: int, name: str, failures: list[BaseException]
) -> threading.Thread:
    """Starts a thread that runs `kernel(fd)`, and owns fd; `failures` gets its error."""
    begun = threading.Event()
    unshared = False

    def run() -> None:
        nonlocal unshared
        try:
            try:
                unshared = unshare_fd_table(fd)
            finally:
                begun.set()
            kernel(fd)
        except BaseException as error:  # noqa: BLE001  (raised in the thread that waits)
            failures.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=partial(copy_context().run, run), name=name, daemon=True)
    try:
        thread.start()
    except BaseException:  # there is no thread for it
        os.close(fd)
        raise
    begun.wait()
    if unshared:
        os.close(fd)
    return thread


def unshare_fd_table(fd: int) -> bool:
    """Gives the calling thread its own file table, with `fd`, the ZFS device and the standard streams.

    False on systems without unshare(2) (illumos). The thread makes one call into the kernel, and then ends:
    it closes files only in its own table.
    """
    folder = Path("/proc/thread-self/fd")
    if sys.platform != "linux" or not folder.is_dir() or ctypes.CDLL(None).unshare(_CLONE_FILES):
        return False
    for link in list(folder.iterdir()):
        number = int(link.name)
        # The descriptor that listed the folder is closed already.
        with contextlib.suppress(OSError):
            if number != fd and number not in _STANDARD and str(link.readlink()) != _DEVICE:
                os.close(number)
    return True
