"""`alias`: the names that the administrator gives images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.errors import RemoteError
from imgctl.listing import Wanted, say_listing
from imgctl.text import printable

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session


def alias(session: Session, arguments: Arguments) -> None:
    """`alias [-j] [-H] | -d ALIAS | ALIAS IMAGE`."""
    if (old := arguments.text("-d")) is not None:
        arguments.none()
        with session.client() as client:
            removed = client.delete_alias(old)
        session.say([f"Deleted alias {printable(old)} of image {printable(removed['uuid'])}"])
    elif not arguments.rest:
        _list(session, arguments)
    elif len(arguments.rest) == 2:
        _set(session, *arguments.rest)
    else:
        raise arguments.wrong_count(2)


def _list(session: Session, arguments: Arguments) -> None:
    """All, with what is known of the images that are installed."""
    with session.client() as client:
        aliases = client.aliases()
        installed = {image["manifest"]["uuid"]: image["manifest"] for image in client.list()}
    rows = [
        {**each, **{key: installed.get(each["uuid"], {}).get(key) for key in ("name", "version")}}
        for each in aliases
    ]
    say_listing(
        session,
        Wanted(session, arguments),
        documents=aliases,
        rows=rows,
        columns=["alias", "uuid", "name", "version"],
    )


def _set(session: Session, name: str, image: str) -> None:
    try:
        uuid = session.uuid(image, among="installed")
    except RemoteError as error:
        if error.code != "ImageNotInstalled":
            raise
        uuid = session.uuid(image, among="available")
    with session.client() as client:
        before = client.set_alias(name, uuid)["before"]
    was = f" (it was {printable(before)})" if before not in (None, uuid) else ""
    session.say([f"Alias {printable(name)} is image {printable(uuid)}{was}"])
