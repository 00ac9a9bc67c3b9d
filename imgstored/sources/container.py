"""A container image as a source: its layers are the images that it offers.

Its URL names one image of a repository: `docker://HOST/PATH:TAG`, and once that was resolved, the digest of
the image's manifest. So a restarted import goes on with the same image, whatever the tag means by then.
"""

from __future__ import annotations

import math
import platform
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio
from msgspec.structs import replace

from imgstored.errors import APIError, ImageNotFoundError, InvalidManifestError, NotSupportedError
from imgstored.http.documents import DocumentLimits
from imgstored.http.location import shown
from imgstored.manifest import check_uuid, parse
from imgstored.registry.artifact import IMAGE
from imgstored.registry.containers import MAX_CONFIG, LayerImage, layer_images, of_this_platform
from imgstored.registry.disks import HEAD, artifact_disk, container_disk, has_disk, may_have_disk
from imgstored.registry.documents import Index
from imgstored.registry.reference import CONTAINER, parse_reference
from imgstored.sources.base import Listed, Offer
from imgstored.sources.spec import verify_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgstored.registry.client import Fetched, Registries
    from imgstored.registry.documents import ImageManifest
    from imgstored.sources.base import SourceSpec

_CONFIG: Final = DocumentLimits(max_bytes=MAX_CONFIG, total_seconds=30.0, tries=2)

#: For so long (seconds) an answer about a tag counts: an import asks about each layer.
_KEPT_SECONDS: Final = 10.0

#: Container images of which it is remembered where they are, between the question for a name and the import.
_REMEMBERED: Final = 10_000


class ContainerSource:
    """One container image. See `imgstored.sources.base.Source`."""

    def __init__(
        self,
        spec: SourceSpec,
        *,
        registries: Registries,
        machine: Callable[[], str] = platform.machine,
    ) -> None:
        """`machine` gives what uname(1) calls this host's processor."""
        self.spec = spec
        self.incomplete: str | None = None  #: as the contract says: a manifest names all of its layers
        self._reference = parse_reference(spec.url.removeprefix(CONTAINER))
        self._repository = registries.of_host(self._reference.host, self._reference.path)
        self._machine = machine
        self._images: dict[str, LayerImage] = {}
        self._pinned = self._reference
        self._kept_until = -math.inf

    async def ping(self) -> None:
        """Returns if the image is there."""
        await self._layers()

    async def list(self) -> list[Listed]:
        """An image for each layer, the lowest first."""
        return [Listed(image.manifest, self.spec.url) for image in await self._layers()]

    async def offer(self, uuid: str) -> Offer | None:
        """The image of one layer."""
        check_uuid(uuid)
        await self._layers()
        image = self._images.get(uuid)
        if image is None:
            return None
        url = self._repository.own.url
        verify = verify_for(replace(self.spec, url=url), url)
        places = self._repository.locations([image.blob], verify=verify)
        first, *others = (replace(place, contents=image.contents) for place in places)
        return Offer(image.manifest, first, others=tuple(others))

    async def top(self) -> tuple[LayerImage, str]:
        """The image of all layers, and the URL of a source that always means this one."""
        images = await self._layers()
        return images[-1], f"{CONTAINER}{self._pinned}"

    async def _layers(self) -> Sequence[LayerImage]:
        now = trio.current_time()
        if now > self._kept_until:
            fetched = await self._manifest()
            manifest = fetched.document
            assert not isinstance(manifest, Index)
            images = await self._images_of(shown(fetched.url), manifest)
            self._images = {image.uuid: image for image in images}
            self._pinned = replace(self._reference, digest=fetched.digest)
            # What a digest names never changes; what a tag names may.
            self._kept_until = now + (_KEPT_SECONDS if self._reference.digest is None else math.inf)
        return [*self._images.values()]

    async def _images_of(self, url: str, manifest: ImageManifest) -> Sequence[LayerImage]:
        """A disk of a virtual machine is one image, and a container image one for each layer."""
        disk = artifact_disk(url, self._reference, manifest)
        if disk is not None:
            return [disk]
        body = await self._repository.blob(manifest.config, limits=_CONFIG)
        with suppress(InvalidManifestError):
            config = parse(body, limit=MAX_CONFIG)
            for layer in manifest.layers if may_have_disk(config, manifest.layers) else ():
                if has_disk(await self._repository.head(layer, HEAD)):
                    return [container_disk(url, self._reference, config, layer)]
        return layer_images(url, self._reference, manifest, body)

    async def _manifest(self) -> Fetched:
        """The manifest of the image for this host. Raises `ImageNotFoundError` too."""
        fetched = await self._repository.document(self._reference.wanted)
        if fetched is not None and isinstance(fetched.document, Index):
            chosen = of_this_platform(shown(fetched.url), fetched.document, self._machine())
            fetched = await self._repository.document(chosen.digest)
        if fetched is None:
            raise ImageNotFoundError(
                f'there is no container image "{self._reference}"',
                hint="see its name and tag at its registry; a private one needs a login: `auth_file`",
            )
        if isinstance(fetched.document, Index):
            raise APIError(f"{shown(fetched.url)}: an index in an index", hint="name the image by its digest")
        _refuse_artifact(fetched, fetched.document)
        return fetched


class ContainerImages:
    """Remembers the registries of container images that somebody asked for by name. Used in trio's thread."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, str] = OrderedDict()

    def remember(self, uuid: str, url: str) -> None:
        """The image is to be imported from there, if nobody says otherwise."""
        self._places[uuid] = url
        self._places.move_to_end(uuid)
        while len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)

    def place(self, uuid: str) -> tuple[str, ...] | None:
        """The sources to import the image from; None for an image that was not asked for by such a name."""
        url = self._places.get(uuid)
        return None if url is None else (url,)


def is_reference(text: str) -> bool:
    """True if a name is a container image's: it has a tag, a digest, or `docker://` before it.

    No name of an image of ours has a colon.
    """
    return ":" in text


def _refuse_artifact(fetched: Fetched, manifest: ImageManifest) -> None:
    if manifest.kind == IMAGE:
        raise NotSupportedError(
            f"{shown(fetched.url)}: an image of imgstore's, and no container image",
            hint="add its repository as a source: `imgctl sources -a oci://HOST/PATH`",
        )
