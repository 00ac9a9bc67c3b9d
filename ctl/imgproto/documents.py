"""The results of operations. docs/protocol.md explains the fields.

Sizes are bytes, times are seconds since the epoch, and None is "not known", unless a field says otherwise.
"""

# Annotations are evaluated here: in Python 3.11 a TypedDict does not see NotRequired in one that is text.
from typing import Any, Literal, NotRequired, TypeAlias, TypedDict

#: An image's manifest, as its source has it: https://images.smartos.org/docs/#manifests. Only `uuid` is sure.
ManifestDocument: TypeAlias = dict[str, Any]

#: The states of an import.
Phase = Literal[
    "waiting", "downloading", "receiving", "verifying", "installing", "installed", "failed", "cancelled"
]
#: The stage that an import waits for most of the time.
Limit = Literal["network", "checksum", "decompress", "pool", "turn", "origin", "lock"]
#: How a verified image is.
Result = Literal["ok", "recorded", "changed", "damaged", "lost", "unknown"]


class ErrorDocument(TypedDict):
    """An error as a response has it."""

    code: str
    message: str
    hint: str
    exit_status: int
    data: dict[str, Any]


# -- the daemon ----------------------------------------------------------------------------------------------


class HelloDocument(TypedDict):
    """The daemon's answer to a client's greeting. `pool` is the first of `pools`, the default."""

    protocol: int
    server: str
    version: str
    pool: str
    pools: list[str]
    features: list[str]


class FindingDocument(TypedDict):
    """One line of what `doctor` saw."""

    check: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    hint: str


class DoctorDocument(TypedDict):
    """Problems that keep a host from having its images. `running`: whether the daemon has looked itself."""

    version: str
    running: bool
    findings: list[FindingDocument]


# -- images --------------------------------------------------------------------------------------------------


class ChildrenDocument(TypedDict):
    """The children of an installed image: names of snapshots and of clones."""

    snapshots: list[str]
    clones: list[str]


class ImageDocument(TypedDict):
    """An installed image. `get` has `children` in place of the clones, and those only when recursive."""

    manifest: ManifestDocument
    zpool: str
    source: NotRequired[str]
    clones: NotRequired[int]
    cloneNames: NotRequired[list[str]]
    holds: NotRequired[list[str]]
    children: NotRequired[ChildrenDocument]


class NamedDocument(TypedDict):
    """An image by its names; what is not known of it is empty."""

    uuid: str
    name: str
    version: str


class KnownDocument(TypedDict):
    """An image of a source's last list, whose fields are as the source has them."""

    uuid: str
    name: Any
    version: Any


class AliasDocument(TypedDict):
    """A name that the administrator gave an image."""

    alias: str
    uuid: str


class NewerDocument(TypedDict):
    """A newer version of an image, which a source has."""

    uuid: str
    version: str
    published_at: str
    source: str


class OldDocument(TypedDict):
    """An installed image of which a source has a newer version; what is not known of it is empty."""

    uuid: str
    zpool: str
    name: str
    version: str
    published_at: str
    newer: NewerDocument


class VacuumDocument(TypedDict):
    """An image that nothing needs."""

    uuid: str
    zpool: str
    name: str
    version: str


class UsedDocument(TypedDict):
    """The space of one image: `used` by itself, `referenced` with its origin's data."""

    uuid: str
    name: str | None
    version: str | None
    origin: str | None
    used: int
    referenced: int
    clones: list[str]


class UsageDocument(TypedDict):
    """The space of the images of one pool. With an `error` the pool does not answer."""

    zpool: str
    total: int | None
    available: int | None
    images: list[UsedDocument]
    error: NotRequired[ErrorDocument]


class EventsDocument(TypedDict):
    """The number of the newest event; 0 where there was none."""

    newest: int


