"""The C library's heap, tuned for imports: blocks of 1 MiB come and go, hundreds per second.

glibc returns a large block to the kernel as soon as it is freed, and the next one costs a page fault for each
4 KiB: a seventh of the time of gzip. Other C libraries keep freed blocks.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: In bytes: the size from which each block is mapped by itself, and the free end of the heap that is kept.
_MAPPED: Final = 4 << 20
_KEPT: Final = 32 << 20


def keep_what_is_freed() -> None:
    """Makes the process keep the memory that it frees, to a bound, until `give_back`.

    Call it before there are threads, each of which would keep a heap of its own.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """Returns free memory to the kernel. Takes some milliseconds; for any thread."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _function(name: str) -> Callable[..., Any] | None:
    """A function of glibc; None if this is another C library."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None)
        # musl has functions of the same names that do other things, or none.
        _ = libc.gnu_get_libc_version
        return libc[name]
    except (OSError, AttributeError):
        return None
