"""Requests that change something on a server: never repeated, never redirected, with a body of any size."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio
from msgspec import Struct
from msgspec.structs import replace

from imgstored.errors import ClientError
from imgstored.http.documents import (
    Document,
    DocumentLimits,
    cause_in,
    near_of,
    open_client,
    read_answer,
)
from imgstored.http.location import Location, check_headers, shown
from imgstored.http.secrets import announce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence


class Body(Struct, frozen=True):
    """The body of a request: `size` bytes of `content`."""

    content: AsyncIterator[bytes]
    size: int
    type: str = "application/octet-stream"


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """The bytes, as a body has them."""
    yield data


async def send(
    method: str,
    location: Location,
    body: Body | None = None,
    *,
    headers: Sequence[tuple[str, str]] = (),
    limits: DocumentLimits | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Document:
    """Sends one request; the answer, whatever its status.

    `limits.total_seconds` are for what follows the body: the server may take its time to look at it. While it
    is sent, `silence_seconds` are for each piece of it. Raises `ClientError`: `URL: cause`; and what `body`'s
    content raises.
    """
    import httpx2

    limits = limits or DocumentLimits()
    check_headers(location.access)
    announce(location)
    url = shown(location.url)
    sent = [("Accept-Encoding", "gzip"), *headers, *location.access.headers]
    if body is not None:
        sent += [("Content-Type", body.type), ("Content-Length", str(body.size))]
    elif method in ("POST", "PUT"):
        sent.append(("Content-Length", "0"))
    scope = trio.CancelScope()
    try:
        with scope:
            async with (
                await open_client(location, limits, environ) as client,
                client.stream(
                    method,
                    location.url,
                    headers=sent,
                    content=None if body is None else _limited(body, scope, limits.total_seconds),
                    timeout=httpx2.Timeout(limits.silence_seconds, read=None, connect=limits.connect_seconds),
                ) as response,
            ):
                near = near_of(response, location, environ)
                return replace(await read_answer(response, limits.max_bytes, url), near=near)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ClientError(f"{url}: {cause_in(error, limits)}") from error
    raise ClientError(f"{url}: no answer within {limits.total_seconds:g} s")


async def _limited(body: Body, scope: trio.CancelScope, seconds: float) -> AsyncIterator[bytes]:
    """The body's content. The time limit begins at its end."""
    async for piece in body.content:
        yield piece
    scope.deadline = trio.current_time() + seconds
