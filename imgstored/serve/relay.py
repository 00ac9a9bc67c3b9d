"""Files that the server lacks: fetched once from its own sources, and given to everybody as they come.

    a request ──► Relay.fetch ──► Download ──► spool ──► digest ──► the library
                                                 │
                             every client ◄──────┘  ranges in any order, as far as they are there

The last byte of a file is held back until its size and SHA-1 are the manifest's: no client takes a wrong file
for a whole one.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import trio
from msgspec import Struct

from imgstored.errors import DownloadError, ImageNotFoundError, ImgstoreError
from imgstored.manifest import load
from imgstored.transfer.digest import Digest, Expected, WrongFileError, digested, drain
from imgstored.transfer.download import Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from imgstored.library.library import Copy, Library
    from imgstored.manifest import Manifest
    from imgstored.sources.search import Found
    from imgstored.sources.source_set import SourceSet
    from imgstored.transfer.download import DownloadLimits
    from imgstored.transfer.range_journal import RangeJournal

log = structlog.get_logger(__name__)

#: Seconds that a client's thread waits for bytes before it looks whether its client is still there.
_PATIENCE: Final = 1.0
#: Seconds for which an answer of the sources, and a failure, are remembered.
_REMEMBERED: Final = 30.0
#: Answers that are remembered.
_MOST: Final = 1000


class Fetch:
    """A file on its way. `available` is for any thread, the rest for trio's."""

    def __init__(
        self, manifest: Manifest, size: int, path: Path, download: Download, *, sha256: str | None = None
    ) -> None:
        self.manifest = manifest
        self.sha256 = sha256  #: of the file, where its source is signed
        self.size = size
        self.path = path
        self._download = download
        self.kind: Copy = "kept"  #: what it becomes in the library
        self.began_at = time.time()  #: seconds since the epoch
        self.ended = trio.Event()  #: the library has it, or `failure` is there
        self._verified = False
        self._failure: ImgstoreError | None = None

    @property
    def failure(self) -> ImgstoreError | None:
        """Why it did not come."""
        return self._failure

    @property
    def done(self) -> int:
        """Bytes that have come."""
        return self._download.done

    def available(self) -> Callable[[int], int]:
        """What an answer's `Span.available` is, for one client."""
        generation = self._download.generation

        def available(offset: int) -> int:
            if self._failure is not None:
                raise self._failure
            if self._verified:
                return self.size
            end = self._download.end_of(offset, _PATIENCE)
            if self._download.generation != generation:
                raise DownloadError("the file changed on its source while it was served")
            return offset if end == offset else max(offset, min(end, self.size - 1))

        return available

    def finish(self) -> None:
        """The file is what the manifest says."""
        self._verified = True

    def fail(self, error: ImgstoreError) -> None:
        """The file will not come, or is wrong: cuts off all clients."""
        self._failure = error


class Remote(Struct, frozen=True):
    """An image that the sources have, and the library lacks."""

    manifest: Manifest
    encoded: bytes  #: the manifest as JSON
    etag: str  #: SHA-1 of that, in hexadecimal

    @property
    def uuid(self) -> str:
        """The image's uuid."""
        return self.manifest.uuid

    @property
    def document(self) -> Mapping[str, Any]:
        """The manifest."""
        return self.manifest.document


class _Answer(Struct, frozen=True):
    """What the sources said, until when it counts."""

    until: float
    found: Found | None = None
    error: ImgstoreError | None = None


