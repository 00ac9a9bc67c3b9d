"""Small documents over HTTP: manifests and lists of images. Bulk bytes go through `imgstored.http.ranges`.

httpx2 is imported by the first request, so that the daemon's start does not wait for it.
"""

from __future__ import annotations

import os
import random
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct, field
from msgspec.structs import replace

from imgstored import lanes
from imgstored.errors import ClientError
from imgstored.host import descriptors
from imgstored.http import gunzip
from imgstored.http.addresses import Nearness, TooNearError, nearness, nearness_of_host
from imgstored.http.failures import (
    OUT_OF_REACH,
    TRANSIENT_STATUSES,
    Backoff,
    advice_on,
    cause_of,
    certificate_refused,
    named,
    retry_after,
)
from imgstored.http.gunzip import Body, NotGzipError, TooLargeError, TooManyPiecesError
from imgstored.http.location import (
    MAX_REDIRECTS,
    REDIRECTS,
    Location,
    check_headers,
    origin_of,
    redirected,
    shown,
)
from imgstored.http.proxy import Proxy, proxy_for
from imgstored.http.secrets import announce, redacted
from imgstored.http.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    import httpx2

#: Pieces after which an answer lets others have their turn, in which all that came can be taken at once.
_TURN = 64

#: Content codings but gzip (RFC 9110, 8.4.1; IANA's registry). Other words in Content-Encoding, such as
#: `UTF-8` or `aws-chunked`, say nothing about the bytes.
_OTHER_CODINGS = frozenset({"br", "compress", "x-compress", "dcb", "dcz", "deflate", "exi", "zstd"})


class DocumentLimits(Struct, frozen=True):
    """Bounds on one document. Sizes in bytes, times in seconds."""

    max_bytes: int = 64 << 20  #: of the body, decoded or not
    connect_seconds: float = 10.0
    silence_seconds: float = 15.0
    total_seconds: float = 60.0  #: for everything, redirects and retries included
    tries: int = 3
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.25, most=5.0))


class Document(Struct, frozen=True):
    """An answer, whatever its status."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes
    near: Nearness = Nearness.PUBLIC  #: of the server that sent it


class _NoAnswerError(ClientError):
    """No connection, or one that ended without an answer. Asking again is harmless (RFC 9110, 9.2.2)."""


class Fetch(Protocol):
    """`fetch_document`, or a stand-in for it."""

    def __call__(
        self, location: Location, *, limits: DocumentLimits, headers: Sequence[tuple[str, str]]
    ) -> Awaitable[Document]:
        """GETs a document; any final status is returned."""
        ...


_deadline: ContextVar[float] = ContextVar("deadline of documents", default=float("inf"))


@contextmanager
def all_within(seconds: float) -> Iterator[None]:
    """Bounds the time of all documents together that the block fetches, beside the bound on each."""
    token = _deadline.set(min(_deadline.get(), trio.current_time() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


async def fetch_document(
    location: Location,
    *,
    limits: DocumentLimits | None = None,
    headers: Sequence[tuple[str, str]] = (),
    environ: Mapping[str, str] = os.environ,
    chance: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[None]] = trio.sleep,
) -> Document:
    """GETs a document, following redirects. Returns any final status; the caller judges it.

    `headers` go to every server on the way, those of `location.access` only to its own origin. Connections
    that cannot be made, or end without an answer, and passing statuses are tried again. Raises `ClientError`:
    `URL: cause`.
    """
    limits = limits or DocumentLimits()
    seconds = max(0.0, min(limits.total_seconds, _deadline.get() - trio.current_time()))
    with trio.move_on_after(seconds):
        check_headers(location.access)
        for failures in range(1, limits.tries + 1):
            asked: float | None = None
            try:
                async with lanes.requests():
                    if lanes.current() != "changes" and descriptors.are_scarce():
                        raise ClientError(
                            f"{shown(location.url)}: the daemon has too many open files",
                            hint=descriptors.HINT,
                        )
                    document = await _follow(location, limits, headers, environ)
            except _NoAnswerError:
                if failures == limits.tries:
                    raise
            else:
                if document.status not in TRANSIENT_STATUSES or failures == limits.tries:
                    return document
                asked = retry_after(document.headers)
            await sleep(limits.backoff.delay(failures, chance, asked))
    if seconds < limits.total_seconds:
        raise ClientError(f"{shown(location.url)}: no complete answer in its share of the time for all")
    raise ClientError(f"{shown(location.url)}: no complete answer within {seconds:g} s")


async def _follow(
    location: Location, limits: DocumentLimits, headers: Sequence[tuple[str, str]], environ: Mapping[str, str]
) -> Document:
    at = location
    for _ in range(MAX_REDIRECTS + 1):
        try:
            document = await _get(at, limits, headers, environ)
        except TooNearError as error:
            raise ClientError(f"{shown(location.url)}: {error.message}", hint=error.hint) from error
        if document.status not in REDIRECTS:
            return document
        at = redirected(at, document.headers.get("location", ""), document.near)
    raise ClientError(f"{shown(location.url)}: redirects more than {MAX_REDIRECTS} times")


async def _get(
    at: Location, limits: DocumentLimits, headers: Sequence[tuple[str, str]], environ: Mapping[str, str]
) -> Document:
    """One request. Raises `ClientError` for every way in which it can fail."""
    import httpx2

    url = shown(at.url)
    announce(at)
    try:
        async with (
            await open_client(at, limits, environ) as client,
            client.stream(
                "GET",
                at.url,
                headers=[("Accept-Encoding", "gzip"), *headers, *at.access.headers],
            ) as response,
        ):
            near = near_of(response, at, environ)
            return replace(await read_answer(response, limits.max_bytes, url), near=near)
    except (httpx2.NetworkError, httpx2.ConnectTimeout, httpx2.RemoteProtocolError) as error:
        kind = ClientError if certificate_refused(error) else _NoAnswerError
        raise kind(
            f"{url}: {cause_in(error, limits)}", hint=_advice(error, at, environ), data=named(error)
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ClientError(f"{url}: {cause_in(error, limits)}", data=named(error)) from error


async def open_client(at: Location, limits: DocumentLimits, environ: Mapping[str, str]) -> httpx2.AsyncClient:
    """A client for requests to the location's server, which follows no redirects. Raises `ClientError`."""
    import httpx2

    proxy = proxy_for(at, environ)
    if proxy is not None and at.limit is not None and nearness_of_host(origin_of(at.url).host) > at.limit:
        raise TooNearError(origin_of(at.url).host)
    context = await lanes.in_thread(tls_context, at.access) if origin_of(at.url).tls else None
    verify = False if context is None else context
    transport: httpx2.AsyncBaseTransport
    if proxy is not None and proxy.socks:
        from imgstored.http.socks_transport import SocksTransport

        transport = SocksTransport(proxy, context)
    elif proxy is None and at.limit is not None:
        from imgstored.http.transport import LimitedTransport

        transport = LimitedTransport(verify, at.limit)
    else:
        transport = httpx2.AsyncHTTPTransport(
            verify=verify, trust_env=False, proxy=None if proxy is None else _httpx_proxy(proxy)
        )
    return httpx2.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(limits.silence_seconds, connect=limits.connect_seconds),
    )


