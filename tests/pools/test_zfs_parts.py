"""The parts of the ZFS pool that need no ZFS. The rest is tested in the guest: tests/pools/zfs."""

from __future__ import annotations

import errno
import importlib
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgstored.errors import (
    ConfigError,
    ImgstoreError,
    NoSpaceError,
    OriginNotInstalledError,
    PoolError,
    PoolNotFoundError,
    StreamError,
)
from imgstored.host.mounts import Mount
from imgstored.pools.base import PoolImage
from imgstored.pools.zfs import ZfsPool, faults, library, lzc, pipe, programs, pyzfs
from imgstored.pools.zfs.check import check_stream
from imgstored.pools.zfs.pipe import Inlet, outlet
from imgstored.pools.zfs.properties import DEFAULT, checked, of_kind
from imgstored.pools.zfs.system import places
from tests.support.streams import StreamWriter, real_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from types import ModuleType

    from imgstored.pools.base import Checked
    from tests.support.fake_lzc import FakeLzc


@pytest.fixture
def no_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As where neither python3-pyzfs nor the C library is installed; the folder where pyzfs would be."""
    real = forgotten()
    monkeypatch.setattr(pyzfs, "_SYSTEM_FOLDER", tmp_path)
    monkeypatch.setattr(library, "_VERSIONS", (99,))
    yield tmp_path
    forgotten()
    sys.modules.update(real)


def forgotten() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] == "libzfs_core"]
    return {name: sys.modules.pop(name) for name in names}


def test_without_pyzfs_and_without_the_library(no_module: Path) -> None:
    before = list(sys.path)
    with pytest.raises(PoolError, match=r'pool "zones".*libzfs_core cannot be loaded') as caught:
        ZfsPool("zones")
    assert "libzfs_core.so.99" in caught.value.message
    assert "pyzfs" not in caught.value.message + caught.value.hint
    assert "libzfs4linux" in caught.value.hint
    assert sys.path == before


def test_with_a_pyzfs_that_cannot_be_loaded(no_module: Path) -> None:
    (no_module / "libzfs_core").mkdir()
    (no_module / "libzfs_core" / "__init__.py").write_text("import no_cffi_here\n")
    before = list(sys.path)
    with pytest.raises(PoolError, match="no_cffi_here"):
        ZfsPool("zones")
    assert sys.path == before


def test_it_is_not_imported_before_it_is_needed() -> None:
    assert "libzfs_core" not in dir(lzc)


def test_without_the_library(no_module: Path) -> None:
    """cffi looks for the library when a function of it is first asked for."""
    fake_pyzfs(no_module, "raise OSError('no zfs_core')")
    with pytest.raises(PoolError, match="no zfs_core"):
        ZfsPool("zones")


def fake_pyzfs(folder: Path, is_supported: str) -> None:
    """As OpenZFS's, with that answer to whether the C library has a function."""
    (folder / "libzfs_core").mkdir()
    (folder / "libzfs_core" / "exceptions.py").write_text(
        "class ZFSError(Exception): pass\nclass ZFSInitializationFailed(ZFSError): errno = 13\n"
    )
    calls = "".join(f"def {name}(*_): pass\n" for name in pyzfs._CALLS)
    (folder / "libzfs_core" / "__init__.py").write_text(
        f"from . import exceptions\n{calls}def is_supported(function):\n    {is_supported}\n"
    )


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_cffi_here\n", "no_cffi_here"),
        ("raise ValueError, 'Python 2'\n", "invalid syntax|Missing parentheses"),
        ("def lzc_send(*_): pass\n", "has no attribute"),
        (None, "pyzfs has no lzc_channel_program, lzc_channel_program_nosync"),
    ],
)
def test_a_pyzfs_that_is_of_no_use_is_not_used(
    no_module: Path, fake_lzc: FakeLzc, source: str | None, cause: str
) -> None:
    """It is for another Python, or PyPI's of 2016, or of another OpenZFS than the library."""
    if source is None:
        fake_pyzfs(no_module, "return False")
    else:
        (no_module / "libzfs_core").mkdir()
        (no_module / "libzfs_core" / "__init__.py").write_text(source)
    with pytest.raises(PoolError, match=cause):
        lzc._load("zones")
    forgotten()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "_VERSIONS", (99, 1))
        patch.setattr(lzc, "BINDINGS", (pyzfs.Pyzfs, fake_lzc.open))
        assert lzc._load("zones").name == "libzfs_core.so.1"


