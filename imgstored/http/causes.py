"""Errors of the network in words. Pure."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl

from imgstored.http.secrets import redacted

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.ETIMEDOUT: "the connection timed out",
}

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
    """Whether the server's certificate did not verify, which no second try changes."""
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
