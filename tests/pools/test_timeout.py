"""A pool that does not answer keeps nobody for long."""

from __future__ import annotations

import threading

import pytest
import trio

from imgstored.errors import NoSpaceError, PoolError
from imgstored.pools import timeout
from imgstored.pools.timeout import answer


async def test_what_the_pool_says() -> None:
    threads = trio.CapacityLimiter(1)
    assert await answer("zones", lambda: 7, threads=threads) == 7

    def refuse() -> int:
        raise NoSpaceError("full")

    with pytest.raises(NoSpaceError):
        await answer("zones", refuse, threads=threads)


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeout, "TIMEOUT", 0.05)
    threads, go = trio.CapacityLimiter(1), threading.Event()
    asked: list[int] = []

    def hang() -> None:
        asked.append(1)
        go.wait(30)

    try:
        for _ in range(2):
            with (
                trio.fail_after(10),
                pytest.raises(PoolError, match='pool "zones" does not answer') as caught,
            ):
                await answer("zones", hang, threads=threads)
            assert "zpool status zones" in caught.value.hint
        # The second one waited for the thread of the first, and not in the kernel.
        assert asked == [1]
        assert threads.borrowed_tokens == 1
    finally:
        go.set()


async def test_another_timeout() -> None:
    go = threading.Event()
    try:
        with trio.fail_after(10), pytest.raises(PoolError):
            await answer("zones", lambda: go.wait(30), threads=trio.CapacityLimiter(1), seconds=0.01)
    finally:
        go.set()
