"""Where an image's time goes, measured in a real pump with one slow part."""

from __future__ import annotations

import bz2
import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from imgstored.transfer.digest import Expected
from imgstored.transfer.limiting import STAGES, limiting
from imgstored.transfer.pump import Pump
from imgstored.transfer.spool import blocks as spooled
from imgstored.transfer.stages import Stages, Stopwatch, ThreadTimes
from imgstored.transfer.threaded import threaded
from imgstored.transfer.watermark import Watermark
from tests.support.compressed import some_bytes
from tests.support.limits import decompress_limits
from tests.support.threads import no_threads_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgstored.http.location import Verify
    from imgstored.transfer.limiting import Stage

    Receive = Callable[[Iterator[bytes | memoryview]], None]

#: The shares that are told apart differ by much more than this.
PAUSE = 0.02


class TestStopwatch:
    def test_it_sums_up_its_blocks(self) -> None:
        watch = Stopwatch()
        for _ in range(2):
            with watch:
                time.sleep(PAUSE)
        time.sleep(PAUSE)
        now = time.monotonic()
        assert 2 * PAUSE <= watch.read(now) == watch.read(now + 100)

    def test_a_block_that_is_running_counts(self) -> None:
        watch = Stopwatch()
        with watch:
            now = time.monotonic()
            assert watch.read(now + 5) - watch.read(now) == pytest.approx(5)
            assert watch.read(now - 100) == 0  # who reads had the time before it began

    def test_a_block_that_fails_ends_all_the_same(self) -> None:
        watch = Stopwatch()
        with pytest.raises(KeyError), watch:
            raise KeyError
        now = time.monotonic()
        assert watch.read(now) == watch.read(now + 100)

    def test_what_was_before_a_restart_does_not_count(self) -> None:
        watch = Stopwatch()
        with watch:
            time.sleep(PAUSE)
        before = watch.read(time.monotonic())
        watch.restart()
        assert watch.read(time.monotonic()) == before
        with watch:
            time.sleep(PAUSE)
            watch.restart()
            assert watch.read(time.monotonic()) < before + PAUSE

    def test_other_threads_never_see_less_than_before(self) -> None:
        watch, over, seen = Stopwatch(), threading.Event(), []

        def look() -> None:
            while not over.is_set():
                seen.append(watch.read(time.monotonic()))

        with ThreadPoolExecutor(1) as executor:
            looking = executor.submit(look)
            for _ in range(2000):
                with watch:
                    pass
            over.set()
            looking.result(10)
        # The clock is read before the stopwatch: the moment between both is all that may be missing.
        assert all(later >= earlier - 0.5 for earlier, later in pairwise(seen))
        assert watch.read(time.monotonic()) >= max(seen, default=0) - 0.5


def test_a_hop_tells_on_which_side_it_waits() -> None:
    times = ThreadTimes()
    with threaded(range(5), 1, times=times) as items:
        for _ in items:
            time.sleep(PAUSE)
    now = time.monotonic()
    assert times.full.read(now) >= 2 * PAUSE
    assert times.empty.read(now) < times.full.read(now)
    assert times.running.read(now) >= times.full.read(now)

    def slow() -> Iterator[int]:
        for number in range(5):
            time.sleep(PAUSE)
            yield number

    times = ThreadTimes()
    with threaded(slow(), 1, times=times) as items:
        assert list(items) == [0, 1, 2, 3, 4]
    now = time.monotonic()
    assert times.empty.read(now) >= 2 * PAUSE
    assert times.full.read(now) == 0.0


def test_waiting_for_the_first_byte_counts_only_once_it_may_come() -> None:
    watermark = Watermark()
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(watermark.wait, 0)
        while not watermark.waiting.read(time.monotonic()):
            time.sleep(PAUSE)
        time.sleep(PAUSE)
        before = time.monotonic()
        watermark.begin()
        assert watermark.waiting.read(before) == 0.0
        time.sleep(PAUSE)
        watermark.advance(1)
        waiting.result(10)
    total = watermark.waiting.read(time.monotonic())
    assert total >= PAUSE
    assert watermark.wait(0) == 1  # what is there is not waited for
    assert watermark.waiting.read(time.monotonic()) == total


