"""Causes of failures in words, and the delay before the next try."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgstored.http.failures import Backoff, advice_on, cause_of, certificate_refused, retry_after


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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "has its port"),
        (OSError(errno.EHOSTUNREACH, "x"), "`proxy`"),
        (OSError(errno.ENETUNREACH, "x"), "`proxy`"),
        (TimeoutError(errno.ETIMEDOUT, "x"), "`proxy`"),
        (TimeoutError(), "`proxy`"),
        (socket.gaierror(-2, "Name or service not known"), "DNS"),
        (untrusted(), "`ca_file`"),
    ],
)
def test_what_to_do_about_a_server_that_does_not_answer(error: BaseException, words: str) -> None:
    assert words in advice_on(error)


@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "x"), ssl.SSLError(1, "x"), ValueError("odd")]
)
def test_no_advice_where_only_time_helps(error: BaseException) -> None:
    assert advice_on(error) == ""


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


def test_delays_double_up_to_the_most():
    backoff = Backoff(first=1, most=10)
    assert [backoff.delay(failures, lambda: 1.0) for failures in (1, 2, 3, 4, 5, 99)] == [1, 2, 4, 8, 10, 10]


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1e9))
def test_a_delay_is_within_bounds(failures, value, asked):
    delay = Backoff(first=0.5, most=30).delay(failures, lambda: value, asked)
    assert 0.25 <= delay <= 30
    assert delay >= min(30, asked or 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "9" * 5000}, 999_999_999),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30 GMT", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, 30),
        ({"retry-after": "Tue, 24 Nov 2026 08:00:00 GMT", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, 0),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30 GMT"}, None),
        ({"retry-after": "Tue, 24 Nov 2026 09:00:30", "date": "Tue, 24 Nov 2026 09:00:00 GMT"}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert retry_after(headers) == seconds


@given(st.text(max_size=60), st.text(max_size=60))
def test_retry_after_of_anything_is_seconds_or_none(value, date):
    seconds = retry_after({"retry-after": value, "date": date})
    assert seconds is None or seconds >= 0
