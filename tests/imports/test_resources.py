"""What happens when there is no room, when there is just enough, and when several want it."""

from __future__ import annotations

import os
import threading

import pytest

from imgstored.errors import CancelledError, NoSpaceError
from imgstored.imports.free_space import CancellableRoom, FreeSpace, watched
from imgstored.pools.base import BOUNDLESS, Space

MIB = 1 << 20


class FixedPool:
    """A pool with so much room, which somebody else takes away."""

    def __init__(self, *available: int, name: str = "zones", storage: str = "disk") -> None:
        self.name = name
        self.storage = storage
        self._available = list(available)
        self.written = 0
        self.lags = False
        self.queue = 0

    def settle(self) -> None:
        raise AssertionError("nothing is to be waited for")

    def space(self) -> Space:
        free = self._available.pop(0) if len(self._available) > 1 else self._available[0]
        return Space(1 << 40, free - self.written)


@pytest.fixture
def free_space(tmp_path):
    return FreeSpace(tmp_path, min_free=10 * MIB)


def test_a_download_that_fits_and_one_that_does_not(tmp_path):
    status = os.statvfs(tmp_path)
    free = status.f_bavail * status.f_frsize
    FreeSpace(tmp_path, min_free=free // 2).check_spool(free // 4)
    with pytest.raises(NoSpaceError, match="not enough room in"):
        FreeSpace(tmp_path, min_free=free // 2).check_spool(free)
    # Nothing is to come: what is there may be used however full the disk is.
    FreeSpace(tmp_path, min_free=2 * free).check_spool(0)


def test_a_stream_that_fits_and_one_that_does_not(free_space):
    free_space.check_pool(FixedPool(30 * MIB), 20 * MIB)
    with pytest.raises(NoSpaceError, match=r'in pool "zones": 21\.0 MiB to come, 30\.0 MiB free \(10 MiB'):
        free_space.check_pool(FixedPool(30 * MIB), 21 * MIB)


def test_a_pool_that_fills_up_ends_the_stream(free_space):
    pieces = (bytes(MIB) for _ in range(200))
    passed = []
    claim = free_space.claim_pool(FixedPool(100 * MIB, 50 * MIB, 5 * MIB))
    with pytest.raises(NoSpaceError):
        passed.extend(watched(pieces, claim, 0))
    assert 0 < len(passed) < 60


def test_what_somebody_else_writes_is_seen_in_time(free_space):
    """All was reserved, and there was room for it."""
    claim = free_space.claim_pool(FixedPool(300 * MIB, 300 * MIB, 150 * MIB))
    claim.expect(200 * MIB)
    passed = []
    with pytest.raises(NoSpaceError, match="to come"):
        passed.extend(watched((bytes(MIB) for _ in range(200)), claim, 0))
    assert 15 <= len(passed) < 60


def test_two_that_fit_alone_and_not_together(free_space):
    pool = FixedPool(50 * MIB)
    first, second = free_space.claim_pool(pool), free_space.claim_pool(pool)
    first.expect(30 * MIB)
    with pytest.raises(NoSpaceError, match=r"30\.0 MiB are reserved by imports"):
        second.expect(30 * MIB)
    second.expect(10 * MIB)
    with pytest.raises(NoSpaceError):
        free_space.check_pool(pool, 1)
    first.close()
    second.expect(40 * MIB)


@pytest.mark.parametrize("storage", ["disk", "another"])
def test_places_share_their_room_where_their_storage_is_one(free_space, storage):
    first = free_space.claim_pool(FixedPool(50 * MIB))
    second = free_space.claim_pool(FixedPool(50 * MIB, name="other", storage=storage))
    first.expect(30 * MIB)
    if storage == "another":
        second.expect(30 * MIB)
    else:
        with pytest.raises(NoSpaceError):
            second.expect(30 * MIB)


def test_what_is_there_takes_no_room_again(free_space):
    """A receive that goes on reads its stream from the first byte."""
    pool = FixedPool(20 * MIB)
    claim = free_space.claim_pool(pool)
    claim.expect(5 * MIB)
    assert len(list(watched((bytes(MIB) for _ in range(100)), claim, 95 * MIB))) == 100
    claim.close()
    claim = free_space.claim_pool(pool)
    received = 80 * MIB

    def receive():
        for number, piece in enumerate(watched((bytes(MIB) for _ in range(100)), claim, received)):
            pool.written += len(piece) if number >= 80 else 0

    with pytest.raises(NoSpaceError):
        receive()
    assert 8 * MIB <= pool.written <= 10 * MIB


def test_bytes_that_replace_others_take_no_room(free_space):
    claim = free_space.claim_pool(FixedPool(20 * MIB))
    claim.expect(5 * MIB, exact=True)
    for _ in range(100):
        claim.take(MIB)
        claim.spent(MIB)
    assert claim.reserved == 0


def test_whoever_came_first_goes_on_when_others_fill_the_disk(free_space):
    pool = FixedPool(200 * MIB)
    first, second = free_space.claim_pool(pool), free_space.claim_pool(pool)
    first.expect(50 * MIB)
    second.expect(50 * MIB)
    pool.written = 100 * MIB
    for claim in (first, first, first):
        claim.take(16 * MIB)
        pool.written += 16 * MIB
        claim.spent(16 * MIB)
    with pytest.raises(NoSpaceError):
        second.take(16 * MIB)


class LaggingPool(FixedPool):
    """Sees what was written only when it is waited for, as ZFS does; half of it takes room."""

    def __init__(self, available: int) -> None:
        super().__init__(available)
        self.lags = True
        self.taken = self.settled = 0

    def settle(self) -> None:
        self.settled += 1
        self.written = self.taken


@pytest.mark.parametrize("known", [False, True])
def test_what_a_pool_has_not_seen_yet_counts(tmp_path, known):
    pool = LaggingPool(100 * MIB)
    free_space = FreeSpace(tmp_path, 10 * MIB, [pool])
    others = free_space.claim_pool(pool)

    def receive() -> None:
        claim = free_space.claim_pool(pool)
        try:
            if known:
                claim.expect(15 * MIB)
            for _ in watched((bytes(MIB) for _ in range(15)), claim, 0):
                pool.taken += MIB
        finally:
            claim.close()

    for _ in range(6):
        receive()
    with pytest.raises(NoSpaceError):
        receive()
    assert pool.settled
    assert pool.taken == 90 * MIB
    with pytest.raises(NoSpaceError):
        others.expect(11 * MIB)


def test_what_took_less_room_than_bytes_fits_once_it_was_waited_for(tmp_path):
    pool = LaggingPool(100 * MIB)
    free_space = FreeSpace(tmp_path, 10 * MIB, [pool])
    claim = free_space.claim_pool(pool)
    for _ in watched((bytes(MIB) for _ in range(160)), claim, 0):
        pool.taken += MIB // 2
    assert pool.taken == 80 * MIB
    assert 0 < pool.settled < 10


class QueueingPool(LaggingPool):
    """Holds what came last in a queue, which it does not empty when it is waited for."""

    def __init__(self, available: int) -> None:
        super().__init__(available)
        self.queue = 20 * MIB

    def settle(self) -> None:
        super().settle()
        self.written = max(0, self.taken - self.queue)


def test_what_waits_in_the_queue_of_a_pool_counts(tmp_path):
    pool = QueueingPool(100 * MIB)
    free_space = FreeSpace(tmp_path, 10 * MIB, [pool])
    claim = free_space.claim_pool(pool)

    def receive() -> None:
        for _ in watched((bytes(MIB) for _ in range(160)), claim, 0):
            pool.taken += MIB

    with pytest.raises(NoSpaceError):
        receive()
    assert 80 * MIB <= pool.taken <= 90 * MIB
    claim.close()
    # The queue is empty once the import has ended, which gives back some of its room: all of that is seen.
    pool.queue, pool.taken = 0, 70 * MIB
    free_space.check_pool(pool, 20 * MIB)
    with pytest.raises(NoSpaceError):
        free_space.check_pool(pool, 21 * MIB)


@pytest.mark.parametrize("known", [False, True])
def test_many_threads_never_go_below_what_is_to_stay_free(free_space, known):
    """Whatever the order in which they look, reserve and write."""
    pool = FixedPool(200 * MIB)
    lock, lowest, failed = threading.Lock(), [200 * MIB], []
    start = threading.Barrier(8)

    def run() -> None:
        claim = free_space.claim_pool(pool)
        start.wait()
        try:
            if known:
                claim.expect(60 * MIB)
            for _ in range(600):
                claim.take(100 << 10)
                with lock:
                    pool.written += 100 << 10
                    lowest.append(pool.space().available)
                claim.spent(100 << 10)
        except NoSpaceError as error:
            failed.append(error)
        finally:
            claim.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(lowest) >= 10 * MIB
    assert failed
    # Nor is room wasted: of those that know what they need some come through, the others use what there is.
    assert pool.written >= (3 * 600 * (100 << 10) if known else 170 * MIB)


def test_what_is_not_wanted_gets_no_room():
    def check() -> None:
        if cancelled:
            raise CancelledError("the import was cancelled")

    cancelled = False
    room = CancellableRoom(BOUNDLESS, check)
    room.take(1)
    room.spent(1)
    cancelled = True
    with pytest.raises(CancelledError):
        room.take(0)
