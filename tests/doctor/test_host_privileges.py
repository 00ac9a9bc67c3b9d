"""What root may do, as Linux and illumos tell it; neither list is needed."""

from __future__ import annotations

import os
import struct
import sys

import pytest

from imgstored.doctor import host

ZFS = '[pool]\ntype = "zfs"\n'
ALL = ("sys_config", "sys_mount", "sys_fs_import", "file_chown_self")


class Illumos:
    """The C library of illumos, as far as it is used; it counts what it gave out."""

    def __init__(self, held=ALL, *, refuses=False, full=False):
        self._held, self._refuses, self._full = held, refuses, full
        self.open = set()

    def priv_allocset(self):
        if self._full:
            return None
        self.open.add(0x5678)
        return 0x5678

    def getppriv(self, which, place):
        assert which == b"Effective"
        assert place in self.open
        return -1 if self._refuses else 0

    def priv_ismember(self, place, name):
        assert place in self.open
        return int(name.decode() in self._held)

    def priv_freeset(self, place):
        self.open.remove(place)


@pytest.fixture
def illumos(monkeypatch):
    def use(*arguments, **facts):
        library = Illumos(*arguments, **facts)
        monkeypatch.setattr(sys, "platform", "sunos5")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(host, "_illumos_libc", lambda: library)
        return library

    return use


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (ALL, []),
        (("sys_mount",), ["sys_config", "sys_fs_import"]),
        ((), ["sys_config", "sys_mount", "sys_fs_import"]),
    ],
)
def test_illumos(illumos, examined, held, missing):
    library = illumos(held)
    assert host.lacking() == missing
    assert library.open == set()
    (found,) = host.privileges(examined(ZFS))
    assert found.status == ("fail" if missing else "ok")
    assert all(name in found.seen for name in missing)
    # An embedded pool needs none of it, and nothing is ever mounted there.
    (found,) = host.privileges(examined())
    assert found.status == "ok"


@pytest.mark.parametrize("facts", [{"refuses": True}, {"full": True}])
def test_illumos_that_does_not_say(illumos, facts):
    library = illumos((), **facts)
    assert host.lacking() == []
    assert library.open == set()


def test_a_c_library_without_the_functions(monkeypatch):
    host._illumos_libc.cache_clear()
    monkeypatch.setattr(sys, "platform", "sunos5")
    assert host.lacking() == []


def test_a_system_that_is_neither(monkeypatch):
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert host.lacking() == []


@pytest.mark.parametrize(
    "content",
    [
        # pstatus_t of illumos: flags, number of threads, pid, … pointers.
        struct.pack("=iiiiii", 0x8000000, 3, 4242, 1, 4242, 4242) + bytes(range(128, 256)) * 8,
        b"\xff\xfe\x80",
        b"CapEff:\n",
        b"CapEff:\tnothing\n",
        b"",
    ],
)
def test_a_status_that_is_not_linuxs(monkeypatch, tmp_path, examined, content):
    (tmp_path / "status").write_bytes(content)
    monkeypatch.setattr(host, "_PROCESS", tmp_path / "status")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert host.lacking() == []
    (found,) = host.privileges(examined(ZFS))
    assert found.status == "ok"
