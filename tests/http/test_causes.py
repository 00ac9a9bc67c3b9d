from __future__ import annotations

import errno
import http.client
import socket
import ssl

import pytest

from imgstored.http.causes import cause_of, certificate_refused


def untrusted() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "connection refused"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "the server reset the connection"),
        (BrokenPipeError(errno.EPIPE, "x"), "the server closed the connection"),
        (OSError(errno.EHOSTUNREACH, "x"), "no route to the host"),
        (TimeoutError(), "the connection timed out"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("the host has no address"), "the host has no address"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved: Name or service not known"),
        (untrusted(), "certificate is not trusted: self-signed certificate"),
        (ssl.SSLError(1, "x"), "TLS failed"),
        (http.client.RemoteDisconnected("x"), "closed the connection without an answer"),
        (http.client.BadStatusLine("x"), "the answer is not HTTP (BadStatusLine)"),
        (ValueError("odd"), "odd"),
        (ValueError(), "ValueError"),
    ],
)
def test_causes_in_words(error: BaseException, words: str) -> None:
    assert words in cause_of(error)


def test_what_the_operating_system_said_is_found_below() -> None:
    error = RuntimeError("a library's own")
    error.__cause__ = ExceptionGroup("tries", [ConnectionRefusedError(errno.ECONNREFUSED, "x")])
    assert cause_of(error) == "connection refused"
    endless = RuntimeError("itself")
    endless.__context__ = endless
    assert cause_of(endless) == "itself"


def test_only_a_certificate_is_refused_for_good() -> None:
    wrapped = RuntimeError("x")
    wrapped.__cause__ = untrusted()
    assert certificate_refused(wrapped)
    assert not certificate_refused(ssl.SSLError(1, "x"))
    assert not certificate_refused(ConnectionResetError(errno.ECONNRESET, "x"))
