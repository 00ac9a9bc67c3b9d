"""Finds the calls to files that imgstored makes in the thread of trio's event loop.

A file system that does not answer holds up that thread, and with it everybody. Python audits many of these
calls (PEP 578); it does not audit `stat`, or what is done with an open descriptor, so those are wrapped.
"""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

ROOT = str(Path(__file__).parents[2])
#: The file to which a process that is not pytest's writes what it finds.
REPORT = "IMGSTORE_FILE_CALLS"

#: The daemon's start, before there is anybody to hold up: what this function calls, up to the second one.
_START = ("imgstored.app:_main", "imgstored.daemon:run")

#: The functions of imgstored, and whole modules, that may, with all that they call; and why.
ALLOWED = {
    "imgstored.queries.event_log:open_event_log": "the start",
    "imgstored.queries.history:open_history": "the start",
    "imgstored.view.files:FilesView._close": "the end",
    # The socket's name. There is no daemon without it.
    "imgstored.rpc.listener": "the start and the end",
    # Small files of the daemon's user alone, which is root: on the host's own disk.
    "imgstored.sources.imgadm_conf:ImgadmConf._read": "imgadm.conf, once a question",
    "imgstored.transfer.spool:Spool.begin": "one ftruncate for a file whose size nobody had announced",
}

#: Audited events that are calls to files, or wait for the start of a program.
_EVENTS = frozenset(
    {
        "open", "os.chmod", "os.chown", "os.link", "os.listdir", "os.mkdir", "os.remove", "os.rename",
        "os.rmdir", "os.scandir", "os.symlink", "os.truncate", "os.utime", "os.getxattr", "os.setxattr",
        "fcntl.flock", "fcntl.lockf", "sqlite3.connect", "subprocess.Popen", "os.posix_spawn", "os.fork",
    }
)  # fmt: skip
_BY_PATH = ("stat", "lstat", "access", "readlink", "statvfs")
#: Harmless for what is no file: pipes, sockets, and the like.
_BY_DESCRIPTOR = (
    "fstat", "fstatvfs", "read", "pread", "preadv", "readv", "write", "pwrite", "pwritev", "writev", "close",
    "fsync", "fdatasync", "ftruncate", "posix_fallocate", "copy_file_range", "sendfile",
)  # fmt: skip

_ASYNC = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

found: list[str] = []


def watch() -> None:
    """Begins to look, for as long as the process lasts."""
    sys.addaudithook(_audit)
    real_fstat = os.fstat
    for name in (*_BY_PATH, *_BY_DESCRIPTOR):
        real = getattr(os, name)
        setattr(os, name, _wrapped(name, real, real_fstat if name in _BY_DESCRIPTOR else None))
    for name in ("supports_fd", "supports_dir_fd", "supports_follow_symlinks", "supports_effective_ids"):
        known = getattr(os, name)
        known |= {getattr(os, each) for each in _BY_PATH if getattr(os, each).__wrapped__ in known}


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _EVENTS and not (arguments and _is_kernels(arguments[0])):
        _note(event, sys._getframe(1))


def _is_kernels(path: Any) -> bool:
    """Whether the kernel itself answers, from its memory."""
    return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith("/proc/")


def message(calls: list[str]) -> str:
    """What is wrong, for people."""
    listed = "\n  ".join(calls)
    return (
        f"calls to files in trio's thread:\n  {listed}\n"
        "Make them in a thread (trio.to_thread.run_sync), or give the reason in tests/support/file_calls.py."
    )


def _wrapped(
    name: str, real: Callable[..., Any], fstat: Callable[[int], os.stat_result] | None
) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(*arguments: Any, **named: Any) -> Any:
        if trio.lowlevel.in_trio_run() and (
            not _is_kernels(arguments[0]) if fstat is None else _is_file(fstat, arguments[0])
        ):
            _note(f"os.{name}", sys._getframe(1))
        return real(*arguments, **named)

    return call


def _is_file(fstat: Callable[[int], os.stat_result], descriptor: Any) -> bool:
    try:
        mode = fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISBLK(mode)


def _note(call: str, frame: FrameType | None) -> None:
    if not trio.lowlevel.in_trio_run():
        return
    chain = [_name(code) for code in _ours(frame)]
    if not chain or _is_allowed(chain):
        return
    text = f"{call} by {' < '.join(chain)}"
    if text in found:
        return
    found.append(text)
    if (report := os.environ.get(REPORT)) is not None:
        with open(report, "a", encoding="utf-8") as file:  # noqa: PTH123
            file.write(f"{text}\n")


def _is_allowed(chain: list[str]) -> bool:
    if any(name in ALLOWED or name.partition(":")[0] in ALLOWED for name in chain):
        return True
    start, running = _START
    return start in chain and running not in chain


def _ours(frame: FrameType | None) -> list[CodeType]:
    """The calls within imgstored, the innermost first.

    None for the calls of tests, nor for those of plain functions that a test calls by itself; and none where
    Python imports a module, or looks for the text of one for a traceback.
    """
    chain: list[CodeType] = []
    while frame is not None:
        path = frame.f_code.co_filename
        if not chain and (path.startswith("<frozen importlib") or path == linecache.__file__):
            return []
        if path.startswith(f"{ROOT}/tests/") and not any(code.co_flags & _ASYNC for code in chain):
            return []
        if path.startswith(f"{ROOT}/imgstored/"):
            chain.append(frame.f_code)
        frame = frame.f_back
    return chain


def _name(code: CodeType) -> str:
    module = Path(code.co_filename).relative_to(ROOT).with_suffix("")
    return f"{'.'.join(module.parts)}:{code.co_qualname}"
