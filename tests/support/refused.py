"""Runs a program whose kernel refuses some calls, as a network or virtual file system does that lacks them.

usage: python -m tests.support.refused CALL=ERRNO... -- COMMAND...

A seccomp filter answers the calls, so the program is the real one, and so are all that it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of linux/filter.h: load a word, compare it for equality, return.
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
#: Of linux/seccomp.h.
_REFUSE, _ALLOW = 0x00050000, 0x7FFF0000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


class Call(NamedTuple):
    """A system call's numbers, and which of its arguments must be what."""

    x86_64: int
    aarch64: int
    argument: int = 0
    values: tuple[int, ...] = ()


CALLS = {
    "flock": Call(73, 32),
    "lockf": Call(72, 25, 1, (6, 7)),  # fcntl's F_SETLK, F_SETLKW
    "fsync": Call(74, 82),
    "fchmod": Call(91, 52),
    "utime": Call(280, 88),
    "fallocate": Call(285, 47),
    "copy_file_range": Call(326, 285),
    "clone": Call(16, 29, 1, (0x40049409,)),  # ioctl's FICLONE
    "seek_data": Call(8, 62, 2, (3, 4)),  # lseek's SEEK_DATA, SEEK_HOLE
    "fadvise": Call(221, 223),
}


def command(refusals: Mapping[str, int], *program: str) -> list[str]:
    """The command that runs `program` so; `refusals` has an errno for each call."""
    calls = [f"{call}={errno.errorcode[number]}" for call, number in refusals.items()]
    return [sys.executable, "-m", __name__, *calls, "--", *program]


def _filter(refusals: Mapping[str, int]) -> bytes:
    program = []
    for name, number in refusals.items():
        call = CALLS[name]
        refuse = struct.pack("<HBBI", _RETURN, 0, 0, _REFUSE | number)
        checks = [refuse]
        if call.values:
            checks = [struct.pack("<HBBI", _LOAD, 0, 0, 16 + 8 * call.argument)]
            for value in call.values:
                checks += [struct.pack("<HBBI", _EQUAL, 0, 1, value), refuse]
        wanted = getattr(call, platform.machine())
        program += [
            struct.pack("<HBBI", _LOAD, 0, 0, 0),
            struct.pack("<HBBI", _EQUAL, 0, len(checks), wanted),
            *checks,
        ]
    program.append(struct.pack("<HBBI", _RETURN, 0, 0, _ALLOW))
    return b"".join(program)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def refuse(refusals: Mapping[str, int]) -> None:
    """From now on, for this process and all that it starts."""
    instructions = _filter(refusals)
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = _Program(len(instructions) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(
        _SECCOMP, _FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no filter of system calls can be set")


def main(arguments: Sequence[str]) -> None:
    end = arguments.index("--")
    pairs = [argument.split("=") for argument in arguments[:end]]
    refuse({call: getattr(errno, number) for call, number in pairs})
    os.execvp(arguments[end + 1], arguments[end + 1 :])


if __name__ == "__main__":
    main(sys.argv[1:])
