"""What each error of libzfs_core means, in one place. Pure: errors in, errors out.

pyzfs has a class for each errno of each call; they are looked up here by name, so that this module needs no
pyzfs. Errors that pyzfs has no class for are told apart by their errno.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from imgstored.errors import (
    ImgstoreError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
    PoolNotFoundError,
    StreamError,
)
from imgstored.zstream.records import DAMAGED

_Fault = tuple[type[ImgstoreError], str, str]

_NO_POOL: Final[_Fault] = (
    PoolNotFoundError,
    "there is no such pool",
    "`zpool list` shows the pools, `zpool import` those that could be imported",
)
_NO_SPACE: Final[_Fault] = (
    NoSpaceError,
    "there is no room left",
    "`imgctl delete` an image that is not needed, or give the pool more room",
)
_QUOTA: Final[_Fault] = (
    NoSpaceError,
    "a quota is used up",
    "`zfs get -r quota,refquota` shows which; raise it, or delete an image that is not needed",
)
_BUSY: Final[_Fault] = (
    PoolError,
    "the dataset is busy: it is mounted, open, held, or being received",
    "is another program at it, such as imgadm? Try again when that is done",
)
_NOT_PERMITTED: Final[_Fault] = (
    PoolError,
    "this process has not the privilege",
    "run imgstored as root: `zfs allow` cannot delegate channel programs, by which it looks at the pool",
)
_NO_FEATURE: Final[_Fault] = (
    PoolError,
    "the stream needs a feature that the pool does not have",
    "`zpool upgrade` shows what the pool lacks; or take an image made without `zfs send -L`, -c or -e",
)
_IO: Final[_Fault] = (PoolError, "reading or writing the disks failed", "see `zpool status`")
_LIMITS: Final[_Fault] = (
    PoolError,
    "the kernel stopped the question, because its answer takes too much time or memory",
    "is zfs_lua_max_instrlimit or zfs_lua_max_memlimit set lower than it comes?",
)
_READ_ONLY: Final[_Fault] = (PoolError, "the pool is read-only", "`zpool get readonly` tells; import it anew")
_SUSPENDED: Final[_Fault] = (
    PoolError,
    "the pool is suspended after disk errors",
    "see `zpool status`; `zpool clear` resumes it",
)

#: By the name of pyzfs's class (libzfs_core/exceptions.py), or of one that it derives from.
_BY_NAME: Final[dict[str, _Fault]] = {
    "PoolNotFound": _NO_POOL,
    "DatasetNotFound": (PoolError, "a dataset is missing", "was it destroyed meanwhile? Try again"),
    "DatasetExists": (
        PoolError,
        "there is a dataset of that name, and it is no image",
        "look at it with `zfs list -t all`, and destroy or rename it",
    ),
    "DatasetBusy": _BUSY,
    "SnapshotIsHeld": _BUSY,
    "NoSpace": _NO_SPACE,
    "QuotaExceeded": _QUOTA,
    "StreamMismatch": (
        OriginNotInstalledError,
        "the stream builds on another snapshot than the one that is there",
        "its manifest and its file do not belong together; tell who publishes it",
    ),
    "DestinationModified": _BUSY,
    "BadStream": (StreamError, "the kernel found the stream to be damaged", DAMAGED),
    "StreamFeatureInvalid": (StreamError, "the kernel does not understand the stream", DAMAGED),
    "StreamFeatureNotSupported": _NO_FEATURE,
    "StreamTruncated": (StreamError, "the stream ended early", DAMAGED),
    "WrongParent": (
        PoolError,
        "what should hold the images is a volume",
        "images can only be kept in a filesystem",
    ),
    "NameTooLong": (PoolError, "a name is too long", "ZFS allows 255 bytes"),
    "ReadOnlyPool": _READ_ONLY,
    "SuspendedPool": _SUSPENDED,
    "ZCPPermissionError": _NOT_PERMITTED,
    "ZCPTimeout": _LIMITS,
    "ZCPSpaceError": _LIMITS,
    "ZCPMemoryError": _LIMITS,
    "ZCPLimitInvalid": _LIMITS,
}

_BY_ERRNO: Final[dict[int, _Fault]] = {
    # ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH of include/sys/fs/zfs.h, which pyzfs does not know.
    1041: (
        StreamError,
        "the origin was sent with large blocks (`zfs send -L`), and the image without",
        "make the image with `zfs send -L`, as its origin was; tell who publishes it",
    ),
    errno.EPERM: _NOT_PERMITTED,
    errno.EACCES: _NOT_PERMITTED,
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _QUOTA,
    errno.EBUSY: _BUSY,
    errno.EEXIST: (PoolError, "it has clones", "`zfs get clones` shows them; delete these first"),
    errno.EIO: _IO,
    errno.ENXIO: _IO,
    errno.ENOTSUP: _NO_FEATURE,
    errno.EROFS: _READ_ONLY,
    errno.EAGAIN: _SUSPENDED,
}

_ABSENT_HINT: Final = (
    "install OpenZFS's own pyzfs, which is Debian's python3-pyzfs (component contrib); "
    "the pyzfs on PyPI is another one, and too old"
)


def explained(error: Exception, pool: str, doing: str) -> ImgstoreError:
    """Our error for one of pyzfs's. `doing` says what failed, as in "receiving image UUID"."""
    error = _first(error)
    kind, what, hint = _fault(error)
    number = getattr(error, "errno", None)
    return kind(f'pool "{pool}": {doing} failed: {what}', hint=hint, data={"errno": number} if number else {})


def failed_with(number: int, pool: str, doing: str) -> ImgstoreError:
    """Our error for an errno that a channel program returned."""
    kind, what, hint = _BY_ERRNO.get(number, _unknown(number, ""))
    return kind(f'pool "{pool}": {doing} failed: {what}', hint=hint, data={"errno": number})


def is_called(error: Exception, name: str) -> bool:
    """Whether it is pyzfs's class of that name, for one operation or the first of several."""
    return name in _names(_first(error))


def module_absent(pool: str, cause: str) -> PoolError:
    """Pyzfs or the library below it cannot be loaded."""
    return PoolError(f'pool "{pool}": the module libzfs_core cannot be loaded: {cause}', hint=_ABSENT_HINT)


def zfs_absent(pool: str, number: int) -> PoolError:
    """The library is there, and the kernel's side of it is not."""
    if number in (errno.EPERM, errno.EACCES):
        _, what, hint = _NOT_PERMITTED
        return PoolError(f'pool "{pool}": /dev/zfs cannot be opened: {what}', hint=hint)
    return PoolError(
        f'pool "{pool}": /dev/zfs cannot be opened: {os.strerror(number)}',
        hint="is the ZFS module loaded (`modprobe zfs`)?",
    )


def _first(error: Exception) -> Exception:
    """Of an error for several operations, that of the first."""
    errors: Any = getattr(error, "errors", None)
    return errors[0] if isinstance(errors, list) and errors else error


def _names(error: Exception) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _fault(error: Exception) -> _Fault:
    for name in _names(error):
        if name in _BY_NAME:
            return _BY_NAME[name]
    number = getattr(error, "errno", None) or 0
    details: Any = getattr(error, "details", None)
    said = details.decode("utf-8", "replace").splitlines()[0] if isinstance(details, bytes) else ""
    return _BY_ERRNO.get(number, _unknown(number, said or type(error).__name__))


def _unknown(number: int, said: str) -> _Fault:
    what = ", ".join(part for part in (os.strerror(number) if number else "", said) if part)
    return PoolError, what, "see `zpool status` and the kernel's log"
