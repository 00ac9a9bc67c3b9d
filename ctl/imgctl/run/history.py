"""`history`: past imports, installations and deletions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgctl.listing import Wanted, say_listing, with_new_keys
from imgctl.text import moment, size_cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgproto.documents import EntryDocument

    from imgctl.arguments import Arguments
    from imgctl.session import Session

_COLUMNS = [
    "when",
    "action",
    "uuid",
    "name",
    "version",
    "zpool",
    "size",
    "took",
    "outcome",
]
_WIDE = ["client", "source"]
_DROP = ["took", "size", "zpool", "version", "uuid"]

#: Entries, where nothing else is said, and at most.
_ENTRIES, _MOST_ENTRIES = 20, 10_000


def history(session: Session, arguments: Arguments) -> None:
    """`history [-n N] [-j] [-H] [UUID]`."""
    limit = arguments.number("-n", "number of entries", 1, _MOST_ENTRIES) or _ENTRIES
    uuid = session.uuid(arguments.one(), among="history") if arguments.rest else None
    with session.client() as client:
        entries = client.history(uuid, limit)
    wanted = Wanted(session, arguments)
    say_listing(
        session,
        wanted,
        documents=with_new_keys(entries),
        rows=[history_row(entry) for entry in entries],
        plain=[_plain_row(entry) for entry in entries],
        columns=_COLUMNS,
        wide=_WIDE,
        drop=_DROP,
    )
    if wanted.form not in ("", "wide") or wanted.only_uuids:
        return
    for entry in _not_moot(entries):
        session.warn(f"{entry['action']} of image {entry['uuid']} failed: {entry['message']}")


def _not_moot(entries: Sequence[EntryDocument]) -> list[EntryDocument]:
    """What failed and did not succeed later: once for each image and message, the latest."""
    last: dict[tuple[str, str, str | None], EntryDocument] = {}
    for entry in entries:
        if entry["outcome"] in ("installed", "deleted"):
            last = {key: each for key, each in last.items() if key[:2] != (entry["uuid"], entry["pool"])}
        elif entry["outcome"] == "failed" and entry["message"]:
            key = entry["uuid"], entry["pool"], entry["message"]
            last.pop(key, None)
            last[key] = entry
    return [*last.values()]


def history_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An *entry* for people."""
    # What no source has had has no name.
    row = {**entry, "name": entry.get("name") or None, "version": entry.get("version") or None}
    started, count, seconds = entry.get("started_at"), entry.get("bytes"), entry.get("seconds")
    row["when"] = moment(started)
    row["zpool"] = entry.get("pool")
    row["size"] = size_cell(count)
    row["took"] = f"{seconds:.1f}s" if isinstance(seconds, (int, float)) else None
    row["outcome"] = entry.get("outcome") or "running"
    uid = entry.get("uid")
    row["client"] = f"{entry.get('client')}, uid {uid}" if uid is not None else entry.get("client")
    return row


def _plain_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An *entry* for programs, with the columns that people see, too."""
    row: dict[str, Any] = with_new_keys(dict(entry))
    return row | {"when": row.get("started"), "size": entry.get("bytes"), "took": entry.get("seconds")}
