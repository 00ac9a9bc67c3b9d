"""Names of threads, as `top -H` shows them: Python before 3.14 keeps its own to itself."""

from __future__ import annotations

import ctypes
import functools
import threading
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a name on Linux, without the one that ends it.
_LENGTH: Final = 15


def show_name() -> None:
    """Gives the system's thread the name of Python's, where the C library has a function for that."""
    function = _function()
    if function is not None:
        name = threading.current_thread().name.encode("ascii", "replace")[:_LENGTH]
        function(threading.get_ident(), name)


@functools.cache
def _function() -> Callable[[int, bytes], Any] | None:
    """`pthread_setname_np`, which glibc, musl and illumos have alike."""
    try:
        function = ctypes.CDLL(None).pthread_setname_np
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return function
