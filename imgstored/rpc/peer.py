"""The process at the other end of a Unix socket, as the kernel reports it, and its rights."""

from __future__ import annotations

import ctypes
import grp
import os
import pwd
import socket
import struct
import sys
from functools import cache
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import ConfigError, NotPermittedError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Linux's option for the peer's supplementary groups (asm-generic/socket.h, since 4.13), unknown to Python.
_SO_PEERGROUPS = 59
#: The maximum that Python reads of an option: 256 groups.
_MAX_OPTION = 1024


class Peer(Struct, frozen=True):
    """A process as it was when it connected. `groups` has its primary group and the supplementary ones."""

    uid: int
    pid: int
    groups: frozenset[int]


class ChangeRights(Struct, frozen=True):
    """The users who may change: root, the daemon's own, and the members of a group if there is one."""

    daemon_uid: int
    group: str | None = None
    group_gid: int | None = None

    def may_change(self, peer: Peer) -> bool:
        """True if the peer may do more than read."""
        return peer.uid in (0, self.daemon_uid) or (
            self.group_gid is not None and self.group_gid in peer.groups
        )


def check_change(peer: Peer, access: ChangeRights) -> None:
    """Raises `NotPermittedError` unless the peer may change."""
    if access.may_change(peer):
        return
    members = f" and members of the group {access.group}" if access.group is not None else ""
    raise NotPermittedError(
        f"uid {peer.uid} may read but not change: only root{members} may",
        hint="use sudo or pfexec; the key `group` of [socket] names a group whose members may, too"
        if access.group is None
        else f"become a member of the group {access.group}, or use sudo or pfexec",
        data={"uid": peer.uid, "group": access.group},
    )


def change_rights(group: str | None) -> ChangeRights:
    """The rights at this daemon; may ask a directory service. Raises `ConfigError` for an unknown group."""
    if group is None:
        return ChangeRights(os.geteuid())
    try:
        return ChangeRights(os.geteuid(), group, grp.getgrnam(group).gr_gid)
    except KeyError as error:
        raise ConfigError(
            f'socket.group: there is no group "{group}"',
            hint=f"create it (`groupadd {group}`), or name another one",
        ) from error


def peer_of(connected: socket.socket) -> Peer:
    """The process that connected. Raises `NotPermittedError` if the system does not identify it.

    May ask a directory service, which takes time: call it in a thread.
    """
    try:
        return _BY_PLATFORM.get(sys.platform, _unknown)(connected)
    except (OSError, AttributeError) as error:  # AttributeError: a C library without the function
        raise NotPermittedError(f"the system does not identify the client: {error}") from error


def peer_at_once(connected: socket.socket) -> Peer | None:
    """As `peer_of`, but without waiting; None if only a directory service knows the groups."""
    if sys.platform != "linux":
        return peer_of(connected)  # only the kernel is asked
    try:
        pid, uid, gid = _linux_credentials(connected)
        groups = _linux_groups(connected)
    except OSError as error:
        raise NotPermittedError(f"the system does not identify the client: {error}") from error
    if groups is None:
        # Root may do everything, whatever its groups.
        return Peer(uid, pid, frozenset({gid})) if uid == 0 else None
    return Peer(uid, pid, groups | {gid})


def _linux(connected: socket.socket) -> Peer:
    pid, uid, gid = _linux_credentials(connected)
    groups = _linux_groups(connected)
    return Peer(uid, pid, groups_of_user(uid, gid) if groups is None else groups | {gid})


def _linux_groups(connected: socket.socket) -> frozenset[int] | None:
    """The process's own groups; None if the kernel does not tell them, or there are too many."""
    try:
        packed = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError:
        return None
    return frozenset(struct.unpack(f"={len(packed) // 4}I", packed))


def _linux_credentials(connected: socket.socket) -> tuple[int, int, int]:
    """Process, user and group (struct ucred, unix(7))."""
    pid, uid, gid = struct.unpack("=iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


def groups_of_user(uid: int, gid: int) -> frozenset[int]:
    """The groups of a user in the system's databases; only `gid` for a user without a name."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return frozenset({gid})
    return frozenset(os.getgrouplist(name, gid))


def _illumos(connected: socket.socket) -> Peer:
    """By getpeerucred(3C) and ucred(3C)."""
    libc = _illumos_libc()
    credential = ctypes.c_void_p()
    if libc.getpeerucred(connected.fileno(), ctypes.byref(credential)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        # Root of another zone is not root here, even where the socket is mounted into that zone.
        if libc.ucred_getzoneid(credential) != libc.getzoneid():
            raise NotPermittedError("the daemon does not answer requests from another zone")
        uid, gid = libc.ucred_geteuid(credential), libc.ucred_getegid(credential)
        if uid < 0 or gid < 0:
            raise OSError("the credential has no user or no group")
        listed = ctypes.POINTER(ctypes.c_uint32)()
        count = libc.ucred_getgroups(credential, ctypes.byref(listed))
        groups = frozenset(listed[index] for index in range(max(count, 0)))
        return Peer(uid, libc.ucred_getpid(credential), groups | {gid})
    finally:
        libc.ucred_free(credential)


@cache
def _illumos_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.c_void_p
    libc.getpeerucred.argtypes = [ctypes.c_int, ctypes.POINTER(handle)]
    libc.ucred_getgroups.argtypes = [handle, ctypes.POINTER(ctypes.POINTER(ctypes.c_uint32))]
    # uid_t and gid_t are unsigned; as a signed type the -1 for "not known" stays one.
    for name in ("ucred_geteuid", "ucred_getegid", "ucred_getpid", "ucred_getzoneid"):
        function = getattr(libc, name)
        function.argtypes, function.restype = [handle], ctypes.c_int32
    libc.getzoneid.argtypes, libc.getzoneid.restype = [], ctypes.c_int32
    libc.ucred_free.argtypes, libc.ucred_free.restype = [handle], None
    return libc


def _unknown(connected: socket.socket) -> Peer:
    raise OSError(f"unsupported on {sys.platform} (socket {connected.fileno()})")


#: By `sys.platform`; illumos calls itself sunos5.
_BY_PLATFORM: dict[str, Callable[[socket.socket], Peer]] = {"linux": _linux, "sunos5": _illumos}
