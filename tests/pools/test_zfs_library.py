"""Our own binding of libzfs_core, against a library that exports what illumos' does."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.errors import (
    ImgstoreError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
    PoolNotFoundError,
    StreamError,
)
from imgstored.pools.zfs import ZfsPool, faults, library, lzc
from imgstored.pools.zfs.core import CallError
from imgstored.pools.zfs.library import Library
from imgstored.zstream.nvlist import pack
from tests.support.fake_lzc import ORDER, FakeLzc

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def fake(fake_lzc: FakeLzc) -> FakeLzc:
    fake_lzc.next()
    return fake_lzc


@pytest.fixture
def core(fake: FakeLzc) -> Library:
    """The binding, after its first call, which opens /dev/zfs."""
    core = fake.open()
    core.rename(b"a", b"b")
    fake.next()
    return core


# -- what is called ------------------------------------------------------------------------------------------


def test_nothing_is_called_but_what_illumos_exports(fake: FakeLzc) -> None:
    assert len(fake.exports()) == 34
    assert set(library._CORE) < fake.exports()
    assert not {"lzc_receive", "lzc_promote"} & set(library._CORE)


PROPERTIES: dict[bytes, int | bytes] = {b"readonly": 1, b"com.example:note": b"text"}

CALLS: list[tuple[Callable[[Library], object], list[object]]] = [
    (
        lambda core: core.snapshot([b"zones/a@x", b"zones/b@x"], {b"imgstored:creating": b"7"}),
        ["lzc_snapshot", {b"zones/a@x": None, b"zones/b@x": None}, {b"imgstored:creating": b"7"}],
    ),
    (lambda core: core.destroy_snapshots([b"zones/a@x"]), ["lzc_destroy_snaps", "0", {b"zones/a@x": None}]),
    (
        lambda core: core.create(b"zones/a", PROPERTIES),
        ["lzc_create", "zones/a", "2", "(null)", "0", PROPERTIES],
    ),
    (
        lambda core: core.clone(b"zones/a", b"zones/o@final", PROPERTIES),
        ["lzc_clone", "zones/a", "zones/o@final", PROPERTIES],
    ),
    (
        lambda core: core.rollback_to(b"zones/a", b"zones/a@x"),
        ["lzc_rollback_to", "zones/a", "zones/a@x"],
    ),
    (
        lambda core: core.rename(b"zones/a-partial", b"zones/a"),
        ["lzc_rename", "zones/a-partial", "zones/a"],
    ),
    (lambda core: core.hold(b"zones/a@x", b"tag"), ["lzc_hold", "-1", {b"zones/a@x": b"tag"}]),
    (lambda core: core.release(b"zones/a@x", b"tag"), ["lzc_release", {b"zones/a@x": {b"tag": None}}]),
    (lambda core: core.holds(b"zones/a@x"), ["lzc_get_holds", "zones/a@x"]),
    (
        lambda core: asked(core, sync=False),
        ["lzc_channel_program_nosync", "zones", "return", "9", str(1 << 33), {b"argv": {b"a": b"b"}}],
    ),
    (
        lambda core: asked(core, sync=True),
        ["lzc_channel_program", "zones", "return", "9", str(1 << 33), {b"argv": {b"a": b"b"}}],
    ),
    (
        lambda core: received(core, b"the stream", None),
        ["lzc_receive_resumable", "zones/a@final", "(null)", "0", "0", "10", PROPERTIES],
    ),
    (
        lambda core: received(core, b"", b"zones/o@final"),
        ["lzc_receive_resumable", "zones/a@final", "zones/o@final", "0", "0", "0", PROPERTIES],
    ),
    (lambda core: sent(core, None), ["lzc_send", "zones/a@final", "(null)", "2"]),
    (lambda core: sent(core, b"zones/o@final"), ["lzc_send", "zones/a@final", "zones/o@final", "2"]),
]
NAMES = [f"{case[0]}-{index}" for index, (_, case) in enumerate(CALLS)]


def asked(core: Library, *, sync: bool = False, memory: int = 1 << 33) -> object:
    return core.channel_program(b"zones", b"return", {b"a": b"b"}, sync=sync, instructions=9, memory=memory)


def received(core: Library, stream: bytes, origin: bytes | None) -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, stream)
        os.close(writer)
        core.receive_resumable(b"zones/a@final", reader, origin, PROPERTIES)
    finally:
        os.close(reader)


def sent(core: Library, origin: bytes | None) -> bytes:
    reader, writer = os.pipe()
    try:
        core.send(b"zones/a@final", origin, writer)
        return os.read(reader, 100)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(("call", "expected"), CALLS, ids=NAMES)
def test_what_a_call_hands_over(
    fake: FakeLzc, core: Library, call: Callable[[Library], object], expected: list[object]
) -> None:
    call(core)
    assert fake.called() == [expected]
    assert fake.live() == 0


@pytest.mark.parametrize(("call", "expected"), CALLS, ids=NAMES)
def test_a_call_that_fails(
    fake: FakeLzc, core: Library, call: Callable[[Library], object], expected: list[object]
) -> None:
    """Its errno is its own; what the library gave nevertheless is freed."""
    fake.next(errno.EROFS, {b"N_MORE_ERRORS": 3, b"x": b"no number"})
    with pytest.raises(CallError) as caught:
        call(core)
    assert (caught.value.call, caught.value.errno) == (expected[0], errno.EROFS)
    assert fake.live() == 0


@pytest.mark.parametrize(("call", "expected"), CALLS, ids=NAMES)
def test_no_memory_for_the_lists(
    fake: FakeLzc, core: Library, call: Callable[[Library], object], expected: list[Any]
) -> None:
    for already in range(sum(isinstance(each, dict) for each in expected)):
        fake.next()
        fake.unpack_fails_after(already)
        with pytest.raises(CallError) as caught:
            call(core)
        assert (caught.value.call, caught.value.errno) == ("nvlist_unpack", errno.ENOMEM)
        assert fake.called() == []
        assert fake.live() == 0


def test_the_error_of_the_first_name_counts(fake: FakeLzc, core: Library) -> None:
    fake.next(errno.EIO, {b"zones/b@x": errno.EEXIST, b"zones/a@x": errno.EBUSY})
    with pytest.raises(CallError) as caught:
        core.snapshot([b"zones/a@x", b"zones/b@x"], {})
    assert caught.value.errno == errno.EEXIST


def test_what_comes_back(fake: FakeLzc, core: Library) -> None:
    fake.next(0, {b"return": {b"name": b"x", b"yes": True, b"there": None, b"deep": {b"n": 2**64 - 1}}})
    assert asked(core) == {b"name": b"x", b"yes": True, b"there": None, b"deep": {b"n": 2**64 - 1}}
    assert fake.live() == 0
    fake.next()
    assert asked(core) is None
    fake.next(0, {b"one": 1, b"imgstored:two": 2})
    assert sorted(core.holds(b"zones/a@x")) == [b"imgstored:two", b"one"]
    fake.next(0, {b"zones/a@x": errno.ENOENT})
    assert not core.hold(b"zones/a@x", b"tag")
    fake.next()
    assert core.hold(b"zones/a@x", b"tag")
    assert fake.live() == 0


def test_what_a_program_failed_with(fake: FakeLzc, core: Library) -> None:
    fake.next(errno.ECHRNG, {b"error": b"bad argument\nstack traceback"})
    with pytest.raises(CallError) as caught:
        asked(core)
    assert caught.value.details == b"bad argument\nstack traceback"
    made = faults.explained(caught.value, "zones", "asking")
    assert made.message == 'pool "zones": asking failed: Channel number out of range, bad argument'


@pytest.mark.parametrize("packed", [b"x", b"\1" * 24, pack({b"return": b"x"}, ORDER)[:-4]])
def test_an_answer_that_is_none(fake: FakeLzc, core: Library, packed: bytes) -> None:
    fake.next_packed(0, packed)
    with pytest.raises(CallError) as caught:
        asked(core)
    assert (caught.value.call, caught.value.errno) == ("nvlist_pack", errno.EINVAL)
    assert fake.live() == 0


@pytest.mark.parametrize("fd", [-1, 1 << 31, (1 << 32) + 1])
def test_what_is_no_descriptor(fake: FakeLzc, core: Library, fd: int) -> None:
    for call in (
        lambda: core.send(b"zones/a@final", None, fd),
        lambda: core.receive_resumable(b"zones/a@final", fd, None, {}),
    ):
        with pytest.raises(CallError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert fake.called() == []
    assert fake.live() == 0


def test_other_threads_run_while_one_is_in_the_library(fake: FakeLzc, core: Library) -> None:
    """It reads the stream that another thread writes, and would do so for ever with Python's lock."""
    reader, writer = os.pipe()
    thread = threading.Thread(target=core.receive_resumable, args=(b"zones/a@final", reader, None, {}))
    thread.start()
    try:
        for _ in range(5):
            os.write(writer, b"a piece")
            time.sleep(0.001)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    assert fake.called() == [["lzc_receive_resumable", "zones/a@final", "(null)", "0", "0", "35", {}]]


