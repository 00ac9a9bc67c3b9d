"""The numbered events: what happened in the store, for clients that follow it, and for hooks.

SQLite in WAL mode, next to the history, and bounded. A number is on the disk before any client sees it, and
is never used again: a client goes on after the last number that it has seen, whatever happened to either
side. If the events after that number are gone by then, the client gets an error.
"""

from __future__ import annotations

import json
import sqlite3
from collections import deque
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
import trio

from imgstored.errors import EventsGoneError
from imgstored.events.numbered import numbered
from imgstored.http.secrets import KNOWN, redacted
from imgstored.manifest import timestamp
from imgstored.queries.ledger import Ledger
from imgstored.state.database import Layout, Row, Table, fault_of, suspects_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from pathlib import Path

    from imgproto.events import NumberedEvent

    from imgstored.events.stream import StoreEvent
    from imgstored.state.damage import Aside

log = structlog.get_logger(__name__)

#: The number of newest events that are kept.
MAX_EVENTS: Final = 10_000

#: Events that wait for a file that is not open.
_MAX_WAITING: Final = MAX_EVENTS
#: SQLite's largest integer: a client may ask for more.
_MAX_NUMBER: Final = (1 << 63) - 1
#: Events that are read at once for a client.
_AT_ONCE: Final = 200