def test_a_pyzfs_that_is_right_comes_first(no_module: Path) -> None:
    fake_pyzfs(no_module, "return True")
    assert lzc._load("zones").name == "pyzfs"
    assert list(lzc.BINDINGS) == [pyzfs.Pyzfs, library.Library]


def test_a_pyzfs_without_the_kernels_side(no_module: Path) -> None:
    """The library is there, so each call says what is wrong."""
    fake_pyzfs(no_module, "raise exceptions.ZFSInitializationFailed")
    assert lzc._load("zones").name == "pyzfs"


@pytest.fixture(scope="module")
def exceptions() -> ModuleType:
    try:
        pyzfs.Pyzfs()
    except ImportError as error:
        pytest.skip(str(error))
    return importlib.import_module("libzfs_core.exceptions")


MEANINGS: list[tuple[str, tuple[object, ...], type[ImgstoreError], str]] = [
    ("PoolNotFound", (b"zones",), PoolNotFoundError, "no such pool"),
    ("NoSpace", (b"zones",), NoSpaceError, "no room left"),
    ("QuotaExceeded", (b"zones",), NoSpaceError, "a quota"),
    ("DatasetExists", (b"zones/x",), PoolError, "a dataset of that name"),
    ("FilesystemExists", (b"zones/x",), PoolError, "a dataset of that name"),
    ("DatasetNotFound", (b"zones/x",), PoolError, "is missing"),
    ("StreamMismatch", (b"zones/x",), OriginNotInstalledError, "another snapshot"),
    ("DatasetBusy", (b"zones/x",), PoolError, "busy"),
    ("StreamFeatureNotSupported", (), PoolError, "needs a feature"),
    ("ZCPPermissionError", (), PoolError, "lacks the privilege"),
    ("StreamIOError", (errno.EPERM,), PoolError, "lacks the privilege"),
    ("StreamIOError", (errno.EIO,), PoolError, "the disks"),
    ("ZIOError", (b"zones",), PoolError, "the disks"),
    ("StreamTruncated", (), StreamError, "ended early"),
    ("BadStream", (), StreamError, "damaged"),
    ("ReadOnlyPool", (b"zones",), PoolError, "read-only"),
    ("SuspendedPool", (b"zones",), PoolError, "suspended"),
    ("WrongParent", (b"zones/x",), PoolError, "a volume"),
    ("NameTooLong", (b"zones/x",), PoolError, "too long"),
    ("ZCPTimeout", (), PoolError, "too much time"),
    ("ZFSGenericError", (errno.EXDEV, b"zones", "?"), PoolError, "Invalid cross-device link"),
    ("ZCPRuntimeError", (b"bad argument #1\nstack",), PoolError, "bad argument #1"),
]


@pytest.mark.parametrize(("name", "arguments", "kind", "words"), MEANINGS)
def test_each_error_has_its_meaning(
    exceptions: ModuleType, name: str, arguments: tuple[object, ...], kind: type[ImgstoreError], words: str
) -> None:
    error = getattr(exceptions, name)(*arguments)
    made = faults.explained(error, "zones", "trying")
    assert type(made) is kind
    assert made.message.startswith('pool "zones": trying failed: ')
    assert words in made.message
    assert "\n" not in made.message
    assert made.hint


def test_the_first_of_several_errors_counts(exceptions: ModuleType) -> None:
    error = exceptions.HoldFailure([exceptions.HoldExists(b"zones/x@final")], 0)
    assert faults.is_called(error, "HoldExists")
    error = exceptions.HoldFailure([exceptions.ReadOnlyPool(b"zones")], 0)
    assert "read-only" in faults.explained(error, "zones", "trying").message


def test_every_class_of_pyzfs_is_told(exceptions: ModuleType) -> None:
    """Also those that no call of ours should raise."""
    assert set(faults._BY_NAME) <= set(vars(exceptions))
    for kind in vars(exceptions).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            made = faults.explained(kind.__new__(kind), "zones", "trying")
            assert isinstance(made, ImgstoreError)
            assert made.hint


def test_no_dev_zfs() -> None:
    assert "modprobe zfs" in faults.zfs_absent("zones", errno.ENOENT).hint
    assert "as root" in faults.zfs_absent("zones", errno.EACCES).hint


# -- properties ----------------------------------------------------------------------------------------------


