"""Calls a pool from trio with a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgstored.errors import PoolError

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")

#: Seconds for a pool's answer. One whose disks are gone keeps whoever asks it in the kernel.
TIMEOUT: Final = 30.0


async def answer(
    pool: str,
    question: Callable[[], _Answer],
    *,
    threads: trio.CapacityLimiter,
    seconds: float | None = None,
) -> _Answer:
    """What `question`, which blocks, returns or raises in a thread; `pool` is a name for the message.

    Waits for one of `threads`, and for the answer, `TIMEOUT` or other `seconds`; then it raises `PoolError`.
    A question that was given up keeps its thread until it ends, so that `threads` bounds how many hang.
    """
    try:
        with trio.fail_after(TIMEOUT if seconds is None else seconds):
            return await trio.to_thread.run_sync(question, abandon_on_cancel=True, limiter=threads)
    except trio.TooSlowError:
        raise PoolError(
            f'pool "{pool}" does not answer',
            hint=f"its disks may be gone; of a ZFS pool `zpool status {pool}` says more",
        ) from None
