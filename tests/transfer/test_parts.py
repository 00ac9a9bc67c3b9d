"""Downloads of a file that a server has in parts."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from imgstored.errors import DownloadError
from imgstored.http.failures import Backoff
from imgstored.http.location import Location, Part
from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.transfer.digest import Digest, Expected, WrongFileError, digested, drain
from imgstored.transfer.download import Download
from imgstored.transfer.parts import PartsConnection
from tests.support.limits import download_limits
from tests.support.memory_journal import MemoryJournal

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20
CONTENT = random.Random(3).randbytes(5 * MIB + 77)
#: Parts that end within ranges, at their ends, and several of them in one range.
SIZES = [MIB, 3, 0, 100, MIB - 103, 2 * MIB + 12, MIB // 2, MIB // 2 + 65]


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file shall have several ranges."""
    monkeypatch.setattr("imgstored.transfer.download.MIN_RANGE_OF_BLOBS", MIB)


def pieces(content: bytes = CONTENT, sizes: list[int] | None = None) -> list[bytes]:
    found, place = [], 0
    for size in SIZES if sizes is None else sizes:
        found.append(content[place : place + size])
        place += size
    assert place == len(content)
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def location(url: str, content: list[bytes]) -> Location:
    parts = tuple(Part(f"{url}/part-{place}", len(each), sha256(each)) for place, each in enumerate(content))
    return Location(f"{url}/whole", url, parts=parts)


def write(folder: Path, content: list[bytes]) -> None:
    for place, piece in enumerate(content):
        (folder / f"part-{place}").write_bytes(piece)


def download(
    folder: Path, *locations: Location, size: int | None = len(CONTENT), journal: Any = None
) -> Download:
    limits = download_limits(
        connections=4, tries=3, backoff=Backoff(first=0.05, most=0.2), silence_seconds=30
    )
    return Download(
        locations,
        size=size,
        path=folder / "spool",
        journal=journal or MemoryJournal(),
        limits=limits,
        environ={},
    )


@pytest.mark.usefixtures("small_ranges")
@pytest.mark.parametrize("size", [len(CONTENT), None])
async def test_the_parts_become_the_file(nginx, site, tmp_path, size):
    write(site, pieces())
    one = download(tmp_path, location(nginx.url, pieces()), size=size)
    await one.run()
    assert (tmp_path / "spool").read_bytes() == CONTENT
    assert sum(mirror.fetched for mirror in one.mirrors) == len(CONTENT)
    # Connections stay open from one part to the next.
    assert len({hit.connection for hit in nginx.settled_hits()}) <= 4


async def test_a_request_is_worth_what_it_costs_a_registry(nginx, site, tmp_path):
    """A range has 4 MiB at least; where parts end, it is fetched by several requests."""
    content = random.Random(4).randbytes(16 * MIB)
    parts = pieces(content, [6 * MIB, 10 * MIB])
    write(site, parts)
    one = download(tmp_path, location(nginx.url, parts), size=len(content))
    await one.run()
    assert (tmp_path / "spool").read_bytes() == content
    assert sorted(hit.bytes_sent for hit in nginx.settled_hits()) == [2 * MIB, 2 * MIB, *[4 * MIB] * 3]


@pytest.mark.usefixtures("small_ranges")
async def test_what_is_there_is_not_fetched_again(nginx, site, tmp_path):
    write(site, pieces())
    journal = MemoryJournal()
    (site / "part-5").unlink()
    with pytest.raises(DownloadError, match="is not there"):
        await download(tmp_path, location(nginx.url, pieces()), journal=journal).run()
    write(site, pieces())
    again = download(tmp_path, location(nginx.url, pieces()), journal=journal)
    await again.run()
    assert again.resumed >= MIB
    assert sum(mirror.fetched for mirror in again.mirrors) == len(CONTENT) - again.resumed
    assert (tmp_path / "spool").read_bytes() == CONTENT


@pytest.mark.usefixtures("small_ranges")
async def test_a_server_without_ranges_is_asked_for_whole_parts(start_nginx, site, tmp_path):
    nginx = start_nginx(ranges=False)
    write(site, pieces())
    one = download(tmp_path, location(nginx.url, pieces()))
    await one.run()
    assert (tmp_path / "spool").read_bytes() == CONTENT
    # Before it was known to have no ranges, it was asked for some.
    assert sum(mirror.fetched for mirror in one.mirrors) < 2 * len(CONTENT)