def test_properties_as_the_kernel_takes_them() -> None:
    assert checked(DEFAULT) == {"readonly": 1, "canmount": 2}
    made = checked({"compression": "lz4", "canmount": "off", "org.example:tag": "any text"})
    assert made == {"compression": 15, "canmount": 0, "org.example:tag": "any text"}
    assert of_kind(made, volume=False) == made
    assert of_kind(made, volume=True) == {"compression": 15, "org.example:tag": "any text"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mountpoint", "/"),
        ("quota", "1G"),
        ("readonly", "yes"),
        ("canmount", ""),
        ("A:b", "x"),
        ("a:b", "\n"),
    ],
)
def test_properties_that_images_cannot_have(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked({name: value})
    assert caught.value.hint


# -- mounts --------------------------------------------------------------------------------------------------


def test_where_a_dataset_is_mounted() -> None:
    listed = [
        Mount("0:1", b"/", "zfs", "tank/a"),
        Mount("0:1", b"/with space", "zfs", "tank/a"),
        Mount("0:2", b"/b", "zfs", "tank/ab"),
        Mount("0:3", b"/snapshot", "zfs", "tank/a@final"),
        Mount("0:4", b"/fake", "ext4", "tank/a"),
    ]
    assert list(places("tank/a", listed)) == [b"/", b"/with space", b"/snapshot"]


# -- programs ------------------------------------------------------------------------------------------------


def test_nothing_is_spliced_into_a_program() -> None:
    """They are constants: names come as arguments."""
    source = Path(programs.__file__).read_text()
    for name in ("_ONE", "_ALL", "_PARTIALS", "_SPACE", "_DEPENDENTS", "_ALL_DEPENDENTS", "_DESTROY"):
        text = getattr(programs, name)
        assert text.startswith(programs._BEGIN)
        assert source.count(f"\n{name}: Final = ") == 1


@pytest.mark.parametrize(
    ("origin", "uuid"),
    [
        (None, None),
        ("tank/11111111-aaaa-4bbb-8ccc-000000000001@final", "11111111-aaaa-4bbb-8ccc-000000000001"),
        ("tank/11111111-aaaa-4bbb-8ccc-000000000001@other", None),
        ("tank/vm@final", None),
        ("other/11111111-aaaa-4bbb-8ccc-000000000001@final", None),
    ],
)
def test_origins(origin: str | None, uuid: str | None) -> None:
    assert programs._image_of(origin, "tank") == uuid


# -- what is open in the kernel's threads --------------------------------------------------------------------


def open_here() -> set[int]:
    """The calling thread's descriptors, but for the one by which they are listed."""
    return {int(link.name) for link in list(Path("/proc/thread-self/fd").iterdir()) if os.path.lexists(link)}


def test_the_kernels_thread_has_its_end_of_the_pipe_alone() -> None:
    before = open_here()
    seen: list[set[int]] = []
    received = bytearray()

    def kernel(fd: int) -> None:
        seen.append(open_here() - {0, 1, 2, fd})
        while piece := os.read(fd, 1000):
            received.extend(piece)

    inlet = Inlet("zones", kernel)
    other = Inlet("zones", kernel)
    assert inlet.write(b"x" * 5000)
    assert inlet.finish() is None
    assert other.finish() is None
    assert (seen, received) == ([set(), set()], b"x" * 5000)
    assert b"".join(outlet("zones", lambda fd: os.close(os.dup(fd)) or os.write(fd, b"sent"))) == b"sent"  # type: ignore[func-returns-value]
    assert open_here() == before


def test_a_reader_that_is_gone_is_noticed() -> None:
    def kernel(fd: int) -> None:
        raise ValueError("refused")

    inlet = Inlet("zones", kernel)
    while inlet.write(b"x" * 100_000):
        pass
    assert isinstance(inlet.finish(), ValueError)


def endless(ended: threading.Event) -> Callable[[int], None]:
    """As the kernel that sends: it ends when nobody reads any more."""

    def kernel(fd: int) -> None:
        try:
            while True:
                os.write(fd, bytes(1 << 16))
        except BrokenPipeError:
            ended.set()

    return kernel


def test_a_stream_that_nobody_takes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "STALL", 0.05)
    ended = threading.Event()
    pieces = outlet("zones", endless(ended))
    assert next(pieces)
    assert ended.wait(30)
    with pytest.raises(PoolError, match=r'sent from pool "zones" was not taken for 0 seconds'):
        next(pieces)


