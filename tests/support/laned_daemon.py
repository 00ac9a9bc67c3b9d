"""imgstored, in which trio's own threads, which all kinds of work would share, are none."""

from __future__ import annotations

from typing import Any

import trio

from imgstored.__main__ import main

_run_sync = trio.to_thread.run_sync


async def _checked(work: Any, *arguments: Any, limiter: Any = None, **settings: Any) -> Any:
    trio.to_thread.current_default_thread_limiter().total_tokens = 0
    assert limiter is not None, f"{work} has no limiter"
    return await _run_sync(work, *arguments, limiter=limiter, **settings)


if __name__ == "__main__":
    trio.to_thread.run_sync = _checked
    raise SystemExit(main())
