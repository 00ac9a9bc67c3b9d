"""Pushes blobs and documents into a repository: in chunks, and on from where an earlier push was cut off.

there already? ──► in another repository? ──► begun before? ──► chunks ──► the digest, which commits it
HEAD              POST ?mount=               GET              PATCH       PUT ?digest=
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec
import structlog
import trio
from msgspec import Struct
from msgspec.structs import replace

from imgstored import lanes
from imgstored.errors import APIError, ClientError, UploadError
from imgstored.host import shortage
from imgstored.host.clock import Ages
from imgstored.host.filesystem import replace_file
from imgstored.http.documents import DocumentLimits
from imgstored.http.failures import TRANSIENT_STATUSES, Backoff
from imgstored.http.location import origin_of, redirected, shown
from imgstored.http.upload import Body, in_pieces, send
from imgstored.manifest import decoded
from imgstored.registry.auth import scope_of
from imgstored.registry.client import refusal
from imgstored.registry.documents import (
    Descriptor,
    ImageManifest,
    Index,
    described,
    described_document,
    encoded,
)
from imgstored.registry.reference import is_digest, referrers_tag

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from imgstored.http.documents import Document
    from imgstored.http.location import Location
    from imgstored.registry.client import Repository

log = structlog.get_logger(__name__)

#: The last byte that a registry has of an upload.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
#: Reads bytes of a blob: offset and size, within it.
Read = Callable[[int, int], Awaitable[bytes]]

#: Bytes of a chunk, and of a piece of it that is read at a time. A chunk that is cut off may be lost.
CHUNK: Final = 16 << 20
_PIECE: Final = 1 << 20

#: Failures in a row until a push is given up; those after progress count anew.
_TRIES: Final = 5
_BACKOFF: Final = Backoff(first=0.5, most=10.0)

#: A registry may look through all of a blob before it answers.
LIMITS: Final = DocumentLimits(max_bytes=4 << 20, silence_seconds=60.0, total_seconds=600.0)

_OK, _CREATED, _ACCEPTED, _NO_CONTENT, _UNAUTHORIZED, _NOT_FOUND = 200, 201, 202, 204, 401, 404

#: Seconds for which an upload, or where a blob is, is remembered; bytes of such a record; and records.
_REMEMBERED: Final = 30 * 86400.0
_MAX_RECORD: Final = 64 << 10
_MAX_RECORDS: Final = 20_000


class Upload(Struct, frozen=True):
    """The record of a blob at one registry: an upload that was begun, or the repository that has it."""

    path: str  #: the repository
    location: str | None = None  #: of the upload; None: the blob is there


class Uploads:
    """Uploads that were begun, in a folder, one file each; without a folder, in memory. For one daemon.

    A location may let anybody go on with the upload, so the files are for the daemon alone. All methods
    block; what cannot be written is logged: the push goes on without.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, Upload] = {}
        self._ages = Ages()

    def of(self, registry: str, digest: str) -> Upload | None:
        """The record of a blob; None if there is none."""
        name = _name(registry, digest)
        if name in self._known or self._folder is None:
            return self._known.get(name)
        try:
            with (self._folder / name).open("rb") as file:
                return decoded(file.read(_MAX_RECORD), Upload)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("an upload that was begun is forgotten", error=str(error))
            return None

    def note(self, registry: str, digest: str, upload: Upload) -> None:
        """Remembers."""
        name = _name(registry, digest)
        if self._folder is None:
            self._known[name] = upload
            return
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._folder / name, msgspec.json.encode(upload), mode=0o600)
        except OSError as error:
            log.warning("an upload cannot be written down", error=shortage.why(error))

    def sweep(self) -> None:
        """Forgets what is old, or too much."""
        if self._folder is None or not self._folder.is_dir():
            return
        try:
            by_age = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
            for place, path in enumerate(by_age):
                old = self._ages.is_over(path.name, path.stat().st_mtime, _REMEMBERED)
                if old or place >= _MAX_RECORDS:
                    path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("old uploads cannot be removed", error=str(error))


def _name(registry: str, digest: str) -> str:
    return hashlib.sha256(f"{registry} {digest}".encode()).hexdigest() + ".json"


class _Blob(Struct):
    """A blob that is being pushed."""

    digest: str
    size: int
    read: Read
    told: Callable[[int], object]
    location: str | None = None  #: of the upload; None: none was begun
    at: int = 0  #: bytes that the registry has
    sent: int = 0


class _Chunk:
    """The content of a chunk. No generator: those need to be closed, also where a connection breaks."""

    def __init__(self, start: int, stop: int, read: Read) -> None:
        self._at = start
        self._stop = stop
        self._read = read

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._at >= self._stop:
            raise StopAsyncIteration
        size = min(_PIECE, self._stop - self._at)
        self._at += size
        return await self._read(self._at - size, size)


