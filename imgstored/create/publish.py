"""Publishes an image: to a registry (`push`), or to an IMGAPI server.

To the latter goes the manifest, the file, then the activation. Whatever fails before that is taken back.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qsl, urlsplit

import structlog
import trio
from imgproto.events import Note, Progress, Publishing

from imgstored.create.job import running
from imgstored.create.push import ImagePush
from imgstored.errors import (
    ClientError,
    ImgstoreError,
    InvalidManifestError,
    RefusedError,
    UploadError,
    UsageError,
)
from imgstored.events.request import PROGRESS_INTERVAL
from imgstored.foreign_text import printable
from imgstored.http.credentials import of_headers, of_source
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import Access, Location, origin_of, public
from imgstored.http.secrets import KNOWN
from imgstored.http.upload import Body, in_pieces, send
from imgstored.imports.local_file import LocalFile
from imgstored.manifest import load, parse, with_index
from imgstored.registry.artifact import REPOSITORY
from imgstored.registry.client import Registries
from imgstored.registry.push import Uploads
from imgstored.registry.reference import repository_of
from imgstored.site.minisign import parse_secret_key
from imgstored.sources.answers import failure, one_object
from imgstored.sources.spec import normalised, type_for, with_query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from imgproto.documents import PublishedDocument

    from imgstored.create.job import Job
    from imgstored.http.documents import Document
    from imgstored.manifest import Manifest, ManifestFile
    from imgstored.registry.client import Repository
    from imgstored.sources.base import SourceSpec
    from imgstored.transfer.decompress.meter import DecompressLimits

log = structlog.get_logger(__name__)

#: A server that has the whole file may look through it before it answers.
LIMITS: Final = DocumentLimits(max_bytes=4 << 20, silence_seconds=60.0, total_seconds=600.0)

#: What RFC 6750 lets a token be, and any other word: it becomes a header.
_TOKEN: Final = re.compile(r"[!-~]{1,4096}", re.ASCII)

_HEADERS: Final = (("Accept", "application/json"), ("Accept-Version", "~2"))


class Publisher:
    """Publishes to any server; one that is among `configured()` is spoken to as its spec says."""

    def __init__(
        self,
        configured: Callable[[], Sequence[SourceSpec]],
        limits: DocumentLimits = LIMITS,
        *,
        registries: Registries | None = None,
        uploads: Uploads | None = None,
        decompress: DecompressLimits | None = None,
    ) -> None:
        """`registries` are those of the settings; `uploads` remembers what was begun there."""
        self._configured = configured
        self._limits = limits
        self._registries = registries or Registries()
        self._uploads = uploads or Uploads()
        self._decompress = decompress

    def publish(
        self,
        manifest: Mapping[str, Any],
        fd: int,
        url: str,
        *,
        client: str,
        path: str,
        token: str | None = None,
        keys: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[Job[PublishedDocument]]:
        """Publishes the image whose file is open as `fd`. The job's result is `{uuid, url}`.

        `keys` are texts of secret keys, which sign an image in a registry. Raises `ManifestValidationError`
        and `InvalidManifestError`, `UsageError`, `KeyFileError`, `ClientError`.
        """
        loaded = load(manifest, rules="create")
        secret = [parse_secret_key(text) for text in keys]
        if loaded.file is None or None in (loaded.file.size, loaded.file.sha1, loaded.file.compression):
            raise InvalidManifestError(
                "manifest is invalid: it does not say what the image's file is",
                hint="`files` has one element, with size, compression, and a sha1 that is not all zeros; "
                "`imgctl export` writes such a manifest",
            )
        repository = self._repository(url) if self._is_registry(url) else None
        if secret and repository is None:
            raise UsageError(
                f"{public(url)} keeps no signatures",
                hint="sign an image in a registry, oci://HOST/PATH, or a site: `imgctl export-site --sign`",
            )
        known = self._configured()
        server = _Server(normalised(url), known, self._limits, token=token) if repository is None else None

        async def work(job: Job[PublishedDocument]) -> PublishedDocument:
            assert loaded.file is not None
            file = LocalFile(fd, path, check=trio.from_thread.check_cancelled)
            await file.look()
            if file.size != loaded.file.size:
                raise UploadError(
                    f"image file size error: manifest says {loaded.file.size} bytes, "
                    f"{path} is {file.size} bytes",
                    hint="the manifest belongs to another file",
                )
            if server is None:
                assert repository is not None
                push = ImagePush(repository, self._uploads, loaded, file, fd, secret)
                shown_url = await self._pushed(job, push, loaded, loaded.file)
            else:
                await _published(job, server, loaded, loaded.file, file)
                shown_url = server.shown
            log.info("published an image", uuid=loaded.uuid, server=shown_url)
            return {"uuid": loaded.uuid, "url": shown_url}

        return running(client, work)

    async def copy_into(self, url: str, manifest: Manifest, fd: int, path: str, job: Job[Any]) -> bool:
        """Gives a registry an image as another server has it; False if the repository has it already.

        Raises as `publish` and its job do.
        """
        repository = self._repository(url)
        await repository.ping()
        if manifest.file is None or await repository.document(manifest.uuid) is not None:
            return False
        file = LocalFile(fd, path, check=trio.from_thread.check_cancelled)
        await file.look()
        push = ImagePush(repository, self._uploads, manifest, file, fd)
        layers = await push.cut(manifest.file, self._decompress)
        await push.push_layers(job, layers)
        await push.push_image(layers)
        log.info("copied an image", uuid=manifest.uuid, registry=repository.url)
        return True

    def require_registry(self, url: str) -> None:
        """Raises `UsageError` for what is no registry, and `ClientError` for one that is not reached so."""
        if not self._is_registry(url):
            raise UsageError(f"{public(url)} is not a registry", hint="name one as oci://HOST/PATH")
        self._repository(url)

    def _is_registry(self, url: str) -> bool:
        known = (spec for spec in self._configured() if spec.type == "oci")
        return type_for(url) == "oci" or any(spec.url == normalised(url) for spec in known)

    def _repository(self, url: str) -> Repository:
        """The repository that is meant. Raises `ClientError`."""
        registry, path = repository_of(normalised(url), REPOSITORY)
        return self._registries.repository(
            registry, path, access=_access(normalised(url), self._configured())
        )

    async def _pushed(
        self, job: Job[PublishedDocument], push: ImagePush, manifest: Manifest, described: ManifestFile
    ) -> str:
        """Publishes into a registry. Returns the repository's URL."""
        await push.repository.ping()
        layers = await push.cut(described, self._decompress)
        await push.push_layers(job, layers)
        job.emit(_did("file", manifest, compression=described.compression))
        await push.push_image(layers)
        job.emit(_did("activated", manifest))
        return push.repository.url


