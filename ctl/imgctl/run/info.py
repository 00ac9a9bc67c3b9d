"""`info`: what people want to know of one installed image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgctl.info_text import Facts, info_document, info_lines
from imgctl.listing import document_form, say_document
from imgctl.new_keys import with_new_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgproto.documents import EntryDocument

    from imgctl.arguments import Arguments
    from imgctl.client import Client
    from imgctl.session import Session

#: Entries of the history that are looked at: the newest.
_ENTRIES = 100


def info(session: Session, arguments: Arguments) -> None:
    """`info [-P POOL] [-j] IMAGE`."""
    pool, form = arguments.text("-P"), document_form(arguments)
    uuid = session.uuid(arguments.one(), among="installed", pool=pool)
    with session.client() as client:
        facts = _facts(client, uuid, pool)
    if form:
        say_document(session, with_new_keys(info_document(facts)), form)
    else:
        session.say(info_lines(facts))


def _facts(client: Client, uuid: str, pool: str | None) -> Facts:
    image = client.get(uuid, pool)
    used = [each for usage in client.usage(image["zpool"], [uuid]) for each in usage["images"]]
    entries = client.history(uuid, _ENTRIES)
    return Facts(
        image, used[0] if used else None, client.holds(uuid, pool), _installation(entries, image["zpool"])
    )


def _installation(entries: Sequence[EntryDocument], pool: str) -> EntryDocument | None:
    """How the image that is there came to be; None if nobody knows, as after a deletion."""
    for entry in reversed(entries):
        if entry["pool"] == pool and entry["outcome"] in ("installed", "deleted"):
            return entry if entry["outcome"] == "installed" else None
    return None