# -- how it begins -------------------------------------------------------------------------------------------


def test_it_is_opened_with_the_first_call_and_once(fake: FakeLzc) -> None:
    core = fake.open()
    assert fake.called() == []
    fake.next(2000 + errno.ENOENT)
    for _ in range(2):
        with pytest.raises(CallError) as caught:
            core.rename(b"a", b"b")
        assert faults.is_called(caught.value, "ZFSInitializationFailed")
    fake.next()
    core.rename(b"a", b"b")
    core.rename(b"b", b"c")
    assert [call[0] for call in fake.called()] == ["libzfs_core_init", "lzc_rename", "lzc_rename"]


def test_a_host_without_the_library() -> None:
    def load(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(OSError, match=r"libzfs_core\.so\.3: .*; libzfs_core\.so\.1: "):
        Library(load)


def test_a_library_that_lacks_a_function(fake: FakeLzc) -> None:
    """As OpenZFS 0.7, whose receive takes other arguments: it has no channel programs either."""
    with pytest.raises(AttributeError, match="undefined symbol"):
        Library(lambda _: fake.load("libnvpair.so.1"))


# -- a pool by it --------------------------------------------------------------------------------------------


@pytest.fixture
def pool(fake: FakeLzc, monkeypatch: pytest.MonkeyPatch) -> ZfsPool:
    monkeypatch.setattr(lzc, "BINDINGS", (fake.open,))
    fake.next(0, {b"return": {b"used": 10, b"available": 90}})
    return ZfsPool("zones")


def memory_asked_for(fake: FakeLzc) -> list[int]:
    return [int(str(call[4])) for call in fake.called() if "program" in str(call[0])]


def test_a_question_gets_the_memory_that_it_needs(pool: ZfsPool, fake: FakeLzc) -> None:
    assert pool.space().available == 90
    assert memory_asked_for(fake) == [1 << 20, 1 << 20]
    for number in (errno.ENOSPC, errno.ENOMEM):
        fake.next(number)
        with pytest.raises(PoolError, match="too much time or memory"):
            pool.space()
        assert memory_asked_for(fake) == [1 << 20, 4 << 20, 16 << 20, 64 << 20]
    fake.next(errno.EROFS)
    with pytest.raises(PoolError, match="read-only"):
        pool.space()
    assert memory_asked_for(fake) == [1 << 20]


def test_what_a_question_needed_it_gets_the_next_time(
    pool: ZfsPool, fake: FakeLzc, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = pool._lzc._core
    given: list[int] = []

    def run(*arguments: Any, memory: int, **options: Any) -> object:
        given.append(memory)
        if memory < 10 << 20:
            raise CallError("lzc_channel_program_nosync", errno.ENOSPC)
        return {b"used": 10, b"available": 90}

    monkeypatch.setattr(core, "channel_program", run)
    pool.space()
    pool.space()
    assert given == [1 << 20, 4 << 20, 16 << 20, 16 << 20]


@pytest.mark.parametrize("name", ["zones/x\0@final", "zones/" + "x" * 250])
def test_names_that_c_would_cut_off(pool: ZfsPool, fake: FakeLzc, name: str) -> None:
    fake.next()
    for call in (
        lambda: pool._lzc.rename(name, "zones/y", "renaming"),
        lambda: pool._lzc.rename("zones/y", name, "renaming"),
        lambda: pool._lzc.snapshot([name], "taking", {}),
        lambda: pool._lzc.hold("zones/y@x", name, "holding"),
        lambda: pool._lzc.receive(name, 0, "receiving", origin=None, properties={}),
        lambda: pool._lzc.send("zones/y@x", 1, "sending", origin=name),
        lambda: pool._lzc.ask("return", "asking", dataset="x\0y"),
        lambda: pool._lzc.ask("return", "asking", known={"a": "x\0y"}),
    ):
        with pytest.raises(PoolError) as caught:
            call()
        assert "NUL" in caught.value.message
        assert caught.value.hint
    assert fake.called() == []


# -- errors, by the numbers of both systems ------------------------------------------------------------------

#: usr/src/uts/common/sys/errno.h. What it calls EXFULL and EOPNOTSUPP is EBADE and EDQUOT on Linux.
ILLUMOS = {
    "EPERM": 1, "ENOENT": 2, "ESRCH": 3, "EIO": 5, "ENXIO": 6, "E2BIG": 7, "EBADF": 9, "EAGAIN": 11,
    "ENOMEM": 12, "EACCES": 13, "EBUSY": 16, "EEXIST": 17, "EXDEV": 18, "ENODEV": 19, "EINVAL": 22,
    "ETXTBSY": 26, "ENOSPC": 28, "EROFS": 30, "ECHRNG": 37, "ENOTSUP": 48, "EDQUOT": 49, "EBADE": 50,
    "EXFULL": 52, "ETIME": 62, "ENAMETOOLONG": 78, "EOPNOTSUPP": 122, "ZFS_ERR_WRONG_PARENT": 1033,
}  # fmt: skip
#: asm-generic/errno-base.h and errno.h.
LINUX = {
    **ILLUMOS, "ECHRNG": 44, "ENOTSUP": 95, "EDQUOT": 122, "EBADE": 52, "ENAMETOOLONG": 36, "EOPNOTSUPP": 95,
    "ZFS_ERR_STREAM_TRUNCATED": 1040, "ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH": 1041, "ZFS_ERR_BADPROP": 1044,
}  # fmt: skip
del LINUX["EXFULL"]

MEANINGS: list[tuple[str, str, type[ImgstoreError], str]] = [
    ("lzc_channel_program", "ENOENT", PoolNotFoundError, "no such pool"),
    ("lzc_channel_program_nosync", "EPERM", PoolError, "lacks the privilege"),
    ("lzc_channel_program_nosync", "ETIME", PoolError, "too much time"),
    ("lzc_channel_program_nosync", "ENOSPC", PoolError, "too much time or memory"),
    ("lzc_channel_program_nosync", "ENOMEM", PoolError, "too much time or memory"),
    ("lzc_channel_program_nosync", "EINVAL", PoolError, "too much time or memory"),
    ("lzc_channel_program_nosync", "ECHRNG", PoolError, "ZCPRuntimeError"),
    ("lzc_channel_program_nosync", "EROFS", PoolError, "read-only"),
    ("lzc_channel_program_nosync", "EAGAIN", PoolError, "suspended"),
    ("lzc_clone", "EEXIST", PoolError, "a dataset of that name"),
    ("lzc_clone", "ENOENT", PoolError, "is missing"),
    ("lzc_create", "EEXIST", PoolError, "a dataset of that name"),
    ("lzc_create", "ZFS_ERR_WRONG_PARENT", PoolError, "a volume"),
    ("lzc_create", "ENOSPC", NoSpaceError, "no room left"),
    ("lzc_destroy_snaps", "EBUSY", PoolError, "busy"),
    ("lzc_destroy_snaps", "EEXIST", PoolError, "has clones"),
    ("lzc_get_holds", "ENOTSUP", PoolError, "needs a feature"),
    ("lzc_hold", "ENOENT", PoolError, "is missing"),
    ("lzc_hold", "E2BIG", PoolError, "too long"),
    ("lzc_receive_resumable", "EBADE", StreamError, "damaged"),
    ("lzc_receive_resumable", "EINVAL", StreamError, "damaged"),
    ("lzc_receive_resumable", "EDQUOT", NoSpaceError, "a quota"),
    ("lzc_receive_resumable", "ENOSPC", NoSpaceError, "no room left"),
    ("lzc_receive_resumable", "ENOTSUP", PoolError, "needs a feature"),
    ("lzc_receive_resumable", "ENODEV", OriginNotInstalledError, "another snapshot"),
    ("lzc_receive_resumable", "EEXIST", PoolError, "a dataset of that name"),
    ("lzc_receive_resumable", "ETXTBSY", PoolError, "busy"),
    ("lzc_receive_resumable", "EPERM", PoolError, "lacks the privilege"),
    ("lzc_receive_resumable", "EIO", PoolError, "the disks"),
    ("lzc_receive_resumable", "ENAMETOOLONG", PoolError, "too long"),
    ("lzc_receive_resumable", "ZFS_ERR_WRONG_PARENT", PoolError, "a volume"),
    ("lzc_release", "EROFS", PoolError, "read-only"),
    ("lzc_rename", "EEXIST", PoolError, "a dataset of that name"),
    ("lzc_rename", "ENOENT", PoolError, "is missing"),
    ("lzc_rename", "EDQUOT", NoSpaceError, "a quota"),
    ("lzc_rollback_to", "EEXIST", PoolError, "has clones"),
    ("lzc_send", "ENOENT", PoolError, "is missing"),
    ("lzc_send", "EBADE", PoolError, "StreamIOError"),
    ("lzc_snapshot", "ENAMETOOLONG", PoolError, "too long"),
]


@pytest.mark.parametrize(("platform", "numbers"), [("sunos5", ILLUMOS), ("linux", LINUX)])
@pytest.mark.parametrize(("call", "name", "kind", "words"), MEANINGS)
def test_each_errno_of_a_call_has_its_meaning(
    platform: str,
    numbers: dict[str, int],
    call: str,
    name: str,
    kind: type[ImgstoreError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faults, "_NUMBERS", numbers)
    made = faults.explained(CallError(call, numbers[name]), "zones", "trying")
    assert type(made) is kind
    assert made.message.startswith('pool "zones": trying failed: ')
    assert words in made.message
    assert made.hint
    assert made.data == {"errno": numbers[name]}


def test_a_truncated_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenZFS has a number for it, and illumos says that its checksum is wrong."""
    made = faults.explained(CallError("lzc_receive_resumable", 1040), "zones", "trying")
    assert (type(made), "ended early" in made.message) == (StreamError, True)
    monkeypatch.setattr(faults, "_NUMBERS", ILLUMOS)
    made = faults.explained(CallError("lzc_receive_resumable", 1040), "zones", "trying")
    assert type(made) is PoolError
    made = faults.explained(CallError("lzc_receive_resumable", 50), "zones", "trying")
    assert type(made) is StreamError


def test_the_numbers_of_the_running_system() -> None:
    assert {name: faults._NUMBERS[name] for name in LINUX} == LINUX
    known = {name for table in faults._CONDITIONS.values() for name in table} | set(faults._BY_ERRNO)
    assert known <= set(LINUX)
    on_illumos = faults._numbers("sunos5")
    assert known - set(on_illumos) == {
        "ZFS_ERR_STREAM_TRUNCATED",
        "ZFS_ERR_STREAM_LARGE_BLOCK_MISMATCH",
        "ZFS_ERR_BADPROP",
    }


def test_every_call_has_a_table_of_its_errors() -> None:
    assert set(faults._CONDITIONS) == {name for name in library._CORE if name.startswith("lzc_")}
