"""One image on its way into a pool, shared by everybody who wants it.

A layer lives as long as somebody wants it: clients of the daemon, or the layer that is cloned from it. When
the last one leaves it is cancelled; what was downloaded stays in the spool and serves the next try.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from imgstored import import_id
from imgstored.errors import CancelledError, ImgstoreError
from imgstored.store.events import Event, ImageProgress, Installed, Note
from imgstored.store.gauge import Sample
from imgstored.transfer.stages import Stages

if TYPE_CHECKING:
    from imgproto.documents import JobDocument, Phase

    from imgstored.manifest import Manifest
    from imgstored.pools.base import PoolImage
    from imgstored.store.gauge import Reading

Listener = Callable[[Event], None]

#: More notes than these say nothing new; the log has them all.
MAX_NOTES = 50


@dataclass(eq=False)
class Layer:
    """One image that is being installed. Lives in trio's thread; others write what is counted."""

    pool: str
    manifest: Manifest
    source: str | None  #: URL for people, None for a local file
    origin: Layer | None = None
    import_id: str = field(default_factory=import_id.fresh)  #: of all that is logged of it
    phase: Phase = "waiting"
    total: int | None = None  #: compressed bytes of the file
    done: Callable[[], int] = field(default=lambda: 0)  #: compressed bytes that are there
    received: Callable[[], int] = field(default=lambda: 0)  #: stream bytes that went to the pool
    consumed: Callable[[], int] = field(default=lambda: 0)  #: compressed bytes that were decompressed
    connections: Callable[[], int] = field(default=lambda: 0)  #: requests to servers that are under way
    fetched: Callable[[], Mapping[str, int]] = field(default=dict)  #: bytes that came, by source
    stages: Stages = field(default_factory=Stages)  #: where its time goes
    arrived: PoolImage | None = None  #: what the pool received, before it is published
    locked: bool = False  #: whether it has imgadm's lock of its image
    told: bool = False  #: whether it has been said that the image is installed
    error: ImgstoreError | None = None
    started_at: float = field(default_factory=time.time)
    finished: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        self._clients: dict[object, str] = {}
        self._listeners: list[Listener] = []
        self._history: list[Event] = []
        self.cancelled_because: str | None = None

    @property
    def uuid(self) -> str:
        """The image's."""
        return self.manifest.uuid

    # -- who wants it ----------------------------------------------------------------------------------------

    @property
    def clients(self) -> list[str]:
        """The names of those who want it."""
        return list(self._clients.values())

    def wanted_by(self, token: object) -> bool:
        """Whether `token` joined, and did not leave."""
        return token in self._clients

    def join(self, token: object, client: str) -> None:
        """Says that `client` wants it; `token` is what it leaves with."""
        self._clients[token] = client

    def leave(self, token: object) -> None:
        """Says that a client does not want it any more; the last one to leave ends it."""
        self._clients.pop(token, None)
        if not self._clients:
            self.cancel("nobody wants it any more")

    def cancel(self, reason: str) -> None:
        """Ends the layer, unless it has ended."""
        if not self.finished.is_set():
            self.cancelled_because = self.cancelled_because or reason
            self.scope.cancel()

    # -- what happens to it ----------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Calls `listener` with everything that happened so far, and then with what happens."""
        for event in self._history:
            listener(event)
        self._listeners.append(listener)

    def unlisten(self, listener: Listener) -> None:
        """Calls `listener` no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, event: Event) -> None:
        """Tells all who listen, now or later."""
        if isinstance(event, Note) and sum(isinstance(past, Note) for past in self._history) >= MAX_NOTES:
            return
        self._history.append(event)
        for listener in list(self._listeners):
            listener(event)

    def end(self, error: ImgstoreError | None, *, from_file: bool) -> None:
        """The last thing that happens to it."""
        self.error = error
        if error is None:
            self.phase = "installed"
            if not self.told:
                name, version = self.manifest.name, self.manifest.version
                self.emit(Installed(self.uuid, name, version, from_file=from_file))
        else:
            self.phase = "cancelled" if isinstance(error, CancelledError) else "failed"
        self.finished.set()

    # -- how it stands ---------------------------------------------------------------------------------------

    def chain(self) -> Iterator[Layer]:
        """The layer, and all below it that are not installed yet."""
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.origin

    def progress(self) -> ImageProgress:
        """How far it is."""
        return ImageProgress(
            uuid=self.uuid,
            name=self.manifest.name,
            version=self.manifest.version,
            phase=self.phase,
            done=self.done(),
            total=self.total,
            received=self.received(),
            import_id=self.import_id,
        )

    def sample(self) -> Sample:
        """How far it is, and where its time went so far."""
        return Sample(self.done(), self.consumed(), self.total, self.stages.seconds())

    def as_job(self, reading: Reading) -> JobDocument:
        """The *job* of the protocol."""
        return {
            "import_id": self.import_id,
            "uuid": self.uuid,
            "name": self.manifest.name,
            "version": self.manifest.version,
            "pool": self.pool,
            "phase": self.phase,
            "done": self.done(),
            "total": self.total,
            "received": self.received(),
            "connections": self.connections(),
            "source": self.source,
            "clients": self.clients,
            "started_at": self.started_at,
            "error": None if self.error is None else self.error.message,
            "rate": reading.rate,
            "limits": reading.limits,
            "eta": reading.eta,
        }
