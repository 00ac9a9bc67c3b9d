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
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec
import structlog
import trio
from msgspec import Struct

from imgstored import import_id, lanes
from imgstored.errors import DownloadError, FileSystemError, ImageNotFoundError, ImgstoreError
from imgstored.host import shortage
from imgstored.http.location import public
from imgstored.library.library import SPOOL_KEY
from imgstored.manifest import load, with_index
from imgstored.pools.base import Room
from imgstored.transfer.digest import Digest, Expected, WrongFileError, digested, drain
from imgstored.transfer.download import Download

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from imgstored.library.folder import Copy
    from imgstored.library.library import Library
    from imgstored.manifest import Manifest
    from imgstored.sources.search import Found
    from imgstored.sources.source_set import SourceSet
    from imgstored.transfer.download import DownloadLimits
    from imgstored.transfer.range_journal import RangeJournal

log = structlog.get_logger(__name__)

#: Seconds that a client's thread waits for bytes before it looks whether its client is still there.
_PATIENCE: Final = 1.0
#: Bytes that it waits for meanwhile: each piece of the sources' would wake it otherwise.
_ENOUGH: Final = 128 << 10
#: Seconds for which an answer of the sources, and a failure, are remembered.
_REMEMBERED: Final = 30.0
#: Answers that are remembered.
_MOST: Final = 1000
#: Files on their way at the same time, those that wait for a slot, too. Each has a descriptor or more.
_MOST_FETCHES: Final = 64
#: Sources without a file on its way that are remembered.
_IDLE_SOURCES: Final = 32
#: Questions to the sources at the same time, of all clients together.
_QUESTIONS: Final = 16


class Fetch:
    """A file on its way. `open` and `available` are for any thread, the rest for trio's."""

    def __init__(
        self,
        manifest: Manifest,
        size: int,
        path: Path,
        *,
        source: str | None = None,
        sha256: str | None = None,
    ) -> None:
        self.manifest = manifest
        self.source = source  #: the URL of where it comes from, for people
        self.unkept: ImgstoreError | None = None  #: why the library does not have it, though it came
        self.sha256 = sha256  #: of the file, where its source is signed
        self.size = size
        self.path = path
        self.kind: Copy = "kept"  #: what it becomes in the library
        self.begun = trio.Event()  #: clients can open the file
        self.ended = trio.Event()  #: it has been given to the library, or `failure` is there
        self._lock = threading.Lock()
        self._fd = -1
        self._download: Download | None = None
        self.began_at = time.time()  #: seconds since the epoch
        self._verified = False
        self._decided = threading.Event()
        self._spoilt = 0  # how often wrong bytes were given out as the file, before this fetch
        self._failure: ImgstoreError | None = None

    @property
    def failure(self) -> ImgstoreError | None:
        """Why it did not come."""
        return self._failure

    @property
    def done(self) -> int:
        """Bytes that have come."""
        return 0 if self._download is None else self._download.done

    @property
    def layers(self) -> tuple[tuple[int, str], ...]:
        """The layers of a file that came from a registry, as the library keeps them."""
        return () if self._download is None else self._download.layers

    @property
    def spoilt(self) -> int:
        """How often bytes were given out as the file that no longer count."""
        return self._spoilt + (0 if self._download is None else self._download.generation)

    @property
    def changed(self) -> bool:
        """True if the file became another one on its way."""
        return self._download is not None and self._download.generation > 0

    def begin(self, download: Download, spoilt: int) -> None:
        """Makes the file that the download fills; `spoilt` is of earlier ones. Blocks. Raises `OSError`."""
        self._download, self._spoilt = download, spoilt
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)

    def open(self) -> int | None:
        """A descriptor of the file, wherever it is by now; None once the fetch has ended. Blocks briefly."""
        with self._lock:
            return None if self._fd < 0 else os.dup(self._fd)

    def end(self) -> None:
        """No client begins any more. Blocks."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def available(self) -> Callable[[int], int]:
        """An answer's `Span.available`, for one client."""
        download = self._download
        assert download is not None, "no client has the file before that"
        generation, last = download.generation, self.size - 1

        def available(offset: int) -> int:
            end = offset if offset >= last else download.wait_from(offset, _ENOUGH, _PATIENCE)
            if end <= offset and (offset >= last or download.ended):
                self._decided.wait(_PATIENCE)  # no bytes come any more
            if self._failure is not None:
                raise self._failure
            # Also of a file that is right by now: the client has bytes of another one.
            if download.generation != generation:
                raise DownloadError("the file changed on its source while it was served")
            if self._verified:
                return self.size
            return max(offset, min(end, last))

        return available

    def finish(self) -> None:
        """The file is what the manifest says."""
        self._verified = True
        self._decided.set()

    def fail(self, error: ImgstoreError) -> None:
        """The file will not come, or is wrong: cuts off all clients."""
        self._failure = error
        self._decided.set()


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
    """An answer of the sources, and until when it counts."""

    until: float
    found: Found | None = None
    error: ImgstoreError | None = None


class Claim(Room, Protocol):
    """Room that is reserved until it is given back."""

    def close(self) -> None:
        """Gives it back."""
        ...


