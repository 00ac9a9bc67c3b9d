"""What this host says of its images: holds, pins and aliases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.errors import RemoteError, UsageError
from imgctl.listing import Wanted, say_document, say_listing
from imgctl.run.several import change_each, named, texts_of
from imgctl.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

_COLUMNS = ["uuid", "name", "version", "zpool", "holds"]
_DROP = ["zpool", "version"]

#: The tag of a pin; imgstored knows it, too, for what it says of an image that is held.
PINNED = "pinned"


def hold(session: Session, arguments: Arguments) -> int:
    """`hold [-P POOL] [-j] IMAGE... TAG`."""
    texts, tag = _with_tag(arguments)
    pool = arguments.text("-P")
    return _each(session, arguments, texts, lambda client, uuid: client.hold(uuid, tag, pool), "held", tag)


def release(session: Session, arguments: Arguments) -> int:
    """`release [-P POOL] [-j] IMAGE... TAG`."""
    texts, tag = _with_tag(arguments)
    pool = arguments.text("-P")
    return _each(
        session, arguments, texts, lambda client, uuid: _released(client, uuid, tag, pool), "released", tag
    )


def holds(session: Session, arguments: Arguments) -> None:
    """`holds [-P POOL] [-j] [-H] [IMAGE]`."""
    if not arguments.rest:
        _list_held(session, arguments)
        return
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        tags = client.holds(uuid, pool=arguments.text("-P"))
    wanted = Wanted(session, arguments)
    if wanted.is_document:
        say_document(session, tags, wanted.form)
    else:
        session.say([printable(tag) for tag in tags])


def _list_held(session: Session, arguments: Arguments) -> None:
    """The images that are held."""
    pool = arguments.text("-P")
    with session.client() as client:
        if pool is not None and pool not in (pools := client.pools()):
            raise UsageError(f'unknown pool: "{pool}"', hint=f"the daemon has {', '.join(pools)}")
        images = client.list(holds=True)
    held = [
        {
            "uuid": image["manifest"]["uuid"],
            "name": image["manifest"].get("name"),
            "version": image["manifest"].get("version"),
            "zpool": image["zpool"],
            "holds": image.get("holds") or [],
        }
        for image in images
        if image.get("holds") and pool in (None, image["zpool"])
    ]
    rows = [{**each, "holds": ", ".join(each["holds"])} for each in held]
    say_listing(session, Wanted(session, arguments), documents=held, rows=rows, columns=_COLUMNS, drop=_DROP)


def pin(session: Session, arguments: Arguments) -> int:
    """`pin [-P POOL] [-j] IMAGE...`."""
    texts, pool = texts_of(session, arguments), arguments.text("-P")
    return _each(session, arguments, texts, lambda client, uuid: client.hold(uuid, PINNED, pool), "pinned")


def unpin(session: Session, arguments: Arguments) -> int:
    """`unpin [-P POOL] [-j] IMAGE...`."""
    texts, pool = texts_of(session, arguments), arguments.text("-P")
    return _each(
        session, arguments, texts, lambda client, uuid: _released(client, uuid, PINNED, pool), "unpinned"
    )


def _released(client: Client, uuid: str, tag: str, pool: str | None) -> str | None:
    """Ends a hold; returns what is to be said where there was none, which is no error."""
    there = tag in client.holds(uuid, pool=pool)
    client.release(uuid, tag, pool)
    if there:
        return None
    return f"Image {printable(uuid)} was not " + ("pinned" if tag == PINNED else f"held ({printable(tag)})")


def _each(
    session: Session,
    arguments: Arguments,
    texts: Sequence[str],
    change: Callable[[Client, str], str | None],
    verb: str,
    tag: str = "",
) -> int:
    as_json = arguments.flag("-j")
    images = named(session, texts, among="installed", pool=arguments.text("-P"), as_json=as_json)
    with session.client() as client:
        return change_each(
            session,
            images,
            lambda uuid: change(client, uuid),
            verb,
            with_what=f" ({tag})" if tag else "",
            as_json=as_json,
        )


def _with_tag(arguments: Arguments) -> tuple[Sequence[str], str]:
    """The images, and the tag, which comes last."""
    *texts, tag = arguments.some(2)
    return texts, tag


# -- aliases -------------------------------------------------------------------------------------------------


def alias(session: Session, arguments: Arguments) -> None:
    """`alias [-j] [-H] | -d ALIAS | ALIAS IMAGE`."""
    if (old := arguments.text("-d")) is not None:
        arguments.none()
        with session.client() as client:
            removed = client.delete_alias(old)
        session.say([f"Deleted alias {printable(old)} of image {printable(removed['uuid'])}"])
    elif not arguments.rest:
        _list_aliases(session, arguments)
    elif len(arguments.rest) == 2:
        _set_alias(session, *arguments.rest)
    else:
        raise arguments.wrong_count(2)


def _list_aliases(session: Session, arguments: Arguments) -> None:
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


def _set_alias(session: Session, name: str, image: str) -> None:
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
