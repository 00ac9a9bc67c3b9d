"""The history: who imported or deleted which image on this host, when, from where, and how it ended.

SQLite in WAL mode, next to the journal, and bounded. A row is written when an action starts, and completed
when it ends; the next daemon marks rows that a daemon left unfinished as `interrupted`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from imgproto.documents import EntryDocument

from imgstored.events.stream import Ended, Refused, Started, outcome_of
from imgstored.http.location import shown
from imgstored.http.secrets import KNOWN, redacted
from imgstored.queries.ledger import Ledger
from imgstored.queries.names import Named
from imgstored.state.database import Layout, Table, fault_of, suspects_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from imgstored.events.stream import Action, Requester, StoreEvent
    from imgstored.state.damage import Aside

#: The number of newest rows that are kept.
MAX_ROWS = 10_000

#: Characters of an error's message that are kept.
_MAX_MESSAGE = 2000

#: The table of a new file. Migrations of older ones are in `imgstored.state.schema`.
_TABLE = """
CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,               -- import, install, delete, ...
    uuid TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL,
    pool TEXT NOT NULL,
    source TEXT,                        -- a URL without secrets; NULL for a local file
    client TEXT NOT NULL, uid INTEGER,  -- NULL: the daemon itself
    started_at REAL NOT NULL,           -- seconds since the epoch
    bytes INTEGER,                      -- of the image's file
    seconds REAL,                       -- that it took; NULL: not ended, or interrupted
    outcome TEXT,                       -- NULL: not ended
    code TEXT, message TEXT,            -- of the error; or what was special about a success
    import_id TEXT                      -- in every line that the log has of it
);
CREATE INDEX history_uuid ON history (uuid);
"""

_NOTHING: Final = type(None)
_TYPES: Final = {
    "id": (int,),
    "action": (str,),
    "uuid": (str,),
    "name": (str,),
    "version": (str,),
    "pool": (str,),
    "source": (str, _NOTHING),
    "client": (str,),
    "uid": (int, _NOTHING),
    "started_at": (int, float),
    "bytes": (int, _NOTHING),
    "seconds": (int, float, _NOTHING),
    "outcome": (str, _NOTHING),
    "code": (str, _NOTHING),
    "message": (str, _NOTHING),
    "import_id": (str, _NOTHING),
}

LAYOUT: Final = Layout(
    _TABLE,
    {
        "history": Table(
            ("id",),
            lambda row: f"entry {str(row.get('id'))[:20]}",
            "`imgctl history` does not have it",
            lambda row: fault_of(row, _TYPES),
            suspects_of(_TYPES),
        )
    },
    lost="`imgctl history` begins anew",
    # Actions that an earlier daemon did not end.
    then="UPDATE history SET outcome = 'interrupted' WHERE outcome IS NULL",
)

#: Events that are kept in memory while the history is not open.
_MAX_PENDING: Final = 2 * MAX_ROWS

#: The columns that an entry shows.
_FIELDS = tuple(EntryDocument.__annotations__)


#: A failure is moot if the image was installed or deleted in that pool since then.
_LATER = (
    "SELECT 1 FROM history AS later WHERE later.uuid = history.uuid AND later.pool = history.pool"
    " AND later.id > history.id AND later.outcome IN ('installed', 'deleted')"
)


class History(Ledger):
    """The file. Subscribes to the store's events, and writes them down while `run` is running."""

    def __init__(self, path: Path, aside: Aside | None = None) -> None:
        """Opens the file as `Ledger` does."""
        super().__init__(path, LAYOUT, aside, what="history", pending=_MAX_PENDING)
        self._rows: dict[Action, tuple[int, float]] = {}  # of what is under way; when it began

    # -- writing ---------------------------------------------------------------------------------------------

    def hear(self, event: StoreEvent) -> None:
        """Listens to an `EventStream`."""
        now, wall = time.monotonic(), time.time()
        match event:
            case Started(action, requester):
                self.add(partial(self._begin, action, requester, now, wall))
            case Ended(action):
                self.add(partial(self._end, event, now))
            case Refused(action, requester, error):
                self.add(partial(self._begin, action, requester, now, wall))
                ended = Ended(action, outcome_of(error, "installed"), error)
                self.add(partial(self._end, ended, now))

    def _begin(self, action: Action, requester: Requester, now: float, wall: float) -> None:
        source = None if action.source is None else shown(action.source)
        columns = ", ".join((*_FIELDS[:9], "import_id"))
        added = self._db.execute(
            f"INSERT INTO history ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  fixed
            (
                action.kind,
                action.uuid,
                KNOWN.hidden(action.name),
                KNOWN.hidden(action.version),
                action.pool,
                source,
                KNOWN.hidden(requester.client),
                requester.uid,
                wall,
                action.import_id,
            ),
        )
        row = added.lastrowid or 0
        self._rows[action] = row, now
        self._db.execute("DELETE FROM history WHERE id <= ?", (row - MAX_ROWS,))

    def _end(self, ended: Ended, now: float) -> None:
        row, began = self._rows.pop(ended.action, (None, now))
        if row is None:
            return  # the start could not be written
        error = ended.error
        code = None if error is None else error.code
        said = ended.remark if error is None else error.message
        message = None if said is None else redacted(said)[:_MAX_MESSAGE]
        self._db.execute(
            "UPDATE history SET outcome = ?, bytes = ?, seconds = ?, code = ?, message = ? WHERE id = ?",
            (ended.outcome, ended.size, round(now - began, 3), code, message, row),
        )

    # -- reading ---------------------------------------------------------------------------------------------

    async def entries(self, uuid: str | None, limit: int) -> list[EntryDocument]:
        """The newest `limit` entries, of one image or of all, oldest first; docs/protocol.md's *entry*."""
        where, values = ("", ()) if uuid is None else ("WHERE uuid = ?", (uuid,))

        def read() -> list[EntryDocument]:
            rows = self._readers.execute(
                f"SELECT {', '.join(_FIELDS)} FROM history {where} ORDER BY id DESC LIMIT ?",  # noqa: S608  fixed
                (*values, max(0, min(limit, MAX_ROWS))),
            )
            return [_entry(row) for row in rows][::-1]

        return await self._read(read)

    async def failures(self, limit: int) -> list[EntryDocument]:
        """The newest entries of failures without a later success, at most `limit`, oldest first."""

        def read() -> list[EntryDocument]:
            rows = self._readers.execute(
                f"SELECT {', '.join(_FIELDS)} FROM history"  # noqa: S608  fixed
                f" WHERE outcome = 'failed' AND NOT EXISTS ({_LATER}) ORDER BY id DESC LIMIT ?",
                (limit,),
            )
            return [_entry(row) for row in rows][::-1]

        return await self._read(read)

    async def images(self) -> list[Named]:
        """The images in the history, with their latest names."""

        def read() -> list[Named]:
            rows = self._readers.execute(
                "SELECT uuid, name, version FROM history WHERE id IN (SELECT"
                " coalesce(max(CASE WHEN name != '' THEN id END), max(id)) FROM history GROUP BY uuid)"
            )
            return [Named(*row) for row in rows]

        return await self._read(read)


@asynccontextmanager
async def open_history(path: Path, aside: Aside | None = None) -> AsyncIterator[History]:
    """Opens the history, writes events down during the block, and closes it. Raises as `History` does."""
    with closing(History(path, aside)) as history:
        async with trio.open_nursery() as nursery:
            await nursery.start(history.run)
            yield history
            nursery.cancel_scope.cancel()


def _entry(row: tuple[Any, ...]) -> EntryDocument:
    """The entry of a row with `_FIELDS`, without secrets that an earlier daemon did not know."""
    entry = KNOWN.hidden_in(dict(zip(_FIELDS, row, strict=True)))
    if entry["message"] is not None:
        entry["message"] = redacted(entry["message"])
    return cast("EntryDocument", entry)
