"""Images by what people call them: a unique part of the uuid, NAME, NAME@VERSION, NAME@latest.

A full uuid is taken as it is, so that scripts pay nothing; for everything else the daemon is asked. Under
the name imgadm there are no names, and the daemon says what imgadm says of a uuid that is none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from imgctl.session import Session

    #: Where to look: in a pool, in what the sources have, in what of that can be imported, in what is under
    #: way, or in what was done.
    Among = Literal["installed", "available", "active", "jobs", "history"]

_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_uuid(text: str) -> bool:
    """Whether it is a full uuid, as imgadm writes it."""
    return _UUID.fullmatch(text) is not None


def image_uuid(
    session: Session,
    text: str,
    *,
    among: Among,
    pool: str | None = None,
    sources: Sequence[str] | None = None,
    channel: str | None = None,
) -> str:
    """The uuid of the image that is called `text`. `sources` replace the configured ones.

    Raises the daemon's `RemoteError` where there is none, or where it could be several (AmbiguousName).
    """
    return image_uuids(session, [text], among=among, pool=pool, sources=sources, channel=channel)[0]


def image_uuids(
    session: Session,
    texts: Sequence[str],
    *,
    among: Among,
    pool: str | None = None,
    sources: Sequence[str] | None = None,
    channel: str | None = None,
) -> list[str]:
    """As `image_uuid`, for several, with one question."""
    names = [text for text in dict.fromkeys(texts) if not _UUID.fullmatch(text)]
    if not names or session.program == "imgadm":
        return [*texts]
    with session.client() as client:
        found = client.resolve(names, among=among, pool=pool, sources=sources, channel=channel)
    uuids = {name: str(image["uuid"]) for name, image in zip(names, found, strict=True)}
    return [uuids.get(text, text) for text in texts]