_TABLE: Final = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    document TEXT NOT NULL              -- JSON, all but the number
);
"""
_TYPES: Final = {"number": (int,), "document": (str,)}


def _fault(row: Row) -> str | None:
    why = fault_of(row, _TYPES)
    if why is not None:
        return why
    try:
        document = json.loads(row["document"])
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    return None if isinstance(document, dict) and "event" in document else "it is no event"


LAYOUT: Final = Layout(
    _TABLE,
    {
        "events": Table(
            ("number",),
            lambda row: f"event {str(row.get('number'))[:20]}",
            "`imgctl events` does not have it",
            _fault,
            suspects_of(_TYPES),
        )
    },
    lost="`imgctl events` begins anew, with number 1",
    # A number that a client has seen must survive a power cut.
    then="PRAGMA synchronous = FULL",
)


class EventLog(Ledger):
    """The file. Subscribes to the store's events, and writes them down while `run` is running."""

    def __init__(self, path: Path, aside: Aside | None = None) -> None:
        """Opens the file as `Ledger` does."""
        self._last = 0
        self._waiting: deque[dict[str, Any]] = deque()
        self._written: deque[NumberedEvent] = deque()
        self._lost = 0
        self._changed = trio.Event()
        self._listeners: list[Callable[[NumberedEvent], None]] = []
        super().__init__(path, LAYOUT, aside, what="log of events", pending=2)

    def subscribe(self, listener: Callable[[NumberedEvent], None]) -> None:
        """Calls `listener` with each event that is written down from now on, in trio's thread."""
        self._listeners.append(listener)

    @property
    def newest(self) -> int:
        """The number of the newest event, 0 where there was none."""
        return self._last

    # -- writing ---------------------------------------------------------------------------------------------

    def hear(self, event: StoreEvent) -> None:
        """Listens to an `EventStream`."""
        facts = numbered(event)
        if facts is None:
            return
        if len(self._waiting) >= _MAX_WAITING:
            self._lost += 1
            return
        now = timestamp(datetime.now(UTC))
        self._waiting.append({"at": now, **facts})
        self.add(self._write)

    async def flush(self) -> None:
        """Returns once all earlier events are written down, if that is possible; notifies the listeners."""
        await super().flush()
        if not self._written:
            return
        while self._written:
            event = self._written.popleft()
            for listener in self._listeners:
                listener(event)
        self._changed.set()
        self._changed = trio.Event()

    def _open(self) -> None:
        super()._open()
        if self._opened is not None:
            self._last = _newest(self._opened.writer)

    def _write(self) -> None:
        """Writes all pending events, in one transaction. In the writing thread."""
        waiting, lost = list(self._waiting), self._lost
        documents = [KNOWN.hidden_in(facts) for facts in waiting]
        if lost and documents:
            documents.insert(0, {"at": documents[0]["at"], "event": "events-lost", "lost": lost})
        done: list[NumberedEvent] = []
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                for facts in documents:
                    if "message" in facts:
                        facts = {**facts, "message": redacted(facts["message"])}
                    added = db.execute("INSERT INTO events (document) VALUES (?)", (json.dumps(facts),))
                    done.append(cast("NumberedEvent", {"number": added.lastrowid, **facts}))
                if done:
                    db.execute("DELETE FROM events WHERE number <= ?", (done[-1]["number"] - MAX_EVENTS,))
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
        except sqlite3.Error:
            self._lost += len(waiting)
            raise
        else:
            self._lost -= lost if documents else 0
            self._last = done[-1]["number"] if done else self._last
            self._written.extend(done)
        finally:
            for _ in waiting:
                self._waiting.popleft()

    # -- reading ---------------------------------------------------------------------------------------------

    async def follow(
        self, since: int | None = None, *, on: bool = True
    ) -> AsyncGenerator[NumberedEvent, None]:
        """Gives the events after number `since`: 0 for all that are kept, None for only new ones.

        With `on` it waits for more. Raises `EventsGoneError` if the events after that number are no longer
        kept, or the number was never used; `PoolError` while the file cannot be opened.
        """
        await self.flush()
        if self.fault is not None:
            raise self.fault
        seen = self._last if since is None else since
        while True:
            changed = self._changed
            events = await self._after(seen)
            for event in events:
                yield event
                seen = event["number"]
            if events:
                continue
            if not on:
                return
            await changed.wait()

    async def _after(self, seen: int) -> list[NumberedEvent]:
        """The next events after a number. Raises `EventsGoneError`."""

        def read() -> list[tuple[int | None, str]]:
            # The first row is the oldest number that is kept, and no event.
            oldest = self._readers.execute("SELECT min(number), '' FROM events").fetchall()
            return (
                oldest
                + self._readers.execute(
                    "SELECT number, document FROM events WHERE number > ? ORDER BY number LIMIT ?",
                    (min(seen, _MAX_NUMBER), _AT_ONCE),
                ).fetchall()
            )

        rows = await self._read(read)
        if not rows:
            return []
        oldest = rows[0][0] or self._last + 1
        if seen > self._last:
            raise _gone(f"there is no event with number {seen}", seen, oldest, self._last)
        if seen and seen < oldest - 1:
            raise _gone(f"the events after number {seen} are no longer kept", seen, oldest, self._last)
        return [_event(number or 0, document) for number, document in rows[1:]]


def _gone(what: str, since: int, oldest: int, newest: int) -> EventsGoneError:
    kept = f"those kept are {oldest} to {newest}" if oldest <= newest else "none is kept"
    return EventsGoneError(
        f"{what}: {kept}",
        hint=f"`imgctl events --since {max(0, oldest - 1)}` goes on with what there is",
        data={"since": since, "oldest": oldest, "newest": newest},
    )


def _event(number: int, document: str) -> NumberedEvent:
    """The event of a row, without secrets that an earlier daemon did not know."""
    return cast("NumberedEvent", {"number": number, **KNOWN.hidden_in(json.loads(document))})


def _newest(db: sqlite3.Connection) -> int:
    """The last number that was used, even if its event is no longer kept."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return 0 if row is None else int(row[0])


@asynccontextmanager
async def open_event_log(path: Path, aside: Aside | None = None) -> AsyncIterator[EventLog]:
    """Opens the log, writes events down during the block, and closes it. Raises as `EventLog` does."""
    with closing(EventLog(path, aside)) as opened:
        async with trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            yield opened
            nursery.cancel_scope.cancel()