class Relay:
    """The files on their way. For trio's thread."""

    def __init__(
        self,
        sources: SourceSet,
        library: Library,
        *,
        journal: Callable[[str], RangeJournal],
        limits: Callable[[], DownloadLimits],
        room: Callable[[int], None],
        at_a_time: int,
    ) -> None:
        """`journal` gives the ranges of a spool by its name; `room` is as of `Download`."""
        self._sources = sources
        self._library = library
        self._journal = journal
        self._limits = limits
        self._room = room
        self._slots = trio.CapacityLimiter(at_a_time)
        self._fetches: dict[str, Fetch] = {}
        self._answers: dict[str, _Answer] = {}
        self._list: tuple[float, tuple[Remote, ...]] = (float("-inf"), ())
        self._listing = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetches what is asked for, until it is cancelled. What has come by then is gone on with later."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    # -- what the sources have -------------------------------------------------------------------------------

    async def find(self, uuid: str) -> Remote:
        """The image in the sources. Raises `ImageNotFoundError`, and other errors of sources."""
        return _remote((await self._find(uuid)).manifest)

    async def _find(self, uuid: str) -> Found:
        now = trio.current_time()
        known = self._answers.get(uuid)
        if known is None or known.until < now:
            known = self._answers[uuid] = await self._asked(uuid)
            while len(self._answers) > _MOST:
                del self._answers[next(iter(self._answers))]
        if known.error is not None:
            raise known.error
        assert known.found is not None
        return known.found

    async def _asked(self, uuid: str) -> _Answer:
        assert self._nursery is not None
        try:
            found = await self._sources.find_shared(uuid, active=True, nursery=self._nursery)
        except ImgstoreError as error:
            return _Answer(trio.current_time() + _REMEMBERED, error=error)
        return _Answer(trio.current_time() + _REMEMBERED, found)

    async def listed(self) -> tuple[Remote, ...]:
        """The manifests that the sources list, at most half a minute old."""
        async with self._listing:
            until, images = self._list
            if until < trio.current_time():
                found = await self._sources.available()
                # In a thread: a large list takes a while.
                manifests = [image["manifest"] for image in found["images"]]
                images = await trio.to_thread.run_sync(_remotes, manifests)
                self._list = (trio.current_time() + _REMEMBERED, images)
            return images

    # -- files -----------------------------------------------------------------------------------------------

    async def fetch(self, uuid: str) -> Fetch:
        """The file on its way; begins to fetch it if nobody has asked yet. Raises as `find` does."""
        running = self._fetches.get(uuid)
        if running is not None:
            return running
        found = await self._find(uuid)
        return self.fetch_found(found)

    def fetch_found(self, found: Found, *, kind: Copy = "kept") -> Fetch:
        """The file of an image that was found, on its way; `kind` is what it becomes in the library.

        Raises `ImageNotFoundError` where nobody says how large it is.
        """
        uuid = found.manifest.uuid
        running = self._fetches.get(uuid)  # somebody else may have asked meanwhile
        if running is not None:
            if running.kind == "kept":
                running.kind = kind
            return running
        file = found.manifest.file
        if file is None or file.size is None:
            raise ImageNotFoundError(f"the sources do not say how large the file of image {uuid} is")
        assert self._nursery is not None
        fetch, download = self._begin(found, file.size)
        fetch.kind = kind
        self._fetches[uuid] = fetch
        self._nursery.start_soon(self._run, fetch, download)
        return fetch

    def _begin(self, found: Found, size: int) -> tuple[Fetch, Download]:
        uuid = found.manifest.uuid
        path = self._library.spool(uuid)
        # It is there from now on, so that clients can open it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        download = Download(
            found.locations,
            size=size,
            path=path,
            journal=self._journal(f"_library-{uuid}"),
            limits=self._limits(),
            room=self._room,
            note=lambda text: log.info("a download has trouble", uuid=uuid, trouble=text),
        )
        sha256 = None if found.signed is None else found.signed.file
        return Fetch(found.manifest, size, path, download, sha256=sha256), download

    async def _run(self, fetch: Fetch, download: Download) -> None:
        """Fetches one file. Another request for it begins anew once this has failed."""
        uuid = fetch.manifest.uuid
        try:
            async with self._slots:
                log.info("fetching a file for others", uuid=uuid)
                await self._transfer(fetch, download)
        except ImgstoreError as error:
            log.warning("a file for others did not come", uuid=uuid, error=error.message)
            fetch.fail(error)
            self._answers[uuid] = _Answer(trio.current_time() + _REMEMBERED, error=error)
            if isinstance(error, WrongFileError):
                await trio.to_thread.run_sync(self._drop, fetch)
        except BaseException:
            fetch.fail(DownloadError("the server is stopping"))
            raise
        finally:
            del self._fetches[uuid]
            fetch.ended.set()

    async def _transfer(self, fetch: Fetch, download: Download) -> None:
        file = fetch.manifest.file
        sha1 = None if file is None else file.sha1
        expected = Expected(fetch.manifest.uuid, size=fetch.size, sha1=sha1, sha256=fetch.sha256)
        failure: ImgstoreError | None = None

        async def check() -> None:
            nonlocal failure
            try:
                digest = Digest(sha256=fetch.sha256 is not None)
                await trio.to_thread.run_sync(lambda: drain(digested(download.blocks(), expected, digest)))
            except ImgstoreError as error:
                failure = error
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(check)
            try:
                await download.run()
            except ImgstoreError as error:
                failure = error
        if failure is not None:
            raise failure
        fetch.finish()
        await trio.to_thread.run_sync(self._keep, fetch)

    def _keep(self, fetch: Fetch) -> None:
        """Gives the file to the library, which may have no room for it. Clients have it open."""
        try:
            self._library.keep(fetch.manifest, fetch.path, kind=fetch.kind)
        except (OSError, ImgstoreError) as error:
            log.warning("a fetched file is not kept", uuid=fetch.manifest.uuid, error=str(error))
        self._drop(fetch)

    def _drop(self, fetch: Fetch) -> None:
        self._journal(f"_library-{fetch.manifest.uuid}").forget()
        with suppress(OSError):
            fetch.path.unlink(missing_ok=True)


def _remote(manifest: Manifest) -> Remote:
    encoded = msgspec.json.encode(manifest.document)
    return Remote(manifest, encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())


def _remotes(documents: Iterable[Mapping[str, Any]]) -> tuple[Remote, ...]:
    """Those of the manifests that can be used."""
    found = []
    for document in documents:
        with suppress(ImgstoreError):
            found.append(_remote(load(document, rules="import")))
    return tuple(found)


def opened(fetch: Fetch) -> int:
    """A descriptor of the file as far as it has come. Raises `OSError`."""
    return os.open(fetch.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
