"""Downloads from a real nginx. What nginx cannot do wrong is in test_download_faults.py."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

import pytest
import trio

from imgstored.errors import CancelledError, DownloadError, NoSpaceError
from imgstored.http.failures import Backoff
from imgstored.http.location import Access, Location
from imgstored.pools.base import BOUNDLESS, Boundless, Room
from imgstored.transfer.download import Download
from imgstored.transfer.mirror import ChangedError
from tests.support.descriptors import no_files_left
from tests.support.forward_proxy import ForwardProxy
from tests.support.limits import download_limits
from tests.support.memory_journal import MemoryJournal
from tests.support.nginx import Nginx
from tests.support.sluice import Sluice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.faulty_server import FaultyServer, Request, Wire

MIB = 1 << 20
SIZE = 8 * MIB + 12345
RANGES = 9
#: What has come when a download is stopped in the middle.
MIDDLE = 2 * MIB

CONTENT = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)


class Target:
    """Where a file is downloaded to, by one process after another."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "spool"
        self.journal = MemoryJournal()
        self.notes: list[str] = []

    def download(
        self,
        *urls: str,
        size: int | None = SIZE,
        connections: int = 4,
        access: Access | None = None,
        room: Room = BOUNDLESS,
        environ: dict[str, str] | None = None,
    ) -> Download:
        limits = download_limits(
            connections=connections, tries=3, backoff=Backoff(first=0.05, most=0.2), silence_seconds=30
        )
        return Download(
            [Location(url, "source", access or Access()) for url in urls],
            size=size,
            path=self.path,
            journal=self.journal,
            limits=limits,
            room=room,
            note=self.notes.append,
            environ=environ or {},
        )

    def there(self, content: bytes = CONTENT) -> bool:
        return self.path.read_bytes() == content


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path)


@contextmanager
def served(folder: Path, **options: object) -> Iterator[Nginx]:
    root = folder / "www"
    root.mkdir(exist_ok=True)
    (root / "file").write_bytes(CONTENT)
    os.utime(root / "file", (1_700_000_000, 1_700_000_000))
    with Nginx(folder / "nginx", root=root, **options) as server:  # type: ignore[arg-type]
        yield server


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Nginx]:
    with served(tmp_path) as server:
        yield server


class Held(NamedTuple):
    """nginx, of which so many bytes pass, and the rest when the sluice is opened."""

    nginx: Nginx
    sluice: Sluice

    @property
    def url(self) -> str:
        return self.nginx.url.replace(f":{self.nginx.port}", f":{self.sluice.port}")


