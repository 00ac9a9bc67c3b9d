"""The contract of a pool. The embedded pool and the ZFS pool pass the same tests.

All calls block and are made from worker threads; a pool is safe to call from several threads at once as long
as no two of them receive, publish, abandon or destroy the same image.

An image in a pool is a snapshot `@final` of the dataset POOL/UUID. While it is received it is
POOL/UUID-partial, which nobody but the store sees; `publish` renames it, and that rename is the moment when
the image comes to be.

Every call that takes a uuid raises `InvalidUUIDError` for other text, and every call on a published image
raises `ImageNotInstalledError` if there is none; calls on a partial do nothing if there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

#: The pieces of a stream into or from a pool, of any length, in order.
Blocks = Iterable[bytes | bytearray | memoryview]

#: The longest tag of a hold, in bytes. ZFS allows 255, and a pool may need some of them.
MAX_TAG: Final = 200

#: Called with the number of bytes that have been read so far.
OnRead = Callable[[int], None]


class PoolImage(Struct, frozen=True):
    """An installed image as the pool knows it."""

    uuid: str
    guid: int  #: guid of the snapshot @final
    origin: str | None  #: uuid of the image it was cloned from
    kind: str  #: "filesystem" or "volume"
    used: int  #: bytes that it occupies by itself
    referenced: int  #: bytes of its data: a volume's size, a filesystem's stream
    clones: tuple[str, ...] = ()  #: names (POOL/…) of clones, including machines, if the pool can have these
    dataset: int = 0  #: guid of the dataset itself, which changes with each receive; 0 if unknown
    created: int | None = None  #: creation of the dataset, in seconds since the epoch; None if unknown


class Occupant(Struct, frozen=True):
    """The dataset POOL/UUID: an image, or another dataset with the name of one."""

    name: str  #: POOL/UUID
    image: PoolImage | None  #: None if it has no @final, or is hidden
    used: int  #: bytes
    receiving: bool = False  #: another program receives straight into it
    hidden: bool = False  #: it is to be ignored, or an image is being made of it


class Checked(Struct, frozen=True):
    """The result of reading all of an image."""

    image: PoolImage
    stream_size: int | None  #: bytes of its stream, if the pool keeps the stream as it came
    damaged: str | None = None  #: the damage of its data
    changed: str | None = None  #: the change of its dataset since @final
    content: str | None = None  #: SHA-256 of the data in its stream, if requested


class Use(Struct, frozen=True):
    """The clones and holds that protect an image from destruction."""

    #: Names (POOL/…) of the image's clones, including POOL/UUID-partial during a receive.
    dependents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  #: as `Pool.holds` has them
    held: bool = False  #: by tags, or by holds of other programs


class Space(Struct, frozen=True):
    """Room in a pool, in bytes."""

    total: int
    available: int


class Room(Protocol):
    """Reserves room for bytes that are to come. Each call may raise `NoSpaceError`, but for `spent`."""

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """Announces the bytes still to come, with `exact` no more than these; returns the free bytes."""
        ...

    def add(self, size: int) -> None:
        """Announces more bytes than were expected."""
        ...

    def take(self, size: int) -> None:
        """Announces bytes that are about to be written."""
        ...

    def spent(self, size: int) -> None:
        """Reports that bytes of `take` are written, or will not be."""
        ...


class Boundless:
    """A room that is never full, for callers that do not share one."""

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """Always fits."""
        return to_come

    def add(self, size: int) -> None:
        """Always fits."""

    def take(self, size: int) -> None:
        """Always fits."""

    def spent(self, size: int) -> None:
        """Counts nothing."""


class SourceDataset(Struct, frozen=True):
    """A dataset that an image can be made of."""

    name: str  #: POOL/…
    volume: bool
    size: int  #: bytes of its data, before compression; a volume's own size
    origin: str | None  #: uuid of the image that it was cloned from
    from_final: bool  #: it was cloned from the image's @final, and from no other snapshot of it


class Datasets(Protocol):
    """The datasets of a pool that are not images. Datasets are named POOL/…, snapshots by what follows the @.

    Raises `UsageError` for text that cannot name a dataset in the pool, and `PoolError`.
    """

    def look(self, dataset: str) -> SourceDataset:
        """The facts about a dataset."""
        ...

    def freeze(self, dataset: str, mark: str) -> str | None:
        """Takes the snapshot @final. An existing @final is called @final-MARK until `thaw`.

        Returns the new name of an existing one, or None. While the new snapshot exists, the dataset is not
        among the pool's images.
        """
        ...

    def thaw(self, dataset: str, mark: str) -> None:
        """Undoes `freeze`, as far as it came; does nothing if there is nothing to undo."""
        ...

    def send(self, dataset: str, origin: str | None) -> Blocks:
        """The stream of @final; with the uuid of its origin, only the differences from that."""
        ...

    def snapshot(self, datasets: Sequence[str], name: str) -> None:
        """Takes a snapshot of each, all at one moment."""
        ...

    def has(self, dataset: str, name: str) -> bool:
        """True if there is that snapshot of the dataset."""
        ...

    def roll_back(self, datasets: Sequence[str], name: str) -> None:
        """Rolls each back to its snapshot, and destroys that; skips datasets without the snapshot."""
        ...


#: The default room of a call.
BOUNDLESS: Final = Boundless()


class Pool(Protocol):
    """Keeps images. Any call may raise `PoolError`; each names the other errors that it may raise."""

    @property
    def name(self) -> str:
        """The pool's name, as in POOL/UUID."""
        ...

    @property
    def storage(self) -> str:
        """The storage whose free space it has, as `host.mounts.storage_of` names it."""
        ...

    @property
    def shared(self) -> bool:
        """True if others may install and delete images in it, too."""
        ...

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        """All published images, in no particular order.

        For `known` images, as an earlier call gave them, only existence, guid and clones are read again;
        other fields may be as they were.
        """
        ...

    def image(self, uuid: str) -> PoolImage | None:
        """The published image, or None."""
        ...

    def occupant(self, uuid: str) -> Occupant | None:
        """The dataset POOL/UUID, or None if there is none."""
        ...

    def incoming(self) -> dict[str, int]:
        """Datasets POOL/UUID that another program receives straight into place, and so no images yet.

        By uuid, with the bytes that there are.
        """
        ...

    def unnamed(self) -> dict[str, dict[str, int]]:
        """Datasets POOL/UUID that may be images, but have no @final: their snapshots with their guids.

        By uuid. Machines that were cloned from an image are not among them, nor is what is being received.
        """
        ...

    def name_final(self, uuid: str, snapshot: str) -> PoolImage:
        """Renames one of those snapshots (a name without `@`) to @final: from now on it is an image."""
        ...

    def damage(self) -> list[str]:
        """The pool's own files that cannot be used, a sentence each; blocks not even for a moment."""
        ...

    def partials(self) -> list[str]:
        """The images, by uuid, of which a part is received and not published."""
        ...

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Receives an image's stream into UUID-partial, and checks all of it.

        `blocks` is always the whole stream from its first byte. If a part of the image is there already, the
        pool continues after that part, provided that the stream is the same (guid and content so far), and
        starts again otherwise. If `blocks` raises, the error passes through, and the received part stays for
        next time. The image is complete on return, but not visible until `publish`.

        `origin` is the uuid of the published image that an incremental stream builds on; None for a full one.
        The pool does not use a piece of `blocks` after it has taken the next one. It asks `room` before it
        writes bytes that `blocks` does not bring, such as a copy of the origin.

        Raises `StreamError` for a stream that is damaged, cut short, or not an image's, or is a full one
        although an origin is given; `OriginNotInstalledError` if the origin is not in the pool, or is not the
        snapshot that the stream names; `NoSpaceError`.
        """
        ...

    def unpack(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Makes UUID-partial of a container image's layer, on top of the image that has those below it.

        `blocks` is the whole uncompressed layer, a tar. Drops the result of an earlier call: a layer is
        unpacked as a whole. Otherwise as `receive`, but raises `LayerError` in place of `StreamError`.
        """
        ...

    def resume_point(self, uuid: str) -> int:
        """The bytes of the stream that are safe in UUID-partial; 0 when there is none."""
        ...

    def abandon(self, uuid: str) -> None:
        """Drops UUID-partial, if there is one, in one step."""
        ...

    def publish(self, uuid: str) -> PoolImage:
        """Makes a completely received image durable and visible, in one step.

        Raises `PoolError` when `receive` has not returned for it.
        """
        ...

    def destroy(self, uuid: str) -> None:
        """Removes a published image, in one step.

        Raises `ImageHasDependentClonesError`, and `PoolError` while anything holds it.
        """
        ...

    def uses(self) -> dict[str, Use]:
        """The clones and holds of all images, by uuid, in one query."""
        ...

    def hold(self, uuid: str, tag: str) -> None:
        """Keeps the image from being destroyed until the tag is released, also across a restart.

        Holding twice is no error. Raises `UsageError` for a tag that is empty, long, or not printable.
        """
        ...

    def release(self, uuid: str, tag: str) -> None:
        """Ends a hold. Releasing a tag that is not there is no error."""
        ...

    def holds(self, uuid: str) -> list[str]:
        """The tags that hold the image, sorted."""
        ...

    def send(self, uuid: str) -> Blocks:
        """A stream from which `receive` makes the same image."""
        ...

    def check(self, uuid: str, on_read: OnRead, *, content: bool = False) -> Checked:
        """Reads all data of the image itself, without its origin's, and checks every checksum.

        Calls `on_read` after each piece; an exception from it ends the check, and passes through. `content`
        requests `Checked.content`, which costs a SHA-256 of all data; a pool that keeps the stream as it came
        need not give it.
        """
        ...

    def space(self) -> Space:
        """The size and free space of the pool."""
        ...

    @property
    def lags(self) -> bool:
        """True if `space` sees written bytes only some seconds later."""
        ...

    def settle(self) -> None:
        """Waits until `space` sees all bytes that were written before, except those in `queue`."""
        ...

    @property
    def queue(self) -> int:
        """The maximum of bytes of one stream that `receive` has taken and not yet written."""
        ...

    def datasets(self) -> Datasets:
        """The source datasets for new images. Raises `NotSupportedError` if the pool has only images."""
        ...
