"""Goes on with the imports that an earlier daemon did not finish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from imgstored.errors import ImgstoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgstored.imports.plan import Wish

log = structlog.get_logger(__name__)

#: Seconds until an import is tried again when no source answers: at first, and at most.
_FIRST_PAUSE, _LAST_PAUSE = 5.0, 600.0


async def go_on(
    wish: Wish, fulfil: Callable[[Wish], Awaitable[None]], is_unfinished: Callable[[str, str], bool]
) -> None:
    """Fulfils the wish; asks ever more rarely while no source answers, and as long as it `is_unfinished`."""
    log.info("going on with an unfinished import", uuid=wish.uuid, pool=wish.pool)
    pause = _FIRST_PAUSE
    while True:
        try:
            await fulfil(wish)
        except ImgstoreError as error:
            if not is_unfinished(wish.pool, wish.uuid):
                log.warning("gave up an unfinished import", uuid=wish.uuid, error=error.message)
                return
            log.warning("an unfinished import waits", uuid=wish.uuid, error=error.message, seconds=pause)
        else:
            return
        await trio.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)
