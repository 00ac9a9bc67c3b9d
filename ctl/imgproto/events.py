"""The events of operations: each is a map with its name in `event`. docs/events.md is made from them.

The daemon builds them, and the client gets them: this is their only description. Two threads may have the
same event, so nobody changes one. A daemon that is newer than this package may send others.
"""

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

from imgproto.documents import ErrorDocument, Limit, ManifestDocument, Phase, Result

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
    """The requested image is installed already."""

    event: Literal["already-installed"]


class Importing(_Named):
    """A source has the image, and its import starts."""

    event: Literal["importing"]
    source: str
    channel: str | None


class Installing(_Named):
    """The installation of an image from a local file starts."""

    event: Literal["installing"]


class GatheringAncestry(_Image):
    """The daemon looks up the origins."""

    event: Literal["ancestry"]


class AncestorInstalled(_Image):
    """One of the origins is installed already."""

    event: Literal["ancestor-installed"]


class Planned(TypedDict):
    """The number of images to install. `size` is in compressed bytes, None if a manifest has no size."""

    event: Literal["plan"]
    images: int
    size: int | None


class Resumed(_Image):
    """Part of the image is left from an earlier try: `size` of `total` bytes need no download."""

    event: Literal["resumed"]
    size: int
    total: int | None


class Downloaded(_Image):
    """The image's file is complete: `size` compressed bytes."""

    event: Literal["downloaded"]
    size: int


class Installed(_Named):
    """Every reader can see the image. `from_file` distinguishes an install from an import."""

    event: Literal["installed"]
    from_file: bool


class WaitingForLock(_Image):
    """Another writer has the image's lock: imgadm, or an import into another pool."""

    event: Literal["waiting-for-lock"]


class InstalledMeanwhile(_Named):
    """The other writer has installed the image. `from_file` distinguishes an install from an import."""

    event: Literal["installed-meanwhile"]
    from_file: bool


# -- installed images ----------------------------------------------------------------------------------------


class Held(_Image):
    """The image cannot be deleted as long as the request is in flight."""

    event: Literal["held"]
    tag: str


class NotInSources(_Image):
    """No source has an installed image: it stays as it is."""

    event: Literal["not-in-sources"]


class ManifestUpdated(_InPool):
    """A source has another manifest; `fields` are those that differ, None where there was no manifest."""

    event: Literal["manifest-updated"]
    source: str
    fields: list[str] | None


class SnapshotRenamed(_InPool):
    """The image's snapshot `before` (without `@`) is now called final."""

    event: Literal["snapshot-renamed"]
    before: str


class OriginalUnknown(_InPool):
    """The daemon cannot identify the image's snapshot: the source does not give its guid."""

    event: Literal["original-unknown"]


class UpdateFailed(_InPool):
    """The update of an image failed; `error` is as in a response."""

    event: Literal["update-failed"]
    error: ErrorDocument


class Left(_InPool):
    """Vacuum keeps an image without known users; `reason` says why, for people."""

    event: Literal["left"]
    reason: str


class Verifying(_InPool):
    """The verification of an image starts. `size` is its approximate number of bytes."""

    event: Literal["verifying"]
    name: str
    version: str
    size: int


class Verified(_InPool):
    """The result for one image; `reason` says why it is not "ok", for people.

    `signed_by` is the id of the key that vouched for it, if its source had `keys`; `trusted` is whether a
    source still has that key.
    """

    event: Literal["verified"]
    name: str
    version: str
    result: Result
    reason: str
    signed_by: str | None
    trusted: bool | None


# -- any of them ---------------------------------------------------------------------------------------------


class ImageProgress(_Named):
    """The progress of one image: `done` of `total` compressed bytes, `received` bytes in the pool.

    `import_id` is None where nothing is imported. `fraction` says how far the image is, from 0 to 1: its
    slowest stage counts, and 1 is an installed image. `eta` is in seconds, `rate` is the recent compressed
    bytes per second, `limits` the stage that it waits for. `kept` bytes stay if the import ends now.
    """

    phase: Phase
    done: int
    total: int | None
    received: int
    import_id: str | None
    fraction: NotRequired[float | None]
    eta: NotRequired[float | None]
    rate: NotRequired[float]
    limits: NotRequired[Limit | None]
    kept: NotRequired[int]


