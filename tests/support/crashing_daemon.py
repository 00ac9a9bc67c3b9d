"""imgstored, killed at a point: `python -m tests.support.crashing_daemon FILE [imgstored's arguments]`.

FILE says which point, or nothing: `before:STEP` or `after:STEP`; the steps are those of an import's and a
deletion's end, whichever the pool and the view. `site:N`: in the N-th file that an export of a site makes,
when it is written and has no name yet. SIGKILL, so that nothing is tidied up.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgstored.__main__ import main
from imgstored.catalog.catalog import Catalog
from imgstored.imports.journal import Journal
from imgstored.imports.leftovers import Leftovers
from imgstored.mirrors import folder
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.zfs import ZfsPool
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
    "spool": ((Leftovers,), "_remove_spool"),
    "journal": ((Journal,), "end"),
}
DELETE_STEPS: dict[str, tuple[tuple[Any, ...], str]] = {
    "destroy": (_POOLS, "destroy"),
    "forget": ((Catalog,), "forget_manifest"),
}


def _die_if(file: Path, point: str) -> None:
    if file.read_text() == point:
        os.kill(os.getpid(), signal.SIGKILL)


def _killing(step: Callable[..., Any], name: str, file: Path) -> Callable[..., Any]:
    def wrapped(*arguments: Any, **named: Any) -> Any:
        _die_if(file, f"before:{name}")
        result = step(*arguments, **named)
        _die_if(file, f"after:{name}")
        return result

    async def wrapped_async(*arguments: Any, **named: Any) -> Any:
        _die_if(file, f"before:{name}")
        result = await step(*arguments, **named)
        _die_if(file, f"after:{name}")
        return result

    return wrapped_async if inspect.iscoroutinefunction(step) else wrapped


def _counting(finish: Callable[[int], None], file: Path) -> Callable[[int], None]:
    """`folder._finish`, which dies when all of the N-th file is written, and it has no name yet."""
    made = 0

    def wrapped(fd: int) -> None:
        nonlocal made
        made += 1
        _die_if(file, f"site:{made}")
        finish(fd)

    return wrapped


if __name__ == "__main__":
    folder._finish = _counting(folder._finish, Path(sys.argv[1]))
    for name, (owners, attribute) in (IMPORT_STEPS | DELETE_STEPS).items():
        for owner in owners:
            step = _killing(getattr(owner, attribute), name, Path(sys.argv[1]))
            setattr(owner, attribute, step)
    sys.exit(main(sys.argv[2:]))
