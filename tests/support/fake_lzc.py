"""A libzfs_core that exports what illumos' does, and a libnvpair: what is called of them, and with what."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgstored.pools.zfs.library import Library
from imgstored.zstream.nvlist import pack, unpack_tree

if TYPE_CHECKING:
    from imgstored.zstream.fletcher4 import ByteOrder
    from imgstored.zstream.nvlist import Tree

_HERE: Final = Path(__file__).parent
ORDER: Final[ByteOrder] = "<" if sys.byteorder == "little" else ">"


class FakeLzc:
    """The libraries, built in a folder under illumos' names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built("libnvpair", [])
        map_file = _HERE / "fake_libzfs_core.map"
        self._built("libzfs_core", [f"-L{folder}", "-l:libnvpair.so.1", f"-Wl,--version-script={map_file}"])
        self._nvpair = self.load("libnvpair.so.1")
        self._nvpair.fake_log.restype = ctypes.c_char_p
        self._nvpair.fake_next.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t)

    def _built(self, name: str, options: list[str]) -> None:
        target = self._folder / f"{name}.so.1"
        source = _HERE / f"fake_{name}.c"
        common = ["-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-rpath,$ORIGIN", f"-Wl,-soname,{target.name}"]
        subprocess.run(["cc", *common, "-o", target, source, *options], check=True)

    def load(self, name: str) -> ctypes.CDLL:
        """Opens one of the libraries; OSError for any other."""
        return ctypes.CDLL(str(self._folder / name))

    def exports(self) -> set[str]:
        """The functions that one can call in libzfs_core."""
        command = ["nm", "-D", "--defined-only", str(self._folder / "libzfs_core.so.1")]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        return {line.split()[2].partition("@")[0] for line in lines if line.split()[1] == "T"}

    def open(self) -> Library:
        """The binding, which calls these libraries."""
        return Library(partial(FakeLzc.load, self))

    def next(self, number: int = 0, result: dict[bytes, Tree] | None = None) -> None:
        """What the next call returns, and the list that it gives; forgets what was called before.

        A number of 2000 and more is what libzfs_core_init fails with, plus 2000.
        """
        self.next_packed(number, b"" if result is None else pack(result, ORDER))

    def next_packed(self, number: int, packed: bytes) -> None:
        """The same with a list of any bytes."""
        self._nvpair.fake_next(number, packed, len(packed))

    def unpack_fails_after(self, lists: int) -> None:
        """So many lists can be made for the next call, and then none."""
        self._nvpair.fake_unpack_fails_after(lists)

    def live(self) -> int:
        """Lists that nobody has freed."""
        count: int = self._nvpair.fake_live()
        return count

    def called(self) -> list[list[object]]:
        """The calls since `next`: name and arguments, of which lists are as they were unpacked."""
        lines = self._nvpair.fake_log().decode().splitlines()
        return [[_word(word) for word in line.split(" ")] for line in lines]


def _word(word: str) -> object:
    if word.startswith("list:"):
        return unpack_tree(bytes.fromhex(word[5:]))
    return bytes.fromhex(word[5:]).decode() if word.startswith("text:") else word
