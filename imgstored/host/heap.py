"""The C library's heap, as an import needs it: blocks of 1 MiB that come and go, hundreds a second.

glibc gives a large block back to the kernel as soon as it is freed, and the next one costs a page fault for
each 4 KiB: a seventh of the time that gzip takes. Other C libraries keep what is freed.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8

#: Bytes. Larger blocks are mapped each by itself, and so many at the end of the heap are kept.
_MAPPED: Final = 4 << 20
_KEPT: Final = 32 << 20


def keep_what_is_freed() -> None:
    """Makes the process keep the memory that it frees, to a bound, until `give_back`.

    For the start of the process, before there are threads: each would have a heap of its own to keep.
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def give_back() -> None:
    """Gives the kernel the memory that is free. Takes some milliseconds; for any thread."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


@functools.cache
def _function(name: str) -> Callable[..., Any] | None:
    """A function of glibc; None where there is another C library."""
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL(None)
        # musl has functions of the same names that do other things, or none.
        _ = libc.gnu_get_libc_version
        return libc[name]
    except (OSError, AttributeError):
        return None
