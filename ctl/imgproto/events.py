"""The events of operations: each is a map with its name in `event`. docs/events.md lists them.

A daemon that is newer than this package may send others.
"""

from typing import Any, Literal, TypeAlias, TypedDict

from imgproto.documents import ErrorDocument, ManifestDocument, Phase, Result

#: The steps of making an image.
MakingStep = Literal[
    "vm-stopping",
    "vm-snapshotting",
    "vm-starting",
    "prepare-running",
    "prepare-succeeded",
    "prepare-timeout",
    "prepare-stopped",
    "final-moved",
    "snapshotting",
    "vm-rolling-back",
    "vm-restarting",
]


class _Image(TypedDict):
    uuid: str


class _Named(_Image):
    name: str
    version: str


class _InPool(_Image):
    pool: str


# -- imports -------------------------------------------------------------------------------------------------


class AlreadyInstalled(_Named):
    """The image that was asked for is there."""

    event: Literal["already-installed"]


class Importing(_Named):
    """A source has the image."""

    event: Literal["importing"]
    source: str
    channel: str | None


class Installing(_Named):
    """An install from a local file begins."""

    event: Literal["installing"]


class GatheringAncestry(_Image):
    """The daemon looks up the origins."""

    event: Literal["ancestry"]


class AncestorInstalled(_Image):
    """One of the origins is there already."""

    event: Literal["ancestor-installed"]


class Planned(TypedDict):
    """What is to be done; `size` is in compressed bytes."""

    event: Literal["plan"]
    images: int
    size: int | None


class Resumed(_Image):
    """`size` of `total` bytes are there from an earlier try."""

    event: Literal["resumed"]
    size: int
    total: int | None


class Downloaded(_Image):
    """The image's file is complete: `size` compressed bytes."""

    event: Literal["downloaded"]
    size: int


class Installed(_Named):
    """The image is there for every reader."""

    event: Literal["installed"]
    from_file: bool


class WaitingForLock(_Image):
    """Somebody else is at work on the image."""

    event: Literal["waiting-for-lock"]


class InstalledMeanwhile(_Named):
    """Somebody else has installed the image."""

    event: Literal["installed-meanwhile"]
    from_file: bool


class ImageProgress(_Named):
    """How far one image is: `done` of `total` compressed bytes; the pool has `received` bytes of stream."""

    phase: Phase
    done: int
    total: int | None
    received: int
    import_id: str | None


class Progress(TypedDict):
    """How far all images of a request are; `rate` is in bytes a second."""

    event: Literal["progress"]
    done: int
    total: int | None
    rate: float
    images: list[ImageProgress]


class Note(TypedDict):
    """A sentence for people."""

    event: Literal["note"]
    text: str


# -- installed images ----------------------------------------------------------------------------------------


class Held(_Image):
    """The image cannot be deleted as long as the request is in flight."""

    event: Literal["held"]
    tag: str


class NotInSources(_Image):
    """No source knows an installed image."""

    event: Literal["not-in-sources"]


class ManifestUpdated(_InPool):
    """A source has another manifest; `fields` differ, and are None where there was no manifest."""

    event: Literal["manifest-updated"]
    source: str
    fields: list[str] | None


class SnapshotRenamed(_InPool):
    """The image's snapshot, which was called `before`, is called final."""

    event: Literal["snapshot-renamed"]
    before: str


class OriginalUnknown(_InPool):
    """The source does not say which of a dataset's snapshots is the image."""

    event: Literal["original-unknown"]


class UpdateFailed(_InPool):
    """An image could not be brought up to date."""

    event: Literal["update-failed"]
    error: ErrorDocument


class Left(_InPool):
    """A vacuum does not take this image; `reason` is for people."""

    event: Literal["left"]
    reason: str


class Verifying(_InPool):
    """The daemon begins to read an image of about `size` bytes."""

    event: Literal["verifying"]
    name: str
    version: str
    size: int


class Verified(_InPool):
    """How an image is; `reason` says for people why it is not "ok".

    `signed_by` is the id of the key that vouched for it, nil if none did; `trusted`: a source still has it.
    """

    event: Literal["verified"]
    name: str
    version: str
    result: Result
    reason: str
    signed_by: str | None
    trusted: bool | None


# -- making images -------------------------------------------------------------------------------------------


class Inheriting(_Named):
    """The new image takes over fields of its origin."""

    event: Literal["inheriting"]


class ManifestMade(TypedDict):
    """The new image's manifest, as yet without its file."""

    event: Literal["manifest"]
    manifest: ManifestDocument
    prefix: str
    suffix: str


class Making(TypedDict):
    """A step begins, or is done; `what` is the machine or snapshot that it is about."""

    event: Literal["making"]
    step: MakingStep
    what: str


class Sending(TypedDict):
    """The stream is on its way into the file."""

    event: Literal["sending"]


class Publishing(_Named):
    """A step of publishing is done."""

    event: Literal["publishing"]
    step: Literal["imported", "file", "activated"]
    state: str | None
    compression: str | None


EventDocument: TypeAlias = (
    AlreadyInstalled
    | Importing
    | Installing
    | GatheringAncestry
    | AncestorInstalled
    | Planned
    | Resumed
    | Downloaded
    | Installed
    | WaitingForLock
    | InstalledMeanwhile
    | Progress
    | Note
    | Held
    | NotInSources
    | ManifestUpdated
    | SnapshotRenamed
    | OriginalUnknown
    | UpdateFailed
    | Left
    | Verifying
    | Verified
    | Inheriting
    | ManifestMade
    | Making
    | Sending
    | Publishing
)

#: What an operation may send: classes of `EventDocument`.
Events: TypeAlias = tuple[Any, ...]

OF_IMPORTS: Events = (
    AlreadyInstalled,
    Importing,
    Installing,
    GatheringAncestry,
    AncestorInstalled,
    Planned,
    Resumed,
    Downloaded,
    Installed,
    WaitingForLock,
    InstalledMeanwhile,
    Progress,
    Note,
)
OF_UPDATES: Events = (NotInSources, ManifestUpdated, SnapshotRenamed, OriginalUnknown, UpdateFailed)
OF_VERIFICATIONS: Events = (Verifying, Verified, Progress, Note)
OF_MAKING: Events = (Inheriting, ManifestMade, Making, Sending, Progress, Note)
