"""httpx2 through a SOCKS proxy.

httpx2's own way takes what one read brings for a whole reply of the proxy, which TCP may cut into pieces, and
leaves the socket of a connection that the proxy refuses to the garbage collector (httpcore2 2.16).
"""

from __future__ import annotations

import contextlib
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

import httpcore2
import httpx2
import trio

from imgstored.http.socks import CLOSED, conversation

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

    from imgstored.http.proxy import Proxy


class SocksTransport(httpx2.AsyncBaseTransport):
    """`httpx2.AsyncHTTPTransport` over connections that the proxy makes."""

    def __init__(self, proxy: Proxy, context: ssl.SSLContext | None) -> None:
        """`context` is for https."""
        self._pool = httpcore2.AsyncConnectionPool(ssl_context=context, network_backend=_Through(proxy))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Returns the answer, of which the body is still to be read. Raises `httpx2.HTTPError`."""
        url = httpcore2.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        with _errors_of_httpx2():
            response = await self._pool.handle_async_request(
                httpcore2.Request(
                    request.method,
                    url,
                    headers=request.headers.raw,
                    content=cast("httpx2.AsyncByteStream", request.stream),
                    extensions=request.extensions,
                )
            )
        return httpx2.Response(
            response.status,
            headers=response.headers,
            stream=_Body(cast("httpx2.AsyncByteStream", response.stream)),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.aclose()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx2():
            async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(self._stream))) as pieces:
                async for piece in pieces:
                    yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Through(httpcore2.AsyncNetworkBackend):
    """Connections that the proxy makes."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._tcp = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  httpcore2's own
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to `host`. Raises `httpcore2.ConnectError`, `ConnectTimeout`, `ProxyError`."""
        proxy = self._proxy
        stream: httpcore2.AsyncNetworkStream | None = None
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            stream = await self._tcp.connect_tcp(
                proxy.host, proxy.port, timeout, local_address, socket_options
            )
            try:
                await _converse(stream, proxy, host, port)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await stream.aclose()
                raise
            return stream
        raise httpcore2.ConnectTimeout

    async def sleep(self, seconds: float) -> None:
        """Waits."""
        await trio.sleep(seconds)


async def _converse(stream: httpcore2.AsyncNetworkStream, proxy: Proxy, host: str, port: int) -> None:
    steps = conversation(proxy, host, port)
    try:
        with contextlib.suppress(StopIteration):
            step = next(steps)
            while True:
                if isinstance(step, bytes):
                    await stream.write(step)
                    step = next(steps)
                else:
                    step = steps.send(await _exactly(stream, step))
    except OSError as error:
        raise httpcore2.ProxyError(str(error)) from error
    except (httpcore2.ReadError, httpcore2.WriteError) as error:
        raise httpcore2.ConnectError(CLOSED) from error


async def _exactly(stream: httpcore2.AsyncNetworkStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.read(count - len(data))
        if not piece:
            raise httpcore2.ConnectError(CLOSED)
        data += piece
    return bytes(data)


@contextlib.contextmanager
def _errors_of_httpx2() -> Iterator[None]:
    """The two libraries have errors of the same names."""
    try:
        yield
    except Exception as error:
        kind = getattr(httpx2, type(error).__name__, None)
        if type(error).__module__.partition(".")[0] != "httpcore2" or kind is None:
            raise
        raise kind(str(error)) from error
