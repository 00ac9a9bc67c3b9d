"""The choice of images: by names, by filters, and with their origins. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgstored.manifest import Manifest

_LATEST = "latest"


class Image(Protocol):
    """An image of the library, or of a server."""

    @property
    def manifest(self) -> Manifest:
        """Its manifest."""
        ...


_Image = TypeVar("_Image", bound=Image)


class Filter(Struct, frozen=True):
    """The images of a server to keep; None: all."""

    name: str | None = None
    os: str | None = None
    newest: int | None = None  #: of each name


def by_names(images: Sequence[_Image], texts: Iterable[str]) -> tuple[list[_Image], list[str]]:
    """The images that uuids, NAME, NAME@VERSION and NAME@latest mean, and the texts that mean none."""
    chosen: dict[str, _Image] = {}
    unknown = []
    for text in texts:
        found = _meant(images, text)
        if not found:
            unknown.append(text)
        chosen.update((image.manifest.uuid, image) for image in found)
    return list(chosen.values()), unknown


def _meant(images: Sequence[_Image], text: str) -> list[_Image]:
    name, _, version = text.rpartition("@")
    if name and version == _LATEST:
        return newest([image for image in images if image.manifest.name == name], 1)
    return [
        image
        for image in images
        if text in (image.manifest.uuid, image.manifest.name)
        or (name, version) == (image.manifest.name, image.manifest.version)
    ]


def matching(images: Iterable[_Image], wanted: Filter) -> list[_Image]:
    """The images that a filter lets through."""
    found = [
        image
        for image in images
        if wanted.name in (None, image.manifest.name) and wanted.os in (None, image.manifest.os)
    ]
    return found if wanted.newest is None else newest(found, wanted.newest)


def newest(images: Iterable[_Image], count: int) -> list[_Image]:
    """The newest images of each name, by `published_at`."""
    by_name: dict[str, list[_Image]] = {}
    for image in sorted(
        images, key=lambda image: (image.manifest.published_at or "", image.manifest.uuid), reverse=True
    ):
        by_name.setdefault(image.manifest.name, []).append(image)
    return [image for same in by_name.values() for image in same[:count]]


def with_origins(chosen: Iterable[_Image], images: Sequence[_Image]) -> tuple[list[_Image], list[_Image]]:
    """The images, each after its origin, and those of them whose origin is not among `images`.

    Those of the latter stay among the former.
    """
    by_uuid = {image.manifest.uuid: image for image in images}
    ordered: dict[str, _Image] = {}
    lacking: dict[str, _Image] = {}
    for image in chosen:
        if image.manifest.uuid in ordered:
            continue
        chain, seen = [image], {image.manifest.uuid}
        # What is below an image that is there is there, too: a long ancestry is walked once.
        while (origin := chain[-1].manifest.origin) is not None:
            if origin in seen or origin in ordered:
                break
            below = by_uuid.get(origin)
            if below is None:
                lacking[chain[-1].manifest.uuid] = chain[-1]
                break
            chain.append(below)
            seen.add(origin)
        for each in reversed(chain):
            ordered.setdefault(each.manifest.uuid, each)
    return list(ordered.values()), list(lacking.values())
