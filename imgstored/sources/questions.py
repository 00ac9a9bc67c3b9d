"""Questions to one source, which keeps what it remembers of its server; its last good list is in a file.

No answer of a source is believed here; that its list can be read is all that is asked of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError, SourcePingError
from imgstored.http.location import public, shown
from imgstored.sources.kept_lists import KeptLists
from imgstored.sources.standing import Standings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from pathlib import Path

    from imgproto.documents import ProblemDocument, SourceStateDocument

    from imgstored.sources.base import Listed, Offer, Source, SourceSpec
    from imgstored.sources.search import Answer, Hit

log = structlog.get_logger(__name__)

#: Sources that are kept open, with what they remember: those in use, and some that clients name.
_OPEN = 64


class Questions:
    """Used from trio's thread."""

    def __init__(
        self, lists: Path, open_source: Callable[[SourceSpec], Source], now: Callable[[], datetime]
    ) -> None:
        """`lists` is a folder for copies of the sources' lists."""
        self._lists = KeptLists(lists)
        self._open_source = open_source
        self._now = now
        self._keeping = trio.Lock()
        self._open: OrderedDict[SourceSpec, Source] = OrderedDict()
        self._standings = Standings()

    def forget(self, spec: SourceSpec) -> None:
        """It is not in use any more."""
        self._open.pop(spec, None)

    def forget_all(self) -> None:
        """What is known of the sources may have changed."""
        self._open.clear()

    async def error_of(self, spec: SourceSpec) -> ImgstoreError | None:
        """What is wrong with a source that is in use; None if it is there."""
        return await self._standings.ask(spec, self._source(spec).ping())

    async def ping(self, spec: SourceSpec) -> None:
        """Asks a source that is not in use yet. Raises `SourcePingError`."""
        error = await self._standings.ask(spec, self._open_source(spec).ping())
        if error is not None:
            raise SourcePingError(
                f'unexpected ping error with "{spec.type}" image source "{shown(spec.url)}": {error.message}',
                hint=error.hint or "see that the server is up and of that type, or force it (-f)",
                data={"cause": error.as_wire()},
            ) from error

    async def list(self, spec: SourceSpec, *, keep: bool) -> tuple[Sequence[Listed], ProblemDocument | None]:
        """A source's images, and what the problem with it is. A list is kept for later, if it is to be."""
        images: list[Listed] = []

        async def ask() -> None:
            images.extend(await self._source(spec).list())

        error = await self._standings.ask(spec, ask())
        if error is None:
            if keep:
                async with self._keeping:
                    await trio.to_thread.run_sync(self._lists.keep, spec, images, self._now().isoformat())
            return images, None
        log.warning("a source cannot be listed", source=spec.url, error=error.message)
        problem: ProblemDocument = {"source": public(spec.url), "error": error.as_wire()}
        async with self._keeping:
            kept = await trio.to_thread.run_sync(self._lists.kept, spec)
        if kept is None:
            return [], problem
        return kept[0], {**problem, "listed_at": kept[1]}

    async def keep_only(self, specs: Sequence[SourceSpec]) -> None:
        """Drops the lists of all other sources."""
        async with self._keeping:
            await trio.to_thread.run_sync(self._lists.keep_only, specs)

    async def last_list(self, spec: SourceSpec) -> Sequence[Listed]:
        """What a source had when it last answered; it is not asked."""
        kept = await trio.to_thread.run_sync(self._lists.kept, spec)
        return [] if kept is None else kept[0]

    async def offer(self, spec: SourceSpec, uuid: str, read: Callable[[Offer], Hit]) -> Answer:
        """What a source says about an image. A source that is broken hides nothing that others have."""
        answer: list[Answer] = [None]

        async def ask() -> None:
            offer = await self._source(spec).offer(uuid)
            if offer is not None:
                answer[0] = read(offer)

        error = await self._standings.ask(spec, ask())
        if error is not None:
            log.warning("a source failed", source=spec.url, uuid=uuid, error=error.message)
            return error
        return answer[0]

    async def standings(self, specs: Sequence[SourceSpec]) -> Sequence[SourceStateDocument]:
        """How these sources did of late, as in the protocol's *status*; none is asked."""

        def look() -> Sequence[float | None]:
            return [self._lists.kept_at(spec) for spec in specs]

        kept = await trio.to_thread.run_sync(look)
        return [
            self._standings.of(spec).as_wire(spec, listed_at=kept_at)
            for spec, kept_at in zip(specs, kept, strict=True)
        ]

    def _source(self, spec: SourceSpec) -> Source:
        source = self._open.get(spec)
        if source is None:
            source = self._open[spec] = self._open_source(spec)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        self._open.move_to_end(spec)
        return source