class EntryDocument(TypedDict):
    """One thing that was done: an entry of the history."""

    action: str
    uuid: str
    name: str
    version: str
    pool: str
    source: str | None
    client: str
    uid: int | None
    started_at: float
    bytes: int | None
    seconds: float | None
    outcome: str | None
    code: str | None
    message: str | None
    import_id: str | None


# -- sources -------------------------------------------------------------------------------------------------


class SourceDocument(TypedDict):
    """An image source. Without the right to change, a URL's query shows its channel only."""

    url: str
    type: str
    insecure: bool
    channel: str | None


class AddedDocument(TypedDict):
    """The outcome of adding a source; it may have been there."""

    added: bool
    source: SourceDocument


class DeletedSourcesDocument(TypedDict):
    """The sources that were removed."""

    deleted: list[SourceDocument]


class EditedSourcesDocument(TypedDict):
    """The changes of an edited list of sources."""

    reordered: bool
    added: list[SourceDocument]
    deleted: list[SourceDocument]


class CheckedSourceDocument(TypedDict):
    """True if a source answers; `incomplete` says why its last list may lack images."""

    url: str
    type: str
    ok: bool
    error: ErrorDocument | None
    incomplete: str | None


class SourceStateDocument(TypedDict):
    """A source since the daemon's start; `listed_at` is the age of the list that stands in for it."""

    url: str
    type: str
    answered_at: float | None
    failed_at: float | None
    error: ErrorDocument | None
    listed_at: float | None


class OfferedDocument(TypedDict):
    """An image that a source has."""

    manifest: ManifestDocument
    source: str


class ProblemDocument(TypedDict):
    """A source that did not answer. With `listed_at` (ISO time) its last good list stands in for it."""

    source: str
    error: ErrorDocument
    listed_at: NotRequired[str]


class IncompleteDocument(TypedDict):
    """The reason why a source's list may lack images, as a sentence."""

    source: str
    message: str


class AvailableDocument(TypedDict):
    """The images of the sources."""

    images: list[OfferedDocument]
    problems: list[ProblemDocument]
    incomplete: list[IncompleteDocument]


class OutdatedDocument(TypedDict):
    """Installed images of which the sources have newer versions."""

    images: list[OldDocument]
    problems: list[ProblemDocument]
    incomplete: list[IncompleteDocument]


# -- imports -------------------------------------------------------------------------------------------------


class DeltaDocument(TypedDict):
    """The installed image that has the rest of a file, of which only `fetch` bytes are fetched.

    None: nobody knows how many before the installed image is read.
    """

    uuid: str
    name: str
    version: str
    fetch: int | None


class JobDocument(TypedDict):
    """An import under way. `rate` is in compressed bytes a second, `eta` in seconds.

    `fraction` says how far the slowest stage is, from 0 to 1, which is an installed image. Where no source
    answers for an import of an earlier daemon, `error` is why, and `import_id` is empty.
    """

    uuid: str
    name: str
    version: str
    pool: str
    phase: Phase
    done: int
    total: int | None
    received: int
    rate: float
    limits: Limit | None
    eta: float | None
    fraction: float | None
    connections: int
    source: str | None
    clients: list[str]
    started_at: float
    error: str | None
    import_id: str
    delta: DeltaDocument | None


class PlannedDocument(TypedDict):
    """One image of a plan; `present` bytes of it need no download."""

    uuid: str
    name: str
    version: str
    state: Literal["installed", "under-way", "missing"]
    origin: str | None
    source: str | None
    size: int | None
    present: int
    delta: DeltaDocument | None


class RoomDocument(TypedDict):
    """Free bytes for a download, and for its stream."""

    spool: int
    pool: int


class PlanDocument(TypedDict):
    """The plan of an import: `count` images are missing, of which `to_come` of `size` bytes are to come."""

    uuid: str
    pool: str
    images: list[PlannedDocument]
    count: int
    size: int | None
    to_come: int
    room: RoomDocument
    refusals: list[ErrorDocument]
    warnings: list[str]