class _LostError(Exception):
    """The registry knows nothing of the upload, or of where it stands: it begins anew."""


class Pusher:
    """Pushes into one repository. Raises `ClientError`, `APIError`, `ConfigError`, `UploadError`."""

    def __init__(
        self,
        repository: Repository,
        uploads: Uploads,
        *,
        limits: DocumentLimits = LIMITS,
        chunk: int = CHUNK,
        sleep: Callable[[float], Awaitable[None]] = trio.sleep,
    ) -> None:
        self.repository = repository
        self._uploads = uploads
        self._limits = limits
        self._chunk = chunk
        self._sleep = sleep
        self._registry = repository.own.url
        self._scope = scope_of(repository.path, push=True)

    # -- blobs -----------------------------------------------------------------------------------------------

    async def small_blob(self, body: bytes, media_type: str) -> Descriptor:
        """Pushes a blob that is in memory; returns its descriptor."""

        async def read(offset: int, size: int) -> bytes:
            return body[offset : offset + size]

        descriptor = described(body, media_type)
        await self.blob(descriptor.digest, len(body), read)
        return descriptor

    async def blob(
        self, digest: str, size: int, read: Read, *, told: Callable[[int], object] = lambda _: None
    ) -> int:
        """Pushes a blob unless it is there. Returns how many of its bytes were sent.

        `told` gets the number of bytes that are there whenever that grows, `size` in the end.
        """
        if await self.has(digest):
            told(size)
            return 0
        upload = _Blob(digest, size, read, told)
        known = await lanes.in_thread(self._uploads.of, self._registry, digest)
        if known is not None and known.path == self.repository.path:
            upload.location = known.location
        elif known is not None and known.location is None and await self._mounted(digest, known.path):
            told(size)
            return 0
        failures, best = 0, -1
        while not await self._went_through(upload, last=failures == _TRIES - 1):
            failures = 1 if upload.at > best else failures + 1
            best = max(best, upload.at)
            await self._sleep(_BACKOFF.delay(failures, lambda: 0.5))
        await lanes.in_thread(self._uploads.note, self._registry, digest, Upload(self.repository.path))
        told(size)
        return upload.sent

    async def _went_through(self, upload: _Blob, *, last: bool) -> bool:
        """One try; False if it was in vain, and another one may do. The `last` one raises instead."""
        try:
            await self._send_blob(upload)
        except _LostError:
            upload.location = None
            if last:
                raise UploadError(
                    f"{shown(self.repository.url)}: the registry forgets uploads that it began",
                    hint="see its log, and whether its replicas share their storage and their secret",
                ) from None
        except ClientError as error:
            # The connection broke, and nobody knows how much of the chunk came.
            if last:
                raise
            log.info("a push is interrupted", registry=self._registry, error=error.message)
        else:
            return True
        return False

    async def _send_blob(self, upload: _Blob) -> None:
        if upload.location is None:
            place, upload.at = await self._begin(upload.digest), 0
        else:
            place, upload.at = await self._stands(upload.location, upload.size)
        upload.location = place.url
        while upload.at < upload.size:
            upload.told(upload.at)
            stop = min(upload.size, upload.at + self._chunk)
            place = await self._send_chunk(place, upload.at, stop, upload.read)
            upload.sent += stop - upload.at
            upload.at, upload.location = stop, place.url
            await self._remember(upload.digest, place.url)
        await self._commit(place, upload.digest)

    async def has(self, digest: str) -> bool:
        """True if the repository has the blob."""
        assert is_digest(digest)
        answer = await self._ask("HEAD", self.repository.blob_path(digest))
        if answer.status == _NOT_FOUND:
            return False
        if answer.status >= 400:
            raise refusal(self.repository.url, answer)
        return True

    async def _mounted(self, digest: str, path: str) -> bool:
        """Mounts the blob from another repository; False if the registry does not."""
        query = urlencode({"mount": digest, "from": path})
        place = f"/v2/{self.repository.path}/blobs/uploads/?{query}"
        try:
            answer = await self._ask("POST", place)
        except (ClientError, APIError):
            return False
        if answer.status == _ACCEPTED:  # an upload that nobody wants
            await self._remember(digest, self._next(place, answer).url)
        return answer.status == _CREATED

    async def _begin(self, digest: str) -> Location:
        path = f"/v2/{self.repository.path}/blobs/uploads/"
        answer = await self._ask("POST", path)
        if answer.status != _ACCEPTED:
            raise refusal(self.repository.url, answer)
        place = self._next(path, answer)
        await self._remember(digest, place.url)
        return place

    async def _stands(self, location: str, size: int) -> tuple[Location, int]:
        """The place and the offset at which an upload goes on. Raises `_LostError`."""
        answer = await self._ask("GET", location)
        first, dash, last = answer.headers.get("range", "").removeprefix("bytes=").partition("-")
        known = dash and first == "0" and _NUMBER.fullmatch(last)
        if answer.status not in (_OK, _NO_CONTENT) or not known:
            raise _LostError
        # "0-0" is said of an upload without a byte, too.
        at = int(last) + 1 if int(last) else 0
        if at > size:
            raise _LostError
        place = self._next(location, answer) if "location" in answer.headers else self._located(location)
        return place, at

    async def _send_chunk(self, place: Location, start: int, stop: int, read: Read) -> Location:
        headers = (("Content-Range", f"{start}-{stop - 1}"),)
        answer = await self._ask(
            "PATCH", place.url, lambda: Body(_Chunk(start, stop, read), stop - start), headers
        )
        if answer.status in TRANSIENT_STATUSES:
            raise ClientError(refusal(self.repository.url, answer).message)
        if answer.status in (400, 404, 416):
            raise _LostError
        if answer.status not in (_ACCEPTED, _CREATED, _NO_CONTENT):
            raise refusal(self.repository.url, answer)
        return self._next(place.url, answer) if "location" in answer.headers else place

    async def _commit(self, place: Location, digest: str) -> None:
        joint = "&" if "?" in place.url else "?"
        answer = await self._ask("PUT", f"{place.url}{joint}{urlencode({'digest': digest})}")
        if answer.status in TRANSIENT_STATUSES:
            raise ClientError(refusal(self.repository.url, answer).message)
        if answer.status == _NOT_FOUND:
            raise _LostError
        if answer.status not in (_CREATED, _NO_CONTENT):
            error = refusal(self.repository.url, answer)
            raise UploadError(
                error.message, hint="the file changed, or was damaged on the way: publish again"
            )

    async def _remember(self, digest: str, location: str) -> None:
        upload = Upload(self.repository.path, location)
        await lanes.in_thread(self._uploads.note, self._registry, digest, upload)

    # -- documents -------------------------------------------------------------------------------------------

    async def document(self, document: ImageManifest | Index, tags: Iterable[str] = ()) -> Descriptor:
        """Puts a document whose parts are there, under its digest and each of the tags."""
        body = encoded(document)
        descriptor = described_document(body, document)
        subject_known = False
        for tag in [descriptor.digest, *tags]:
            path = f"/v2/{self.repository.path}/manifests/{tag}"
            answer = await self._ask(
                "PUT", path, lambda: Body(in_pieces(body), len(body), document.media_type)
            )
            if answer.status not in (_OK, _CREATED):
                raise refusal(self._registry + path, answer)
            subject_known = subject_known or "oci-subject" in answer.headers
        if document.subject is not None and not subject_known:
            await self._refer(document.subject.digest, descriptor)
        return descriptor

    async def _refer(self, digest: str, referrer: Descriptor) -> None:
        """Lists a referrer by the tag that stands in for the registry's API, where it has none."""
        tag = referrers_tag(digest)
        before = await self.repository.document(tag)
        listed: list[Descriptor] = []
        if before is not None and isinstance(before.document, Index):
            listed = before.document.manifests
        if all(each.digest != referrer.digest for each in listed):
            await self.document(Index(manifests=[*listed, referrer]), [tag])

    # -- requests --------------------------------------------------------------------------------------------

    async def _ask(
        self,
        method: str,
        place: str,
        body: Callable[[], Body] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> Document:
        """One request, with what the registry asks for to let us push. Any status is returned."""
        own = self.repository.own
        granted = await own.auth.fresh(self._scope)
        answer = await self._send(method, place, granted, body, headers)
        if answer.status == _UNAUTHORIZED and await own.answered(answer, self._scope, granted):
            answer = await self._send(method, place, own.auth.headers(self._scope), body, headers)
        return answer

    async def _send(
        self,
        method: str,
        place: str,
        granted: tuple[tuple[str, str], ...],
        body: Callable[[], Body] | None,
        headers: tuple[tuple[str, str], ...],
    ) -> Document:
        location = self._located(place, granted)
        answer = await send(
            method, location, None if body is None else body(), headers=headers, limits=self._limits
        )
        self.repository.own.heard(answer)
        return answer

    def _located(self, place: str, granted: tuple[tuple[str, str], ...] = ()) -> Location:
        """A path, or the URL of an upload: elsewhere it gets nothing of what identifies us."""
        own = self.repository.own
        here = own.location("/v2/", granted)
        if place.startswith("/"):
            return replace(here, url=own.url + place)
        there = redirected(here, place, own.near)
        return replace(there, limit=None) if origin_of(there.url) == origin_of(own.url) else there

    def _next(self, place: str, answer: Document) -> Location:
        """The location of the next request of an upload, as the registry gives it."""
        if "location" not in answer.headers:
            raise APIError(
                f"{shown(self.repository.url)}: the registry does not say where to upload",
                hint="tell its operator",
            )
        here = self._located(place)
        there = redirected(here, answer.headers["location"] or here.url, self.repository.own.near)
        return self._located(there.url)
