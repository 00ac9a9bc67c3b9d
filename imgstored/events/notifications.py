"""The notifications that a client gets while its request runs."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
from imgproto.documents import ErrorDocument, Phase, Result  # noqa: TC002  (msgspec reads the types)


class Event(msgspec.Struct, frozen=True):
    """The base of all events; `kind` is the event's name on the wire."""

    kind: ClassVar[str] = ""

    def as_wire(self) -> dict[str, Any]:
        """The form in which the event crosses the socket."""
        return {"event": self.kind, **msgspec.to_builtins(self)}


class AlreadyInstalled(Event, frozen=True):
    """The requested image is installed already."""

    kind: ClassVar[str] = "already-installed"
    uuid: str
    name: str
    version: str


class Importing(Event, frozen=True):
    """A source has the image, and its import starts."""

    kind: ClassVar[str] = "importing"
    uuid: str
    name: str
    version: str
    source: str
    channel: str | None = None


class Installing(Event, frozen=True):
    """The installation of an image from a local file starts."""

    kind: ClassVar[str] = "installing"
    uuid: str
    name: str
    version: str


class GatheringAncestry(Event, frozen=True):
    """The daemon looks up the origins."""

    kind: ClassVar[str] = "ancestry"
    uuid: str


class AncestorInstalled(Event, frozen=True):
    """One of the origins is installed already."""

    kind: ClassVar[str] = "ancestor-installed"
    uuid: str


class Planned(Event, frozen=True):
    """The number of images to install. `size` is in compressed bytes, None if a manifest has no size."""

    kind: ClassVar[str] = "plan"
    images: int
    size: int | None


class Resumed(Event, frozen=True):
    """Part of the image is left from an earlier try: `size` of `total` bytes need no download."""

    kind: ClassVar[str] = "resumed"
    uuid: str
    size: int
    total: int | None


class Downloaded(Event, frozen=True):
    """The image's file is complete: `size` compressed bytes."""

    kind: ClassVar[str] = "downloaded"
    uuid: str
    size: int


class Installed(Event, frozen=True):
    """Every reader can see the image. `from_file` distinguishes an install from an import."""

    kind: ClassVar[str] = "installed"
    uuid: str
    name: str
    version: str
    from_file: bool = False


class WaitingForLock(Event, frozen=True):
    """Another writer has the image's lock: imgadm, or an import into another pool."""

    kind: ClassVar[str] = "waiting-for-lock"
    uuid: str


class InstalledMeanwhile(Event, frozen=True):
    """The other writer has installed the image. `from_file` distinguishes an install from an import."""

    kind: ClassVar[str] = "installed-meanwhile"
    uuid: str
    name: str
    version: str
    from_file: bool = False


class Held(Event, frozen=True):
    """The image cannot be deleted as long as the request is in flight."""

    kind: ClassVar[str] = "held"
    uuid: str
    tag: str


class NotInSources(Event, frozen=True):
    """No source has an installed image: it stays as it is."""

    kind: ClassVar[str] = "not-in-sources"
    uuid: str


class ManifestUpdated(Event, frozen=True):
    """A source has another manifest; `fields` are those that differ, None where there was no manifest."""

    kind: ClassVar[str] = "manifest-updated"
    uuid: str
    pool: str
    source: str
    fields: tuple[str, ...] | None


class SnapshotRenamed(Event, frozen=True):
    """The image's snapshot `before` (without `@`) is now called final."""

    kind: ClassVar[str] = "snapshot-renamed"
    uuid: str
    pool: str
    before: str


class OriginalUnknown(Event, frozen=True):
    """The daemon cannot identify the image's snapshot: the source does not give its guid."""

    kind: ClassVar[str] = "original-unknown"
    uuid: str
    pool: str


class UpdateFailed(Event, frozen=True):
    """The update of an image failed; `error` is as in a response."""

    kind: ClassVar[str] = "update-failed"
    uuid: str
    pool: str
    error: ErrorDocument


class Left(Event, frozen=True):
    """Vacuum keeps an image without known users; `reason` says why, for people."""

    kind: ClassVar[str] = "left"
    uuid: str
    pool: str
    reason: str


class Verifying(Event, frozen=True):
    """The verification of an image starts. `size` is its approximate number of bytes."""

    kind: ClassVar[str] = "verifying"
    uuid: str
    pool: str
    name: str
    version: str
    size: int


class Verified(Event, frozen=True):
    """The result for one image; `reason` says why it is not "ok", for people.

    `signed_by` is the id of the key that vouched for it, if its source had `keys`; `trusted` is whether a
    source still has that key.
    """

    kind: ClassVar[str] = "verified"
    uuid: str
    pool: str
    name: str
    version: str
    result: Result
    reason: str
    signed_by: str | None = None
    trusted: bool | None = None


class ImageProgress(msgspec.Struct, frozen=True):
    """The progress of one image: `done` of `total` compressed bytes, `received` bytes in the pool."""

    uuid: str
    name: str
    version: str
    phase: Phase
    done: int
    total: int | None
    received: int
    import_id: str | None = None  #: None where nothing is imported


class Progress(Event, frozen=True):
    """The progress of all images of one request. `rate` is the recent compressed bytes per second."""

    kind: ClassVar[str] = "progress"
    done: int
    total: int | None
    rate: float
    images: tuple[ImageProgress, ...] = ()


class Note(Event, frozen=True):
    """A sentence for people: a retry, a failed source, a fresh start."""

    kind: ClassVar[str] = "note"
    text: str
