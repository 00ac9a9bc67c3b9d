"""What is good to know of the images: their names, what they occupy, what was done, and what would be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgstored.rpc.call import Call, Method, Methods
from imgstored.rpc.methods.binding import bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.rpc.services import Document

#: Entries of the history, where a request does not say how many.
DEFAULT_ENTRIES = 100


class Resolver(Protocol):
    """Which image is called so."""

    async def resolve(
        self,
        names: Sequence[str],
        among: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> list[Document]:
        """The image of each name. Raises `ImgstoreError` where a name means none, or several."""
        ...


class DryRun(Protocol):
    """What an import would do."""

    async def plan(
        self,
        uuid: str,
        *,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
    ) -> Document:
        """The *plan*. Raises `ImgstoreError` where there can be none."""
        ...


class Usage(Protocol):
    """What images occupy."""

    async def usage(self, pool: str | None = None, uuids: Sequence[str] = ()) -> list[Document]:
        """A *usage* for each pool."""
        ...


class History(Protocol):
    """What was done."""

    async def entries(self, uuid: str | None, limit: int) -> list[Document]:
        """The newest entries, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Care:
    """The services of this theme."""

    resolver: Resolver
    dry_run: DryRun
    usage: Usage
    history: History


def care_methods(care: Care) -> Methods:
    """`resolve`, `plan`, `usage`, `history`."""
    return {
        "resolve": Method(bound(_resolve, care.resolver), ("names", "among", "pool", "sources", "channel")),
        "plan": Method(bound(_plan, care.dry_run), ("uuid", "pool", "sources", "channel")),
        "usage": Method(bound(_usage, care.usage), ("pool", "uuids")),
        "history": Method(bound(_history, care.history), ("uuid", "limit")),
    }


async def _resolve(resolver: Resolver, call: Call) -> list[Document]:
    params = call.params
    return await resolver.resolve(
        params.texts("names"),
        params.text("among"),
        pool=params.optional_text("pool"),
        sources=_sources(call),
        channel=params.optional_text("channel"),
    )


async def _plan(dry_run: DryRun, call: Call) -> Document:
    params = call.params
    return await dry_run.plan(
        params.text("uuid"),
        pool=params.optional_text("pool"),
        sources=_sources(call),
        channel=params.optional_text("channel"),
    )


def _sources(call: Call) -> list[str] | None:
    """Who may only read must not have root's daemon ask servers of their choice."""
    sources = call.params.optional_texts("sources")
    if sources is not None:
        call.require_change()
    return sources


async def _usage(usage: Usage, call: Call) -> list[Document]:
    return await usage.usage(call.params.optional_text("pool"), call.params.optional_texts("uuids") or [])


async def _history(history: History, call: Call) -> list[Document]:
    limit = call.params.optional_number("limit")
    return await history.entries(
        call.params.optional_text("uuid"), DEFAULT_ENTRIES if limit is None else limit
    )
