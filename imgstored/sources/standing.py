"""How the sources did of late: when each answered last, when it failed, and how."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from imgstored.errors import ImgstoreError, InternalError, InvalidManifestError, ManifestValidationError
from imgstored.http.location import public

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from imgproto.documents import SourceStateDocument

    from imgstored.sources.base import SourceSpec

log = structlog.get_logger(__name__)

#: Sources that are remembered: those in use, and some that clients name.
_KNOWN = 256

#: What is wrong with an image, of which the source told all the same.
_OF_AN_IMAGE = (InvalidManifestError, ManifestValidationError)


@dataclass(slots=True)
class Standing:
    """One source's. Times are seconds since the epoch, None for never since the daemon's start."""

    answered_at: float | None = None
    failed_at: float | None = None
    error: ImgstoreError | None = None  #: the last one, until it answers again

    def as_wire(self, spec: SourceSpec, *, listed_at: float | None) -> SourceStateDocument:
        """As the protocol's *status* has it. What may be secret in a URL is not shown."""
        return {
            "url": public(spec.url),
            "type": spec.type,
            "answered_at": self.answered_at,
            "failed_at": self.failed_at,
            "error": None if self.error is None else self.error.as_wire(),
            "listed_at": listed_at,
        }


class Standings:
    """Asks, and remembers how that went. Used from trio's thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._known: OrderedDict[Hashable, Standing] = OrderedDict()

    async def ask(self, spec: SourceSpec, question: Awaitable[None]) -> ImgstoreError | None:
        """Asks a source something; returns the error that it ended with."""
        error: ImgstoreError | None = None
        try:
            await question
        except ImgstoreError as raised:
            error = raised
        except Exception:  # a mistake of ours in reading one server's answer must not hide all the others
            log.exception("asking a source failed", source=public(spec.url))
            error = InternalError(
                "imgstored made a mistake in asking a source", hint="its log has the details"
            )
        self._note(spec, error)
        return error

    def of(self, spec: SourceSpec) -> Standing:
        """How a source did."""
        return self._known.get(_key(spec), Standing())

    def _note(self, spec: SourceSpec, error: ImgstoreError | None) -> None:
        standing = self._known.setdefault(_key(spec), Standing())
        if error is None or isinstance(error, _OF_AN_IMAGE):
            standing.answered_at, standing.error = self._clock(), None
        else:
            standing.failed_at, standing.error = self._clock(), error
        self._known.move_to_end(_key(spec))
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def _key(spec: SourceSpec) -> Hashable:
    # With another channel it is the same server.
    return spec.type, spec.url