def test_a_stream_that_is_left_ends_at_once() -> None:
    ended = threading.Event()
    pieces = outlet("zones", endless(ended))
    assert next(pieces)
    pieces.close()
    assert ended.is_set()


def test_a_pool_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "STALL", 0.05)
    go = threading.Event()
    pieces = outlet("zones", lambda _: go.wait(30) and None)
    try:
        with pytest.raises(PoolError, match=r'pool "zones" has given nothing for 0 seconds'):
            next(pieces)
    finally:
        go.set()


def test_a_stream_that_is_left_while_the_kernel_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disks that are gone: the kernel's call does not see that nobody reads any more."""
    monkeypatch.setattr(pipe, "STALL", 0.5)
    go = threading.Event()
    pieces = outlet("zones", lambda fd: os.write(fd, b"sent") and go.wait(60) and None)
    try:
        assert next(pieces) == b"sent"
        before = time.monotonic()
        pieces.close()
        assert time.monotonic() - before < 30
    finally:
        go.set()


def test_who_reads_slowly_but_reads_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "STALL", 5.0)
    size = 0
    for piece in outlet("zones", lambda fd: [os.write(fd, bytes(1 << 16)) for _ in range(40)] and None):
        time.sleep(0.001)
        size += len(piece)
    assert size == 40 << 16


# -- what `verify` reads -------------------------------------------------------------------------------------


def content_of(stream: bytes) -> Checked:
    image = PoolImage("u", 1, None, "filesystem", 1, 1)

    def sent() -> Generator[bytes, None, None]:
        yield from (stream[at : at + 100_000] for at in range(0, len(stream), 100_000))

    return check_stream(image, sent(), 0, lambda _: None, content=True)


def written(*blocks: tuple[int, int, bytes], **begin: str) -> bytes:
    """A stream that writes blocks (object, offset, data)."""
    writer = StreamWriter()
    parts = [writer.begin(**begin), writer.object(1, kind=19, block_size=8192)]  # type: ignore[arg-type]
    return b"".join([*parts, *(writer.write(*block) for block in blocks), writer.end()])


def test_the_checksum_of_the_data_is_not_that_of_the_stream() -> None:
    one, two = (1, 0, b"a" * 8192), (1, 8192, b"b" * 8192)
    first = content_of(written(one, two)).content
    assert first is not None
    # The pool was renamed.
    assert content_of(written(one, two, toname="tank/made@final")).content == first
    others = [
        written(one),
        written(one, (1, 8192, b"c" * 8192)),
        written(one, (1, 16384, b"b" * 8192)),
        written(one, (2, 8192, b"b" * 8192)),
    ]
    found = {content_of(stream).content for stream in others}
    assert len(found) == len(others)
    assert first not in found
    real = real_stream("base")
    assert content_of(real).content == content_of(bytes(real)).content


def test_the_checksum_is_that_of_the_data_whether_large_blocks_stay_whole() -> None:
    data = random.Random(1).randbytes(1 << 20)
    split = [(1, start, data[start : start + (128 << 10)]) for start in range(0, len(data), 128 << 10)]
    whole = content_of(written((1, 0, data))).content
    assert whole == content_of(written(*split)).content
    assert whole != content_of(written((1, 0, data[:-1] + b"x"))).content


def test_there_is_no_checksum_of_what_is_damaged() -> None:
    stream = bytearray(real_stream("base"))
    stream[len(stream) // 2] ^= 1
    checked = content_of(bytes(stream))
    assert checked.damaged is not None
    assert checked.content is None
    image = PoolImage("u", 1, None, "filesystem", 1, 1)
    sound = check_stream(image, (piece for piece in [real_stream("base")]), 0, lambda _: None)
    assert (sound.damaged, sound.content) == (None, None)


@pytest.mark.parametrize("none_for", ["zfs receive", "zfs send", "zfs send's reader"])
def test_a_pipe_without_a_thread_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, none_for: str) -> None:
    """And no kernel waits for somebody to read: the reader is there before it, or neither is."""
    start, begun = threading.Thread.start, []

    def none(thread: threading.Thread) -> None:
        if thread.name == none_for:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", none)
    before = set(Path("/proc/self/fd").iterdir())

    def begin() -> None:
        if none_for == "zfs receive":
            Inlet("tank", lambda fd: None)
        else:
            next(outlet("tank", lambda fd: None))

    with pytest.raises(RuntimeError, match="new thread"):
        begin()
    for thread in begun:
        thread.join(20)
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == {path.name for path in before}
