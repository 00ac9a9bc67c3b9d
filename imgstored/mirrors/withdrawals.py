"""Copies in the library whose source does not offer them any more: not served, and their room is freed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog
import trio

from imgstored import lanes
from imgstored.errors import ImgstoreError
from imgstored.host import shortage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from imgstored.library.library import Library
    from imgstored.sources.source_set import SourceSet

log = structlog.get_logger(__name__)

#: Seconds from the start to the first look, and between two looks.
_FIRST: Final = 60.0
_EVERY: Final = 1800.0


class Withdrawals:
    """Looks from time to time whether the sources still offer what was copied from them. For trio's thread.

    A source that says that an image is not active any more is believed at once. One that does not know the
    image has to say so in two looks: it may be a server that is being set up again. A source that fails, or
    that lists nothing, says nothing.
    """

    def __init__(
        self,
        library: Library,
        sources: SourceSet,
        *,
        mirrored: Callable[[], Collection[str]] = tuple,
        forget: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`mirrored` are URLs of servers that are asked although they are no sources.

        `forget` is told each uuid of which what the sources said before does not count any more.
        """
        self._forget = forget
        self._library = library
        self._sources = sources
        self._mirrored = mirrored
        self._absent: set[tuple[str, str]] = set()  # source and uuid, at the last look
        self._wanted = trio.Event()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        pause = _FIRST
        while True:
            with trio.move_on_after(pause):
                await self._wanted.wait()
            self._wanted = trio.Event()
            try:
                await self.look()
            except Exception:
                # The daemon goes on, and so does this.
                log.exception("looking for withdrawn images failed by a mistake")
            pause = _EVERY

    def look_soon(self) -> None:
        """Begins the next look now."""
        self._wanted.set()

    async def look(self) -> None:
        """Asks each source about all that was copied from it."""
        by_source: dict[str, set[str]] = {}
        for image in self._library.images():
            if image.entry.kind != "published" and image.entry.source is not None:
                by_source.setdefault(image.entry.source, set()).add(image.uuid)
        absent: set[tuple[str, str]] = set()
        for source, uuids in by_source.items():
            try:
                lacking = await self._sources.lacking(source, uuids, also=self._mirrored())
            except ImgstoreError as error:
                log.debug("a source does not say what it has", source=source, error=error.message)
                lacking = None
            if lacking is None:
                absent |= {known for known in self._absent if known[0] == source}
                continue
            for uuid in sorted(uuids):
                state = lacking.get(uuid)
                if state == "absent":
                    absent.add((source, uuid))
                    if (source, uuid) not in self._absent:
                        continue
                await self._set(uuid, source, state)
        self._absent = absent

    async def _set(self, uuid: str, source: str, state: str | None) -> None:
        if state is not None:
            self._forget(uuid)
        try:
            changed = await lanes.in_thread(
                self._library.withdraw, uuid, state is not None, source, kind="library"
            )
        except OSError as error:
            log.error("the library cannot be written", uuid=uuid, error=shortage.why(error))
            return
        if changed and state is None:
            log.info("an image is offered again by its source", uuid=uuid, source=source)
        elif changed:
            log.warning("an image was withdrawn by its source", uuid=uuid, source=source, state=state)