@contextmanager
def held_back(folder: Path, after: int, **options: object) -> Iterator[Held]:
    with served(folder, **options) as nginx, Sluice(nginx.port) as sluice:
        sluice.hold(after)
        yield Held(nginx, sluice)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """Most of the file passes; of that, each of four connections may have less than a range in its buffer."""
    with held_back(tmp_path, MIDDLE + 9 * MIB // 2) as server:
        yield server


def fetched(download: Download) -> int:
    """Bytes that came over the network."""
    return sum(mirror.fetched for mirror in download.mirrors)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  it is threads that make it true
        await trio.sleep(0.005)


async def stop_when(
    download: Download, enough: Callable[[], bool], then: Callable[[], None] = lambda: None
) -> None:
    """Runs the download until it is cancelled at some point of it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        with trio.fail_after(60):
            await until(enough)
        then()
        nursery.cancel_scope.cancel()


# -- all goes well -----------------------------------------------------------------------------------------


async def test_the_file_comes_in_ranges(nginx: Nginx, target: Target) -> None:
    download = target.download(nginx.url + "/file")
    await download.run()
    assert target.there()
    assert (download.total, download.done, fetched(download), download.resumed) == (SIZE, SIZE, SIZE, 0)
    assert b"".join(download.blocks()) == CONTENT
    hits = nginx.settled_hits()
    assert [hit.status for hit in hits] == [206] * RANGES
    assert sum(hit.bytes_sent for hit in hits) == SIZE
    assert target.notes == []


@pytest.mark.parametrize("connections", [1, 4])
async def test_ranges_come_at_the_same_time(held: Held, target: Target, connections: int) -> None:
    # The first range comes alone; it shows what kind of server it is.
    held.sluice.hold(3 * MIB // 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(target.download(held.url + "/file", connections=connections).run)
        with trio.fail_after(60):
            await until(lambda: held.sluice.held == connections)
        held.sluice.open()
    assert target.there()
    assert len({hit.connection for hit in held.nginx.settled_hits()}) == connections


async def test_one_connection_brings_all_ranges(nginx: Nginx, target: Target) -> None:
    await target.download(nginx.url + "/file", connections=1).run()
    hits = nginx.settled_hits()
    assert len({hit.connection for hit in hits}) == 1
    starts = [int(hit.range.removeprefix("bytes=").partition("-")[0]) for hit in hits]
    assert starts == [index * MIB for index in range(RANGES)]


async def test_the_pump_reads_while_the_file_comes(held: Held, target: Target) -> None:
    download = target.download(held.url + "/file", connections=1)
    got: list[tuple[int, bool]] = []

    def pump() -> bytes:
        pieces = []
        for block in download.blocks():
            got.append((len(block), download.watermark._finished))
            pieces.append(block)
            held.sluice.open()
        return b"".join(pieces)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(download.run)
        assert await trio.to_thread.run_sync(pump) == CONTENT
    assert not got[0][1]


async def test_a_server_without_ranges(tmp_path: Path, target: Target) -> None:
    with served(tmp_path, ranges=False) as nginx:
        await target.download(nginx.url + "/file").run()
        assert target.there()
        assert [hit.status for hit in nginx.settled_hits()] == [200]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_file_of_unknown_size(tmp_path: Path, target: Target, ranges: bool) -> None:
    with served(tmp_path, ranges=ranges) as nginx:
        download = target.download(nginx.url + "/file", size=None)
        assert download.total is None
        await download.run()
        assert download.total == SIZE == fetched(download)
        assert target.there()
        later = target.download(nginx.url + "/file", size=None)
        await later.run()
        assert (later.total, later.resumed, fetched(later)) == (SIZE, SIZE, 0)


async def test_an_empty_file(nginx: Nginx, target: Target) -> None:
    download = target.download(nginx.url + "/file", size=0)
    await download.run()
    assert list(download.blocks()) == []
    assert nginx.settled_hits() == []


async def test_over_tls(tmp_path: Path, target: Target) -> None:
    with served(tmp_path, tls=True) as nginx:
        with pytest.raises(DownloadError, match="not trusted"):
            await target.download(nginx.url + "/file").run()
        await target.download(nginx.url + "/file", access=Access(ca_file=str(nginx.ca_file))).run()
        assert target.there()


async def test_authorities_that_are_not_there(target: Target) -> None:
    with pytest.raises(DownloadError, match="authorities in /nowhere cannot be read"):
        await target.download("https://127.0.0.1:1/", access=Access(ca_file="/nowhere")).run()


async def test_through_the_environments_proxy(nginx: Nginx, target: Target) -> None:
    with ForwardProxy() as proxy:
        download = target.download(nginx.url + "/file", connections=2, environ={"http_proxy": proxy.address})
        await download.run()
        assert target.there()
        assert proxy.seen


# -- again -------------------------------------------------------------------------------------------------


async def test_what_was_there_when_it_was_cancelled_is_not_fetched_again(held: Held, target: Target) -> None:
    first = target.download(held.url + "/file")
    await stop_when(first, lambda: first.done >= MIDDLE)
    held.sluice.open()
    assert target.journal.spooled is not None
    complete = len(target.journal.spooled.fingerprints)
    assert complete >= 1
    seen: list[int] = []
    second = target.download(held.url + "/file")
    await second.run(seen.append)
    assert target.there()
    assert seen == [second.resumed]
    assert second.resumed >= complete * MIB
    assert fetched(second) == SIZE - second.resumed


async def test_after_a_kill_at_most_one_range_a_connection_is_fetched_again(
    held: Held, target: Target, tmp_path: Path
) -> None:
    # What a process that is killed leaves: its files as they are at that moment, the journal before the data.
    first = target.download(held.url + "/file")
    left = Target(tmp_path / "left")
    (tmp_path / "left").mkdir()
    had = 0

    def die() -> None:
        nonlocal had
        had = first.done
        left.journal.spooled = target.journal.load()
        shutil.copy(target.path, left.path)

    await stop_when(first, lambda: first.done >= MIDDLE, die)
    held.sluice.open()
    second = left.download(held.url + "/file")
    await second.run()
    assert left.there()
    assert fetched(second) <= SIZE - had + 4 * MIB


async def test_ranges_whose_bytes_were_altered_are_fetched_again(nginx: Nginx, target: Target) -> None:
    await target.download(nginx.url + "/file").run()
    with target.path.open("r+b") as file:
        file.seek(3 * MIB + 5)
        file.write(bytes(10))
    second = target.download(nginx.url + "/file")
    await second.run()
    assert target.there()
    assert fetched(second) == MIB
    assert nginx.settled_hits()[-1].range == f"bytes={3 * MIB}-{4 * MIB - 1}"


async def test_a_journal_without_its_bytes(nginx: Nginx, target: Target) -> None:
    await target.download(nginx.url + "/file").run()
    target.path.unlink()
    second = target.download(nginx.url + "/file")
    await second.run()
    assert target.there()
    assert (second.resumed, fetched(second)) == (0, SIZE)


async def test_without_ranges_what_is_there_is_compared(tmp_path: Path, target: Target) -> None:
    with held_back(tmp_path, 9 * MIB // 2, ranges=False) as held:
        first = target.download(held.url + "/file")
        await stop_when(first, lambda: first.done >= 3 * MIB)
        held.sluice.open()
        inode = target.path.stat().st_ino
        second = target.download(held.url + "/file")
        await second.run()
        assert second.resumed >= 2 * MIB
        # All of it came, and the end of it was kept.
        assert fetched(second) == SIZE
        assert target.there()
        assert target.path.stat().st_ino == inode


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_file_that_was_replaced_before_a_later_try(
    tmp_path: Path, target: Target, ranges: bool
) -> None:
    with held_back(tmp_path, 9 * MIB // 2, ranges=ranges) as held:
        first = target.download(held.url + "/file", connections=1)
        await stop_when(first, lambda: first.done >= 3 * MIB)
        held.sluice.open()
        (held.nginx.root / "file").write_bytes(OTHER)
        with pytest.raises(ChangedError, match="changed while it was downloaded"):
            await target.download(held.url + "/file").run()
        assert target.journal.spooled is None
        third = target.download(held.url + "/file")
        await third.run()
        assert third.resumed == 0
        assert target.there(OTHER)


async def test_a_file_that_is_replaced_midway_is_never_mixed(held: Held, target: Target) -> None:
    # Little by little, so that most ranges are not asked for before the file is replaced.
    held.sluice.hold()
    download = target.download(held.url + "/file", connections=2)

    async def replace() -> None:
        while download.watermark.position < MIB:
            if held.sluice.left == 0:
                held.sluice.hold(MIB // 8)
            await trio.sleep(0.005)
        (held.nginx.root / "new").write_bytes(OTHER)
        (held.nginx.root / "new").rename(held.nginx.root / "file")
        held.sluice.open()

    with pytest.RaisesGroup(ChangedError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replace)
            nursery.start_soon(download.run)
    with pytest.raises(ChangedError):
        download.watermark.wait(0)


async def test_a_file_of_unstated_size_that_is_replaced_by_a_smaller_one(held: Held, target: Target) -> None:
    first = target.download(held.url + "/file", size=None)
    await stop_when(first, lambda: first.done >= MIDDLE)
    held.sluice.open()
    (held.nginx.root / "file").write_bytes(OTHER[: 2 * MIB])
    with pytest.raises(DownloadError):
        await target.download(held.url + "/file", size=None).run()
    await target.download(held.url + "/file", size=None).run()
    assert target.there(OTHER[: 2 * MIB])


# -- several mirrors ---------------------------------------------------------------------------------------


async def test_the_next_mirror_takes_over_and_nothing_is_fetched_twice(
    held: Held, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    with served(tmp_path / "b") as other:
        download = target.download(held.url + "/file", other.url + "/file")

        async def stop() -> None:
            await until(lambda: download.done >= MIDDLE)
            await trio.to_thread.run_sync(held.sluice.stop)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            await download.run()
        assert target.there()
        assert fetched(download) == SIZE
        first, second = download.mirrors
        assert first.fetched >= MIDDLE
        assert second.fetched == sum(hit.bytes_sent for hit in other.settled_hits()) == SIZE - first.fetched
        assert "connection refused" in download._plan.faults()[0]
        assert any("not tried again" in note for note in target.notes)


async def test_a_mirror_that_is_down_from_the_start_costs_nothing(nginx: Nginx, target: Target) -> None:
    download = target.download("http://127.0.0.1:1/file", nginx.url + "/file")
    await download.run()
    assert target.there()
    assert [mirror.fetched for mirror in download.mirrors] == [0, SIZE]
    assert download._plan.mirrors[0].failures == 1


async def test_a_mirror_whose_file_has_another_size(nginx: Nginx, target: Target) -> None:
    (nginx.root / "other").write_bytes(OTHER[:-1])
    download = target.download(nginx.url + "/other", nginx.url + "/file")
    await download.run()
    assert target.there()
    assert f"expected {SIZE} bytes, the server has {SIZE - 1}" in download._plan.faults()[0]


async def test_no_mirror_has_it(nginx: Nginx, target: Target) -> None:
    with pytest.raises(DownloadError) as caught:
        await target.download(nginx.url + "/a", nginx.url + "/b?token=secret").run()
    assert caught.value.message == (
        f"no mirror could deliver the file: {nginx.url}/a: the file is not there (404); "
        f"{nginx.url}/b: the file is not there (404)"
    )
    assert len(nginx.settled_hits()) == 2


async def test_no_mirror_at_all(target: Target) -> None:
    with pytest.raises(DownloadError, match="no source has the file"):
        await target.download().run()


# -- no room -----------------------------------------------------------------------------------------------


class Small(Boundless):
    """Has room for so many bytes, whatever is expected."""

    def __init__(self, size: int) -> None:
        self.expected: list[int] = []
        self.left = size
        self.writing = 0

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        self.expected.append(to_come)
        return self.left

    def take(self, size: int) -> None:
        assert self.writing == 0
        if size > self.left:
            raise NoSpaceError("no room left in the pool")
        self.writing = size

    def spent(self, size: int) -> None:
        assert self.writing == size
        self.left, self.writing = self.left - size, 0


async def test_the_room_is_watched(nginx: Nginx, target: Target) -> None:
    room = Small(SIZE // 2)
    download = target.download(nginx.url + "/file", connections=1, room=room)
    with pytest.raises(NoSpaceError, match="in the pool"):
        await download.run()
    assert room.expected[0] == SIZE
    assert room.expected == sorted(room.expected, reverse=True)
    assert target.path.stat().st_blocks * 512 <= SIZE // 2
    with pytest.raises(NoSpaceError):
        download.watermark.wait(0)


@pytest.mark.parametrize("size", [SIZE // 2, SIZE])
async def test_the_room_is_watched_where_nobody_says_how_much_comes(
    start_faulty: Callable[..., FaultyServer], target: Target, size: int
) -> None:
    """No length, no ranges: bytes that come are all that there is to see."""

    def whole(_request: Request, wire: Wire) -> None:
        with suppress(OSError):  # a client that has no room hangs up
            wire.send(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\n" + CONTENT)
        wire.close()

    server = start_faulty(whole)
    room = Small(size)
    download = target.download(server.url + "/file", size=None, connections=1, room=room)
    if size == SIZE:
        await download.run()
        assert room.left == 0
        assert target.there()
    else:
        with pytest.raises(NoSpaceError, match="in the pool"):
            await download.run()
        assert target.path.stat().st_blocks * 512 <= size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_full_disk(nginx: Nginx, small_disk: Path) -> None:
    with pytest.raises(NoSpaceError, match="no room left"):
        await Target(small_disk).download(nginx.url + "/file").run()


# -- cancelling --------------------------------------------------------------------------------------------


async def test_cancelled_it_leaves_nothing_open(tmp_path: Path, target: Target) -> None:
    # With those of the sluice, all are gone.
    with no_files_left(), held_back(tmp_path, 100_000) as held:
        download = target.download(held.url + "/file")
        with trio.fail_after(60):
            await stop_when(download, lambda: held.sluice.held > 0)
    with pytest.raises(CancelledError):
        download.watermark.wait(0)


async def test_cancelled_while_it_checks_what_is_there(nginx: Nginx, target: Target) -> None:
    await target.download(nginx.url + "/file").run()
    download = target.download(nginx.url + "/file")
    with trio.CancelScope() as scope:
        scope.cancel()
        await download.run()
    assert scope.cancelled_caught
    with pytest.raises(CancelledError):
        download.watermark.wait(SIZE)
