from __future__ import annotations

import gzip
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from imgstored.errors import CancelledError, DownloadError, PoolError, StreamError, UncompressionError
from imgstored.transfer.digest import Expected
from imgstored.transfer.pump import Pump
from imgstored.transfer.spool import blocks as spooled
from imgstored.transfer.watermark import Watermark
from tests.support.compressed import some_bytes
from tests.support.limits import decompress_limits
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgstored.http.location import Verify
    from imgstored.transfer.decompress import DecompressLimits

UUID = "01b2c898-945f-11e1-a523-af1afbe22822"
STREAM = bytes(8) + (0x2F5BACBAC).to_bytes(8, "little") + some_bytes(6 << 20)
FILE = gzip.compress(STREAM, 1)
SHA1 = hashlib.sha1(FILE).hexdigest()

both = pytest.mark.parametrize("verify", ["streaming", "first"])


class Download:
    """A file that is there as far as its watermark says."""

    def __init__(self, path: Path, content: bytes = FILE) -> None:
        self.path = path
        self.watermark = Watermark()
        self.opened = 0
        path.write_bytes(content)

    def finish(self) -> Download:
        self.watermark.advance(self.path.stat().st_size)
        self.watermark.finish()
        return self

    def pump(self, verify: Verify, sha1: str = SHA1, limits: DecompressLimits | None = None) -> Pump:
        return Pump(
            self._open,
            Expected(UUID, None, sha1),
            limits or decompress_limits(),
            verify=verify,
            release=self.watermark.fail,
        )

    def _open(self) -> Iterator[bytes]:
        self.opened += 1
        return spooled(self.path, self.watermark)


def whole(stream: Iterator[bytes | memoryview]) -> bytes:
    return b"".join(stream)


@pytest.fixture
def download(tmp_path: Path) -> Iterator[Download]:
    with no_threads_left():
        yield Download(tmp_path / "spool")


@both
def test_the_pool_gets_the_stream(download: Download, verify: Verify) -> None:
    pump = download.finish().pump(verify)
    assert pump.run(whole) == STREAM
    assert (pump.compressed, pump.stream) == (len(FILE), len(STREAM))
    assert download.opened == (2 if verify == "first" else 1)


def test_streaming_the_pool_receives_while_the_file_comes(download: Download) -> None:
    received = threading.Event()

    def receive(stream: Iterator[bytes | memoryview]) -> int:
        size = len(next(stream))
        received.set()
        return size + sum(map(len, stream))

    pump = download.pump("streaming")
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(pump.run, receive)
        download.watermark.advance(len(FILE) // 2)
        early = received.wait(5)
        stream, compressed = pump.stream, pump.compressed
        download.finish()
        assert running.result(5) == len(STREAM)
    assert early
    assert 0 < stream < len(STREAM)
    assert 0 < compressed <= len(FILE) // 2


@both
def test_another_checksum(download: Download, verify: Verify) -> None:
    seen: list[int] = []

    def receive(stream: Iterator[bytes | memoryview]) -> None:
        seen.extend(map(len, stream))

    with pytest.raises(DownloadError, match="file checksum"):
        download.finish().pump(verify, sha1="0" * 40).run(receive)
    # What is to be verified first is not shown to the pool, nor to a decompressor.
    assert bool(seen) == (verify == "streaming")


def test_a_pool_that_does_not_read_to_the_end_learns_of_another_checksum(download: Download) -> None:
    pump = download.finish().pump("streaming", sha1="0" * 40)
    with pytest.raises(DownloadError, match="file checksum"):
        pump.run(lambda stream: next(stream))


@both
def test_bytes_that_the_pool_does_not_want(download: Download, verify: Verify) -> None:
    def receive(stream: Iterator[bytes | memoryview]) -> None:
        got = 0
        while got < len(STREAM) - (1 << 20):
            got += len(next(stream))

    with pytest.raises(StreamError, match="bytes follow the end of the ZFS stream"):
        download.finish().pump(verify).run(receive)


def test_a_file_that_changed_after_it_was_verified(download: Download) -> None:
    download.finish()
    opened = download._open

    def open_twice() -> Iterator[bytes]:
        if download.opened == 1:
            download.path.write_bytes(gzip.compress(STREAM, 2))
            download.watermark = Watermark()
            download.finish()
        return opened()

    changing = Pump(
        open_twice, Expected(UUID), decompress_limits(), verify="first", release=download.watermark.fail
    )
    with pytest.raises(DownloadError, match="changed after it was verified"):
        changing.run(whole)


@both
def test_an_error_of_the_pool_releases_what_waits(download: Download, verify: Verify) -> None:
    def receive(stream: Iterator[bytes | memoryview]) -> None:
        next(stream)
        raise PoolError("the pool is suspended")

    if verify == "first":
        download.finish()
    else:
        # The rest never comes.
        download.watermark.advance(len(FILE) // 2)
    with pytest.raises(PoolError, match="suspended"):
        download.pump(verify).run(receive)


@both
def test_damage_and_limits_reach_the_pool_and_the_caller(download: Download, verify: Verify) -> None:
    seen: list[BaseException] = []

    def receive(stream: Iterator[bytes | memoryview]) -> None:
        try:
            whole(stream)
        except UncompressionError as error:
            seen.append(error)
            raise

    with pytest.raises(UncompressionError, match="larger than 1048576 bytes") as caught:
        download.finish().pump(verify, limits=decompress_limits(max_image=1 << 20)).run(receive)
    assert seen == [caught.value]


@both
@pytest.mark.parametrize("there", [0, len(FILE) // 2])
def test_cancelled_while_it_waits_for_the_download(download: Download, verify: Verify, there: int) -> None:
    download.watermark.advance(there)
    pump = download.pump(verify)
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(pump.run, whole)
        pump.cancel(CancelledError("nobody wants it"))
        with pytest.raises(CancelledError, match="nobody wants it"):
            running.result(5)


@both
def test_cancelled_when_all_is_there(download: Download, verify: Verify) -> None:
    pump = download.finish().pump(verify)

    def receive(stream: Iterator[bytes | memoryview]) -> None:
        next(stream)
        pump.cancel(CancelledError("nobody wants it"))
        whole(stream)

    with pytest.raises(CancelledError, match="nobody wants it"):
        pump.run(receive)
    assert pump.stream < len(STREAM)


def test_an_error_of_the_download_passes_through(download: Download) -> None:
    download.watermark.advance(1000)
    download.watermark.fail(DownloadError("no mirror is left"))
    with pytest.raises(DownloadError, match="no mirror is left"):
        download.pump("streaming").run(whole)


def test_what_waits_for_the_pool_is_not_taken_yet(download: Download) -> None:
    """A slow pool is what an import waits for: it says how far that is."""
    seen = []

    def receive(stream: Iterator[bytes | memoryview]) -> int:
        size = 0
        for piece in stream:
            seen.append((pump.consumed, size))
            size += len(piece)
        return size

    pump = download.finish().pump("streaming")
    assert pump.run(receive) == len(STREAM)
    assert seen[0] == (0, 0)
    assert all(consumed <= len(FILE) * size // len(STREAM) + (1 << 20) for consumed, size in seen)
    assert pump.consumed == len(FILE)
