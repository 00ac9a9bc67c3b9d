"""A symbolic link to the view, for hosts where the usual place cannot hold the view itself.

SmartOS makes `/` anew in memory at each boot, with few inodes: the view is elsewhere, and `/images` is a link
that each start makes again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import structlog

from imgstored.host import shortage

if TYPE_CHECKING:
    from pathlib import Path

log = structlog.get_logger(__name__)


def state_of(link: Path, view: Path) -> Literal["ours", "absent", "taken"]:
    """Whether the link leads to the view, is not there, or something else is there. Raises `OSError`."""
    if os.path.normpath(link) == os.path.normpath(view):
        return "ours"
    try:
        there = os.readlink(link)  # noqa: PTH115 - as it is written, not as a path
    except FileNotFoundError:
        return "absent"
    except OSError:
        os.lstat(link)
        return "taken"  # no link
    leads_to = os.path.normpath(os.path.join(os.path.dirname(link), there))  # noqa: PTH118, PTH120
    return "ours" if leads_to == os.path.normpath(view) else "taken"


def make(link: Path, view: Path) -> None:
    """Makes the link unless it is there. What is in its place is left alone. Never raises; logs instead.

    The view need not be there yet. Blocks briefly.
    """
    try:
        if state_of(link, view) == "absent":
            link.symlink_to(view)
            log.info("linked", link=str(link), view=str(view))
        if state_of(link, view) == "taken":
            log.warning(
                "the link to the view is not made: something else is in its place",
                link=str(link),
                view=str(view),
                hint="remove it, or set `view.link` to another path or to none",
            )
    except OSError as error:
        log.warning(
            "the link to the view cannot be made", link=str(link), view=str(view), why=shortage.why(error)
        )