# -- status --------------------------------------------------------------------------------------------------


class UnfinishedDocument(TypedDict):
    """A dataset with an image's name that is no image yet; `used` is in bytes, None where it is not known."""

    uuid: str
    why: Literal["receiving", "no manifest"]
    used: int | None


class PoolStateDocument(TypedDict):
    """The state of a pool. `health` is ZFS's word, None where the system does not say it.

    `used` is what all of a ZFS pool uses, and of an embedded pool what its images occupy.
    """

    name: str
    type: str
    state: Literal["ok", "failed", "no answer"]
    health: str | None
    total: int | None
    available: int | None
    used: int | None
    images: int
    unfinished: list[UnfinishedDocument]
    error: ErrorDocument | None


class WarningDocument(TypedDict):
    """A warning of the log; `at` is ISO time."""

    at: str | None
    level: str | None
    text: str


class LibraryStateDocument(TypedDict):
    """The files that the daemon keeps for other hosts. Sizes in bytes; counts are since its start."""

    path: str
    images: int
    size: int
    kept: int  #: of these bytes, those that may be evicted
    budget: int  #: for those
    evicted: int  #: files
    evicted_bytes: int
    fetching: int  #: files on their way for other hosts
    fetched: int
    fetched_bytes: int


class ServerStateDocument(TypedDict):
    """The image server. Counts are since the daemon's start."""

    listen: str
    tls: bool
    connections: int  #: now
    requests: int
    sent_bytes: int
    refused: int  #: connections that were turned away


class StatusDocument(TypedDict):
    """The state of the daemon. `uptime` is in seconds; `images`, `clients` and `waiting` are counts."""

    version: str
    pid: int
    started_at: float
    uptime: float
    config: str | None
    view: str
    view_path: str | None
    clients: int
    images: int
    pools: list[PoolStateDocument]
    sources: list[SourceStateDocument]
    imports: list[JobDocument]
    waiting: int
    failures: list[EntryDocument]
    warnings: list[WarningDocument]
    problems: list[ErrorDocument]
    library: NotRequired[LibraryStateDocument | None]
    server: NotRequired[ServerStateDocument | None]


# -- what changed --------------------------------------------------------------------------------------------


class ImageChange(TypedDict):
    """The image that was changed."""

    uuid: str


class InstalledChange(TypedDict):
    """The image that was installed; `uuid` is that of the manifest."""

    uuid: Any


class ImagesChange(TypedDict):
    """The images that were named."""

    uuids: list[str]


class AliasChange(TypedDict):
    """An alias, and the image that it meant before."""

    alias: str
    uuid: str
    before: str | None


class HoldChange(TypedDict):
    """A hold that was made or ended."""

    uuid: str
    tag: str | None


class MadeDocument(TypedDict):
    """The manifest of an image that was written to a file."""

    manifest: ManifestDocument


class PublishedDocument(TypedDict):
    """An image that a server has now."""

    uuid: str
    url: str


# -- sites and mirrors ---------------------------------------------------------------------------------------


class LeftOutDocument(TypedDict):
    """An image, or a name of the request, that is not in a site; `reason` is for people."""

    image: str
    name: str
    reason: str


class SiteDocument(TypedDict):
    """The result of an export of a site. `copied` is in bytes; `until` is when the signature ends."""

    images: int
    new: list[str]
    linked: int
    copied: int
    written: int
    deleted: int
    left_out: list[LeftOutDocument]
    version: int | None
    until: int | None
    signed_by: list[str]


class MirrorFailureDocument(NamedDocument):
    """An image that was not mirrored."""

    error: ErrorDocument


class MirrorDocument(TypedDict):
    """The result of a mirror: `chosen` images; the library has got the `new` ones, of `size` bytes."""

    chosen: int
    new: list[NamedDocument]
    size: int
    failed: list[MirrorFailureDocument]
    released: list[str]
    copied: NotRequired[list[NamedDocument]]
