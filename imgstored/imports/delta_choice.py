"""Decides whether a delta of an image is worth its trouble, and from which installed image. Pure: no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.manifest import Manifest

#: When to fetch deltas: where they are probably faster, wherever one is possible, or never.
Policy = Literal["auto", "always", "never"]

#: Files with fewer bytes are fetched whole.
_SMALL: Final = 4 << 20
#: An index with more than this part of its file is not fetched.
_LARGE_INDEX: Final = 0.25
#: The part of the file that a delta is expected to save, before its index is there.
_SAVED: Final = 0.5
#: Bytes per second at which an installed image is read, before one was measured.
_READING: Final = 200e6
#: The least bytes of a transfer whose speed is remembered, and the number of links that are.
_MEASURABLE: Final = 1 << 20
_MAX_LINKS: Final = 64


class Facts(Struct, frozen=True):
    """The facts that are known before the index is fetched. Sizes in bytes, rates in bytes a second."""

    file_size: int
    index_size: int
    basis_size: int  #: of the installed image's stream
    link_rate: float | None = None  #: None: not measured yet
    read_rate: float | None = None


class Rates:
    """The recent speeds, in bytes a second. For any thread: each is one value."""

    def __init__(self) -> None:
        self.reading: float | None = None  #: of an installed image
        self._links: dict[str, float] = {}

    def link(self, source: str) -> float | None:
        """The speed of downloads from a source; None if none was measured yet."""
        return self._links.get(source)

    def note_link(self, fetched: Mapping[str, int], seconds: float) -> None:
        """Notes how long a download from these sources took; a small download does not count."""
        if sum(fetched.values()) < _MEASURABLE or seconds <= 0.0:
            return
        for source, size in fetched.items():
            if size == max(fetched.values()):
                self._links[source] = size / seconds
        while len(self._links) > _MAX_LINKS:
            del self._links[next(iter(self._links))]

    def note_reading(self, size: int, seconds: float) -> None:
        """Notes how long a reading of an installed image took."""
        if size >= _MEASURABLE and seconds > 0.0:
            self.reading = size / seconds


def basis_of(manifest: Manifest, pool: str, installed: Iterable[InstalledImage]) -> InstalledImage | None:
    """The installed image that probably has most in common with an image: the newest of its name."""
    same = [
        image
        for image in installed
        if image.pool == pool
        and image.uuid != manifest.uuid
        and image.text("name") == manifest.name
        and image.text("type") == manifest.type
    ]
    # A pool sends only what differs from an image's origin, so the same origin comes first.
    same.sort(key=lambda image: (image.origin == manifest.origin, image.text("published_at"), image.uuid))
    return same[-1] if same else None


def against(policy: Policy, facts: Facts) -> str | None:
    """The reason to fetch the whole file, a part of a sentence; None if a delta should be tried."""
    if policy == "never":
        return "deltas are switched off"
    if policy == "always":
        return None
    if facts.file_size < _SMALL:
        return "the file is small"
    if facts.index_size > _LARGE_INDEX * facts.file_size:
        return "its index is too large"
    if facts.link_rate is not None:
        reading = facts.basis_size / (facts.read_rate or _READING)
        saved = (_SAVED * facts.file_size - facts.index_size) / facts.link_rate
        if saved <= reading:
            return (
                f"at {facts.link_rate / 1e6:.0f} MB/s the whole file comes sooner"
                " than the installed image is read"
            )
    return None


def index_url(url: str) -> str:
    """The URL of the index of the file at `url`: its name with .index, in place of .zst if it has that."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.removesuffix(".zst") + ".index"))
