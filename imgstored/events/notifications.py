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
    """The image that was asked for is there."""

    kind: ClassVar[str] = "already-installed"
    uuid: str
    name: str
    version: str


class Importing(Event, frozen=True):
    """The image was found in a source."""

    kind: ClassVar[str] = "importing"
    uuid: str
    name: str
    version: str
    source: str
    channel: str | None = None


class Installing(Event, frozen=True):
    """The image is installed from a local file."""

    kind: ClassVar[str] = "installing"
    uuid: str
    name: str
    version: str


class GatheringAncestry(Event, frozen=True):
    """The origins are looked up."""

    kind: ClassVar[str] = "ancestry"
    uuid: str


class AncestorInstalled(Event, frozen=True):
    """One of the origins is there already."""

    kind: ClassVar[str] = "ancestor-installed"
    uuid: str


class Planned(Event, frozen=True):
    """What is to be done. `size` is in compressed bytes, None when a manifest does not say."""

    kind: ClassVar[str] = "plan"
    images: int
    size: int | None


class Resumed(Event, frozen=True):
    """Part of the image was there from an earlier try: `size` of `total` bytes need no download."""

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
    """The image is there for every reader. `from_file` tells an install from an import."""

    kind: ClassVar[str] = "installed"
    uuid: str
    name: str
    version: str
    from_file: bool = False


class WaitingForLock(Event, frozen=True):
    """Somebody else is at work on the image: imgadm, or an import into another pool."""

    kind: ClassVar[str] = "waiting-for-lock"
    uuid: str


class InstalledMeanwhile(Event, frozen=True):
    """Whoever was waited for has installed the image. `from_file` tells an install from an import."""

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
    """No source knows an installed image: it stays as it is."""

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
    """The image's snapshot, which was called `before` (without `@`), is called final."""

    kind: ClassVar[str] = "snapshot-renamed"
    uuid: str
    pool: str
    before: str


class OriginalUnknown(Event, frozen=True):
    """Which of a dataset's snapshots is the image cannot be told: the source does not say its guid."""

    kind: ClassVar[str] = "original-unknown"
    uuid: str
    pool: str


class UpdateFailed(Event, frozen=True):
    """An image could not be brought up to date; `error` is as in a response."""

    kind: ClassVar[str] = "update-failed"
    uuid: str
    pool: str
    error: ErrorDocument


class Left(Event, frozen=True):
    """Nothing is known to need this image, but a vacuum does not take it; `reason` says why, for people."""

    kind: ClassVar[str] = "left"
    uuid: str
    pool: str
    reason: str


class Verifying(Event, frozen=True):
    """An image is about to be read. `size` is about how many bytes that are."""

    kind: ClassVar[str] = "verifying"
    uuid: str
    pool: str
    name: str
    version: str
    size: int


class Verified(Event, frozen=True):
    """What was found out about an image; `reason` says why it is not "ok", for people."""

    kind: ClassVar[str] = "verified"
    uuid: str
    pool: str
    name: str
    version: str
    result: Result
    reason: str


class ImageProgress(msgspec.Struct, frozen=True):
    """How far one image is: `done` of `total` compressed bytes, `received` bytes of stream in the pool."""

    uuid: str
    name: str
    version: str
    phase: Phase
    done: int
    total: int | None
    received: int
    import_id: str | None = None  #: None where nothing is imported


class Progress(Event, frozen=True):
    """How far all images of one request are. `rate` is in compressed bytes a second, of late."""

    kind: ClassVar[str] = "progress"
    done: int
    total: int | None
    rate: float
    images: tuple[ImageProgress, ...] = ()


class Note(Event, frozen=True):
    """A sentence for people: a retry, a source that fell out, a fresh start."""

    kind: ClassVar[str] = "note"
    text: str
