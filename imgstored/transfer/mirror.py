"""A mirror of the file, and one request to it: whether its answer is about our file, and fast enough."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import DownloadError, ImgstoreError
from imgstored.host.exhaustion import causes
from imgstored.http.location import Location, shown
from imgstored.http.range_reply import OTHER_FILE, FetchError, RangeReply
from imgstored.http.tls import tls_context
from imgstored.transfer.coding import may_be_added
from imgstored.transfer.spool import DifferentError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from imgstored.http.ranges import RangeConnection
    from imgstored.transfer.parts import PartsConnection
    from imgstored.transfer.plan import Ask

    #: What fetches ranges of a mirror's file.
    Connection = RangeConnection | PartsConnection


class ChangedError(DownloadError):
    """The file on the server is not the one of which the pump has the beginning.

    The spool is emptied; a new download of the image starts from its first byte.
    """


class ValidatorChangedError(Exception):
    """A server names another state of the file than before."""


class EnoughError(Exception):
    """Raised when all that a request was made for is there."""


#: What became of a request: None is success.
Outcome = ImgstoreError | DifferentError | ValidatorChangedError | None


@dataclass(slots=True)
class Mirror:
    """A place that has the file, and how to reach it. Its state is in the plan (`MirrorState`)."""

    location: Location
    fetched: int = 0  #: bytes of the file that came from it in this run; may be read from any thread
    failure: FetchError | None = None  #: of its last request that failed
    hint: str = ""  #: what to do about its last fault, "" where only time helps
    _context: ssl.SSLContext | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def url(self) -> str:
        """The URL for messages, without what may be secret."""
        return shown(self.location.url)

    def context(self) -> ssl.SSLContext:
        """The TLS context that all connections to this mirror share."""
        with self._lock:
            self._context = self._context or tls_context(self.location.access)
            return self._context

    def reuse(self, there: int) -> None:
        """Takes back what was counted although it was on this host."""
        self.count(-there)

    def failed(self, failure: FetchError) -> None:
        """Notes how a request failed."""
        for each in causes(failure):
            # The frames hold the buffers of the connection.
            each.__traceback__ = None
        self.failure = failure

    def count(self, fetched: int) -> None:
        """Adds to `fetched`."""
        with self._lock:
            self.fetched += fetched


class RangeRequest(Struct, eq=False):
    """One request under way."""

    ask: Ask
    mirror: Mirror
    connection: Connection
    fetched: int = 0  #: bytes that came; written by the request's thread
    fresh: int = 0  #: bytes of the file that were not there yet; likewise
    position: int = 0  #: offset in the file behind the last byte that came; likewise
    ended: bool = False


@dataclass(slots=True)
class Pace:
    """True if a request is still fast enough. Times in seconds of any one clock, rates in bytes a second.

    `silence`: no byte for that long is a stall. `rate`: fewer bytes than that, averaged over `window`, is
    one, too; 0 switches this off.
    """

    silence: float
    rate: int
    window: float
    started: float
    _last: tuple[float, int] = field(init=False)
    _mark: tuple[float, int] = field(init=False)

    def __post_init__(self) -> None:
        self._last = self._mark = (self.started, 0)

    def fault(self, now: float, fetched: int) -> str | None:
        """The mirror's fault at `now`, when `fetched` bytes are there, or None. To be asked now and then."""
        if fetched != self._last[1]:
            self._last = (now, fetched)
        elif now - self._last[0] >= self.silence:
            return f"the server sent nothing for {self.silence:g} s"
        since, then = self._mark
        if now - since >= self.window:
            if fetched - then < self.rate * (now - since):
                return f"the server sends less than {self.rate} bytes a second"
            self._mark = (now, fetched)
        return None


def check_reply(
    reply: RangeReply,
    *,
    size: int | None,
    max_size: int,
    validator: str | None,
    proven: bool = False,
    plain: bool = False,
) -> None:
    """True if an answer is about the file that is wanted. Pure.

    `size` is the file's, None if nobody said; `validator` what the mirror called the file before; `proven`:
    the mirror has sent a part of the file; `plain`: it was asked for the whole file. Raises `FetchError` for
    a size that is wrong, too large or not known, and `ValidatorChangedError`.
    """
    if size is not None and reply.total is not None and reply.total != size and not may_be_added(reply, size):
        fault = f"file size error: expected {size} bytes, the server has {reply.total} bytes"
        if reply.partial and reply.encoding:
            raise FetchError(f"{fault} (encoded: {reply.encoding[:40]!r})", lasting=True, ranges=True)
        if not reply.partial and proven and not plain:
            # Maybe a page of somebody in between, such as the log-in page of a network.
            raise FetchError(f"{fault}{' (a web page)' if reply.page else ''}", hint=OTHER_FILE, lasting=True)
        if reply.partial and not proven:
            # Some write the size of the part instead of the file's: the whole file shows.
            raise FetchError(fault, hint=OTHER_FILE, lasting=True, ranges=True)
        raise FetchError(fault, hint=OTHER_FILE, other_size=True)
    if not reply.partial and reply.total is None and proven and not plain and reply.page:
        raise FetchError("the server answers with a web page", lasting=True)
    if size is None and reply.partial and reply.total is None:
        raise FetchError("the server does not send the file's size", lasting=True, ranges=True)
    if reply.total is not None and reply.total > max_size:
        raise FetchError(f"the file has {reply.total} bytes, more than the {max_size} allowed", lasting=True)
    if validator is not None and reply.validator is not None and reply.validator != validator:
        raise ValidatorChangedError(f"the file on the server changed ({validator}, now {reply.validator})")


def failure(mirrors: Sequence[Mirror], faults: Sequence[str], *, kept: bool = False) -> DownloadError:
    """The error when no mirror is left: what each of them did.

    `kept`: something was downloaded, and stays for the next try.
    """
    known = {mirror.hint for mirror in mirrors if mirror.hint}
    waiting = "what was downloaded is kept: try again" if kept else "try again later"
    hint = known.pop() if len(known) == 1 else f"{waiting}, or add another source"
    failures = [mirror.failure for mirror in mirrors if mirror.failure is not None]
    if len(mirrors) == 1 and faults:
        error = DownloadError(faults[0], hint=hint, data=failures[0].data if failures else None)
    else:
        text = "; ".join(faults) or "no source has the file"
        error = DownloadError(f"no mirror could deliver the file: {text}", hint=hint)
    if failures:
        # The cause may be something that this host ran out of.
        error.__cause__ = ExceptionGroup("the last failures of the mirrors", failures)
    return error
