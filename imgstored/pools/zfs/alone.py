"""A thread with a table of open files of its own, so that what it waits for ends with the process.

All threads of a process share one table, and it stays open until the last of them is gone. So a thread that
is in the kernel, waiting for its pipe, keeps our end of that pipe open. SIGKILL should end it nevertheless;
with OpenZFS 2.1 on Linux 6.1, two receives were seen to sleep on with the signal pending, each waiting for
the pipe of which it kept the other end open, and the process stayed for ever. With a table that has the
kernel's end only, ours is closed when all other threads are gone, and the kernel sees the end of the stream.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

#: unshare(2), from Linux include/uapi/linux/sched.h; os.unshare is there from Python 3.12 on.
_CLONE_FILES: Final = 0x400
_DEVICE: Final = "/dev/zfs"
_STANDARD: Final = (0, 1, 2)


def unshare_fd_table(fd: int) -> bool:
    """Gives the calling thread a table of its own, with `fd`, the ZFS device and the standard streams.

    False where there is no such thing (illumos). The thread is for one call into the kernel, and ends then:
    what it closes is closed for itself alone.
    """
    folder = Path("/proc/thread-self/fd")
    if sys.platform != "linux" or not folder.is_dir() or ctypes.CDLL(None).unshare(_CLONE_FILES):
        return False
    for link in list(folder.iterdir()):
        number = int(link.name)
        # The one by which the folder was listed is closed already.
        with suppress(OSError):
            if number != fd and number not in _STANDARD and str(link.readlink()) != _DEVICE:
                os.close(number)
    return True
