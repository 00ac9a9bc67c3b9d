"""Bulk bytes over HTTP/1.1: one keep-alive connection, one blocking thread, one range at a time.

A blocking socket in a thread carries TLS at several times the speed of an asynchronous one: `recv_into` lets
go of the interpreter lock for the whole of decryption.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from imgstored.errors import APIError, ClientError, ConfigError
from imgstored.http.dial import (
    AbortableConnection,
    AbortableSocket,
    AbortedError,
    Answered,
    Resolve,
    resolve_blocking,
)
from imgstored.http.failures import cause_of, certificate_refused, named
from imgstored.http.location import (
    MAX_REDIRECTS,
    REDIRECTS,
    Access,
    Location,
    Origin,
    origin_of,
    redirected,
    request_target,
    shown,
)
from imgstored.http.proxy import Proxy, proxy_for
from imgstored.http.range_reply import FetchError, RangeReply, read_reply
from imgstored.http.secrets import announce
from imgstored.http.tls import tls_context

if TYPE_CHECKING:
    import ssl

    from imgstored.http.addresses import Nearness
    from imgstored.http.location import Authorization

#: Takes the bytes of a body as they come. The memory is reused after it returns.
Sink = Callable[[memoryview], None]

#: Sees the head of the answer and says where the body goes; raising refuses it.
Accept = Callable[[RangeReply], Sink]

#: The [start, stop) of the Range header; None: a request without one.
_Asked = tuple[int, int | None] | None

_BUFFER = 1 << 20

#: Bytes are handed over when the buffer is full, or this old, in seconds: TLS comes in pieces of 16 KiB.
_HAND_OVER_SECONDS = 0.05


#: Statuses by which a signed URL that has expired is refused.
_EXPIRED = frozenset({400, 401, 403, 404, 410})


_UNAUTHORIZED = 401


class _RememberedRefusedError(Exception):
    """The server to which the file's URL led before refuses the file now."""


class Timeouts(Struct, frozen=True):
    """In seconds. `silence` bounds each wait for the server's next bytes, within head and body."""

    connect: float
    silence: float