class Progress(TypedDict):
    """The progress of all images of one request. `rate` is the recent compressed bytes per second.

    `fraction` and `eta` are as those of an image, of all of them.
    """

    event: Literal["progress"]
    done: int
    total: int | None
    rate: float
    images: list[ImageProgress]
    fraction: NotRequired[float | None]
    eta: NotRequired[float | None]


class Note(TypedDict):
    """A sentence for people: a retry, a failed source, a fresh start."""

    event: Literal["note"]
    text: str


# -- making images -------------------------------------------------------------------------------------------


class Inheriting(_Named):
    """The new image inherits fields of its origin."""

    event: Literal["inheriting"]


class ManifestMade(TypedDict):
    """The new image's manifest, still without its file. `prefix` and `suffix` form the file's name."""

    event: Literal["manifest"]
    manifest: ManifestDocument
    prefix: str
    suffix: str


class CreationStep(TypedDict):
    """A step starts or ends. `what` is its machine or snapshot."""

    event: Literal["making"]
    step: MakingStep
    what: str


class Sending(TypedDict):
    """The daemon starts to write the snapshot's stream into the file."""

    event: Literal["sending"]


class Publishing(_Named):
    """A step of publishing ends: the manifest is `imported`, the `file` uploaded, the image `activated`."""

    event: Literal["publishing"]
    step: Literal["imported", "file", "activated"]
    state: str | None
    compression: str | None


# -- what happens in the store, with numbers -----------------------------------------------------------------

#: The names of numbered events, which hooks are for, too.
NumberedName = Literal[
    "daemon-started",
    "daemon-stopping",
    "import-started",
    "downloading",
    "receiving",
    "installing",
    "installed",
    "import-failed",
    "import-cancelled",
    "import-interrupted",
    "deleted",
    "delete-failed",
    "held",
    "released",
    "pinned",
    "unpinned",
    "source-down",
    "source-up",
    "mirrored",
    "mirror-failed",
    "events-lost",
]


class NumberedEvent(TypedDict):
    """An event is something that happened in the store. Numbers grow, also over restarts; `at` is ISO time.

    An image has `uuid`, `name`, `version`, `pool`; `client` is who asked, with the `uid` unless it was the
    daemon itself; a failure has `code` and `message`. `source` is a URL without secrets, `bytes` are
    compressed ones that were there at the end. `version` and `pid` are the daemon's own where it starts or
    stops; `new` and `failed` count the images of a mirror, `lost` events that could not be written down.
    """

    number: int
    at: str
    event: NumberedName
    uuid: NotRequired[str]
    name: NotRequired[str]
    version: NotRequired[str]
    pool: NotRequired[str]
    source: NotRequired[str]
    import_id: NotRequired[str]
    client: NotRequired[str]
    uid: NotRequired[int]
    tag: NotRequired[str]
    bytes: NotRequired[int]
    new: NotRequired[int]
    failed: NotRequired[int]
    lost: NotRequired[int]
    pid: NotRequired[int]
    code: NotRequired[str]
    message: NotRequired[str]


#: What the daemon sends of imports and of what is installed.
StoreEventDocument: TypeAlias = (
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
    | Held
    | NotInSources
    | ManifestUpdated
    | SnapshotRenamed
    | OriginalUnknown
    | UpdateFailed
    | Left
    | Verifying
    | Verified
    | Progress
    | Note
)
#: What it sends while it makes an image.
CreationEventDocument: TypeAlias = Inheriting | ManifestMade | CreationStep | Sending | Publishing

EventDocument: TypeAlias = StoreEventDocument | CreationEventDocument

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
OF_CREATION: Events = (Inheriting, ManifestMade, CreationStep, Sending, Progress, Note)
