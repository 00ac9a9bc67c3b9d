"""`history` and `events`: what happened in the store, and each thing that happens."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from imgctl.event_text import numbered_line
from imgctl.listing import Wanted, say_listing, with_new_keys
from imgctl.session import flush, json_text
from imgctl.text import moment, printable, size_cell

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


# -- events --------------------------------------------------------------------------------------------------

#: The number of an event, at most; 0 is for all that are kept.
_MOST = 10**18


def events(session: Session, arguments: Arguments) -> None:
    """`events [-j] [--since NUMBER] [--no-follow]`."""
    arguments.none()
    since, follow = (
        arguments.number("--since", "number of an event", 0, _MOST),
        not arguments.flag("--no-follow"),
    )
    if since is None and not follow:
        since = 0
    as_json, screen = arguments.flag("-j"), session.screen

    def note(text: str) -> None:
        flush(sys.stdout)
        print(f"{session.program}: note: {printable(text)}", file=sys.stderr, flush=True)

    for event in session.client(patient=True).events(since, follow=follow, on_note=note):
        if as_json:
            print(json_text(with_new_keys(event)))
        else:
            line = numbered_line(event, None if screen is None else screen.columns)
            if screen is not None:
                from imgctl.fitting import cut

                line = cut(line, screen.columns, screen.ellipsis)
            print(line)
        flush(sys.stdout)