async def _published(
    job: Job[PublishedDocument], server: _Server, manifest: Manifest, described: ManifestFile, file: LocalFile
) -> None:
    made = await server.import_image(manifest)
    try:
        state = made.get("state")
        job.emit(_did("imported", manifest, state=state if isinstance(state, str) else "unactivated"))
        answer = await server.add_file(job, manifest.uuid, described, file)
        job.emit(_did("file", manifest, compression=described.compression))
        _check_file(answer, described)
        await server.activate(manifest.uuid)
        job.emit(_did("activated", manifest))
    except BaseException:
        # Also when the client leaves: what was half published is of no use to anybody.
        with trio.move_on_after(30, shield=True):
            try:
                await server.delete(manifest.uuid)
            except ImgstoreError as error:
                text = f"could not delete partially published image {manifest.uuid}: {error.message}"
                job.emit(Note(event="note", text=text))
                log.warning("an image stays half published", uuid=manifest.uuid, error=error.message)
        raise


def _did(
    step: Literal["imported", "file", "activated"],
    manifest: Manifest,
    *,
    state: str | None = None,
    compression: str | None = None,
) -> Publishing:
    return Publishing(
        event="publishing",
        uuid=manifest.uuid,
        name=manifest.name,
        version=manifest.version,
        step=step,
        state=state,
        compression=compression,
    )


def _check_file(answer: Mapping[str, Any], described: ManifestFile) -> None:
    """Raises `UploadError` unless the server has what was sent."""
    files = answer.get("files")
    has = files[0] if isinstance(files, list) and files and isinstance(files[0], dict) else {}
    for name, expected in (("sha1", described.sha1), ("size", described.size)):
        if has.get(name) != expected:
            got = printable(str(has.get(name))[:80])
            raise UploadError(
                f"{name} expected to be {expected}, but was {got}",
                hint="the file was damaged on the way; publish it again",
            )


