"""One place that has the file, as the download sees it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgstored.errors import DownloadError
from imgstored.http.location import Location, shown
from imgstored.http.range_reply import FetchError, RangeReply
from imgstored.http.tls import tls_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

#: A server whose validators change more often than this has several for one file, as back-ends behind one
#: name do.
_MAX_CHANGES = 1


class ChangedError(DownloadError):
    """The file on the server is not the one of which the pump has the beginning.

    The spool is emptied; a new download of the image starts from its first byte.
    """


class ValidatorChangedError(Exception):
    """A server names another state of the file than before."""


@dataclass(slots=True)
class Mirror:
    """A location, and what it did so far. The counters may be read at any time, from any thread."""

    location: Location
    fetched: int = 0  #: bytes of the file that came from it in this run
    failures: int = 0  #: requests that failed
    fault: str = ""  #: the last failure, as `URL: cause`
    facts: Mapping[str, Any] = field(default_factory=dict)  #: of it, for programs
    changes: int = 0  #: how often the file seemed to be another one
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

    def count(self, fetched: int) -> None:
        """Adds to `fetched`."""
        with self._lock:
            self.fetched += fetched

    @property
    def fickle(self) -> bool:
        """Whether its validators say nothing about the file; the image's checksum decides then."""
        return self.changes > _MAX_CHANGES


def check_reply(reply: RangeReply, *, size: int | None, max_size: int, validator: str | None) -> None:
    """Whether an answer is about the file that is wanted. Pure.

    `size` is the file's, None if nobody said; `validator` what the mirror called the file before. Raises
    `FetchError` for a size that is wrong, too large or not known, and `ValidatorChangedError`.
    """
    if size is not None and reply.total is not None and reply.total != size:
        raise FetchError(
            f"file size error: expected {size} bytes, the server has {reply.total} bytes", other_size=True
        )
    if size is None and reply.partial and reply.total is None:
        raise FetchError("the server does not say how large the file is", lasting=True)
    if reply.total is not None and reply.total > max_size:
        raise FetchError(f"the file has {reply.total} bytes, more than the {max_size} allowed", lasting=True)
    if validator is not None and reply.validator is not None and reply.validator != validator:
        raise ValidatorChangedError(f"the file on the server changed ({validator}, now {reply.validator})")


def failure(mirrors: Sequence[Mirror], faults: Sequence[str]) -> DownloadError:
    """The error when no mirror is left: what each of them did."""
    hint = "what was downloaded is kept: try again, or add another source"
    if len(mirrors) == 1 and faults:
        return DownloadError(faults[0], hint=hint, data=mirrors[0].facts)
    text = "; ".join(faults) or "no source has the file"
    return DownloadError(f"no mirror could deliver the file: {text}", hint=hint)
