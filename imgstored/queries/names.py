"""Names of images: a part of the uuid, NAME, NAME@VERSION, NAME@latest. Pure: no I/O.

Text that could mean two images means none, so that no server can take over the name of another image by a
name that looks like it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from imgstored.errors import AmbiguousNameError
from imgstored.manifest import shown_text
from imgstored.manifest.values import UUID, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from imgproto.documents import NamedDocument

#: The least hexadecimal digits of a uuid's beginning that stands for it.
MIN_DIGITS = 4

LATEST = "latest"

#: Images that the error of an ambiguous name lists.
_LISTED = 20

_NEVER = datetime.min.replace(tzinfo=UTC)


class Named(Struct, frozen=True):
    """An image that a name could mean. Unknown fields are empty."""

    uuid: str
    name: str = ""
    version: str = ""
    published_at: str = ""

    def as_wire(self) -> NamedDocument:
        """The answer of `resolve`."""
        return {"uuid": self.uuid, "name": self.name, "version": self.version}


def named(manifest: Mapping[str, Any]) -> Named:
    """The image of a manifest, in which only the uuid is certain."""
    name, version, published_at = (
        "" if (value := manifest.get(field)) is None else shown_text(value)
        for field in ("name", "version", "published_at")
    )
    return Named(manifest["uuid"], name, version, published_at)


class Candidates:
    """Images that names could mean, indexed so that a look-up does not search them all."""

    def __init__(self, images: Iterable[Named]) -> None:
        self._by_uuid: dict[str, list[Named]] = {}
        self._by_name: dict[str, list[Named]] = {}
        self._by_version: dict[str, list[Named]] = {}  # NAME@VERSION
        for image in images:
            self._by_uuid.setdefault(image.uuid, []).append(image)
            if image.name:
                self._by_name.setdefault(image.name, []).append(image)
            if image.name and image.version:
                self._by_version.setdefault(f"{image.name}@{image.version}", []).append(image)
        self._uuids = sorted(self._by_uuid)

    def meant(self, text: str) -> Iterator[Named]:
        """The images that the text can mean; one may come twice."""
        if UUID.fullmatch(text):
            yield from self._by_uuid.get(text, ())
            return
        if _is_prefix(prefix := text.lower()):
            for uuid in islice(self._uuids, bisect_left(self._uuids, prefix), None):
                if not uuid.startswith(prefix):
                    break
                yield from self._by_uuid[uuid]
        yield from self._by_name.get(text, ())
        yield from self._by_version.get(text, ())
        name, _, version = text.rpartition("@")
        if name and version == LATEST:
            yield from _latest(self._by_name.get(name, []))


def resolve(text: str, candidates: Candidates | Iterable[Named]) -> Named | None:
    """The only image of `candidates` that the text can mean, or None. Raises `AmbiguousNameError`."""
    if not isinstance(candidates, Candidates):
        candidates = Candidates(candidates)
    found = {image.uuid: image for image in candidates.meant(text)}
    if len(found) > 1:
        raise _ambiguous(text, sorted(found.values(), key=lambda image: (image.name, published(image))))
    return next(iter(found.values()), None)


def _is_prefix(text: str) -> bool:
    return (
        len(text) <= 36
        and len(text.replace("-", "")) >= MIN_DIGITS
        and re.fullmatch(r"[0-9a-f]{1,8}|[0-9a-f]{8}-[0-9a-f-]*", text) is not None
    )


def _latest(images: list[Named]) -> list[Named]:
    """The images that were published last; several if their times are equal."""
    last = max(map(published, images), default=_NEVER)
    return [image for image in images if published(image) == last]


def published(image: Named) -> datetime:
    """The time of publication; the earliest possible time if it is unknown."""
    try:
        time = datetime.fromisoformat(image.published_at)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return _NEVER


def _ambiguous(text: str, images: list[Named]) -> AmbiguousNameError:
    lines = [f"    {image.uuid} ({shown(image.name)}@{shown(image.version)})" for image in images[:_LISTED]]
    if len(images) > _LISTED:
        lines.append(f"    and {len(images) - _LISTED} more")
    if all(image.name == text for image in images):
        hint = f"name the version (NAME@VERSION), or the one that was published last: {shown(text)}@{LATEST}"
    else:
        hint = "name one by its uuid, or by more of it"
    return AmbiguousNameError(
        "\n".join([f'"{shown(text)}" can mean {len(images)} images:', *lines]),
        hint=hint,
        data={"candidates": [image.as_wire() for image in images[:_LISTED]]},
    )
