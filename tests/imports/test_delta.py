"""Deltas from a real web server: what is fetched, what is installed, and what happens to odd ones."""

from __future__ import annotations

import hashlib

import pytest

from imgstored.delta.index import HASH_SIZE, hash_of, parse_index
from imgstored.delta.known import Known
from imgstored.errors import StreamError, UncompressionError
from imgstored.library.library import Library
from imgstored.zstream.reader import StreamReader
from tests.imports.house import open_house, pages
from tests.support.deltas import NEW, OLD, Indexed, files, indexed, publish, tree, upgraded
from tests.support.limits import import_limits

__all__ = ["open_house", "pages"]

CONTENTS = files(200)
OLD_STREAM = tree(CONTENTS, guid=11)
NEW_STREAM = tree(upgraded(CONTENTS), guid=12)
ALWAYS = import_limits(deltas="always")


@pytest.fixture(scope="module")
def made():
    return {OLD: indexed(OLD_STREAM), NEW: indexed(NEW_STREAM)}


@pytest.fixture
def site_of_two(pages, made):
    """Both images on the site, with their indexes."""
    return {uuid: publish(pages, each, uuid) for uuid, each in made.items()}


def sent(nginx, uuid):
    """Bytes that nginx sent, of an image's file and of its index."""
    hits = nginx.settled_hits()
    return tuple(
        sum(hit.bytes_sent for hit in hits if hit.path == f"/{uuid}/{name}")
        for name in ("file", "file.index")
    )


def notes(events):
    return [event["text"] for event in events if event["event"] == "note"]


async def test_the_next_version_fetches_what_changed(open_house, nginx, site_of_two, made):
    async with open_house(limits=ALWAYS) as house:
        await house.all_events(OLD)
        events = await house.all_events(NEW)
        assert b"".join(house.pool.send(NEW)) == NEW_STREAM
        assert house.left() == []
    file, index = sent(nginx, NEW)
    assert index == len(made[NEW].index)
    assert 0 < file < 0.4 * len(made[NEW].file)
    assert any("the rest is in image" in note for note in notes(events))


async def test_nothing_is_there_that_it_could_be_based_on(open_house, nginx, site_of_two, made):
    async with open_house(limits=ALWAYS) as house:
        await house.all_events(NEW)
        assert b"".join(house.pool.send(NEW)) == NEW_STREAM
    assert sent(nginx, NEW) == (len(made[NEW].file), 0)


def _spoil(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _all_the_same(data: bytes) -> bytes:
    hashes = bytes(parse_index(data).hashes)
    return data.replace(hashes, hashes[:HASH_SIZE] * (len(hashes) // HASH_SIZE))


@pytest.mark.parametrize(
    "fault",
    [
        "missing",
        "other bytes",
        "longer",
        "of another file",
        "of other payloads",
        "one payload for all",
        "another stream",
    ],
)
async def test_an_odd_index_costs_a_whole_file_and_nothing_else(open_house, nginx, pages, made, fault):
    publish(pages, made[OLD], OLD)
    file, index = made[NEW]
    wrong = {
        "of another file": made[OLD].index,
        # The hashes lie in the middle; the checksum of the index itself is made anew.
        "of other payloads": resealed(_spoil(index, len(index) // 2)),
        "one payload for all": resealed(_all_the_same(index)),
        # A right index of another stream, for which the file has the wrong frames.
        "another stream": resealed(index[:32] + bytes(32) + index[64:]),
    }.get(fault, index)
    path = publish(pages, Indexed(file, wrong), NEW)
    if fault == "missing":
        path.unlink()
    elif fault == "other bytes":
        path.write_bytes(_spoil(index, 100))
    elif fault == "longer":
        path.write_bytes(index + b"x")
    async with open_house(limits=ALWAYS) as house:
        await house.all_events(OLD)
        events = await house.all_events(NEW)
        assert b"".join(house.pool.send(NEW)) == NEW_STREAM
        assert house.left() == []
    assert any("fetching the whole file" in note for note in notes(events))


async def test_what_a_delta_left_is_swept_up_with_its_import(open_house, site_of_two):
    """Files of no import; those of one that may go on stay."""
    async with open_house() as house:
        for name in (f"zones-{OLD}.index", f"zones-{NEW}.payloads", "zones-other.payloads"):
            (house.spools / name).write_bytes(b"x")
    async with open_house() as house:
        assert house.left() == ["zones-other.payloads"]


async def test_a_delta_that_may_not_go_on_leaves_nothing_behind(open_house, nginx, site_of_two, made):
    """What it had put into the pool nobody has verified."""
    async with open_house(limits=ALWAYS) as house:
        await house.all_events(OLD)
        (house.spools / f"zones-{NEW}.payloads").write_bytes(b"x" * 1000)
        (house.spools / f"zones-{NEW}.payloads").chmod(0o600)
        with pytest.raises(StreamError):
            house.pool.receive(NEW, [OLD_STREAM[:200_000]])
        assert house.pool.partials() == [NEW]
        house.resources.reconfigure(import_limits(deltas="never"))
        await house.all_events(NEW)
        assert b"".join(house.pool.send(NEW)) == NEW_STREAM
        assert house.left() == []
    assert sent(nginx, NEW) == (len(made[NEW].file), 0)


async def test_a_host_that_keeps_files_for_others_fetches_them_whole(
    open_house, nginx, site_of_two, made, tmp_path
):
    async with open_house(limits=ALWAYS) as house:
        library = Library(tmp_path / "library", 1 << 30)
        library.open()
        house.resources.library = library
        await house.all_events(OLD)
        await house.all_events(NEW)
        assert {image.uuid for image in library.images()} == {OLD, NEW}
    assert sent(nginx, NEW) == (len(made[NEW].file), 0)


def fetched_frames(made):
    """The ranges of the new file that a delta from the old image fetches."""
    known = Known(parse_index(made[NEW].index))
    for record in StreamReader().records(OLD_STREAM):
        known.add(known.wanted(hash_of(record.payload), len(record.payload)))
    return known.extents()


async def test_a_file_that_is_not_the_one_of_the_index(open_house, nginx, site_of_two, pages, made):
    """A range that comes has another byte: nothing of it gets into the pool, nor does the whole file."""
    at = fetched_frames(made)[1].start + 40
    (pages.folder / NEW / "file").write_bytes(_spoil(made[NEW].file, at))
    async with open_house(limits=ALWAYS) as house:
        await house.all_events(OLD)
        with pytest.raises(UncompressionError, match="checksum"):
            await house.all_events(NEW)
        assert house.pool.image(NEW) is None
        assert house.left() == []


def resealed(index: bytes) -> bytes:
    """The index with the right checksum of itself."""
    body = index[:-16]
    return body + hashlib.sha256(body).digest()[:16]
