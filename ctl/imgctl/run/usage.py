"""`tree` and `du`: the relations of images, and the space that they use."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from imgctl.errors import remote_error
from imgctl.listing import Wanted, document_form, say_document, say_listing
from imgctl.session import is_terminal, speaks_unicode
from imgctl.status_text import library_lines
from imgctl.usage_text import ASCII, LINES, du_document, du_rows, forest, pool_summary, readable, tree_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.documents import UsageDocument

    from imgctl.arguments import Arguments
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "zpool", "own", "shared", "total", "clones"]


def tree(session: Session, arguments: Arguments) -> None:
    """`tree [-P POOL] [-j]`."""
    arguments.none()
    form = document_form(arguments)
    with session.client() as client:
        pools = client.usage(arguments.text("-P"))
    if form:
        say_document(session, [forest(pool) for pool in pools], form)
    else:
        strokes = LINES if is_terminal(sys.stdout) and speaks_unicode() else ASCII
        blocks = [tree_lines(pool, strokes, session.screen) for pool in pools if not pool.get("error")]
        session.say(line for place, block in enumerate(blocks) for line in (*([""] * (place > 0)), *block))
    _report_silent(session, pools)


def du(session: Session, arguments: Arguments) -> None:
    """`du [-P POOL] [-j] [-H] [UUID...]`."""
    pool = arguments.text("-P")
    uuids = session.uuids(arguments.rest, among="installed", pool=pool)
    with session.client() as client:
        pools = client.usage(pool, uuids)
        library = [] if uuids or pool is not None else library_lines(client.status())
    wanted = Wanted(session, arguments)
    rows = [row for each in pools for row in du_rows(each)]
    say_listing(
        session,
        wanted,
        documents=[du_document(each) for each in pools],
        rows=[readable(row) for row in rows],
        plain=rows,
        columns=_COLUMNS,
    )
    if wanted.header and wanted.form in ("", "wide") and not wanted.only_uuids:
        session.say([*(pool_summary(each) for each in pools if not each.get("error")), *library])
    _report_silent(session, pools)


def _report_silent(session: Session, pools: Sequence[UsageDocument]) -> None:
    """What is known was printed; a pool that did not answer is an error all the same."""
    errors = [remote_error(pool["error"]) for pool in pools if isinstance(pool.get("error"), dict)]
    for error in errors[1:]:
        session.warn(error.message)
    if errors:
        raise errors[0]
