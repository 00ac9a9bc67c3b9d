"""The one stream of what happens in the store: each subscriber hears each event once, in order.

    imports, deletions, holds ──►                          ──► requests that follow an import, history,
    sources, mirrors, the daemon ──► EventStream.publish  ──► metrics, the numbered events, hooks

An action (an import, an installation, a deletion) has exactly one `Started` and one `Ended`; in between come
its `ImportEvent`s and `PhaseChanged`. An import that ends before it starts has one `Refused` instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import structlog
from msgspec import Struct, field

from imgstored.errors import CancelledError, ImgstoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgproto.documents import Phase
    from imgproto.events import EventDocument

log = structlog.get_logger(__name__)

#: How an action ended. An action that the stopping daemon cancels is `interrupted`.
Outcome = Literal["installed", "deleted", "failed", "cancelled", "interrupted"]


class Requester(Struct, frozen=True):
    """The requester of an action. The client chose the name `client` itself; `uid` is from the kernel."""

    client: str
    uid: int | None = None  #: None: the daemon itself


class Action(Struct, frozen=True, eq=False):
    """The facts about one action that never change. Actions are compared by identity."""

    kind: Literal["import", "install", "delete"]
    uuid: str
    name: str  #: empty, like `version`, before a source has named the image
    version: str
    pool: str
    source: str | None = None  #: a URL for people; None: a local file, or no source yet
    import_id: str | None = None  #: in all log lines of an import


class Started(Struct, frozen=True):
    """An action began."""

    action: Action
    requester: Requester


class ImportEvent(Struct, frozen=True):
    """An event of an import, for its watchers."""

    action: Action
    event: EventDocument


class Ended(Struct, frozen=True):
    """An action ended. The other fields are facts about an import: bytes and seconds until its end."""

    action: Action
    outcome: Outcome
    error: ImgstoreError | None = None
    size: int | None = None  #: compressed bytes that were there
    fetched: Mapping[str, int] = field(default_factory=dict)  #: bytes from the network, by source
    stages: tuple[tuple[str, float], ...] = ()  #: each stage, and the seconds spent in it
    remark: str | None = None  #: a sentence about what was special


class Refused(Struct, frozen=True):
    """An import or installation that a client wanted failed before it began."""

    action: Action
    requester: Requester
    error: ImgstoreError


class CacheHit(Struct, frozen=True):
    """A request needed no download of its own: the image was installed, or another import brings it."""

    kind: Literal["installed", "joined"]
    action: None = None


class PhaseChanged(Struct, frozen=True):
    """An import has entered a phase in which it is under way."""

    action: Action
    phase: Phase


class HoldChanged(Struct, frozen=True):
    """A tag holds an image from now on, or no longer does."""

    held: bool
    tag: str
    uuid: str
    name: str
    version: str
    pool: str
    requester: Requester
    action: None = None


class SourceChanged(Struct, frozen=True):
    """A source answers again, or one that answered fails (`error`); `url` is for people."""

    url: str
    error: ImgstoreError | None
    action: None = None


class Mirrored(Struct, frozen=True):
    """A mirror run ended: `new` images came, `failed` images did not. `url` is for people."""

    url: str
    new: int = 0
    failed: int = 0
    error: ImgstoreError | None = None
    action: None = None


class DaemonChanged(Struct, frozen=True):
    """The daemon is ready, or it is stopping."""

    running: bool
    version: str
    pid: int
    action: None = None


class HookEnded(Struct, frozen=True):
    """A hook's program has ended, or an event was dropped for it."""

    program: str
    outcome: Literal["ok", "failed", "timeout", "refused", "dropped"]
    action: None = None


StoreEvent = (
    Started
    | ImportEvent
    | PhaseChanged
    | Ended
    | Refused
    | CacheHit
    | HoldChanged
    | SourceChanged
    | Mirrored
    | DaemonChanged
    | HookEnded
)
Listener = Callable[[StoreEvent], None]


def outcome_of(error: ImgstoreError | None, success: Outcome, *, stopping: bool = False) -> Outcome:
    """The outcome of an action, by its error, and by whether the daemon was `stopping`."""
    if error is None:
        return success
    if isinstance(error, CancelledError):
        return "interrupted" if stopping else "cancelled"
    return "failed"


class EventStream:
    """Delivers events to subscribers at once, in trio's thread. A listener must not block."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._of_action: dict[Action, list[Listener]] = {}
        self._flushes: list[Callable[[], Awaitable[None]]] = []

    def subscribe(
        self,
        listener: Listener,
        action: Action | None = None,
        *,
        flush: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Calls `listener` with each event from now on: of one action until it has ended, or of all.

        A listener that writes events down later gives `flush`, which returns once they are written. Returns
        False, and does nothing, if the listener is subscribed already.
        """
        listeners = self._listeners if action is None else self._of_action.setdefault(action, [])
        if listener in listeners:
            return False
        listeners.append(listener)
        if flush is not None:
            self._flushes.append(flush)
        return True

    def unsubscribe(self, listener: Listener, action: Action | None = None) -> None:
        """Stops calling `listener`. Does nothing if it is not subscribed."""
        listeners = self._listeners if action is None else self._of_action.get(action, [])
        if listener in listeners:
            listeners.remove(listener)
        if action is not None and not listeners:
            self._of_action.pop(action, None)

    def publish(self, event: StoreEvent) -> None:
        """Delivers an event. Raises nothing: what a listener raises goes to the log."""
        own = () if event.action is None else self._of_action.get(event.action, ())
        for listener in (*self._listeners, *own):
            try:
                listener(event)
            except Exception:
                # The action must not fail because of a listener.
                log.exception("an event could not be delivered", kind=type(event).__name__)
        if isinstance(event, Ended):
            self._of_action.pop(event.action, None)

    async def flush(self) -> None:
        """Returns once all subscribers have written down the events that were published before."""
        for flush in self._flushes:
            await flush()
