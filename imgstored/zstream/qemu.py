"""Converts a qcow2 or vmdk to a raw disk with the program qemu-img.

The file is hostile until it is checked. Such formats can name other files, whose content would then become
the disk's: a backing file, a data file, extents. Already looking at these opens them, so the header is
checked here before qemu-img sees it, and again by what qemu-img says. It gets the file as a descriptor, so
that no name can mean anything to it, and runs with bounded memory, output and time.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import secrets
import stat
import struct
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from imgstored.errors import NoSpaceError, UsageError
from imgstored.foreign_text import one_line
from imgstored.host import signals
from imgstored.host.guardian import Guardian
from imgstored.zstream.volume import MAX_VOLUME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgstored.zstream.ova import Part

Format = Literal["raw", "qcow2", "vmdk"]
MAGICS: Final[dict[bytes, Format]] = {b"QFI\xfb": "qcow2", b"KDMV": "vmdk"}
#: How many bytes of a file tell what it is.
HEAD: Final = 512

#: Where systems have it (Debian; pkgsrc in a SmartOS zone and in its global one). Never looked up in PATH.
PROGRAMS = ("/usr/bin/qemu-img", "/opt/local/bin/qemu-img", "/opt/tools/bin/qemu-img")

#: Bytes of memory that it may have, of a report that it may write, and of its words that are looked at.
_MEMORY: Final = 2 << 30
_REPORT: Final = 1 << 20
_WORDS: Final = 1000
#: Seconds for a report; and for a disk, that many and one for each so many bytes.
_TIMEOUT: Final = 60
_SLOWEST: Final = 4 << 20
#: Seconds between two looks at whether its result is still wanted.
_LOOK_EVERY: Final = 0.1
#: Whose number it runs under where root's own file is from somebody else: of those that systemd keeps for
#: services without a user. It is nobody else's, nobody's neither: whose it is reaches its files by /proc.
_UIDS: Final = range(61184, 65520)

#: sh's units: KiB of memory, and blocks of 512 bytes of a file. Then the shell becomes the program.
_LIMITED: Final = 'ulimit -v "$1" && ulimit -f "$2" && shift 2 && exec "$@"'

#: QCOW2_INCOMPAT_DATA_FILE
_DATA_FILE: Final = 4
#: CID_NOPARENT of a vmdk
_NO_PARENT: Final = (1 << 32) - 1

_OTHER_FILES: Final = "make it whole first, where it is trusted: `qemu-img convert -O raw FILE DISK`"


def _wanted() -> None:
    """The result is always wanted."""


class _Program(Struct, frozen=True):
    """The program, and the terms on which it runs."""

    path: str
    user: tuple[int, int] | None  #: uid and gid; None: as this process
    check: Callable[[], None]


@contextmanager
def unpacked(
    fd: int,
    format_: Format,
    folder: str | None = None,
    part: Part | None = None,
    *,
    unprivileged: bool = False,
    check: Callable[[], None] = _wanted,
) -> Iterator[IO[bytes]]:
    """The raw disk of the file open at `fd`: a sparse file without a name, which is gone at the end.

    `part` is where in the file it is; None is all of it.

    `folder` is where it is made; None is where temporary files are. Blocks for as long as it takes; `check`
    is called meanwhile, and ends it by raising. `unprivileged`: root runs the program as `somebody`, whose
    the file is meanwhile.

    Raises `UsageError` for a file that cannot be unpacked or would read others, and where there is no
    qemu-img; `NoSpaceError` where there is not enough room; and `OSError`.
    """
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise UsageError(
            f"a {format_} on a block device is not supported", hint="copy it into a file; or take it as raw"
        )
    head = os.pread(fd, HEAD, 0) if part is None else os.pread(fd, min(HEAD, part.size), part.offset)
    refuse_others(head, format_)
    path = next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)
    if path is None:
        raise UsageError(
            f"the disk is a {format_}, and there is no qemu-img to make a raw one of it",
            hint="install it (Debian: qemu-utils; pkgsrc: qemu), or convert the disk elsewhere",
        )
    with ExitStack() as stack:
        user = stack.enter_context(somebody()) if unprivileged and os.geteuid() == 0 else None
        program = _Program(path, user, check)
        if user is not None:
            found = os.fstat(fd)
            # Whoever has that number next has no right to it.
            stack.callback(os.fchown, fd, found.st_uid, found.st_gid)
            os.fchown(fd, *user)
        node = _node(fd, format_, part)
        size = _virtual_size(program, fd, node)
        disk = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        if program.user is not None:
            os.fchown(disk.fileno(), *program.user)
        required = _required(program, fd, node)
        _refuse_without_room(disk.fileno(), required)
        disk.truncate(size)
        # -n: into the file that is there, which is zeros; only what is not zeros is written.
        target = f"driver=raw,file.driver=file,file.filename=/dev/fd/{disk.fileno()}"
        _run(
            program,
            ["convert", "-n", "--target-image-opts", node, target],
            fds=(fd, disk.fileno()),
            largest=size,
            seconds=_TIMEOUT + required // _SLOWEST,
        )
        yield disk


def refuse_others(head: bytes, format_: Format) -> None:
    """Raises `UsageError` for a file whose header is cut short, or names other files. Pure."""
    if len(head) < HEAD:
        raise UsageError(f"the {format_} is cut short", hint="copy it again")
    if format_ == "qcow2":
        version, backing, _, _, size, encrypted = struct.unpack_from(">IQIIQI", head, 4)
        if version not in (2, 3):
            raise UsageError(f"a qcow2 of version {version} is not supported", hint=_OTHER_FILES)
        features = struct.unpack_from(">Q", head, 72)[0] if version == 3 else 0
        if backing or features & _DATA_FILE:
            what = "a backing file" if backing else "an external data file"
            raise UsageError(f"the qcow2 has {what}, which is not supported", hint=_OTHER_FILES)
        if encrypted:
            raise UsageError("the qcow2 is encrypted", hint="decrypt it first")
        _check_size(size)
    else:
        # Of a vmdk without a size of its own, qemu reads a list of files.
        (sectors,) = struct.unpack_from("<Q", head, 12)
        if not sectors:
            raise UsageError(
                "the vmdk's data is in other files, which imgstored does not read", hint=_OTHER_FILES
            )
        _check_size(sectors * 512)


def _check_size(size: int) -> None:
    if not 0 < size <= MAX_VOLUME:
        raise UsageError(
            f"the disk has a size of {size} bytes", hint=f"volumes have up to {MAX_VOLUME >> 40} TiB"
        )


def _node(fd: int, format_: Format, part: Part | None) -> str:
    """The file, for qemu-img: by its descriptor, as this format and no other, and without a backing file."""
    file: dict[str, Any] = {"driver": "file", "filename": f"/dev/fd/{fd}"}
    if part is not None:
        file = {"driver": "raw", "offset": part.offset, "size": part.size, "file": file}
    return "json:" + json.dumps({"driver": format_, "file": file, "backing": None})


_taken: set[int] = set()
_taking: Final = threading.Lock()


@contextmanager
def somebody() -> Iterator[tuple[int, int]]:
    """A uid and gid that no user, no group and no other conversion has, for the block.

    Raises `UsageError` where none is free.
    """
    with _taking:
        first = secrets.randbelow(len(_UIDS))
        numbers = (*_UIDS[first:], *_UIDS[:first])
        number = next((each for each in numbers if each not in _taken and not _is_known(each)), None)
        if number is None:
            raise UsageError(
                "no user id is free for qemu-img", hint=f"of {_UIDS.start} to {_UIDS.stop - 1} one must be"
            )
        _taken.add(number)
    try:
        yield number, number
    finally:
        with _taking:
            _taken.remove(number)


def _is_known(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        try:
            look_up(number)
        except KeyError:
            continue
        return True
    return False


def _virtual_size(program: _Program, fd: int, node: str) -> int:
    info = _report(program, ["info", "--output=json", node], fd)
    data = info.get("format-specific", {}).get("data", {})
    others = [info.get("backing-filename"), data.get("data-file"), data.get("extents", [])[1:]]
    if any(others) or data.get("parent-cid", _NO_PARENT) != _NO_PARENT:
        raise UsageError("the disk has data in other files, which imgstored does not read", hint=_OTHER_FILES)
    size = _number(info, "virtual-size")
    _check_size(size)
    return size


def _required(program: _Program, fd: int, node: str) -> int:
    """About how many bytes are in the disk. Asked for as a qcow2, of a raw one its holes would count."""
    report = _report(program, ["measure", "--output=json", "-O", "qcow2", node], fd)
    return _number(report, "required")


def _refuse_without_room(fd: int, required: int) -> None:
    status = os.fstatvfs(fd)
    available = status.f_bavail * status.f_frsize
    if required > available:
        raise NoSpaceError(
            f"unpacking the disk takes {required} bytes, and {available} are free for temporary files",
            hint="set TMPDIR to a folder with more room",
        )


def _report(program: _Program, arguments: list[str], fd: int) -> dict[str, Any]:
    """The JSON output of the program."""
    said = _run(program, arguments, fds=(fd,), largest=_REPORT, seconds=_TIMEOUT)
    try:
        return dict(json.loads(said))
    except (ValueError, TypeError):
        raise UsageError("qemu-img described the disk in an unknown form", hint=_HINT) from None


def _number(report: dict[str, Any], key: str) -> int:
    value = report.get(key)
    if not isinstance(value, int):
        raise UsageError(f"qemu-img does not say the disk's {key}", hint=_HINT)
    return value


def _run(
    program: _Program, arguments: list[str], *, fds: tuple[int, ...], largest: int, seconds: int
) -> bytes:
    """The output of the program. Raises `UsageError` if it fails or takes longer, and what `check` raises."""
    limits = [str(_MEMORY >> 10), str(-(-largest // 512))]
    uid, gid = program.user or (None, None)
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as words, Guardian() as guardian:
        with signals.for_child():
            process = subprocess.Popen(  # noqa: S603  an absolute path of ours, and no word from outside
                ["/bin/sh", "-c", _LIMITED, "sh", *limits, program.path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=words,
                pass_fds=fds,
                env={"LC_ALL": "C"},
                cwd="/",
                user=uid,
                group=gid,
                extra_groups=None if gid is None else [],
                process_group=guardian.group,
            )
        with process:
            try:
                _wait(process, program.check, seconds)
            except BaseException:
                process.kill()
                raise
        said.seek(0)
        words.seek(0)
        if process.returncode:
            why = _plain(words.read(_WORDS)) or f"qemu-img ended with status {process.returncode}"
            raise UsageError(f"the disk cannot be unpacked: {why}", hint=_HINT)
        return said.read()


def _wait(process: subprocess.Popen[bytes], check: Callable[[], None], seconds: int) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            process.wait(_LOOK_EVERY)
        except subprocess.TimeoutExpired:
            check()
        else:
            return
        if time.monotonic() > deadline:
            raise UsageError(f"qemu-img took longer than {seconds} seconds", hint=_HINT)


def _plain(words: bytes) -> str:
    """The words on one line, without anything that a terminal would act on: some of it is from the file."""
    return one_line(words)


_HINT: Final = "the file is damaged, or in use by a machine; `qemu-img check FILE` tells more"
