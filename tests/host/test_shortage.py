"""A file system that has room for bytes and none for one more file: each place that makes one says so."""

from __future__ import annotations

import errno
import gc
import json
import os
from typing import TYPE_CHECKING

import pytest

from imgstored.__main__ import exit_status
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.manifest_files import ManifestFiles
from imgstored.errors import ConfigError, NoSpaceError, PoolError
from imgstored.host import shortage
from imgstored.imports.journal import Journal
from imgstored.pools.embedded import EmbeddedPool
from imgstored.rpc.listener import listen
from imgstored.sources.base import SourceSpec
from imgstored.sources.imgadm_conf import ImgadmConf
from imgstored.state.folder import owned
from imgstored.state.schema import JOURNAL
from imgstored.transfer.spool import Spool
from imgstored.transfer.watermark import Watermark
from tests.support.full import FewInodes, few_inodes
from tests.support.memory_journal import MemoryJournal
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UUID = "11111111-aaaa-4bbb-8ccc-000000000001"
WORDS = "no free inodes"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[FewInodes]:
    with few_inodes(tmp_path / "small") as small:
        yield small
    # A pool closes its files when it goes; other tests count those that are open.
    gc.collect()


def test_which_of_the_two(small: FewInodes) -> None:
    assert (shortage.free_inodes(small.folder) or 0) > 100
    small.leave(0)
    assert shortage.free_inodes(small.folder / "not" / "there") == 0
    with pytest.raises(OSError, match="No space left") as caught:
        (small.folder / "file").touch()
    assert shortage.is_full(caught.value)
    assert WORDS in shortage.why(caught.value)
    small.leave(1)
    assert shortage.why(caught.value) == os.strerror(errno.ENOSPC)
    assert shortage.cause(small.folder) == ""
    denied = PermissionError(errno.EACCES, "Permission denied", str(small.folder))
    assert not shortage.is_full(denied)
    assert shortage.why(denied) == "Permission denied"


def test_where_inodes_are_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As btrfs does it; and where the system does not say."""
    fields = list(os.statvfs(tmp_path))
    fields[5:8] = [0, 0, 0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    assert shortage.free_inodes(tmp_path) is None

    def broken(_: object) -> os.statvfs_result:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "statvfs", broken)
    assert shortage.free_inodes(tmp_path) is None
    assert shortage.cause(tmp_path) == ""


def state(folder: Path) -> None:
    with owned(folder / "state"):
        pass


def spool(folder: Path) -> None:
    spool = Spool(folder / "spool", MemoryJournal(), Watermark())
    try:
        spool.open(1, lambda: None)
    finally:
        spool.close()


def locks(folder: Path) -> None:
    with ImageLocks(folder).tried(UUID):
        pass


def lock_folder(folder: Path) -> None:
    ImageLocks(folder / "locks")


def sources(folder: Path) -> None:
    ImgadmConf(folder / "imgadm.conf").add(SourceSpec("http://h"), default=None)


def pool(folder: Path) -> None:
    EmbeddedPool("zones", folder / "pool")


def journal(folder: Path) -> None:
    """The daemon starts without one, and says what it waits for."""
    opened = Journal(folder / JOURNAL)
    opened.close()
    if opened.fault is not None:
        raise opened.fault


def socket(folder: Path) -> None:
    listen(folder / "s", mode=0o600, group_gid=None).close()


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (state, ConfigError),
        (spool, NoSpaceError),
        (locks, PoolError),
        (lock_folder, PoolError),
        (sources, ConfigError),
        (pool, NoSpaceError),
        (journal, NoSpaceError),
        (socket, ConfigError),
    ],
)
@pytest.mark.parametrize("free", [0, 1, 2])
def test_every_place_says_so(
    small: FewInodes, place: Callable[[Path], None], kind: type[Exception], free: int
) -> None:
    """With one or two left, some get along, and others fail in the middle; none says anything else."""
    small.leave(free)
    said = failure(lambda: place(small.folder), kind)
    assert said is None or WORDS in said
    assert said is not None or free


def failure(do: Callable[[], object], kind: type[Exception]) -> str | None:
    """What it fails with, if it does."""
    try:
        do()
    except kind as error:
        return str(error)
    return None


def test_a_later_start_may_help(small: FewInodes) -> None:
    """What starts the daemon tries again, as it does where room for bytes is missing."""
    small.leave(0)
    with pytest.raises(ConfigError) as caught:
        state(small.folder)
    assert exit_status(caught.value) == 1


def test_a_manifest(small: FewInodes) -> None:
    files = ManifestFiles(small.folder)
    small.leave(0)
    with pytest.raises(OSError, match="No space") as caught:
        files.write("zones", UUID, {"uuid": UUID}, None)
    assert WORDS in shortage.why(caught.value)
    assert not files.is_there("zones", UUID)


@pytest.mark.parametrize("free", range(6))
def test_a_receive(small: FewInodes, free: int) -> None:
    """Nothing of it is an image, and once there is room it goes on."""
    pool = EmbeddedPool("zones", small.folder / "pool")
    data = [real_stream("base")]
    small.leave(free)

    def receive() -> None:
        pool.receive(UUID, iter(data))
        pool.publish(UUID)

    said = failure(receive, NoSpaceError)
    assert bool(said) == (free < 4)
    if said is not None:
        assert WORDS in said
        assert pool.image(UUID) is None
        small.leave(100)
        receive()
    assert b"".join(pool.send(UUID)) == data[0]
    assert json.dumps([image.uuid for image in pool.images()]) == json.dumps([UUID])
