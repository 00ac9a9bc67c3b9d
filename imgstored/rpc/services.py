"""What the socket's methods need of the rest of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from imgstored.events.notifications import Event

if TYPE_CHECKING:
    from imgstored.events.stream import Requester

Document = dict[str, Any]
#: The events of a request, as long as somebody listens; leaving the block ends the interest.
Events = AbstractAsyncContextManager[AsyncIterable[Event]]


class Sources(Protocol):
    """Which image sources there are. All raise `ImgstoreError`; docs/protocol.md has the documents."""

    async def available(self) -> Document:
        """What the sources have, and which of them did not answer."""
        ...

    async def known(self) -> list[Document]:
        """The images that the sources had last, without asking them."""
        ...

    async def show(self, uuid: str) -> Document:
        """The manifest of an image, also of one that cannot be imported."""
        ...

    def listed(self) -> list[Document]:
        """The configured sources, in order."""
        ...

    async def add(self, url: str, kind: str | None, insecure: bool, force: bool, /) -> Document:
        """Adds a source; `force` adds it although it does not answer."""
        ...

    async def delete(self, url: str) -> Document:
        """Removes the sources with this URL."""
        ...

    async def replace(
        self, given: Sequence[Mapping[str, Any]], *, before: Sequence[Mapping[str, Any]], force: bool
    ) -> Document:
        """Makes the sources those that are given, if they were `before` until now."""
        ...

    async def check(self) -> list[Document]:
        """Asks every source whether it is there."""
        ...


class Images(Protocol):
    """The installed images. All raise `ImgstoreError`; docs/protocol.md has the documents."""

    async def installed(self, *, holds: bool) -> list[Document]:
        """All *images*, ordered; with the tags that hold each if asked."""
        ...

    async def image(self, uuid: str, pool: str | None, *, recursive: bool) -> Document:
        """One *image*; with its children when recursive."""
        ...

    async def ancestry(self, uuid: str, pool: str | None) -> list[Document]:
        """An *image*, and those that it was cloned from, down to one that was not."""
        ...

    async def delete(self, uuid: str, pool: str | None, requester: Requester) -> None:
        """Removes an installed image."""
        ...

    async def hold(self, uuid: str, tag: str, pool: str | None) -> None:
        """Keeps an image from being deleted until the tag is released."""
        ...

    async def release(self, uuid: str, tag: str, pool: str | None) -> None:
        """Ends a hold."""
        ...

    async def holds(self, uuid: str, pool: str | None) -> list[str]:
        """The tags that hold an image."""
        ...

    def holding(self, uuid: str, pool: str | None, *, client: str) -> Events:
        """Keeps an image from being deleted as long as the block lasts."""
        ...


class Imports(Protocol):
    """The imports. All raise `ImgstoreError`; docs/protocol.md has the documents."""

    def request(
        self,
        uuids: Sequence[str],
        *,
        requester: Requester,
        pool: str | None = None,
        sources: Sequence[str] | None = None,
        channel: str | None = None,
        zstream: bool = False,
    ) -> Events:
        """Wants images installed; the events end when all are. `zstream`: of files nothing is checked."""
        ...

    def install(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        *,
        requester: Requester,
        pool: str | None = None,
        path: str = ...,
    ) -> Events:
        """Wants an image installed from an open file. `path` is the client's word for it, for messages only.

        `fd` stays the caller's, who closes it when the block has ended; a store that reads on after that has
        a duplicate of its own.
        """
        ...

    def jobs(self) -> list[Document]:
        """What is under way."""
        ...

    def watch(self, uuid: str | None) -> Events:
        """What happens to all imports, or to one until it has ended."""
        ...

    async def cancel(self, uuid: str) -> None:
        """Ends an import, whoever wants it."""
        ...


class Upkeep(Protocol):
    """Keeps what is installed in order. All raise `ImgstoreError`; docs/protocol.md has the documents."""

    def update(self, uuids: Sequence[str], *, dry_run: bool) -> Events:
        """Brings these images, or all, up to date with the sources; the events end when that is done."""
        ...

    async def vacuum(
        self, *, older_than: int | None, keep: int, tell: Callable[[Event], Awaitable[None]]
    ) -> list[Document]:
        """The images that nothing needs, in an order in which each can be deleted; tells what is left out."""
        ...
