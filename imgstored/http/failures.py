"""Failures of requests: their causes in words, and when to try again.

Pure: random numbers and times are arguments.
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import socket
import ssl
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.http.secrets import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "the connection timed out",
}

_TRUST = (
    "is our clock right? Is the certificate of the server's name, and renewed? An authority of your own is"
    " named in the configuration: `ca_file`"
)
#: The advice where no packet of the server comes.
OUT_OF_REACH = "see that this host can reach the server; through a proxy, set `proxy` in the configuration"

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)

#: Causes nest (a library's error, the socket's below it); deeper chains than this say nothing new.
_MAX_DEPTH = 10


def cause_of(error: BaseException) -> str:
    """A short phrase for a network error: that of the operating system or of TLS, if one is below it."""
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {root.verify_message or root.reason}"
    if isinstance(root, ssl.SSLError):
        # Only what OpenSSL itself raised has a reason.
        return f"TLS failed: {getattr(root, 'reason', None) or root.strerror or root}"
    if isinstance(root, socket.gaierror):
        return f"the host's name cannot be resolved: {root.strerror or root}"
    if isinstance(root, http.client.RemoteDisconnected):  # is also a ConnectionResetError
        return "the server closed the connection without an answer"
    if isinstance(root, TimeoutError):
        return "the connection timed out"
    if isinstance(root, OSError):
        return _BY_ERRNO.get(root.errno or 0) or root.strerror or str(root) or type(root).__name__
    if isinstance(root, http.client.IncompleteRead):
        return "the connection ended early"
    if isinstance(root, http.client.HTTPException):
        return f"the answer is not HTTP ({type(root).__name__})"
    return redacted(str(root)) or type(root).__name__


def advice_on(error: BaseException) -> str:
    """What to do about a network error before a server has answered; "" where only time helps."""
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return _TRUST
    if isinstance(root, socket.gaierror):
        return "see that the URL has the right host, and that this host's DNS servers answer"
    if isinstance(root, ConnectionRefusedError):
        return "see that the server is up, and that the URL has its port"
    if isinstance(root, TimeoutError) or (isinstance(root, OSError) and root.errno in _UNREACHABLE):
        return OUT_OF_REACH
    return ""


def named(error: BaseException) -> dict[str, str]:
    """The system's name for a network error, as a fact for programs: {"errno": "ECONNREFUSED"}, or nothing.

    A host's name that cannot be resolved is ENOTFOUND, as imgadm has it.
    """
    root = _root(error)
    if isinstance(root, socket.gaierror):
        return {"errno": "ENOTFOUND"}
    if isinstance(root, ssl.SSLError) or not isinstance(root, OSError):
        return {}
    number = root.errno or (errno.ETIMEDOUT if isinstance(root, TimeoutError) else 0)
    return {"errno": errno.errorcode[number]} if number in errno.errorcode else {}


def certificate_refused(error: BaseException) -> bool:
    """True if the server's certificate did not verify, which no second try changes."""
    return isinstance(_root(error), ssl.SSLCertVerificationError)


def _root(error: BaseException) -> BaseException:
    """The lowest error of the chain that the operating system or TLS raised, else the error itself."""
    best, current = error, error
    for _ in range(_MAX_DEPTH):
        if isinstance(current, BaseExceptionGroup):
            current = current.exceptions[0]
        if isinstance(current, OSError) and (current.errno or isinstance(current, ssl.SSLError)):
            best = current
        below = current.__cause__ or current.__context__
        if below is None:
            break
        current = below
    return best


#: Answers that mean "not now": too many requests (420, 429, 509), the wrong back-end (421), and a
#: server or a gateway that is overloaded (529) or restarting.
TRANSIENT_STATUSES = frozenset({408, 420, 421, 425, 429, 500, 502, 503, 504, 509, 529})


class Backoff(Struct, frozen=True):
    """Exponential back-off with full jitter in its upper half. All in seconds."""

    first: float = 0.5
    most: float = 30.0

    def delay(self, failures: int, random: Callable[[], float], asked: float | None = None) -> float:
        """The seconds to rest after `failures` (1, 2, …) in a row; `random` gives values in [0, 1).

        `asked` is what the server asked for (Retry-After): no less than that, but no more than `most`.
        """
        whole = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
        delay = whole * (0.5 + 0.5 * random())
        return min(self.most, max(delay, asked or 0.0))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer's Retry-After asks for, or None (RFC 9110, 10.2.3). Names are in lower case.

    A date is taken relative to the answer's own Date, so that nobody's clock matters.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(int(value[:9]))
    try:
        until = email.utils.parsedate_to_datetime(value)
        since = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - since).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
