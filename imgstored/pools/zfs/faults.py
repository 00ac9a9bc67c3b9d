"""The meaning of each error of libzfs_core, in one place. Pure: errors in, errors out.

pyzfs has a class for each errno of each call; this module looks them up by name, and so does not need pyzfs.
Our own binding gives the call and its errno, for which `_CONDITIONS` has the name of that class. The errno
identifies errors for which pyzfs has no class.

Linux and illumos number the same errors differently, so an errno is looked up by its name.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from imgstored.errors import (
    ImgstoreError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
    PoolNotFoundError,
    StreamError,
)
from imgstored.pools.zfs.core import CallError
from imgstored.zstream.records import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Mapping

_Fault = tuple[type[ImgstoreError], str, str]

_NO_POOL: Final[_Fault] = (
    PoolNotFoundError,
    "there is no such pool",
    "`zpool list` shows the pools, `zpool import` those that could be imported",
)
_NO_SPACE: Final[_Fault] = (
    NoSpaceError,
    "there is no room left",
    "`imgctl delete` an image that you no longer need, or enlarge the pool",
)
_QUOTA: Final[_Fault] = (
    NoSpaceError,
    "a quota is used up",
    "`zfs get -r quota,refquota` shows which; raise it, or delete an image that is not needed",
)
_BUSY: Final[_Fault] = (
    PoolError,
    "the dataset is busy: it is mounted, open, held, or being received",
    "is another program using it, such as imgadm? Try again when that is done",
)
_NOT_PERMITTED: Final[_Fault] = (
    PoolError,
    "this process lacks the privilege",
    "run imgstored as root: it queries pools by channel programs, which `zfs allow` cannot delegate",
)
_NO_FEATURE: Final[_Fault] = (
    PoolError,
    "the stream needs a feature that the pool does not have",
    "`zpool upgrade` shows what the pool lacks; or take an image made without `zfs send -L`, -c or -e",
)
_IO: Final[_Fault] = (PoolError, "reading or writing the disks failed", "see `zpool status`")
_LIMITS: Final[_Fault] = (
    PoolError,
    "the kernel stopped the query, because its answer takes too much time or memory",
    "is zfs_lua_max_instrlimit or zfs_lua_max_memlimit set below its default?",
)
_READ_ONLY: Final[_Fault] = (PoolError, "the pool is read-only", "see `zpool get readonly`; import it again")
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
        "there is a dataset of that name, and it is not an image",
        "look at it with `zfs list -t all`, and destroy or rename it",
    ),
    "DatasetBusy": _BUSY,
    "SnapshotIsHeld": _BUSY,
    "NoSpace": _NO_SPACE,
    "QuotaExceeded": _QUOTA,
    "StreamMismatch": (
        OriginNotInstalledError,
        "the stream builds on another snapshot than the one that is there",
        "its manifest and its file do not belong together; tell its publisher",
    ),
    "DestinationModified": _BUSY,
    "BadStream": (StreamError, "the kernel found the stream to be damaged", DAMAGED),
    "StreamFeatureInvalid": (StreamError, "the kernel does not understand the stream", DAMAGED),
    "StreamFeatureNotSupported": _NO_FEATURE,
    "StreamTruncated": (StreamError, "the stream ended early", DAMAGED),
    "WrongParent": (
        PoolError,
        "the dataset for the images is a volume",
        "only a filesystem can contain images",
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

_BY_ERRNO: Final[dict[str, _Fault]] = {
    # pyzfs has no class for it.
    "ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH": (
        StreamError,
        "the origin was sent with large blocks (`zfs send -L`), and the image without",
        "make the image with `zfs send -L`, as its origin was; tell its publisher",
    ),
    "EPERM": _NOT_PERMITTED,
    "EACCES": _NOT_PERMITTED,
    "ENOSPC": _NO_SPACE,
    "EDQUOT": _QUOTA,
    "EBUSY": _BUSY,
    "EEXIST": (PoolError, "it has clones", "`zfs get clones` shows them; delete these first"),
    "EIO": _IO,
    "ENXIO": _IO,
    "ENOTSUP": _NO_FEATURE,
    "EROFS": _READ_ONLY,
    "EAGAIN": _SUSPENDED,
}

#: The errors that ZFS has besides the system's: `zfs_errno_t` in OpenZFS's include/sys/fs/zfs.h. illumos has
#: those up to 1036.
_OF_ZFS: Final = {"ZFS_ERR_WRONG_PARENT": 1033}
_OF_OPENZFS: Final = {
    "ZFS_ERR_STREAM_TRUNCATED": 1040,
    "ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH": 1041,
    "ZFS_ERR_BADPROP": 1044,
}

#: The meaning of an errno for most calls, and for calls with a stream.
_OF_ANY: Final = {
    "EIO": "ZIOError",
    "ENOSPC": "NoSpace",
    "EDQUOT": "QuotaExceeded",
    "EBUSY": "DatasetBusy",
    "ENAMETOOLONG": "NameTooLong",
    "EROFS": "ReadOnlyPool",
    "EAGAIN": "SuspendedPool",
    "EXDEV": "PoolsDiffer",
    "ENOTSUP": "PropertyNotSupported",
}
_OF_STREAMS: Final = {"ENAMETOOLONG": "NameTooLong"}
_PROGRAM: Final = {
    "ENOENT": "PoolNotFound",
    "ETIME": "ZCPTimeout",
    "ENOMEM": "ZCPMemoryError",
    "ENOSPC": "ZCPSpaceError",
    "EPERM": "ZCPPermissionError",
    "ECHRNG": "ZCPRuntimeError",
    "EINVAL": "ZCPLimitInvalid",
}

#: The meaning of each call's errno, by the name of pyzfs's class: its _error_translation.py, for valid names.
#: Both systems return EBADE as ECKSUM.
_CONDITIONS: Final[dict[str, dict[str, str]]] = {
    "lzc_channel_program": _OF_ANY | _PROGRAM,
    "lzc_channel_program_nosync": _OF_ANY | _PROGRAM,
    "lzc_clone": _OF_ANY
    | {"ENOENT": "DatasetNotFound", "EEXIST": "FilesystemExists", "EINVAL": "PropertyInvalid"},
    "lzc_create": _OF_ANY
    | {
        "ENOENT": "ParentNotFound",
        "EEXIST": "FilesystemExists",
        "EINVAL": "PropertyInvalid",
        "ZFS_ERR_WRONG_PARENT": "WrongParent",
        "ZFS_ERR_BADPROP": "PropertyInvalid",
    },
    "lzc_destroy_snaps": _OF_ANY
    | {"EEXIST": "SnapshotIsCloned", "ENOENT": "PoolNotFound", "EBUSY": "SnapshotIsHeld"},
    "lzc_get_holds": _OF_ANY | {"ENOENT": "SnapshotNotFound", "ENOTSUP": "FeatureNotSupported"},
    "lzc_hold": _OF_ANY
    | {
        "ENOENT": "FilesystemNotFound",
        "EEXIST": "HoldExists",
        "EBADF": "BadHoldCleanupFD",
        "E2BIG": "NameTooLong",
        "ENOTSUP": "FeatureNotSupported",
    },
    "lzc_receive_resumable": _OF_STREAMS
    | {
        "EINVAL": "BadStream",
        "ENOENT": "DatasetNotFound",
        "EEXIST": "DatasetExists",
        "ENOTSUP": "StreamFeatureNotSupported",
        "ENODEV": "StreamMismatch",
        "ETXTBSY": "DestinationModified",
        "EBUSY": "DatasetBusy",
        "ENOSPC": "NoSpace",
        "EDQUOT": "QuotaExceeded",
        "EROFS": "ReadOnlyPool",
        "EAGAIN": "SuspendedPool",
        "EBADE": "BadStream",
        "ZFS_ERR_WRONG_PARENT": "WrongParent",
        "ZFS_ERR_STREAM_TRUNCATED": "StreamTruncated",
        "ZFS_ERR_BADPROP": "PropertyInvalid",
    },
    "lzc_release": _OF_ANY
    | {"ENOENT": "HoldNotFound", "E2BIG": "NameTooLong", "ENOTSUP": "FeatureNotSupported"},
    "lzc_rename": _OF_ANY
    | {
        "EEXIST": "FilesystemExists",
        "ENOENT": "FilesystemNotFound",
        "ZFS_ERR_WRONG_PARENT": "WrongParent",
    },
    "lzc_rollback_to": _OF_ANY
    | {
        "EEXIST": "SnapshotNotLatest",
        "ESRCH": "SnapshotNotFound",
        "EINVAL": "NameInvalid",
        "ENOENT": "FilesystemNotFound",
    },
    "lzc_send": _OF_STREAMS | {"EXDEV": "SnapshotMismatch", "ENOENT": "SnapshotNotFound"},
    "lzc_snapshot": _OF_ANY
    | {
        "EXDEV": "DuplicateSnapshots",
        "EINVAL": "PropertyInvalid",
        "EEXIST": "SnapshotExists",
        "ENOENT": "FilesystemNotFound",
    },
}
#: The meaning of an errno for which a call has no name.
_OTHERWISE: Final = {
    "libzfs_core_init": "ZFSInitializationFailed",
    "lzc_receive_resumable": "StreamIOError",
    "lzc_send": "StreamIOError",
}
#: pyzfs's classes that derive from one in `_BY_NAME`.
_KINDS: Final = {
    "FilesystemExists": "DatasetExists",
    "SnapshotExists": "DatasetExists",
    "FilesystemNotFound": "DatasetNotFound",
    "SnapshotNotFound": "DatasetNotFound",
}

_ABSENT_HINT: Final = (
    "install OpenZFS's C library: Debian's libzfs4linux, which zfsutils-linux brings; "
    "on SmartOS the platform has it"
)


def _numbers(platform: str) -> Mapping[str, int]:
    """The errors of a platform by their names."""
    system = {name: number for name, number in vars(errno).items() if isinstance(number, int)}
    return system | _OF_ZFS | ({} if platform == "sunos5" else _OF_OPENZFS)


_NUMBERS: Final = _numbers(sys.platform)


def explained(error: Exception, pool: str, doing: str) -> ImgstoreError:
    """Our error for one of a binding's. `doing` says what failed, as in "receiving image UUID"."""
    error = _first(error)
    kind, what, hint = _fault(error)
    number = getattr(error, "errno", None)
    return kind(f'pool "{pool}": {doing} failed: {what}', hint=hint, data={"errno": number} if number else {})


