"""The spool of a delta: what it takes from an installed image and from ranges, and what after a restart."""

from __future__ import annotations

import os
import random

import pytest

from imgstored.delta import known
from imgstored.delta.index import IndexFaultError, parse_index
from imgstored.errors import PoolError
from imgstored.pools.base import BOUNDLESS
from imgstored.transfer import payloads
from imgstored.transfer.payloads import NotWorthwhileError, PayloadSpool
from imgstored.transfer.watermark import Watermark
from tests.support.deltas import files, indexed, tree, upgraded
from tests.support.streams import in_pieces

CONTENTS = files(60)
OLD, STREAM = tree(CONTENTS, guid=1), tree(upgraded(CONTENTS), guid=2)
FILE, DATA = indexed(STREAM)
TWICE = tree([CONTENTS[0], *CONTENTS[1:9], CONTENTS[0]], guid=3)


@pytest.fixture
def index():
    return parse_index(DATA)


def nothing():
    return None


class Opened:
    """A spool that is open, and counts how often the installed image was read."""

    def __init__(self, path, index, installed=OLD, **options):
        self.index = index
        self.watermark = Watermark()
        self.reads = 0
        self._installed = installed
        self.spool = PayloadSpool(path, index, self.watermark, BOUNDLESS, installed=self.blocks, **options)
        self.spool.open(index.file_size, nothing)

    def blocks(self):
        self.reads += 1
        return in_pieces(self._installed, 100_000)

    def fetch(self, file=FILE, ranges=None, piece=30_000):
        """All that is missing, or some ranges of it."""
        for number in range(self.spool.ranges) if ranges is None else ranges:
            start, stop = self.spool.missing(number)
            for at in range(start, stop, piece):
                self.spool.write(at, memoryview(file)[at : min(at + piece, stop)])

    def stream(self):
        self.watermark.finish()
        return b"".join(self.spool.stream())


@pytest.fixture
def opened(tmp_path, index):
    return lambda index=index, **options: Opened(tmp_path / "spool", index, **options)


def test_the_rest_comes_by_ranges(opened):
    delta = opened()
    assert 0 < delta.spool.to_fetch < 0.4 * len(FILE)
    assert delta.spool.present == len(FILE) - delta.spool.to_fetch
    delta.fetch()
    assert delta.spool.complete
    assert delta.spool.present == len(FILE)
    assert delta.stream() == STREAM
    # What is verified first is read twice.
    assert delta.stream() == STREAM


def test_the_stream_begins_before_all_has_come(opened):
    delta = opened()
    delta.fetch(ranges=range(delta.spool.ranges - 1))
    assert not delta.spool.complete
    pieces = delta.spool.stream()
    assert STREAM.startswith(bytes(next(pieces)))
    pieces.close()


def test_ranges_in_any_order_and_a_server_that_sends_the_whole_file(opened):
    delta = opened()
    numbers = list(range(delta.spool.ranges))
    random.Random(1).shuffle(numbers)
    delta.fetch(ranges=numbers[::2])
    for at in range(0, len(FILE), 7_000):
        delta.spool.write(at, memoryview(FILE)[at : at + 7_000])
    assert delta.spool.complete
    assert delta.stream() == STREAM


def test_two_connections_with_the_same_range(opened):
    delta = opened()
    start, stop = delta.spool.missing(0)
    half = (start + stop) // 2
    view = memoryview(FILE)
    assert delta.spool.write(start, view[start:half]) == half - start
    assert delta.spool.write(start, view[start:stop]) == stop - half
    assert delta.spool.write(half, view[half:stop]) == 0
    assert delta.spool.missing(0) == (stop, stop)
    delta.fetch()
    assert delta.stream() == STREAM


def test_what_came_is_there_after_a_restart_and_the_installed_image_is_not_read_again(opened):
    first = opened()
    first.fetch(ranges=range(0, first.spool.ranges, 2))
    left = first.spool.ranges - len(first.spool.done)
    first.spool.close()
    second = opened()
    assert (first.reads, second.reads) == (1, 0)
    assert second.spool.ranges <= left
    assert second.spool.to_fetch < first.spool.to_fetch
    second.fetch()
    assert second.stream() == STREAM


