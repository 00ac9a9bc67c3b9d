"""Calls a pool from trio with a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgstored.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")

#: Seconds for a pool's answer. A call to a pool whose disks are gone hangs in the kernel.
TIMEOUT: Final = 30.0


async def answer(
    pool: str,
    question: Callable[[], _Answer],
    *,
    threads: trio.CapacityLimiter,
    seconds: float | None = None,
) -> _Answer:
    """Runs `question`, which blocks, in a thread; returns or raises its result. `pool` is for the message.

    Waits for one of `threads`, and for the answer, `TIMEOUT` or other `seconds`; then it raises `PoolError`.
    An abandoned question keeps its thread until it ends, so `threads` bounds the number of hanging ones.
    """
    try:
        with trio.fail_after(TIMEOUT if seconds is None else seconds):
            return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=threads)
    except trio.TooSlowError:
        raise PoolError(
            f'pool "{pool}" does not answer',
            hint=f"its disks may be gone; of a ZFS pool `zpool status {pool}` says more",
        ) from None
