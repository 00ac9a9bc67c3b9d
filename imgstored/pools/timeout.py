"""Calls a pool from trio with a time limit.

A question can be abandoned: its thread ends when the pool answers, and nobody needs the answer. A change
cannot, because the pool may still make it later. So a caller that waits for a change gets an error that says
so, or a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgstored.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")

#: Seconds for a pool's answer. A call to a pool whose disks are gone hangs in the kernel.
TIMEOUT: Final = 30.0

#: Seconds for a change, which a busy pool may make late.
CHANGE_TIMEOUT: Final = 120.0

#: Seconds until a caller that waits for the end of a change gets a notice.
NOTICE: Final = 30.0


def no_answer(pool: str, hint: str = "") -> PoolError:
    """The error of a pool that does not answer; `hint` says what becomes of a change."""
    more = f"its disks may be gone; `zpool status {pool}` says more about a ZFS pool"
    return PoolError(f'pool "{pool}" does not answer', hint=f"{hint}; {more}" if hint else more)


async def answer(
    pool: str,
    question: Callable[[], _Answer],
    *,
    threads: trio.CapacityLimiter,
    seconds: float | None = None,
) -> _Answer:
    """Runs `question`, which blocks, in a thread; returns its result. `pool` is for the message.

    Waits for one of `threads` and for the answer, at most `TIMEOUT` or `seconds`; then raises `PoolError`. An
    abandoned question keeps its thread until it ends, so `threads` bounds the number of hanging questions.
    """
    try:
        with trio.fail_after(TIMEOUT if seconds is None else seconds):
            return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=threads)
    except trio.TooSlowError:
        raise no_answer(pool) from None


async def changed(pool: str, change: Callable[[], _Answer], *, threads: trio.CapacityLimiter) -> _Answer:
    """Makes a change, which blocks, in a thread; returns its result.

    Waits as `answer` does, at most `CHANGE_TIMEOUT`. The error says that the pool may still make the change.
    """
    try:
        with trio.fail_after(CHANGE_TIMEOUT):
            return await trio.to_thread.run_sync(change, abandon_on_cancel=True, limiter=threads)
    except trio.TooSlowError:
        raise no_answer(pool, "it may still make the change when it answers") from None


async def with_notice(
    change: Callable[[], _Answer], notice: Callable[[], None], *, threads: trio.CapacityLimiter
) -> _Answer:
    """Makes a change, which blocks, in a thread, and waits for its end; returns its result.

    Calls `notice` once the pool has not answered for `NOTICE`.
    """

    async def give_notice() -> None:
        await trio.sleep(NOTICE)
        notice()

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_notice)
        try:
            result = await trio.to_thread.run_sync(change, limiter=threads)
        except Exception as error:  # noqa: BLE001  (raised below: the nursery would put it into a group)
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return result