def failed_with(number: int, pool: str, doing: str) -> ImgstoreError:
    """Our error for an errno that a channel program returned."""
    kind, what, hint = _by_errno(number) or _unknown(number, "")
    return kind(f'pool "{pool}": {doing} failed: {what}', hint=hint, data={"errno": number})


def is_called(error: Exception, name: str) -> bool:
    """True if the error, or the first of several, is of the kind that pyzfs has a class `name` for."""
    return name in _names(_first(error))


def library_absent(pool: str, cause: str) -> PoolError:
    """The library cannot be loaded, neither by pyzfs nor by itself."""
    return PoolError(f'pool "{pool}": libzfs_core cannot be loaded: {cause}', hint=_ABSENT_HINT)


def zfs_absent(pool: str, number: int) -> PoolError:
    """The library is there, but the kernel's side of it is not."""
    if number in (errno.EPERM, errno.EACCES):
        _, what, hint = _NOT_PERMITTED
        return PoolError(f'pool "{pool}": /dev/zfs cannot be opened: {what}', hint=hint)
    return PoolError(
        f'pool "{pool}": /dev/zfs cannot be opened: {os.strerror(number)}',
        hint="is the ZFS module loaded (`modprobe zfs`)?",
    )


def _first(error: Exception) -> Exception:
    """The error of the first of several operations."""
    errors: Any = getattr(error, "errors", None)
    return errors[0] if isinstance(errors, list) and errors else error


