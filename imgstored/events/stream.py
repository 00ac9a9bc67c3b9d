"""Who is told of everything that begins and ends, to write it down. The store works as well without."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import trio

from imgstored import import_id
from imgstored.errors import ImgstoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.imports.layer import Layer


@dataclass(frozen=True, slots=True)
class Asker:
    """The client whose request is being answered."""

    name: str
    uid: int


#: Set for as long as a request is answered; what begins meanwhile begins for this client.
asker: ContextVar[Asker | None] = ContextVar("asker", default=None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that a client wanted. Of an import only the uuid is known before a source has answered."""

    action: Literal["import", "install"]
    uuid: str
    pool: str
    name: str = ""
    version: str = ""
    import_id: str = field(default_factory=import_id.fresh)


class Recorder(Protocol):
    """Called from trio's thread; raises nothing of its own."""

    async def follow(self, layer: Layer, *, from_file: bool, stopping: Callable[[], bool]) -> None:
        """Follows a layer from its beginning until it has ended, also when it is cancelled."""
        ...

    def deletion(self, image: InstalledImage) -> AbstractAsyncContextManager[None]:
        """The image is deleted in the block."""
        ...

    async def refused(self, wanted: Wanted, error: ImgstoreError) -> None:
        """What a client wanted ended before there was a layer."""
        ...


class Recorders:
    """Several recorders, each of which is told everything."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    async def follow(self, layer: Layer, *, from_file: bool, stopping: Callable[[], bool]) -> None:
        """Returns when all of them have seen the end."""
        async with trio.open_nursery() as nursery:
            for recorder in self._recorders:
                nursery.start_soon(partial(recorder.follow, layer, from_file=from_file, stopping=stopping))

    @asynccontextmanager
    async def deletion(self, image: InstalledImage) -> AsyncIterator[None]:
        """The image is deleted in the block."""
        async with AsyncExitStack() as stack:
            for recorder in self._recorders:
                await stack.enter_async_context(recorder.deletion(image))
            yield

    async def refused(self, wanted: Wanted, error: ImgstoreError) -> None:
        """What a client wanted ended before there was a layer."""
        for recorder in self._recorders:
            await recorder.refused(wanted, error)


@asynccontextmanager
async def begun_by(recorder: Recorder | None, wanted: Wanted) -> AsyncIterator[None]:
    """A layer begins in the block, or the recorder is told why not, if a client wanted it.

    What is logged meanwhile has an import's id, which the layer is to have, too.
    """
    with import_id.bound(wanted.import_id):
        try:
            yield
        except ImgstoreError as error:
            # What goes on after a restart is tried again and again.
            if recorder is not None and asker.get() is not None:
                await recorder.refused(wanted, error)
            raise
