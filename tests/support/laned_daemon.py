"""imgstored, in which a request that reads fails if it takes one of trio's own threads."""

from __future__ import annotations

from typing import Any

import trio

from imgstored import lanes
from imgstored.__main__ import main

_run_sync = trio.to_thread.run_sync


async def _checked(work: Any, *arguments: Any, limiter: Any = None, **settings: Any) -> Any:
    assert limiter is not None or lanes.current() == "changes", f"{work} has no limiter"
    return await _run_sync(work, *arguments, limiter=limiter, **settings)


if __name__ == "__main__":
    trio.to_thread.run_sync = _checked
    raise SystemExit(main())
