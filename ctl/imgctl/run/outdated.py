"""`outdated`: installed images of which a source has a newer version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.listing import Wanted, say_listing
from imgctl.run.images import report_problems

if TYPE_CHECKING:
    from typing import Any

    from imgproto.documents import OldDocument

    from imgctl.arguments import Arguments
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "zpool", "newer", "newer_uuid", "source"]


def outdated(session: Session, arguments: Arguments) -> None:
    """`outdated [-P POOL] [-j] [-H]`. Then warns of sources and lists, as `avail` does."""
    arguments.none()
    with session.client() as client:
        found = client.outdated(arguments.text("-P"))
    say_listing(
        session,
        Wanted(session, arguments),
        documents=found["images"],
        rows=[outdated_row(image) for image in found["images"]],
        columns=_COLUMNS,
        wide=["published_at"],
    )
    report_problems(session, found)


def outdated_row(image: OldDocument) -> dict[str, Any]:
    """An image and its newer version in one row."""
    newer = image["newer"]
    return {**image, "newer": newer["version"], "newer_uuid": newer["uuid"], "source": newer["source"]}