def near_of(response: httpx2.Response, at: Location, environ: Mapping[str, str]) -> Nearness:
    """The nearness of the server that answers: by the address at the other end, or by its name.

    The name counts behind a proxy, and where the server has reset the connection after its answer: then no
    socket knows the other end any more.
    """
    if proxy_for(at, environ) is None:
        with suppress(OSError):
            return nearness(response.extensions["network_stream"].get_extra_info("server_addr")[0])
    return nearness_of_host(origin_of(at.url).host)


def _httpx_proxy(proxy: Proxy) -> httpx2.Proxy:
    import httpx2

    headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
    return httpx2.Proxy(proxy.url, headers=headers)


async def read_answer(response: httpx2.Response, max_bytes: int, url: str) -> Document:
    """The answer, of at most `max_bytes`. `url` is for messages. Raises `ClientError`."""
    headers = MappingProxyType({name.lower(): value for name, value in response.headers.items()})
    if response.status_code in REDIRECTS:
        # The body of a redirect is not worth reading.
        return Document(response.status_code, headers, b"")
    encodings = {word.strip().lower() for word in headers.get("content-encoding", "").split(",")}
    body = Body(max_bytes, gzip=bool(encodings & gunzip.CODINGS))
    try:
        async with aclosing(response.aiter_raw()) as pieces:
            try:
                async for piece in pieces:
                    body.feed(piece)
                    if body.pieces % _TURN == 0:
                        await trio.lowlevel.checkpoint()
            except (TooLargeError, NotGzipError, TooManyPiecesError):
                await _break_off(pieces)
                raise
        text = body.finish()
    except TooLargeError:
        raise ClientError(f"{url}: the answer is larger than {max_bytes} bytes") from None
    except TooManyPiecesError:
        raise ClientError(
            f"{url}: the answer comes in too many pieces", hint="the server sends it byte by byte"
        ) from None
    except NotGzipError:
        raise ClientError(f"{url}: the answer is damaged (not gzip, as it says)") from None
    if (unknown := encodings & _OTHER_CODINGS) and not _is_text(text):
        raise ClientError(f"{url}: the answer has an encoding that was not asked for ({unknown.pop()!r})")
    return Document(response.status_code, headers, text)


def _is_text(data: bytes) -> bool:
    """True if an encoding was only named: what was encoded is no UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _break_off(pieces: AsyncIterator[bytes]) -> None:
    """Ends an answer that is not wanted any more.

    Closing httpx2's outermost generator leaves an inner one to the garbage collector (2.16); a read that is
    cancelled ends them all.
    """
    with trio.CancelScope() as scope:
        scope.cancel()
        async for _ in pieces:
            pass


def _advice(error: Exception, at: Location, environ: Mapping[str, str]) -> str:
    """What to do about a request without an answer; "" where only time helps."""
    import httpx2

    advice = OUT_OF_REACH if isinstance(error, httpx2.ConnectTimeout) else advice_on(error)
    if not advice or certificate_refused(error) or proxy_for(at, environ) is None:
        return advice
    return "see that the proxy is up, and that its URL is right"


def cause_in(error: Exception, limits: DocumentLimits) -> str:
    """The cause of a failed request in words, none of which comes from our own headers."""
    import httpx2

    if isinstance(error, httpx2.ConnectTimeout):
        return f"no connection within {limits.connect_seconds:g} s"
    if isinstance(error, httpx2.TimeoutException):
        return f"the server sent nothing for {limits.silence_seconds:g} s"
    if isinstance(error, httpx2.LocalProtocolError | httpx2.InvalidURL):
        return "the request cannot be sent"
    if isinstance(error, httpx2.RemoteProtocolError):
        return f"the answer is not sound HTTP: {redacted(str(error))}"
    return cause_of(error)