def test_bytes_that_changed_meanwhile_are_fetched_again(opened, tmp_path):
    first = opened()
    first.fetch()
    first.spool.close()
    data = bytearray((tmp_path / "spool").read_bytes())
    for at in range(1000, len(data) - 1, len(data) // 9):
        data[at] ^= 1
    (tmp_path / "spool").write_bytes(data)
    second = opened()
    assert 0 < second.spool.to_fetch < len(FILE)
    second.fetch()
    assert second.stream() == STREAM


def test_a_spool_that_was_cut_short_begins_anew(opened, tmp_path):
    opened().spool.close()
    os.truncate(tmp_path / "spool", 5000)
    second = opened()
    assert second.reads == 1
    second.fetch()
    assert second.stream() == STREAM


def test_content_that_is_there_twice_is_fetched_once(tmp_path):
    file, data = indexed(TWICE)
    delta = Opened(tmp_path / "spool", parse_index(data), installed=tree(CONTENTS[1:9], guid=4))
    assert delta.spool.ranges == 1
    delta.fetch(file)
    assert delta.stream() == TWICE


def test_one_of_two_that_are_the_same_is_there_after_a_kill(tmp_path):
    """The daemon was killed between the writing of both: what was installed has been read by then."""
    _, data = indexed(TWICE)
    index = parse_index(data)
    payloads = [TWICE[at : at + size] for at, size in zip(index.starts, index.lengths, strict=True)]
    twice = [number for number, payload in enumerate(payloads) if payload in payloads[number + 1 :]]
    assert twice
    for number in twice:
        payloads[number] = bytes(len(payloads[number]))
    path = tmp_path / "spool"
    path.write_bytes(b"".join(payloads) + b"\0")
    path.chmod(0o600)
    delta = Opened(path, index)
    assert (delta.reads, delta.spool.ranges) == (0, 0)
    assert delta.stream() == TWICE


def test_an_image_with_nothing_in_common_is_not_read_to_its_end(tmp_path, index):
    read = 0

    def blocks():
        nonlocal read
        for piece in in_pieces(tree(files(60, seed=9), guid=7), 50_000):
            read += len(piece)
            yield piece

    spool = PayloadSpool(tmp_path / "spool", index, Watermark(), BOUNDLESS, installed=blocks, trial=200_000)
    with pytest.raises(NotWorthwhileError):
        spool.open(len(FILE), nothing)
    assert 200_000 <= read <= 400_000


@pytest.mark.parametrize("how", ["at once", "in the middle", "no stream"])
def test_an_installed_image_that_cannot_be_read_is_no_reason_to_fail(tmp_path, index, how):
    def blocks():
        if how == "at once":
            raise PoolError("gone")
        if how == "no stream":
            return iter([bytes(1000)])

        def some():
            yield OLD[: len(OLD) * 3 // 4]
            raise PoolError("gone")

        return some()

    spool = PayloadSpool(tmp_path / "spool", index, Watermark(), BOUNDLESS, installed=blocks)
    if how == "in the middle":
        spool.open(len(FILE), nothing)
        assert 0 < spool.to_fetch < len(FILE)
    else:
        with pytest.raises(NotWorthwhileError):
            spool.open(len(FILE), nothing)


def test_bytes_that_are_not_the_files_end_it(opened):
    delta = opened()
    start, stop = delta.spool.missing(0)
    data = bytearray(FILE[start:stop])
    data[len(data) // 2] ^= 1
    with pytest.raises(IndexFaultError):
        delta.spool.write(start, memoryview(data))


# -- a server that completes nothing -------------------------------------------------------------------------


def begin_all(delta):
    """All of each range comes, but for its last byte. The most bytes that were in memory."""
    most = 0
    for number in range(delta.spool.ranges):
        start, stop = delta.spool.missing(number)
        for at in range(start, stop - 1, 10_000):
            delta.spool.write(at, memoryview(FILE)[at : min(at + 10_000, stop - 1)])
            most = max(most, sum(len(growing.data) for growing in delta.spool._growing))
    return most


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr(known, "EXTENT", 20_000)
    monkeypatch.setattr(known, "GAP", 0)


def test_ranges_that_are_begun_and_not_completed_take_little_memory(opened, small_ranges, monkeypatch):
    delta = opened()
    bound = delta.spool.to_fetch // 3
    monkeypatch.setattr(payloads, "_MOST_HELD", bound)
    assert delta.spool.ranges > 5
    assert bound / 2 < begin_all(delta) <= bound
    # Those that the stream needs first are kept.
    start, stop = delta.spool.missing(0)
    assert stop - start == 1
    assert delta.spool.present <= len(FILE) - delta.spool.to_fetch + bound
    delta.fetch()
    assert delta.spool.present == len(FILE)
    assert delta.spool._held == 0
    assert delta.stream() == STREAM


def test_a_server_that_begins_ranges_for_ever_ends_the_delta(opened, small_ranges, monkeypatch):
    delta = opened()
    monkeypatch.setattr(payloads, "_MOST_HELD", delta.spool.to_fetch // 3)

    def begin_again_and_again():
        for _ in range(100):
            begin_all(delta)

    with pytest.raises(IndexFaultError, match="too many parts"):
        begin_again_and_again()
