"""The health of image servers: how each answered last, and who is told of it, and how often.

Whoever may ask a source can have it fail and answer again as often as they like, with a question that it
refuses. So what is told of one server has a bound, which what is noted of it has not.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

import structlog
import trio
from msgspec import Struct, field

from imgstored.errors import (
    BadContentError,
    ImgstoreError,
    InternalError,
    InvalidManifestError,
    ManifestValidationError,
)
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

    from imgproto.documents import SourceStateDocument

    from imgstored.sources.base import SourceSpec

log = structlog.get_logger(__name__)

#: Servers of which the health is known: those in use, and some that callers name.
_KNOWN: Final = 256

#: How often is told of one server that it fails, or does no more, within so many seconds. What changes more
#: often is told later, if it is still so.
_TOLD: Final = 4
_WITHIN: Final = 600.0

#: What is wrong with an image, in an answer of a source that works: of any question, and of one for an image.
OF_AN_IMAGE: Final = (InvalidManifestError, ManifestValidationError)
OF_THE_IMAGE: Final = (*OF_AN_IMAGE, BadContentError)


class Health(Struct):
    """The health of one server. Times are seconds since the epoch; None: never since the daemon's start."""

    answered_at: float | None = None
    failed_at: float | None = None
    error: ImgstoreError | None = None  #: the last one, until it answers again

    def as_wire(self, spec: SourceSpec, *, listed_at: float | None) -> SourceStateDocument:
        """The form that the protocol's *status* has, without what may be secret in the URL."""
        return {
            "url": public(spec.url),
            "type": spec.type,
            "answered_at": self.answered_at,
            "failed_at": self.failed_at,
            "error": None if self.error is None else self.error.as_wire(),
            "listed_at": listed_at,
        }


def unheard(_: str, __: ImgstoreError | None) -> None:
    """Stands where nobody wants to hear of a source's health."""


class _Told(Struct):
    """The last announcements about a server: whether it fails, and when they were, in trio's seconds."""

    failing: bool = False
    times: deque[float] = field(default_factory=lambda: deque(maxlen=_TOLD))

    @property
    def free_at(self) -> float:
        """When something may be told again."""
        return self.times[0] + _WITHIN if len(self.times) == _TOLD else float("-inf")


class HealthLog:
    """The health of the servers that were asked last. Used from trio's thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        changed: Callable[[str, ImgstoreError | None], None] = unheard,
    ) -> None:
        """`changed` gets the URL, for people, of a server that begins to fail, or does no more."""
        self._clock = clock
        self._changed = changed
        self._known: OrderedDict[Hashable, Health] = OrderedDict()
        self._told: dict[Hashable, _Told] = {}
        self._late: dict[Hashable, str] = {}  # servers of which there is something to tell, and their URLs
        self._some_late = trio.Event()

    async def run(self) -> None:
        """Tells what has to wait, until it is cancelled."""
        while True:
            due = min((self._told[server].free_at for server in self._late), default=float("inf"))
            with trio.move_on_at(due):
                await self._some_late.wait()
            self._some_late = trio.Event()
            for server, url in list(self._late.items()):
                if self._told[server].free_at <= trio.current_time():
                    self._tell(server, url)

    def of(self, spec: SourceSpec) -> Health:
        """The health of a source."""
        return self._known.get(_server(spec), Health())

    def note(self, spec: SourceSpec, error: ImgstoreError | None) -> None:
        """Records that a question has ended, with its error if it failed."""
        server = _server(spec)
        health = self._known.setdefault(server, Health())
        if error is None:
            health.answered_at, health.error = self._clock(), None
        else:
            health.failed_at, health.error = self._clock(), error
        self._tell(server, public(spec.url))
        self._known.move_to_end(server)
        if len(self._known) > _KNOWN:
            forgotten, _ = self._known.popitem(last=False)
            self._told.pop(forgotten)
            self._late.pop(forgotten, None)

    def _tell(self, server: Hashable, url: str) -> None:
        """Tells whether a server fails, unless that was told, or too much was."""
        error, told = self._known[server].error, self._told.setdefault(server, _Told())
        self._late.pop(server, None)
        if told.failing == (error is not None):
            return
        now = trio.current_time()
        if now < told.free_at:
            self._late[server] = url
            self._some_late.set()
            return
        told.failing = error is not None
        told.times.append(now)
        self._changed(url, error)


def _server(spec: SourceSpec) -> Hashable:
    # With another channel it is the same server.
    return spec.type, spec.url


class Question:
    """A block that asks a source. Its error is kept instead of raised, and noted in the source's health."""

    def __init__(
        self,
        spec: SourceSpec,
        health: HealthLog,
        harmless: tuple[type[ImgstoreError], ...] = OF_AN_IMAGE,
    ) -> None:
        """`harmless` are errors with which a source that works may answer."""
        self._spec = spec
        self._health = health
        self._harmless = harmless
        self.error: ImgstoreError | None = None

    def __enter__(self) -> Question:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, ImgstoreError):
            self.error = error
        elif isinstance(error, Exception):
            # A mistake of ours in reading one server's answer must not hide all the others.
            log.exception("asking a source failed", source=public(self._spec.url), exc_info=error)
            self.error = InternalError.unexpected("a query of a source", error)
        elif error is not None:
            return False
        self._health.note(self._spec, None if isinstance(self.error, self._harmless) else self.error)
        return True
