"""Asks the sources for an image once, however many want to know at the same time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, InternalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgstored.sources.registry import Found

log = structlog.get_logger(__name__)

#: What is looked for: (uuid, must be active, sources that replace the configured ones, channel).
Wanted = tuple[str, bool, tuple[str, ...] | None, str | None]


@dataclass(eq=False)
class _Answer:
    ready: trio.Event = field(default_factory=trio.Event)
    found: Found | None = None
    error: ImgstoreError | None = None


class Lookup:
    """Coalesces equal questions in flight. Nothing is remembered once it is answered."""

    def __init__(self, ask: Callable[[Wanted], Awaitable[Found]]) -> None:
        self._ask = ask
        self._pending: dict[Wanted, _Answer] = {}

    async def find(self, wanted: Wanted, nursery: trio.Nursery) -> Found:
        """The answer, or the sources' error.

        The question is asked in `nursery`, which outlives whoever asks first: others may be waiting too.
        """
        answer = self._pending.get(wanted)
        if answer is None:
            answer = self._pending[wanted] = _Answer()
            nursery.start_soon(self._resolve, wanted, answer)
        await answer.ready.wait()
        if answer.error is not None:
            raise answer.error
        assert answer.found is not None
        return answer.found

    async def _resolve(self, wanted: Wanted, answer: _Answer) -> None:
        try:
            answer.found = await self._ask(wanted)
        except ImgstoreError as error:
            answer.error = error
        except Exception:
            log.exception("looking for an image failed", uuid=wanted[0])
            answer.error = InternalError("imgstored made a mistake", hint="its log has the details")
        finally:
            del self._pending[wanted]
        # Not reached when the daemon is stopping: then those who wait are cancelled too.
        answer.ready.set()