class Relay:
    """The files on their way. For trio's thread."""

    def __init__(
        self,
        sources: SourceSet,
        library: Library,
        *,
        journal: Callable[[str], RangeJournal],
        limits: Callable[[], DownloadLimits],
        claim: Callable[[], Claim],
        at_a_time: int,
    ) -> None:
        """`journal` gives the ranges of a spool by its name; `claim` reserves room in the library."""
        self._sources = sources
        self._library = library
        self._journal = journal
        self._limits = limits
        self._claim = claim
        self._at_a_time = at_a_time
        self._slots: dict[str | None, trio.CapacityLimiter] = {}  # by source: a slow one holds up no other
        # Threads that wait for bytes: none of those that the bytes need.
        self._digests = trio.CapacityLimiter(_MOST_FETCHES)
        self._questions = trio.CapacityLimiter(_QUESTIONS)
        self._fetches: dict[str, Fetch] = {}
        self._answers: dict[str, _Answer] = {}
        self._list: tuple[float, tuple[Remote, ...]] = (float("-inf"), ())
        self._listing = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self.fetched = 0  #: files, since the start
        self.fetched_bytes = 0  #: of these

    @property
    def fetching(self) -> int:
        """Files that are on their way."""
        return len(self._fetches)

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

    def forget(self, uuid: str) -> None:
        """Forgets the sources' answer about the image."""
        self._answers.pop(uuid, None)
        self._list = (float("-inf"), self._list[1])

    async def _asked(self, uuid: str) -> _Answer:
        assert self._nursery is not None
        try:
            async with self._questions:
                found = await self._sources.find_shared(
                    uuid, active=True, import_id=import_id.fresh(), nursery=self._nursery
                )
        except ImgstoreError as error:
            return _Answer(trio.current_time() + _REMEMBERED, error=error)
        return _Answer(trio.current_time() + _REMEMBERED, found)

    async def listed(self) -> tuple[Remote, ...]:
        """The manifests that the sources list, at most half a minute old; older where they fail."""
        async with self._listing:
            until, images = self._list
            if until < trio.current_time():
                try:
                    found = await self._sources.available()
                except ImgstoreError as error:
                    log.warning("the sources cannot be listed for others", error=error.message)
                else:
                    # In a thread: a large list takes a while.
                    manifests = [image["manifest"] for image in found["images"]]
                    images = await trio.to_thread.run_sync(_remotes, manifests, limiter=self._questions)
                self._list = (trio.current_time() + _REMEMBERED, images)
            return images

    # -- files -----------------------------------------------------------------------------------------------

    async def fetch(self, uuid: str) -> Fetch | None:
        """The file on its way; begins to fetch it if nobody has asked yet. None: the library has it by now.

        Raises as `find` does.
        """
        found = None if uuid in self._fetches else await self._find(uuid)
        # Somebody else may have asked meanwhile.
        running = self._fetches.get(uuid)
        if running is None:
            running = None if found is None else self.fetch_found(found)
        if running is not None:
            await running.begun.wait()
        return running

    def fetch_found(self, found: Found, *, kind: Copy = "kept") -> Fetch | None:
        """As `fetch`, of an image that was found; `kind` is what it becomes in the library.

        Its clients cannot open it before `begun`. Raises `ImageNotFoundError` where nobody says how large it
        is.
        """
        uuid = found.manifest.uuid
        running = self._fetches.get(uuid)
        if running is None:
            if self._library.get(uuid) is not None:
                return None
            running = self._begin(found)
        if running.kind == "kept":
            running.kind = kind
        return running

    def _begin(self, found: Found) -> Fetch:
        uuid, file = found.manifest.uuid, found.manifest.file
        if file is None or file.size is None:
            raise ImageNotFoundError(f"the sources do not say how large the file of image {uuid} is")
        if len(self._fetches) >= _MOST_FETCHES:
            raise DownloadError(f"{_MOST_FETCHES} files are on their way already")
        sha256 = None if found.signed is None else found.signed.file
        path = self._library.spool(uuid)
        fetch = self._fetches[uuid] = Fetch(
            found.manifest, file.size, path, source=public(found.source.url), sha256=sha256
        )
        assert self._nursery is not None
        self._nursery.start_soon(self._run, fetch, found)
        return fetch

    async def _run(self, fetch: Fetch, found: Found) -> None:
        """Fetches one file. Another request for it begins anew once this has failed."""
        uuid = fetch.manifest.uuid
        try:
            claim = await lanes.in_thread(self._claim, kind="library")
            try:
                download = self._download(found, fetch, claim)
                await lanes.in_thread(self._open, fetch, download, claim, kind="library")
                fetch.begun.set()
                async with self._slots_of(fetch.source):
                    log.info("fetching a file for others", uuid=uuid)
                    began = trio.current_time()
                    await self._transfer(fetch, download)
                    self._log_end(fetch, trio.current_time() - began)
            finally:
                claim.close()
        except (ImgstoreError, OSError) as failure:
            error = failure if isinstance(failure, ImgstoreError) else DownloadError(shortage.why(failure))
            log.warning("a file for others did not come", uuid=uuid, error=error.message)
            fetch.fail(error)
            self._answers[uuid] = _Answer(trio.current_time() + _REMEMBERED, error=error)
            await lanes.in_thread(self._note_spoilt, fetch, isinstance(error, WrongFileError), kind="library")
            if isinstance(error, WrongFileError):
                await lanes.in_thread(self._drop, fetch, kind="library")
        except Exception:
            # One file must not take the server with it.
            log.exception("a file for others failed by a mistake", uuid=uuid)
            fetch.fail(DownloadError("a fault of the server"))
        except BaseException:
            fetch.fail(DownloadError("the server is stopping"))
            raise
        finally:
            del self._fetches[uuid]
            fetch.begun.set()
            fetch.ended.set()
            with trio.CancelScope(shield=True):
                await lanes.in_thread(fetch.end, kind="library")

    def _slots_of(self, source: str | None) -> trio.CapacityLimiter:
        idle = [each for each, slots in self._slots.items() if not slots.borrowed_tokens]
        for each in idle[:-_IDLE_SOURCES]:
            del self._slots[each]
        return self._slots.setdefault(source, trio.CapacityLimiter(self._at_a_time))

    def _open(self, fetch: Fetch, download: Download, claim: Claim) -> None:
        """Lets clients have the file. Raises `NoSpaceError` where it does not fit: they get an answer yet."""
        there = 0
        with suppress(FileNotFoundError):
            there = fetch.path.lstat().st_blocks * 512
        claim.expect(max(0, fetch.size - there), exact=True)
        fetch.begin(download, self._library.spoilt(fetch.manifest.uuid))

    def _note_spoilt(self, fetch: Fetch, wrong: bool) -> None:
        """Remembers whether clients got bytes that are not the file's: nobody is to go on from these."""
        if not (wrong or fetch.changed):
            return
        try:
            self._library.spoil(fetch.manifest.uuid, fetch.spoilt + wrong)
        except OSError as error:
            log.warning("the library cannot be written", error=shortage.why(error))

    def _log_end(self, fetch: Fetch, seconds: float) -> None:
        kept = fetch.unkept is None
        log.info(
            "fetched a file for others",
            uuid=fetch.manifest.uuid,
            size=fetch.size,
            seconds=round(seconds, 3),
            kept=kept,
        )
        self.fetched += 1
        self.fetched_bytes += fetch.size

    def _download(self, found: Found, fetch: Fetch, claim: Claim) -> Download:
        uuid = fetch.manifest.uuid
        return Download(
            found.locations,
            size=fetch.size,
            path=fetch.path,
            journal=self._journal(f"{SPOOL_KEY}{uuid}"),
            limits=self._limits(),
            room=claim,
            note=lambda text: log.info("a download has trouble", uuid=uuid, trouble=text),
        )

    async def _transfer(self, fetch: Fetch, download: Download) -> None:
        file = fetch.manifest.file
        sha1 = None if file is None else file.sha1
        expected = Expected(
            fetch.manifest.uuid,
            size=fetch.size,
            sha1=sha1,
            sha256=fetch.sha256,
            parts=download.layers,
        )
        failure: ImgstoreError | None = None

        async def check() -> None:
            nonlocal failure
            try:
                digest = Digest(sha256=fetch.sha256 is not None)
                await trio.to_thread.run_sync(
                    lambda: drain(digested(download.blocks(), expected, digest)),
                    limiter=self._digests,
                )
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
        await lanes.in_thread(self._keep, fetch, kind="library")

    def _keep(self, fetch: Fetch) -> None:
        """Gives the file to the library, which may have no room for it. Clients have it open."""
        uuid = fetch.manifest.uuid
        self._note_spoilt(fetch, wrong=False)
        try:
            self._library.keep(
                fetch.manifest, fetch.path, kind=fetch.kind, source=fetch.source, layers=fetch.layers
            )
        except OSError as error:
            fetch.unkept = FileSystemError(f"the library cannot keep the file: {shortage.why(error)}")
        except ImgstoreError as error:
            fetch.unkept = error
        if fetch.unkept is not None:
            log.warning("a fetched file is not kept", uuid=uuid, error=fetch.unkept.message)
        self._drop(fetch)

    def _drop(self, fetch: Fetch) -> None:
        try:
            self._journal(f"{SPOOL_KEY}{fetch.manifest.uuid}").forget()
            fetch.path.unlink(missing_ok=True)
        except (OSError, ImgstoreError) as error:
            log.warning("what is left of a fetched file stays", uuid=fetch.manifest.uuid, error=str(error))


def _remote(manifest: Manifest) -> Remote:
    # The source's index is not here.
    encoded = msgspec.json.encode(with_index(manifest.document, None))
    return Remote(manifest, encoded, hashlib.sha1(encoded, usedforsecurity=False).hexdigest())


def _remotes(documents: Iterable[Mapping[str, Any]]) -> tuple[Remote, ...]:
    """Those of the manifests that can be used."""
    found = []
    for document in documents:
        with suppress(ImgstoreError):
            found.append(_remote(load(document, rules="import")))
    return tuple(found)
