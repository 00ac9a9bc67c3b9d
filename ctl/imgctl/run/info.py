"""`info`: facts about one installed image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from imgctl.listing import document_form, say_document, with_new_keys
from imgctl.text import moment, printable, size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from imgproto.documents import EntryDocument, ImageDocument, UsedDocument

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
    """The installation of the image that is there; None if it is unknown, as after a deletion."""
    for entry in reversed(entries):
        if entry["pool"] == pool and entry["outcome"] in ("installed", "deleted"):
            return entry if entry["outcome"] == "installed" else None
    return None


#: Clones that are named; the rest is counted.
_NAMED = 8


class Facts(NamedTuple):
    """The facts about one installed image. `installed` is None where imgstored did not install it."""

    image: ImageDocument
    used: UsedDocument | None
    holds: Sequence[str]
    installed: EntryDocument | None


def info_document(facts: Facts) -> dict[str, Any]:
    """All of it for programs."""
    used = facts.used
    return {
        **facts.image,
        "used": None if used is None else used["used"],
        "referenced": None if used is None else used["referenced"],
        "cloneNames": [] if used is None else used["clones"],
        "holds": [*facts.holds],
        "installed": facts.installed,
    }


def info_lines(facts: Facts) -> list[str]:
    """A line for each fact, its name first."""
    said = [(name, value) for name, value in _said(facts) if value]
    width = max(len(name) for name, _ in said) + 1
    return [f"{name + ':':<{width}}  {printable(value)}" for name, value in said]


def _said(facts: Facts) -> Iterator[tuple[str, str]]:
    manifest = facts.image["manifest"]
    yield "UUID", str(manifest["uuid"])
    yield "Name", "@".join(str(manifest[key]) for key in ("name", "version") if manifest.get(key))
    yield "Description", " ".join(str(manifest.get("description") or "").split())
    yield "Type", ", ".join(str(manifest[key]) for key in ("type", "os") if manifest.get(key))
    yield "Published", str(manifest.get("published_at") or "")
    yield "Pool", str(facts.image["zpool"])
    yield "Space", _space(facts.used)
    yield "File", _file(manifest)
    yield "Origin", str(manifest.get("origin") or "none")
    yield "Clones", _clones(facts.used)
    yield "Holds", ", ".join(facts.holds) or "none"
    yield "Source", str(facts.image.get("source") or "")
    yield "Installed", _installed(facts.installed)
    yield "Signature", "none: the checksum is what its source says"


def _space(used: UsedDocument | None) -> str:
    if used is None:
        return ""
    return f"{size(used['used'])} of its own, {size(used['referenced'])} of data with its origin's"


def _file(manifest: Mapping[str, Any]) -> str:
    files = manifest.get("files")
    file = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else {}
    count = file.get("size")
    parts = [size(count)] if isinstance(count, int) else []
    parts += [str(file["compression"])] if file.get("compression") else []
    parts += [f"SHA-1 {file['sha1']}"] if file.get("sha1") else []
    return ", ".join(parts)


def _clones(used: UsedDocument | None) -> str:
    names = [] if used is None else used["clones"]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more or "none"


def _installed(entry: EntryDocument | None) -> str:
    if entry is None:
        return "not by imgstored, as far as its history goes"
    uid = "" if entry["uid"] is None else f", uid {entry['uid']}"
    took = "" if entry["seconds"] is None else f", in {entry['seconds']:.1f} s"
    source = (
        f", from {entry['source']}"
        if entry["source"]
        else ", from a file"
        if entry["action"] == "install"
        else ""
    )
    return f"{moment(entry['started_at'])}, by {entry['client']}{uid}{source}{took}"
