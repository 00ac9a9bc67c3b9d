"""`verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.run.imports import Narrator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproto.documents import Result

    from imgctl.arguments import Arguments
    from imgctl.session import Session


def verify(session: Session, arguments: Arguments) -> int:
    """`verify [-q] [-P POOL] [-j] [--strict] [UUID...]`. Status 1 if one is not what it was."""
    pool = arguments.text("-P")
    uuids = session.uuids(arguments.rest, among="installed", pool=pool) if arguments.rest else None
    with session.client() as client, Narrator(session, arguments) as tell:
        results = client.verify(uuids, pool=pool, on_event=tell)
    if not arguments.flag("-j"):
        session.say([_summary(results)])
    # There was nothing to compare an unknown one with: that is no fault of the image.
    good = {"ok"} if arguments.flag("--strict") else {"ok", "unknown"}
    return 0 if set(results) <= good else 1


def _summary(results: Mapping[Result, int]) -> str:
    count = sum(results.values())
    ordered = sorted(results, key=lambda result: result != "ok")
    parts = ", ".join(f"{results[result]} {result}" for result in ordered)
    return f"Verified {count} image{'' if count == 1 else 's'}" + (f": {parts}" if parts else "")
