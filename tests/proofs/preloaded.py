"""A library in C that processes load before all others, and a page of memory by which it is told things."""

from __future__ import annotations

import mmap
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import struct


class Preloaded:
    """The library of a source beside this file, built in `folder`; needs a C compiler, and Linux.

    The page has values of `form`, and the library finds it by the environment's `variable`.
    """

    def __init__(self, folder: Path, source: str, variable: str, form: struct.Struct) -> None:
        self._form = form
        self._page = folder / f"{source}.page"
        self._page.write_bytes(bytes(mmap.PAGESIZE))
        fd = os.open(self._page, os.O_RDWR)
        self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        os.close(fd)
        self._library = folder / f"{source}.so"
        file = Path(__file__).with_name(source)
        command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", self._library, file, "-ldl"]
        subprocess.run(command, check=True)
        #: What a process, and all that it forks, needs to have the library.
        self.environment = {"LD_PRELOAD": str(self._library), variable: str(self._page)}

    def write(self, *values: int) -> None:
        """Tells the library these values."""
        self._form.pack_into(self._memory, 0, *values)

    def read(self) -> tuple[int, ...]:
        """The values of now."""
        return self._form.unpack_from(self._memory, 0)

    def close(self) -> None:
        """Leaves the page to the library."""
        self._memory.close()
