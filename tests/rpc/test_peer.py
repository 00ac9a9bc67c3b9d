from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.errors import ConfigError, NotPermittedError
from imgstored.rpc import peer as peer_module
from imgstored.rpc.peer import (
    ChangeRights,
    Peer,
    change_rights,
    check_change,
    groups_of_user,
    peer_at_once,
    peer_of,
)

ids = st.integers(0, 5)


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left


@given(ids, ids, st.frozensets(ids), ids, st.none() | ids)
def test_who_may_change(uid, gid, groups, daemon, group):
    peer = Peer(uid, 1, groups | {gid})
    access = ChangeRights(daemon, "operators" if group is not None else None, group)
    allowed = uid in (0, daemon) or (group is not None and group in peer.groups)
    assert access.may_change(peer) is allowed
    if allowed:
        check_change(peer, access)
    else:
        with pytest.raises(NotPermittedError, match=f"uid {uid} may read but not change") as caught:
            check_change(peer, access)
        assert ("operators" in caught.value.message) == (group is not None)


def test_an_unknown_group_is_a_configuration_error():
    with pytest.raises(ConfigError, match='there is no group "no-such-group"'):
        change_rights("no-such-group")


def test_access_for_a_group():
    group = grp.getgrall()[0]
    assert change_rights(group.gr_name) == ChangeRights(os.geteuid(), group.gr_name, group.gr_gid)
    assert change_rights(None) == ChangeRights(os.geteuid())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
class TestLinux:
    def test_it_is_this_process(self, pair):
        peer = peer_of(pair)
        assert (peer.uid, peer.pid) == (os.geteuid(), os.getpid())
        assert peer.groups == frozenset(os.getgroups()) | {os.getegid()}

    def test_an_old_kernel_does_not_tell_groups(self, pair, monkeypatch):
        monkeypatch.setattr(peer_module, "_SO_PEERGROUPS", 0x7FFF)
        assert peer_of(pair).groups == groups_of_user(os.geteuid(), os.getegid())
        # Nobody is asked about root, who may do everything: it waits for no directory service.
        assert (peer_at_once(pair) is None) == (os.geteuid() != 0)

    def test_without_waiting(self, pair):
        assert peer_at_once(pair) == peer_of(pair)

    def test_what_is_no_socket_has_no_peer(self):
        with socket.socket(socket.AF_INET) as unconnected, pytest.raises(NotPermittedError):
            peer_of(Broken(unconnected))
        with socket.socket(socket.AF_INET) as unconnected, pytest.raises(NotPermittedError):
            peer_at_once(Broken(unconnected))


class Broken:
    def __init__(self, inner):
        self._inner = inner

    def fileno(self):
        return self._inner.fileno()

    def getsockopt(self, level, option, length, /):
        raise OSError(errno.EBADF, "bad")


def test_groups_of_a_user():
    me = pwd.getpwuid(os.geteuid())
    assert groups_of_user(me.pw_uid, me.pw_gid) == frozenset(os.getgrouplist(me.pw_name, me.pw_gid))


def test_a_user_without_a_name_has_one_group():
    assert groups_of_user(3_999_999_999, 12345) == frozenset({12345})


def test_another_system_is_refused(pair, monkeypatch):
    monkeypatch.setattr(sys, "platform", "plan9")
    with pytest.raises(NotPermittedError, match="unsupported on plan9"):
        peer_of(pair)


class Illumos:
    """What the C library of illumos does, as its manual has it: getpeerucred(3C), ucred_get(3C)."""

    def __init__(self, *, uid=1000, gid=100, groups=(100, 200), pid=42, zone=0, own_zone=0, failure=0):
        self._uid, self._gid, self._pid, self._zone = uid, gid, pid, zone
        self._groups = (ctypes.c_uint32 * max(len(groups), 1))(*groups)
        self._count = len(groups)
        self._own_zone = own_zone
        self._failure = failure
        self.held = set()

    def getpeerucred(self, descriptor, reference):
        assert os.fstat(descriptor)
        if self._failure:
            ctypes.set_errno(self._failure)
            return -1
        reference._obj.value = 0x1234
        self.held.add(0x1234)
        return 0

    def _check(self, credential):
        assert credential.value in self.held

    def ucred_geteuid(self, credential):
        self._check(credential)
        return self._uid

    def ucred_getegid(self, credential):
        self._check(credential)
        return self._gid

    def ucred_getpid(self, credential):
        self._check(credential)
        return self._pid

    def ucred_getzoneid(self, credential):
        self._check(credential)
        return self._zone

    def getzoneid(self):
        return self._own_zone

    def ucred_getgroups(self, credential, reference):
        self._check(credential)
        if self._count < 0:
            return -1
        reference._obj.contents = self._groups
        return self._count

    def ucred_free(self, credential):
        self.held.remove(credential.value)


@pytest.fixture
def illumos(monkeypatch):
    def use(**facts):
        library = Illumos(**facts)
        monkeypatch.setattr(sys, "platform", "sunos5")
        monkeypatch.setattr(peer_module, "_illumos_libc", lambda: library)
        return library

    return use


def test_illumos(illumos, pair):
    library = illumos()
    assert peer_of(pair) == Peer(1000, 42, frozenset({100, 200}))
    assert library.held == set()


def test_illumos_without_groups(illumos, pair):
    illumos(groups=())
    assert peer_of(pair).groups == frozenset({100})


def test_illumos_root(illumos, pair):
    illumos(uid=0)
    assert peer_of(pair).uid == 0


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"zone": 3}, "another zone"),
        ({"uid": -1}, "no user or no group"),
        ({"gid": -1}, "no user or no group"),
        ({"zone": -1}, "another zone"),
        ({"failure": errno.ENOTCONN}, os.strerror(errno.ENOTCONN)),
    ],
)
def test_illumos_refuses_whom_it_does_not_know(illumos, pair, facts, words):
    library = illumos(**{"uid": 0, **facts})
    with pytest.raises(NotPermittedError, match=words):
        peer_of(pair)
    assert library.held == set()


def test_a_c_library_without_the_functions(pair, monkeypatch):
    peer_module._illumos_libc.cache_clear()
    monkeypatch.setattr(sys, "platform", "sunos5")
    if sys.platform == "sunos5" and hasattr(ctypes.CDLL(None), "getpeerucred"):
        pytest.skip("this one has them")
    with pytest.raises(NotPermittedError, match="getpeerucred"):
        peer_of(pair)
