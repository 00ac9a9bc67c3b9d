"""Binds a function to an operation, and has helpers for these functions."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from imgproto.events import EventDocument

from imgstored.rpc.call import Asks, Call, Method, never
from imgstored.rpc.params import printable

if TYPE_CHECKING:
    from imgproto.operations import Operation

    from imgstored.create.job import Job
    from imgstored.rpc.services import Services

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

#: The events of a request; leaving the block ends the client's interest.
Events = AbstractAsyncContextManager[AsyncIterable[EventDocument]]

#: Characters of a client's name for its file that are kept.
MAX_PATH = 1024


def method(
    services: Services,
    operation: Operation[P, R],
    run: Callable[[Services, P, Call], Awaitable[R]],
    *,
    large: bool = False,
    asks: Asks = never,
    lasting: bool = False,
    why_root: str = "",
) -> Method:
    """The method of an operation; `run` takes the operation's parameters and returns its result.

    The other parameters are as in `Method`.
    """
    return Method(
        operation, partial(run, services), large=large, asks=asks, lasting=lasting, why_root=why_root
    )


async def pass_on(call: Call, events: Events) -> None:
    """Sends all events to the client."""
    async with events as coming:
        async for event in coming:
            await call.notify(event)


def sender(call: Call) -> Callable[[EventDocument], Awaitable[None]]:
    """A function that sends an event to the client."""
    return call.notify


def file_name(path: str | None) -> str:
    """The client's name for its file, fit for messages."""
    return printable(path or "", MAX_PATH) or "the file"


async def done(call: Call, jobs: AbstractAsyncContextManager[Job[T]]) -> T:
    """Sends the job's events; returns its result."""
    async with jobs as job:
        async for event in job:
            await call.notify(event)
        return job.result
