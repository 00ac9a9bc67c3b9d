"""Requests for documents to where a server sent us: to addresses alone that it may send us to.

Imported, as httpx2 is, by the first such request.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2
import trio

from imgstored.http.addresses import TooNearError, nearness

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgstored.http.addresses import Nearness


class LimitedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's own, without a proxy, and with connections that `_LimitedBackend` makes."""

    def __init__(self, verify: ssl.SSLContext | bool, limit: Nearness) -> None:
        """`limit` is as a `Location` has it."""
        context = verify if isinstance(verify, ssl.SSLContext) else None
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=context, network_backend=_LimitedBackend(limit)
        )


class _LimitedBackend(httpcore2.AsyncNetworkBackend):
    """Looks a name up once, and connects to the addresses that were found, not to the name again."""

    def __init__(self, limit: Nearness) -> None:
        self._limit = limit
        self._backend = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first allowed address that answers. Raises `TooNearError` if there is none."""
        seconds = float("inf") if timeout is None else timeout
        with trio.move_on_after(seconds) as scope:
            return await self._connect(host, port, scope, socket_options)
        raise httpcore2.ConnectTimeout

    async def _connect(
        self, host: str, port: int, scope: trio.CancelScope, socket_options: Iterable[Any] | None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        allowed = list(
            dict.fromkeys(str(entry[4][0]) for entry in found if nearness(str(entry[4][0])) <= self._limit)
        )
        if found and not allowed:
            raise TooNearError(host)
        failure: Exception = httpcore2.ConnectError("the host has no address")
        for place, address in enumerate(allowed):
            # One that does not answer leaves time for the others.
            share = (scope.deadline - trio.current_time()) / (len(allowed) - place)
            try:
                return await self._backend.connect_tcp(address, port, share, None, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Part of the interface."""
        await trio.sleep(seconds)
