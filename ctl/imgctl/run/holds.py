"""`hold`, `release`, `holds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.text import printable

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session

#: The tag of a pin; imgstored knows it, too, for what it says of an image that is held.
PINNED = "pinned"


def hold(session: Session, arguments: Arguments) -> None:
    """`hold [-P POOL] UUID TAG`."""
    text, tag = arguments.two()
    uuid = session.uuid(text, among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        client.hold(uuid, tag, pool=arguments.text("-P"))
    session.say([f"Held image {printable(uuid)} ({printable(tag)})"])


def release(session: Session, arguments: Arguments) -> None:
    """`release [-P POOL] UUID TAG`."""
    text, tag = arguments.two()
    uuid = session.uuid(text, among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        client.release(uuid, tag, pool=arguments.text("-P"))
    session.say([f"Released image {printable(uuid)} ({printable(tag)})"])


def holds(session: Session, arguments: Arguments) -> None:
    """`holds [-P POOL] [-j] UUID`."""
    uuid = session.uuid(arguments.one(), among="installed", pool=arguments.text("-P"))
    with session.client() as client:
        tags = client.holds(uuid, pool=arguments.text("-P"))
    if arguments.flag("-j"):
        session.say_json(tags)
    else:
        session.say([printable(tag) for tag in tags])


def pin(session: Session, arguments: Arguments) -> None:
    """`pin [-P POOL] UUID`."""
    uuid, pool = _pinned(session, arguments)
    with session.client() as client:
        client.hold(uuid, PINNED, pool=pool)
    session.say([f"Pinned image {printable(uuid)}"])


def unpin(session: Session, arguments: Arguments) -> None:
    """`unpin [-P POOL] UUID`."""
    uuid, pool = _pinned(session, arguments)
    with session.client() as client:
        client.release(uuid, PINNED, pool=pool)
    session.say([f"Unpinned image {printable(uuid)}"])


def _pinned(session: Session, arguments: Arguments) -> tuple[str, str | None]:
    pool = arguments.text("-P")
    return session.uuid(arguments.one(), among="installed", pool=pool), pool
