"""The mount point of the view, and the link to it. All calls block.

A FUSE daemon that was killed leaves a dead mount behind, on which every call fails with ENOTCONN.

The view is not in `/images` everywhere: SmartOS recreates `/` in memory at each boot, with few inodes. There
the view is elsewhere, and `/images` is a symbolic link to it, which each start makes again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import structlog

from imgstored.errors import ConfigError
from imgstored.host import shortage, signals
from imgstored.host.mounts import mounted_at

log = structlog.get_logger(__name__)

#: The program's paths in distributions; it is never looked up in PATH.
_FUSERMOUNT = ("/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3")
#: Seconds that fusermount3 may take.
_FUSERMOUNT_LIMIT = 5.0
#: umount2(2): processes that wait for an answer get ENOTCONN.
_MNT_FORCE = 1
#: umount2(2): hidden at once, gone when its last user has left.
_MNT_DETACH = 2
#: umount2(2): does not follow a symbolic link.
_UMOUNT_NOFOLLOW = 8
#: On other systems these bits mean something else.
_FLAGS = _MNT_FORCE | _MNT_DETACH | _UMOUNT_NOFOLLOW if sys.platform == "linux" else 0
#: The command that gets rid of a mount whose server does not answer.
UNMOUNT = "umount -l" if sys.platform == "linux" else "umount -f"
#: Dead mounts on top of each other, at most.
_MAX_STACK = 16
#: Errors of calls on a dead FUSE mount.
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})


def take_over(path: Path) -> Path:
    """Unmounts dead mounts at a path; returns it without links. Raises `ConfigError` for a live mount."""
    place = Path(os.path.realpath(path))
    for _ in range(_MAX_STACK):
        mount = mounted_at(place)
        if mount is None:
            return place
        if not _is_dead(place):
            raise ConfigError(
                f"{place} is a mount already: {mount.source}, {mount.kind}",
                hint="unmount it, stop the imgstored that serves it, or choose another `view.path`",
            )
        log.warning("taking over the mount of a daemon that is gone", path=str(place), kind=mount.kind)
        unmount(place)
    raise ConfigError(f"too many dead mounts on {place}", hint=f"try `{UNMOUNT} {place}` as root")


def make_empty_folder(place: Path) -> None:
    """Makes the folder if it does not exist. Raises `ConfigError` if that fails, or it is not empty."""
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        content = next(place.iterdir(), None)
    except OSError as error:
        raise ConfigError(
            f"cannot use {place} for the view: {error.strerror or error}", hint="choose another `view.path`"
        ) from error
    if content is not None:
        raise ConfigError(
            f"{place} is not empty: it has {content.name}",
            hint="the view needs an empty folder; empty it, or choose another `view.path`",
        )


def unmount(place: Path) -> None:
    """Unmounts, even if a process uses the mount. Raises `ConfigError` if that fails.

    It is no failure if somebody else was faster.
    """
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(place), _FLAGS) == 0:
            return
        cause = os.strerror(ctypes.get_errno())
    else:
        cause = _fusermount(place)
        if not cause:
            return
    if mounted_at(place) is None:
        return
    raise ConfigError(f"cannot unmount {place}: {cause}", hint=f"try `{UNMOUNT} {place}` as root")


def fusermount() -> str | None:
    """The program by which users other than root mount, or None."""
    return next((path for path in _FUSERMOUNT if os.access(path, os.X_OK)), None)


def _fusermount(place: Path) -> str:
    """Unmounts by fusermount3; returns why that failed, or an empty text."""
    program = fusermount()
    if program is None:
        return "no fusermount3"
    try:
        with signals.for_child():
            done = subprocess.run(  # noqa: S603 - an absolute path, and a configured one after "--"
                [program, "-u", "-z", "-q", "--", str(place)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FUSERMOUNT_LIMIT,
                check=False,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else done.stderr.strip() or f"fusermount3 ended with {done.returncode}"


def _is_dead(place: Path) -> bool:
    try:
        # Not `stat`: the kernel may answer that from its cache.
        os.statvfs(place)
    except OSError as error:
        return error.errno in DEAD
    return False


def link_state(link: Path, view: Path) -> Literal["ours", "absent", "taken"]:
    """The state of the link: it leads to the view, does not exist, or something else is there.

    Raises `OSError`.
    """
    if os.path.normpath(link) == os.path.normpath(view):
        return "ours"
    try:
        there = os.readlink(link)  # noqa: PTH115 - as it is written, not as a path
    except FileNotFoundError:
        return "absent"
    except OSError:
        os.lstat(link)
        return "taken"  # not a link
    leads_to = os.path.normpath(os.path.join(os.path.dirname(link), there))  # noqa: PTH118, PTH120
    return "ours" if leads_to == os.path.normpath(view) else "taken"


def make_link(link: Path, view: Path) -> None:
    """Makes the link unless something is in its place. Never raises; logs instead.

    The view need not exist yet. Blocks briefly.
    """
    try:
        if link_state(link, view) == "absent":
            link.symlink_to(view)
            log.info("linked", link=str(link), view=str(view))
        if link_state(link, view) == "taken":
            log.warning(
                "the link to the view is not made: something else is in its place",
                link=str(link),
                view=str(view),
                hint="remove it, or set `view.link` to another path or to none",
            )
    except OSError as error:
        log.warning(
            "the link to the view cannot be made", link=str(link), view=str(view), why=shortage.why(error)
        )
