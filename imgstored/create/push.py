"""Publishes an image into a repository of an OCI registry.

    layers ──► image manifest, by its digest ──► its signature ──► its tags ──► the lists

Until its first tag is there, nobody sees anything of the image; with keys it is signed by then.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio
from imgproto.events import Progress

from imgstored import lanes
from imgstored.create.file_index import FileIndexer
from imgstored.create.layers import Cutter
from imgstored.create.manifest import file_prefix, file_suffix
from imgstored.errors import APIError, DownloadError, InvalidManifestError, NotSupportedError, UploadError
from imgstored.events.request import PROGRESS_INTERVAL
from imgstored.host.foreign_files import ForeignFile
from imgstored.http.documents import DocumentLimits
from imgstored.manifest import MAX_LIST, FileIndex, parse_entries, with_index
from imgstored.registry import artifact
from imgstored.registry.documents import EMPTY, EMPTY_JSON, ImageManifest, Index, encoded
from imgstored.registry.push import Pusher
from imgstored.registry.signature import (
    MAX_OF_LIST,
    MINISIGN,
    OF_LIST,
    Signed,
    kept,
    read_signatures,
    signature_layer,
    signature_manifest,
    signatures,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgstored.create.job import Job
    from imgstored.imports.local_file import LocalFile
    from imgstored.manifest import Manifest, ManifestFile
    from imgstored.registry.artifact import Layer
    from imgstored.registry.client import Fetched, Repository
    from imgstored.registry.documents import Descriptor
    from imgstored.registry.push import Uploads
    from imgstored.site.minisign import SecretKey
    from imgstored.transfer.decompress.meter import DecompressLimits

log = structlog.get_logger(__name__)

#: Layers that are pushed at a time.
_AT_A_TIME: Final = 4


class ImagePush:
    """One publication. `fd` is the file, which stays its owner's; `keys` sign the image."""

    def __init__(
        self,
        repository: Repository,
        uploads: Uploads,
        manifest: Manifest,
        file: LocalFile,
        fd: int,
        keys: Sequence[SecretKey] = (),
    ) -> None:
        self._keys = keys
        self.repository = repository
        self._pusher = Pusher(repository, uploads)
        self._manifest = manifest
        self._file = file
        self._fd = fd
        self._index: bytes | None = None  # of the file, if it can have one
        self._there: dict[str, int] = {}  # bytes of each layer
        self._reported_at = 0.0

    async def cut(self, described: ManifestFile, limits: DecompressLimits | None) -> Sequence[Layer]:
        """The file's layers; without `limits`, the file as it is.

        Raises `UploadError` if the file is not what the manifest says.
        """
        cutter, indexer = Cutter(str(described.compression), limits), FileIndexer()

        def feed(block: bytes) -> None:
            cutter.feed(block)
            with suppress(NotSupportedError):  # zstd is not installed
                indexer.feed(block)

        blocks = self._file.blocks()
        thread = trio.CapacityLimiter(1)
        while (block := await trio.to_thread.run_sync(next, blocks, None, limiter=thread)) is not None:
            await trio.to_thread.run_sync(feed, block, limiter=thread)
        self._index = await trio.to_thread.run_sync(indexer.finish, limiter=thread)
        for what, said, found in (
            ("size", described.size, cutter.size),
            ("checksum (sha1)", described.sha1, cutter.sha1),
        ):
            if said != found:
                raise UploadError(
                    f'image file {what} error: manifest says "{said}", {self._file.path} is "{found}"',
                    hint="the manifest belongs to another file",
                )
        return cutter.layers()

    async def push_layers(self, job: Job[Any], layers: Sequence[Layer]) -> None:
        """Pushes the layers that are not there."""
        limiter = trio.CapacityLimiter(_AT_A_TIME)
        thread = trio.CapacityLimiter(1)
        failures: list[Exception] = []

        with ForeignFile(self._fd, check=trio.from_thread.check_cancelled) as file:

            async def read(start: int, offset: int, size: int) -> bytes:
                try:
                    wanted = partial(_pread, start + offset, size)
                    return await trio.to_thread.run_sync(file, wanted, limiter=thread)
                except OSError as error:
                    raise DownloadError(
                        f"{self._file.path} cannot be read: {error.strerror or error}"
                    ) from error

            async def push(start: int, layer: Layer) -> None:
                def told(there: int) -> None:
                    self._there[layer.digest] = there
                    self._tell(job)

                try:
                    async with limiter:
                        await self._pusher.blob(layer.digest, layer.size, partial(read, start), told=told)
                except Exception as error:  # noqa: BLE001  (raised below: the nursery would put it into a group)
                    failures.append(error)
                    nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                start = 0
                for layer in layers:
                    nursery.start_soon(push, start, layer)
                    start += layer.size
        if failures:
            raise failures[0]

    def _tell(self, job: Job[Any]) -> None:
        now = trio.current_time()
        if now - self._reported_at >= PROGRESS_INTERVAL:
            self._reported_at = now
            done = sum(self._there.values())
            job.emit(Progress(event="progress", done=done, total=self._file.size, rate=0.0, images=[]))

    async def push_image(self, layers: Sequence[Layer]) -> Descriptor:
        """Pushes the image's manifest, and its signature: from now on the image is there. Then the lists."""
        index = None if self._index is None else await self._pusher.small_blob(self._index, artifact.INDEX)
        named = None if index is None else FileIndex(index.digest.partition(":")[2], index.size)
        document = dict(with_index(self._manifest.document, named))
        compression = None if self._manifest.file is None else self._manifest.file.compression
        config = await self._pusher.small_blob(artifact.json_of(document), artifact.MANIFEST)
        if not layers or self._keys or index is not None:
            await self._pusher.small_blob(EMPTY_JSON, EMPTY)
        name = file_prefix(document) + file_suffix(document, str(compression))
        subject = await self._origin()
        image = artifact.image_manifest(document, config, layers, name, subject)
        tags = artifact.tags_of(document)
        if await self._is_older(image, tags[2:]):
            tags = tags[:2]
        text = await self._sign(document, config, image) if self._keys else ""
        if index is not None:
            # Before the tags: who sees the image finds its index.
            subject = await self._pusher.document(image)
            await self._pusher.document(artifact.index_manifest(subject, index))
        descriptor = await self._pusher.document(image, tags)
        await self._list(document, descriptor, text)
        return descriptor

    async def _sign(self, document: Mapping[str, Any], config: Descriptor, image: ImageManifest) -> str:
        """Pushes the image's manifest without a tag, and its signature, whose lines are returned."""
        subject = await self._pusher.document(image)
        body = encoded(image)
        manifest = config.digest.partition(":")[2]
        what = Signed(str(document["uuid"]), manifest, hashlib.sha256(body).hexdigest())
        text = await lanes.in_thread(signatures, self._keys, body, what)
        layer = await self._pusher.small_blob(text.encode(), MINISIGN)
        assert layer == signature_layer(text)
        await self._pusher.document(signature_manifest(subject, layer))
        return text

    async def _origin(self) -> Descriptor | None:
        """The origin's image manifest, if the repository has it: it then lists what is built on it."""
        origin = self._manifest.origin
        found = None if origin is None else await self.repository.document(origin)
        return None if found is None else found.descriptor

    async def _is_older(self, image: ImageManifest, latest: Sequence[str]) -> bool:
        """True if what is there as the latest is newer."""
        for tag in latest:
            found = await self.repository.document(tag)
            if found is not None and isinstance(found.document, ImageManifest):
                there = found.document.annotations.get(artifact.CREATED, "")
                return there > image.annotations.get(artifact.CREATED, "")
        return False

    async def _list(self, manifest: Mapping[str, Any], descriptor: Descriptor, text: str) -> None:
        """Adds the image, with its signature, to the repository's list and index.

        Readers go by tags, so races are harmless. The others' signatures stay, whoever made them: a reader
        believes none but those of its own keys.
        """
        index = await self.repository.document(artifact.INDEX_TAG)
        before = index.document if index is not None and isinstance(index.document, Index) else None
        entries, signed = await self._entries(index)
        uuid = str(manifest["uuid"])
        listed = [each for each in entries if each.get("uuid") != uuid]
        body = artifact.json_of([*listed, manifest])
        while len(body) > MAX_LIST and listed:
            del listed[: len(listed) // 2 + 1]  # those that are not in it are asked for one by one
            body = artifact.json_of([*listed, manifest])
        config = await self._pusher.small_blob(EMPTY_JSON, EMPTY)
        layers = [await self._pusher.small_blob(body, artifact.LIST_JSON)]
        signed = kept(signed, (str(each.get("uuid")) for each in listed), uuid, text)
        if signed:
            layers.append(await self._pusher.small_blob(artifact.json_of(signed), OF_LIST))
        made = await self._pusher.document(artifact.list_manifest(config, layers))
        await self._pusher.document(artifact.index_with(before, [descriptor], made), [artifact.INDEX_TAG])

    async def _entries(self, index: Fetched | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """The manifests of the repository's list, and signatures; none where it has no list to be read."""
        if index is None or not isinstance(index.document, Index):
            return [], {}
        listed = artifact.list_in(index.document)
        if listed is None:
            return [], {}
        try:
            fetched = await self.repository.document(listed.digest)
            if fetched is None or not isinstance(fetched.document, ImageManifest):
                return [], {}
            layer = artifact.list_layer(fetched.document)
            if layer is None:
                return [], {}
            limits = DocumentLimits(max_bytes=MAX_LIST, total_seconds=60.0)
            body = await self.repository.blob(layer, limits=limits)
            entries = await lanes.in_thread(parse_entries, body)
            signed = artifact.list_layer(fetched.document, OF_LIST)
            text = b""
            if signed is not None and signed.size <= MAX_OF_LIST:
                text = await self.repository.blob(signed, limits=limits)
        except (APIError, InvalidManifestError) as error:
            log.warning("the list of a repository is written anew", error=error.message)
            return [], {}
        return [entry for entry in entries if isinstance(entry, dict)], read_signatures(text)


def _pread(offset: int, size: int, fd: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise OSError("the file has become shorter")
    return data