class RangeConnection:
    """Fetches ranges of one file. Everything but `abort` is called by one thread at a time.

    A file's URL may redirect to another one, which may be signed and good for some minutes only. The
    connection asks for the next range there at once (`_target`), and asks the file's own URL anew after any
    failure: `_fail` is the one place where that is decided. When the remembered place refuses, or is gone,
    that costs nothing: the file's own URL is asked within the same call.
    """

    def __init__(
        self,
        location: Location,
        *,
        timeouts: Timeouts,
        environ: Mapping[str, str],
        context: Callable[[], ssl.SSLContext] | None = None,
        resolve: Resolve = resolve_blocking,
        answered: Answered | None = None,
        user_agent: str = "imgstored",
    ) -> None:
        """`context` makes the TLS context, or hands out a shared one; `environ` may name proxies.

        `answered` is shared by connections to the same servers.

        `location.access.headers` are sent as they are: see `check_headers`.
        """
        self._location = location
        self._timeouts = timeouts
        self._environ = environ
        self._context = context or (lambda: tls_context(location.access))
        self._resolve = resolve
        self._answered = answered or Answered()
        self._user_agent = user_agent
        self._abortable = AbortableSocket()
        self._http: AbortableConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._peer: tuple[Origin, Proxy | None, Nearness | None] | None = None
        self._target = location  # where the last range came from, after redirects
        self._targets: dict[str, Location] = {}  # the same of other files that were turned to
        self._buffer = memoryview(bytearray(_BUFFER))

    def get(
        self, start: int, stop: int | None, validator: str | None, accept: Accept, *, plain: bool = False
    ) -> RangeReply:
        """Fetches bytes [start, stop) of the file (stop None: to its end).

        With `validator` the server is asked to send the whole file instead if that no longer names its state.
        `plain`: asks for the whole file, without a Range header; `start` is 0, and `stop` None.
        `accept` gets the head of the answer and returns the body's sink. On return the sink has had exactly
        what the head announced, which may be more or less than was asked for. Raises `FetchError` for
        whatever the network or the server did, and lets through what `accept` and the sink raise; in both
        cases the connection is closed, and opened anew by the next call.
        """
        asked = None if plain else (start, stop)
        try:
            try:
                return self._get(asked, validator, accept)
            except _RememberedRefusedError:
                self._fail()
                return self._get(asked, validator, accept)
        except (FetchError, ClientError, OSError, http.client.HTTPException) as error:
            self._fail()
            raise self._fault(error) from error
        except BaseException:
            self._fail()
            raise

    def turn_to(self, location: Location) -> None:
        """Goes on with another file, on a server of the same access; what can stays connected."""
        if location.url != self._location.url:
            if self._target is not self._location:
                self._targets[self._location.url] = self._target
            self._location = location
            self._target = self._targets.pop(location.url, location)

    def abort(self, reason: str) -> None:
        """Ends the fetch under way, and every later one, with `FetchError`. Callable from any thread."""
        self._abortable.abort(reason)

    @property
    def ended(self) -> str | None:
        """Why `abort` was called; None if it was not."""
        return self._abortable.aborted

    @property
    def aborted(self) -> bool:
        """True if `abort` was called."""
        return self._abortable.aborted is not None

    def close(self) -> None:
        """Closes the connection. Only for the thread that uses it, or when none does."""
        self._fail()

    # -- one request -----------------------------------------------------------------------------------------

    def _get(self, asked: _Asked, validator: str | None, accept: Accept) -> RangeReply:
        at, remembered, renewed = self._target, self._target is not self._location, False
        redirects = 0
        while redirects <= MAX_REDIRECTS:
            self._abortable.check()
            granted = () if at.authorization is None else at.authorization.headers()
            try:
                response = self._ask(at, asked, validator, granted)
            except ConnectionError as error:
                if at is self._target and remembered and self._abortable.aborted is None:
                    raise _RememberedRefusedError from error
                raise
            if response.status in _EXPIRED and remembered:
                raise _RememberedRefusedError
            if response.status == _UNAUTHORIZED and at.authorization is not None and not renewed:
                renewed = True
                if self._renewed(at.authorization, response, granted):
                    continue
            if response.status not in REDIRECTS:
                break
            try:
                assert self._http is not None
                at = redirected(at, response.headers.get("location", ""), self._http.near)
            except ClientError as error:
                raise FetchError(error.message, hint=error.hint, lasting=True) from error
            # The body of a redirect is not worth reading, and may be endless.
            self._disconnect()
            redirects += 1
        else:
            raise FetchError(f"redirects more than {MAX_REDIRECTS} times", lasting=True)
        reply = read_reply(response.status, response.headers.items(), *(asked or (0, None)))
        sink = accept(reply)
        self._read_body(response, reply, sink)
        self._target = at
        return reply

    def _renewed(
        self,
        authorization: Authorization,
        refused: http.client.HTTPResponse,
        sent: tuple[tuple[str, str], ...],
    ) -> bool:
        """True if there are other credentials than those that were refused."""
        challenge = ", ".join(refused.headers.get_all("www-authenticate") or ())
        try:
            assert self._http is not None
            renewed = authorization.renew(challenge, sent, self._http.near)
        except (ClientError, APIError, ConfigError) as error:
            # A token server may be down for a moment.
            lasting = isinstance(error, ConfigError) or error.data.get("status") in _EXPIRED
            raise FetchError(error.message, hint=error.hint, lasting=lasting) from error
        if renewed:
            self._disconnect()
        return renewed

    def _ask(
        self, at: Location, asked: _Asked, validator: str | None, granted: tuple[tuple[str, str], ...]
    ) -> http.client.HTTPResponse:
        announce(at)
        origin, proxy = origin_of(at.url), proxy_for(at, self._environ)
        reused = self._http is not None and self._peer == (origin, proxy, at.limit)
        if not reused:
            self._disconnect()
        headers = [*self._request_headers(at, origin, proxy, asked, validator), *granted]
        target = request_target(at.url)
        if proxy is not None and not proxy.socks and not origin.tls:
            target = f"{origin.scheme}://{origin.authority}{target}"
        try:
            return self._send(origin, proxy, target, headers, at)
        except (ConnectionError, http.client.BadStatusLine):
            # The server may have closed an idle connection at any moment, which is no fault of its.
            if not reused:
                raise
            self._abortable.check()
            self._disconnect()
            return self._send(origin, proxy, target, headers, at)

    def _context_for(self, access: Access) -> ssl.SSLContext:
        """The shared context, unless it has a certificate that is not for the server in question."""
        return self._context() if access.cert_file == self._location.access.cert_file else tls_context(access)

    def _send(
        self,
        origin: Origin,
        proxy: Proxy | None,
        target: str,
        headers: list[tuple[str, str]],
        at: Location,
    ) -> http.client.HTTPResponse:
        if self._http is None:
            self._http = AbortableConnection(
                self._abortable,
                origin,
                proxy=proxy,
                context=self._context_for(at.access) if origin.tls else None,
                resolve=self._resolve,
                connect_seconds=self._timeouts.connect,
                silence_seconds=self._timeouts.silence,
                answered=self._answered,
                limit=at.limit,
            )
            self._peer = (origin, proxy, at.limit)
        self._http.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            self._http.putheader(name, value)
        self._http.endheaders()
        self._response = self._http.getresponse()
        return self._response

    def _request_headers(
        self,
        at: Location,
        origin: Origin,
        proxy: Proxy | None,
        asked: _Asked,
        validator: str | None,
    ) -> list[tuple[str, str]]:
        headers = [
            ("Host", origin.authority),
            ("User-Agent", self._user_agent),
            ("Accept-Encoding", "identity"),
        ]
        if asked is not None:
            start, stop = asked
            headers.append(("Range", f"bytes={start}-{'' if stop is None else stop - 1}"))
            if validator is not None:
                headers.append(("If-Range", validator))
        if proxy is not None and proxy.authorization is not None and not origin.tls:
            headers.append(("Proxy-Authorization", proxy.authorization))
        return headers + list(at.access.headers)

    def _read_body(self, response: http.client.HTTPResponse, reply: RangeReply, sink: Sink) -> None:
        left = None if reply.stop is None else reply.stop - reply.start
        while left is None or left > 0:
            size = self._fill(response, _BUFFER if left is None else min(left, _BUFFER))
            if size == 0 and left is None:
                break
            if size == 0:
                raise FetchError(f"the connection ended {left} bytes early")
            sink(self._buffer[:size])
            left = None if left is None else left - size
        if response.chunked and left == 0 and response.read1(1):
            raise FetchError("sends more bytes than it announced")
        response.close()

    def _fill(self, response: http.client.HTTPResponse, wanted: int) -> int:
        """Reads up to `wanted` bytes into the buffer; fewer at the end, or when they come slowly."""
        have = 0
        deadline = time.monotonic() + _HAND_OVER_SECONDS
        while have < wanted:
            got = _read_some(response, self._buffer[have:wanted])
            have += got
            if got == 0 or time.monotonic() > deadline:
                break
        return have

    # -- faults ----------------------------------------------------------------------------------------------

    def _disconnect(self) -> None:
        if self._response is not None:
            # Where the server closes the connection behind it, http.client has left the socket to the answer.
            self._response.close()
            self._response = None
        if self._http is not None:
            self._http.close()
        self._http = self._peer = None

    def _fail(self) -> None:
        """Ends what was begun, and makes the next request ask the file's own URL, not where it led."""
        self._disconnect()
        self._target = self._location

    def _fault(self, error: FetchError | ClientError | OSError | http.client.HTTPException) -> FetchError:
        """The error as `URL: cause`, with the URL that was configured, and nothing secret of it."""
        url = shown(self._location.url)
        if isinstance(error, AbortedError) or self._abortable.aborted is not None:
            return FetchError(f"{url}: {self._abortable.aborted}")
        if isinstance(error, FetchError):
            return error.at(url)
        if isinstance(error, ClientError):
            return FetchError(f"{url}: {error.message}", hint=error.hint, lasting=True)
        if isinstance(error, TimeoutError):
            return FetchError(f"{url}: {self._timed_out()}")
        return FetchError(f"{url}: {cause_of(error)}", lasting=certificate_refused(error), data=named(error))

    def _timed_out(self) -> str:
        limits = f"{self._timeouts.connect:g} s to connect, {self._timeouts.silence:g} s of silence"
        return f"the server did not answer in time ({limits})"


def _read_some(response: http.client.HTTPResponse, view: memoryview) -> int:
    """One read from the socket. 0 means that the body, or the connection, has ended."""
    if response.chunked:
        data = response.read1(len(view))
        view[: len(data)] = data
        return len(data)
    # http.client's own readinto fills the whole buffer before it returns, which on a slow line is too late.
    assert isinstance(response.fp, io.BufferedReader)
    return response.fp.readinto1(view)
