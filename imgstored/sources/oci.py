"""Repositories of OCI registries that have images of ours, as `imgctl publish` puts them there.

With `keys`, an image counts if one of them signed it:

    the signature ──► the image manifest ──► the image's own manifest, and the SHA-256 of each layer
                └──► an entry of the list
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from imgstored import lanes
from imgstored.errors import (
    APIError,
    BadContentError,
    ImgstoreError,
    InvalidManifestError,
    UntrustedImageError,
)
from imgstored.http.location import shown
from imgstored.manifest import check_uuid, is_uuid, upgrade
from imgstored.registry.artifact import (
    INDEX_TAG,
    REPOSITORY,
    file_layers,
    json_of,
    list_in,
    list_layer,
)
from imgstored.registry.documents import ImageManifest, Index
from imgstored.registry.reference import repository_of
from imgstored.registry.signature import (
    MAX_LOOKED_AT,
    MAX_OF_LIST,
    OF_LIST,
    SIGNATURE,
    Signed,
    is_vouched,
    layer_of,
    read_signatures,
    vouched,
)
from imgstored.site.trust import Provenance, UntrustedError, keys_of
from imgstored.sources.answers import LeftOut, ManifestList, displayed, read_list, the_manifest
from imgstored.sources.base import Listed, Offer
from imgstored.sources.spec import verify_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.registry.client import Fetched, Registries
    from imgstored.sources.base import SourceSpec
    from imgstored.sources.server import AskLimits

log = structlog.get_logger(__name__)

#: Images that are asked for one by one, because the list lacks them: how many at a time, and in all.
_AT_A_TIME: Final = 8
_MAX_UNLISTED: Final = 1000
#: Seconds for all of them: who asks several sources waits for each.
_UNLISTED_SECONDS: Final = 120.0
#: Seconds for all signatures of an image.
_SIGNATURE_SECONDS: Final = 60.0


class OciSource:
    """A repository: its tags that are uuids are its images; its list, if there is one, spares questions."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        registries: Registries,
        limits: AskLimits,
        unlisted_seconds: float = _UNLISTED_SECONDS,
        signature_seconds: float = _SIGNATURE_SECONDS,
    ) -> None:
        """`unlisted_seconds` is the time for all images that have to be asked for one by one.

        `signature_seconds` is that for all signatures of one image.
        Raises `KeyFileError` for keys that are none.
        """
        self.spec = spec
        self._keys = keys_of(spec.keys)
        self._unlisted_seconds = unlisted_seconds
        self._signature_seconds = signature_seconds
        self.incomplete: str | None = None  #: as the contract says
        self._limits = limits
        url, path = repository_of(spec.url, REPOSITORY)
        access = dataclasses.replace(spec.access, insecure=spec.insecure)
        self._repository = registries.repository(url, path, access=access, source=spec.url)

    async def ping(self) -> None:
        """Returns if the registry answers, and lets us see the repository, which may be empty."""
        await self._repository.ping()
        await self._repository.tags()

    async def list(self) -> list[Listed]:
        """All images that have a tag."""
        tags = [tag for tag in await self._repository.tags() if is_uuid(tag)]
        listed = await self._list()
        tagged = frozenset(tags)
        there = {uuid: manifest for uuid, manifest in listed.by_uuid.items() if uuid in tagged}
        unlisted = sorted(tagged - listed.by_uuid.keys() - listed.left_out.damaged.keys())
        found, left_out, late = await self._ask_each(unlisted[:_MAX_UNLISTED])
        words = (listed.left_out + left_out).words(self.spec.url)
        if unasked := max(0, len(unlisted) - _MAX_UNLISTED) + late:
            words = f"{unasked} images of {shown(self.spec.url)} are in no list of it"
        self.incomplete = words
        return await lanes.in_thread(displayed, [*there.values(), *found], self.spec.url)

    async def offer(self, uuid: str) -> Offer | None:
        """The image, with its layers as one file."""
        check_uuid(uuid)
        fetched = await self._repository.document(uuid)
        if fetched is None:
            return None
        manifest, signed = await self._manifest(fetched, uuid)
        layers = file_layers(fetched)
        if not layers or not manifest.get("files"):
            return Offer(upgrade(manifest), None, signed)
        verify = verify_for(self.spec, self.spec.url)
        path = f"/v2/{self._repository.path}/manifests/{fetched.digest}"
        first, *others = self._repository.locations(layers, verify=verify, url=path)
        return Offer(upgrade(manifest), first, signed, tuple(others))

    async def _manifest(self, fetched: Fetched, uuid: str) -> tuple[dict[str, Any], Provenance | None]:
        """The image's own manifest, and who vouches for it if there are keys.

        Raises `InvalidManifestError` too.
        """
        file_layers(fetched)
        assert isinstance(fetched.document, ImageManifest)
        config = fetched.document.config
        body = await self._repository.blob(config, limits=self._limits.manifest)
        url = self._repository.own.url + self._repository.blob_path(config.digest)
        return the_manifest(url, body, uuid), await self._signed(fetched, body, uuid) if self._keys else None

    async def _signed(self, fetched: Fetched, manifest: bytes, uuid: str) -> Provenance:
        """Who vouches for an image. Raises `UntrustedImageError` where none of the keys does."""
        what = Signed(uuid, hashlib.sha256(manifest).hexdigest(), hashlib.sha256(fetched.body).hexdigest())
        texts: list[bytes] = []
        with trio.move_on_after(self._signature_seconds) as limit:
            referrers = await self._repository.referrers(fetched.digest, SIGNATURE)
            for each in referrers[-MAX_LOOKED_AT:]:
                text = await self._signature(each.digest)
                texts.append(text)
        try:
            voucher = await lanes.in_thread(vouched, texts, self._keys, fetched.body, what)
        except UntrustedError as error:
            if limit.cancelled_caught:
                raise APIError(
                    f"{shown(self.spec.url)}: the signatures of image {uuid} did not all come within"
                    f" {self._signature_seconds:.0f} seconds",
                    hint="tell the operator of the registry, or use another one",
                ) from error
            raise UntrustedImageError(
                f"{shown(self.spec.url)}: image {uuid} is not believed: {error}",
                hint="sign it (`imgctl publish --sign`), or tell who does; do not use the source without"
                " `keys` unless you know why",
            ) from error
        return Provenance(voucher.key.text, voucher.signature.text(), what.manifest, None)

    async def _signature(self, digest: str) -> bytes:
        """The lines of a signature; none where it is damaged: another one may be sound."""
        try:
            found = await self._repository.document(digest)
            document = None if found is None else found.document
            layer = layer_of(document) if isinstance(document, ImageManifest) else None
            return b"" if layer is None else await self._repository.blob(layer)
        except APIError as error:
            log.warning("a signature in a registry is damaged", source=self.spec.url, error=error.message)
            return b""

    async def _list(self) -> ManifestList:
        """The list, with `keys` what they signed of it; empty where the repository has none."""
        index = await self._repository.document(INDEX_TAG, limits=self._limits.listing)
        listed = list_in(index.document) if index is not None and isinstance(index.document, Index) else None
        if listed is None:
            return ManifestList({}, LeftOut(), 0, None)
        fetched = await self._repository.document(listed.digest)
        layer = None
        if fetched is not None and isinstance(fetched.document, ImageManifest):
            layer = list_layer(fetched.document)
        if layer is None:
            raise BadContentError(
                f"{shown(self._repository.url)}: the list of the repository is not there",
                hint="`imgctl publish` writes it anew",
            )
        body = await self._repository.blob(layer, limits=self._limits.listing)
        read = await lanes.in_thread(read_list, self.spec.url, body)
        if not self._keys:
            return read
        assert fetched is not None
        assert isinstance(fetched.document, ImageManifest)
        signatures = list_layer(fetched.document, OF_LIST)
        text = b""
        if signatures is not None and signatures.size <= MAX_OF_LIST:
            text = await self._repository.blob(signatures, limits=self._limits.listing)
        by_uuid = await lanes.in_thread(self._believed, read.by_uuid, text)
        # What is wrong with the others is said of the images themselves, which are asked for.
        return ManifestList(by_uuid, LeftOut(), read.elements, read.last)

    def _believed(self, by_uuid: dict[str, dict[str, Any]], text: bytes) -> dict[str, dict[str, Any]]:
        """The entries of the list that the keys vouch for."""
        signatures = read_signatures(text)
        return {
            uuid: manifest
            for uuid, manifest in by_uuid.items()
            if is_vouched(
                signatures.get(uuid), self._keys, uuid, hashlib.sha256(json_of(manifest)).hexdigest()
            )
        }

    async def _ask_each(self, uuids: Sequence[str]) -> tuple[Sequence[dict[str, Any]], LeftOut, int]:
        """The manifests of images that are in no list; those that cannot be used are left out.

        The number is that of images that were not asked for, as time was over. Raises as `list`.
        """
        limiter = trio.CapacityLimiter(_AT_A_TIME)
        found: dict[str, dict[str, Any]] = {}
        damaged: dict[str, str] = {}
        asked: set[str] = set()
        failures: list[ImgstoreError] = []

        async def ask(uuid: str) -> None:
            async with limiter:
                try:
                    fetched = await self._repository.document(uuid)
                    if fetched is not None:
                        found[uuid], _ = await self._manifest(fetched, uuid)
                except (APIError, InvalidManifestError) as error:
                    damaged[uuid] = error.message
                except ImgstoreError as error:  # raised below: the nursery would put it into a group
                    failures.append(error)
                    nursery.cancel_scope.cancel()
                asked.add(uuid)

        with trio.move_on_after(self._unlisted_seconds):
            async with trio.open_nursery() as nursery:
                for uuid in uuids:
                    nursery.start_soon(ask, uuid)
        if failures:
            raise failures[0]
        return [found[uuid] for uuid in uuids if uuid in found], LeftOut(damaged), len(uuids) - len(asked)