@pytest.mark.usefixtures("small_ranges")
async def test_parts_that_are_here_are_not_fetched(nginx, site, tmp_path):
    content = pieces()
    write(site, content)
    (tmp_path / "here").write_bytes(b"before" + content[5] + content[7])
    there = location(nginx.url, content)
    parts = [*there.parts]
    parts[5] = replace(parts[5], path=str(tmp_path / "here"), offset=6)
    parts[7] = replace(parts[7], path=str(tmp_path / "here"), offset=6 + len(content[5]))
    parts[0] = replace(parts[0], path=str(tmp_path / "gone"))
    parts[4] = replace(parts[4], path=str(tmp_path / "here"), offset=1 << 30)
    for place in (5, 7):
        (site / f"part-{place}").unlink()
    one = download(tmp_path, replace(there, parts=tuple(parts)))
    await one.run()
    assert (tmp_path / "spool").read_bytes() == CONTENT
    assert sum(mirror.fetched for mirror in one.mirrors) == len(CONTENT) - len(content[5]) - len(content[7])


async def test_another_place_takes_over(nginx, start_nginx, site, tmp_path):
    (tmp_path / "other").mkdir()
    other = start_nginx(root=tmp_path / "other")
    write(site, pieces())
    (site / "part-5").write_bytes(b"short")
    (tmp_path / "other/file").write_bytes(CONTENT)
    places = (location(nginx.url, pieces()), Location(f"{other.url}/file", other.url))
    await download(tmp_path, *places).run()
    assert (tmp_path / "spool").read_bytes() == CONTENT


@settings(max_examples=100)
@given(st.data())
def test_any_range_of_any_parts(data):
    content = bytes(range(251)) * 2
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=6)))
    sizes = [stop - start for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    parts = {f"http://x/{place}": piece for place, piece in enumerate(pieces(content, sizes))}
    start = data.draw(st.integers(0, len(content) - 1))
    stop = data.draw(st.none() | st.integers(start + 1, len(content) + 9))
    before, after = data.draw(st.integers(0, 9)), data.draw(st.integers(-9, 9))

    class Connection:
        """Answers with somewhat more or less than it was asked for, as servers may."""

        def turn_to(self, location: Location) -> None:
            self.url = location.url

        def get(
            self, start: int, stop: int | None, validator: str | None, accept: Any, *, plain: bool = False
        ) -> None:
            file = parts[self.url]
            stop = len(file) if stop is None else stop
            first = max(0, start - before)
            last = max(start + 1, min(len(file), stop + after))
            accept(RangeReply(not plain, first, last, len(file), None))(memoryview(file)[first:last])

    connection = PartsConnection(
        Location("http://x", "x", parts=tuple(Part(url, len(piece)) for url, piece in parts.items())),
        timeouts=None,
        environ={},
    )
    connection._connection = Connection()  # type: ignore[assignment]
    got = bytearray()
    reply = connection.get(start, stop, None, lambda reply: got.extend)
    end = len(content) if stop is None else min(stop, len(content))
    assert (reply.start, reply.stop, reply.total) == (start, end, len(content))
    assert bytes(got) == content[start:end]
    with pytest.raises(FetchError, match="none from"):
        connection.get(len(content), None, None, lambda reply: got.extend)


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 60))
def test_each_part_is_checked_as_it_ends(content, step):
    whole = b"".join(content)
    blocks = [whole[place : place + step] for place in range(0, len(whole), step)]
    parts = tuple((len(each), sha256(each)) for each in content)
    assert drain(digested(blocks, Expected("u", parts=parts), Digest())) == len(whole)


def test_a_part_that_is_another_one_is_named():
    parts = tuple((len(each), sha256(each)) for each in (b"one", b"two", b"three"))
    read: list[bytes] = []
    with pytest.raises(WrongFileError, match="layer 2 is"):
        read.extend(digested([b"oneT", b"wo", b"three"], Expected("u", parts=parts), Digest()))
    assert read == [b"oneT"]
    drain(digested([b"oneTwothree"], Expected("u", parts=((3, None), (3, None))), Digest()))