STREAM = bytes(8) + (0x2F5BACBAC).to_bytes(8, "little") + some_bytes(6 << 20)


class Flow:
    """A file behind a watermark, and a pump with its stages."""

    def __init__(self, path: Path, content: bytes, verify: Verify = "streaming") -> None:
        self.size = len(content)
        self.watermark = Watermark()
        self.stages = Stages()
        self.watermark.waiting = self.stages.waiting
        path.write_bytes(content)
        self.pump = Pump(
            lambda: spooled(path, self.watermark),
            Expected("u"),
            decompress_limits(),
            verify=verify,
            release=self.watermark.fail,
            stages=self.stages,
        )

    def finish(self) -> Flow:
        self.watermark.advance(self.size)
        self.watermark.finish()
        return self

    def run(self, receive: Receive) -> tuple[dict[Stage, float], float]:
        """What each stage spent, and how long it took."""
        began = time.monotonic()
        with no_threads_left():
            self.pump.run(receive)
        return self.stages.seconds(), time.monotonic() - began


def quick(stream: Iterator[bytes | memoryview]) -> None:
    for _ in stream:
        pass


def slow(stream: Iterator[bytes | memoryview]) -> None:
    for _ in stream:
        time.sleep(0.1)


@pytest.mark.slow
def test_a_slow_pool(tmp_path: Path) -> None:
    spent, seconds = Flow(tmp_path / "spool", gzip.compress(STREAM, 1)).finish().run(slow)
    assert limiting(spent, seconds, downloading=False) == "pool"
    assert set(spent) == set(STAGES)
    assert spent["network"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("verify", ["streaming", "first"])
def test_a_slow_network(tmp_path: Path, verify: Verify) -> None:
    flow = Flow(tmp_path / "spool", gzip.compress(STREAM, 1), verify)

    def download() -> None:
        for part in range(10):
            time.sleep(0.1)
            flow.watermark.advance(flow.size * part // 10)
        flow.finish()

    with ThreadPoolExecutor(1) as executor:
        downloading = executor.submit(download)
        spent, seconds = flow.run(quick)
        downloading.result(10)
    assert limiting(spent, seconds, downloading=True) == "network"
    assert spent["network"] >= 0.5


@pytest.mark.alone
def test_slow_decompression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By the library in this process: an lbzip2 beside it would be several processors' work.
    monkeypatch.setenv("PATH", str(tmp_path))
    spent, seconds = Flow(tmp_path / "spool", bz2.compress(STREAM[: 1 << 20])).finish().run(quick)
    assert limiting(spent, seconds, downloading=False) == "decompress"


def test_slow_hashing_before_anything_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reading is the checksum's, and nobody else's."""
    flow = Flow(tmp_path / "spool", gzip.compress(STREAM, 1), "first").finish()
    update = flow.pump._digest.update

    def slowly(block: bytes) -> None:
        time.sleep(0.1)
        update(block)

    monkeypatch.setattr(flow.pump._digest, "update", slowly)
    spent, seconds = flow.run(quick)
    assert limiting(spent, seconds, downloading=False) == "checksum"
    assert spent["checksum"] >= 0.1
    assert spent["network"] == 0.0


def test_the_stages_do_not_go_on_when_a_receive_fails(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "spool", gzip.compress(STREAM, 1)).finish()

    def fail(stream: Iterator[bytes | memoryview]) -> None:
        next(stream)
        raise KeyError("the pool")

    with pytest.raises(KeyError), no_threads_left():
        flow.pump.run(fail)
    now = time.monotonic()
    assert flow.stages.seconds(now) == flow.stages.seconds(now + 100)