def _names(error: Exception) -> list[str]:
    if not isinstance(error, CallError):
        return [kind.__name__ for kind in type(error).__mro__]
    name = _condition(error)
    return [name, _KINDS[name]] if name in _KINDS else [name]


def _condition(error: CallError) -> str:
    """The name of pyzfs's class for the error."""
    for name, condition in _CONDITIONS.get(error.call, _OF_ANY).items():
        if _NUMBERS.get(name) == error.errno:
            said = condition == "ZCPLimitInvalid" and error.details is not None
            return "ZCPSyntaxError" if said else condition
    return _OTHERWISE.get(error.call, "ZFSGenericError")


def _by_errno(number: int) -> _Fault | None:
    return next((fault for name, fault in _BY_ERRNO.items() if _NUMBERS.get(name) == number), None)


def _fault(error: Exception) -> _Fault:
    names = _names(error)
    for name in names:
        if name in _BY_NAME:
            return _BY_NAME[name]
    number = getattr(error, "errno", None) or 0
    details: Any = getattr(error, "details", None)
    said = details.decode("utf-8", "replace").split("\n", 1)[0] if isinstance(details, bytes) else ""
    return _by_errno(number) or _unknown(number, said or names[0])


def _unknown(number: int, said: str) -> _Fault:
    what = ", ".join(part for part in (os.strerror(number) if number else "", said) if part)
    return PoolError, what, "see `zpool status` and the kernel's log"
