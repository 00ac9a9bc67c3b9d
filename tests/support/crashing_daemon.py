"""imgstored, killed at a point: `python -m tests.support.crashing_daemon POINT [imgstored's arguments]`.

A point is `before:STEP` or `after:STEP`; the steps are those of an import's and a deletion's end, whichever
the pool and the view. SIGKILL, so that nothing is tidied up.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from imgstored.__main__ import main
from imgstored.catalog.catalog import Catalog
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.zfs import ZfsPool
from imgstored.store.journal import Journal
from imgstored.store.leftovers import Leftovers
from imgstored.view.files import FilesView
from imgstored.view.fuse import FuseView

if TYPE_CHECKING:
    from collections.abc import Callable

_POOLS = (EmbeddedPool, ZfsPool)

#: In the order in which an import passes them: the classes that a step is a method of, and the method.
IMPORT_STEPS: dict[str, tuple[tuple[Any, ...], str]] = {
    "receive": (_POOLS, "receive"),
    "manifest": ((Catalog,), "write_manifest"),
    "publish": (_POOLS, "publish"),
    "view": ((FilesView, FuseView), "add"),
    "spool": ((Leftovers,), "_drop_spool"),
    "journal": ((Journal,), "end"),
}
DELETE_STEPS: dict[str, tuple[tuple[Any, ...], str]] = {
    "destroy": (_POOLS, "destroy"),
    "forget": ((Catalog,), "forget_manifest"),
}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killing(step: Callable[..., Any], when: str) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            _die()
        step(*arguments, **named)
        _die()

    async def wrapped_async(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            _die()
        await step(*arguments, **named)
        _die()

    return wrapped_async if inspect.iscoroutinefunction(step) else wrapped


if __name__ == "__main__":
    when, _, name = sys.argv[1].partition(":")
    owners, attribute = (IMPORT_STEPS | DELETE_STEPS)[name]
    for owner in owners:
        setattr(owner, attribute, _killing(getattr(owner, attribute), when))
    sys.exit(main(sys.argv[2:]))
