"""`hold`, `release`, `holds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.text import printable

if TYPE_CHECKING:
    from imgctl.arguments import Arguments
    from imgctl.session import Session


def hold(session: Session, arguments: Arguments) -> None:
    """`hold [-P POOL] UUID TAG`."""
    uuid, tag = arguments.two()
    with session.client() as client:
        client.hold(uuid, tag, pool=arguments.text("-P"))
    session.say([f"Held image {printable(uuid)} ({printable(tag)})"])


def release(session: Session, arguments: Arguments) -> None:
    """`release [-P POOL] UUID TAG`."""
    uuid, tag = arguments.two()
    with session.client() as client:
        client.release(uuid, tag, pool=arguments.text("-P"))
    session.say([f"Released image {printable(uuid)} ({printable(tag)})"])


def holds(session: Session, arguments: Arguments) -> None:
    """`holds [-P POOL] [-j] UUID`."""
    uuid = arguments.one()
    with session.client() as client:
        tags = client.holds(uuid, pool=arguments.text("-P"))
    if arguments.flag("-j"):
        session.say_json(tags)
    else:
        session.say([printable(tag) for tag in tags])
