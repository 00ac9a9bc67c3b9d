"""A disk that may stop answering, as one of a network does: a FUSE mount whose server is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

# Serves FOLDER's files as they are, and the kernel keeps nothing of what it is told.
_SERVER = """
import os, stat, sys
import pyfuse3, trio
source, place = sys.argv[1:]

class Disk(pyfuse3.Operations):
    def __init__(self):
        super().__init__()
        self.paths = {pyfuse3.ROOT_INODE: source}

    def entry(self, path):
        found, entry = os.lstat(path), pyfuse3.EntryAttributes()
        for name in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns",
                     "st_atime_ns"):
            setattr(entry, name, getattr(found, name))
        entry.st_ino = pyfuse3.ROOT_INODE if path == source else found.st_ino
        entry.attr_timeout = entry.entry_timeout = 0
        self.paths[entry.st_ino] = path
        return entry

    async def getattr(self, inode, ctx=None):
        return self.entry(self.paths[inode])

    async def lookup(self, parent, name, ctx=None):
        path = os.path.join(self.paths[parent], os.fsdecode(name))
        if not os.path.lexists(path):
            raise pyfuse3.FUSEError(2)
        return self.entry(path)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=os.open(self.paths[inode], flags & ~os.O_EXCL), direct_io=True)

    async def read(self, fh, offset, size):
        return os.pread(fh, size, offset)

    async def write(self, fh, offset, data):
        return os.pwrite(fh, data, offset)

    async def release(self, fh):
        os.close(fh)

options = set(pyfuse3.default_options) | {"fsname=disk"}
pyfuse3.init(Disk(), place, options)
print("mounted", flush=True)
trio.run(pyfuse3.main)
"""


class DeadDisk:
    """`place` has what is in `source`, and answers until `stop` and again after `go_on`."""

    def __init__(self, folder: Path) -> None:
        self.source, self.place = folder / "source", folder / "disk"
        self.source.mkdir()
        self.place.mkdir()

    def __enter__(self) -> DeadDisk:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(self.source), str(self.place)], stdout=subprocess.PIPE
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != b"mounted\n":
            raise RuntimeError("the disk cannot be mounted")
        return self

    def stop(self) -> None:
        """From now on it does not answer."""
        self._server.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._server.pid, os.WSTOPPED)

    def go_on(self) -> None:
        self._server.send_signal(signal.SIGCONT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What still waits fails as the server's connection closes.
        self._server.kill()
        self._server.wait()
        assert self._server.stdout is not None
        self._server.stdout.close()
        subprocess.run(["/usr/bin/fusermount3", "-u", "-z", str(self.place)], check=True)