class _Server:
    """IMGAPI's methods that change something (its documentation, docs/index.md in sdc-imgapi)."""

    def __init__(
        self, url: str, specs: Sequence[SourceSpec], limits: DocumentLimits, *, token: str | None
    ) -> None:
        """A `token` counts for more than what the configuration has for the server."""
        KNOWN.learn(of_source(url))
        parts = urlsplit(url)
        self._base = parts._replace(query="").geturl()
        self._query = parse_qsl(parts.query, keep_blank_values=True)
        self._access = _access(url, specs)
        if token is not None:
            if not _TOKEN.fullmatch(token):
                raise UsageError("the token is none", hint="a token has no spaces and no line breaks")
            headers = {"Authorization": f"Bearer {token}"}
            KNOWN.learn(of_headers(headers))
            others = [each for each in self._access.headers if each[0].lower() != "authorization"]
            self._access = replace(self._access, headers=(*others, *headers.items()))
        self._limits = limits

    @property
    def shown(self) -> str:
        """For messages."""
        return self._base

    async def import_image(self, manifest: Manifest) -> dict[str, Any]:
        """AdminImportImage: the image is there, without its file, and not active."""
        # A server makes the index itself, or has none.
        data = json.dumps(with_index(manifest.document, None), separators=(",", ":")).encode()
        body = Body(in_pieces(data), len(data), "application/json")
        return await self._asked("POST", f"/images/{manifest.uuid}", [("action", "import")], body)

    async def add_file(
        self, job: Job[PublishedDocument], uuid: str, described: ManifestFile, file: LocalFile
    ) -> dict[str, Any]:
        """AddImageFile. Raises `UploadError` if the file is not what the manifest says."""
        query = [("compression", str(described.compression)), ("sha1", str(described.sha1))]
        body = Body(_content(job, described, file), file.size)
        return await self._asked("PUT", f"/images/{uuid}/file", query, body)

    async def activate(self, uuid: str) -> None:
        """ActivateImage: from now on everybody sees it."""
        await self._asked("POST", f"/images/{uuid}", [("action", "activate")])

    async def delete(self, uuid: str) -> None:
        """DeleteImage."""
        await self._answer("DELETE", f"/images/{uuid}", [])

    async def _asked(
        self, method: str, path: str, query: list[tuple[str, str]], body: Body | None = None
    ) -> dict[str, Any]:
        document = await self._answer(method, path, query, body)
        return one_object(self._base + path, document.body)

    async def _answer(
        self, method: str, path: str, query: list[tuple[str, str]], body: Body | None = None
    ) -> Document:
        url = with_query(self._base + path, [*self._query, *query])
        location = Location(url, self._base, self._access)
        document = await send(method, location, body, headers=_HEADERS, limits=self._limits)
        if not 200 <= document.status < 300:
            raise _refusal(self._base, document)
        return document


def _refusal(url: str, document: Document) -> ImgstoreError:
    """The server's error, by the server's own name for it where that is one."""
    error = failure(url, document)
    if document.status == HTTPStatus.UNAUTHORIZED:
        error.hint = (
            "give a token: `imgctl publish --token-file FILE`, or `headers` of a source with the server's URL"
        )
    try:
        name = parse(document.body).get("code")
    except InvalidManifestError:
        name = None
    if isinstance(name, str) and name.isascii() and name.isalnum() and len(name) <= 40:
        return RefusedError(name, error)
    return error


def _access(url: str, specs: Sequence[SourceSpec]) -> Access:
    """The source settings of a server, with its credentials, if it is configured as a source."""
    origin = origin_of(url)
    for spec in specs:
        try:
            if origin_of(spec.url) == origin:
                return spec.access
        except ClientError:
            continue
    return Access()


async def _content(
    job: Job[PublishedDocument], described: ManifestFile, file: LocalFile
) -> AsyncIterator[bytes]:
    """The file's blocks; raises before the last one where they are not what the manifest says."""
    sha1 = hashlib.sha1(usedforsecurity=False)
    blocks, done, reported_at = file.blocks(), 0, 0.0
    last: bytes | None = None
    # Its own: a disk that does not answer holds up nobody else.
    thread = trio.CapacityLimiter(1)
    while (block := await trio.to_thread.run_sync(next, blocks, None, limiter=thread)) is not None:
        if last is not None:
            yield last
            done += len(last)
            if trio.current_time() - reported_at >= PROGRESS_INTERVAL:
                reported_at = trio.current_time()
                job.emit(Progress(event="progress", done=done, total=file.size, rate=0.0, images=[]))
        await trio.to_thread.run_sync(sha1.update, block, limiter=thread)
        last = block
    if sha1.hexdigest() != described.sha1:
        raise UploadError(
            f'image file checksum (sha1) error: manifest says "{described.sha1}", '
            f'{file.path} is "{sha1.hexdigest()}"',
            hint="the manifest belongs to another file",
        )
    if last is not None:
        yield last
