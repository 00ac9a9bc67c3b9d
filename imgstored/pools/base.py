"""The contract of a pool. The embedded pool and the ZFS pool pass the same tests.

All calls block and are made from worker threads; a pool is safe to call from several threads at once as long
as no two of them receive, publish, abandon or destroy the same image.

An image in a pool is a snapshot `@final` of the dataset POOL/UUID. While it is received it is
POOL/UUID-partial, which nobody but the store sees; `publish` renames it, and that rename is the moment when
the image comes to be.

Every call that takes a uuid raises `InvalidUUIDError` for what is none, and every call on a published image
raises `ImageNotInstalledError` where there is none; those on a partial are content with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

#: What flows into a pool: pieces of a stream, of any length, in order.
Blocks = Iterable[bytes | bytearray | memoryview]

#: Longest tag of a hold, in bytes. ZFS allows 255, of which a pool may need some.
MAX_TAG: Final = 200

#: Is called with how many bytes have been read so far.
OnRead = Callable[[int], None]


class PoolImage(Struct, frozen=True):
    """An installed image as the pool knows it."""

    uuid: str
    guid: int  #: guid of the snapshot @final
    origin: str | None  #: uuid of the image it was cloned from
    kind: str  #: "filesystem" or "volume"
    used: int  #: bytes that it occupies by itself
    referenced: int  #: bytes of its data: a volume's size, a filesystem's stream
    clones: tuple[str, ...] = ()  #: names (POOL/…) of clones, also machines', if others than images can be
    dataset: int = 0  #: of the dataset itself: another one each time the image is received; 0 if not known
    created: int | None = None  #: when the dataset was made, in seconds since the epoch, if the pool knows


class Occupant(Struct, frozen=True):
    """The dataset POOL/UUID: an image, or what only has the name of one."""

    name: str  #: POOL/UUID
    image: PoolImage | None  #: None if it has no @final, or is hidden
    used: int  #: bytes
    receiving: bool = False  #: somebody receives straight into it
    hidden: bool = False  #: it is to be ignored, or an image is being made of it


class Checked(Struct, frozen=True):
    """The result of reading all of an image."""

    image: PoolImage
    stream_size: int | None  #: bytes of its stream, where the pool keeps that as it came
    damaged: str | None = None  #: how its data is not what was written
    changed: str | None = None  #: how its dataset is not as @final any more
    content: str | None = None  #: SHA-256 of the data in its stream, where that was asked for


class Use(Struct, frozen=True):
    """The clones and holds that protect an image from destruction."""

    #: Names (POOL/…) of what is cloned from the image, also POOL/UUID-partial while that is received.
    dependents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()  #: as `Pool.holds` has them
    held: bool = False  #: by tags, or by holds that others have put there


class Space(Struct, frozen=True):
    """Room in a pool, in bytes."""

    total: int
    available: int


class Room(Protocol):
    """Reserves room for bytes that are to come. Each call may raise `NoSpaceError`, but for `spent`."""

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """So many bytes are still to come, and with `exact` no more than that; returns the free bytes."""
        ...

    def add(self, size: int) -> None:
        """So many bytes are to come besides what was expected."""
        ...

    def take(self, size: int) -> None:
        """Bytes are about to be written."""
        ...

    def spent(self, size: int) -> None:
        """Bytes of `take` are written, or will not be."""
        ...


class Boundless:
    """A room that is never full, for whoever does not share it."""

    def expect(self, to_come: int, *, exact: bool = False) -> int:
        """Fits."""
        return to_come

    def add(self, size: int) -> None:
        """Fits."""

    def take(self, size: int) -> None:
        """Fits."""

    def spent(self, size: int) -> None:
        """Nothing to count."""


class SourceDataset(Struct, frozen=True):
    """A dataset that an image can be made of."""

    name: str  #: POOL/…
    volume: bool
    size: int  #: bytes of its data, before compression; a volume's own size
    origin: str | None  #: uuid of the image that it was cloned from
    from_final: bool  #: it was cloned from the image's @final, and from no other snapshot of it


class Datasets(Protocol):
    """The datasets of a pool that are not images. Datasets are named POOL/…, snapshots by what follows the @.

    Raises `UsageError` for what is no name of a dataset in the pool, and `PoolError`.
    """

    def look(self, dataset: str) -> SourceDataset:
        """The facts about a dataset."""
        ...

    def freeze(self, dataset: str, mark: str) -> str | None:
        """Takes the snapshot @final. One that is there is called @final-MARK until `thaw`; says so if it is.

        While it is there, the dataset is not among the pool's images.
        """
        ...

    def thaw(self, dataset: str, mark: str) -> None:
        """Undoes `freeze`, as far as it came; content where there is nothing to undo."""
        ...

    def send(self, dataset: str, origin: str | None) -> Blocks:
        """The stream of @final; given the uuid of the image it was cloned from, what differs from that."""
        ...

    def snapshot(self, datasets: Sequence[str], name: str) -> None:
        """Takes a snapshot of each, all at one moment."""
        ...

    def has(self, dataset: str, name: str) -> bool:
        """True if there is that snapshot of the dataset."""
        ...

    def roll_back(self, datasets: Sequence[str], name: str) -> None:
        """Makes each what it was in its snapshot, which is gone then; passes over those that have none."""
        ...


#: Room for whoever names none.
BOUNDLESS: Final = Boundless()


class Pool(Protocol):
    """Keeps images. Any call may raise `PoolError`; what else it may raise is said there."""

    @property
    def name(self) -> str:
        """The pool's name, as in POOL/UUID."""
        ...

    @property
    def storage(self) -> str:
        """The storage whose room it has, as `host.mounts.storage_of` names it."""
        ...

    @property
    def shared(self) -> bool:
        """True if others may install and delete images in it, too."""
        ...

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        """All published images, in no particular order.

        Of `known` ones, as an earlier call gave them, it is looked whether they are still there, with the
        same guid, and what is cloned from them; the rest may be as it was.
        """
        ...

    def image(self, uuid: str) -> PoolImage | None:
        """The published image, or None."""
        ...

    def occupant(self, uuid: str) -> Occupant | None:
        """The dataset POOL/UUID, or None if there is none."""
        ...

    def incoming(self) -> dict[str, int]:
        """Datasets POOL/UUID that somebody receives straight into place, and so no images yet.

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

        `blocks` is always the whole stream from its first byte. Where a part of the image is there already,
        the pool goes on from where that ends if the stream is the same (guid and content so far), and starts
        afresh if it is not. When `blocks` raises, the error passes through and what was received stays for
        next time. The image is complete on return, but not visible until `publish`.

        `origin` is the uuid of the published image that an incremental stream builds on; None for a full one.
        A piece of `blocks` is not used any more once the next one has been asked for. `room` is asked before
        the pool writes what `blocks` does not bring, such as a copy of the origin.

        Raises `StreamError` for a stream that is damaged, cut short, or not an image's, or that is a full one
        though an origin is given; `OriginNotInstalledError` where the origin is not in the pool, or is not
        the snapshot that the stream names; `NoSpaceError`.
        """
        ...

    def unpack(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Makes UUID-partial of a container image's layer, on top of the image that has those below it.

        `blocks` is all of the uncompressed layer, a tar. What an earlier call left is dropped: a layer is
        unpacked as a whole. Else as `receive`, but that it raises `LayerError` instead of `StreamError`.
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
        """A stream of which `receive` makes the same image."""
        ...

    def check(self, uuid: str, on_read: OnRead, *, content: bool = False) -> Checked:
        """Reads all that the image has by itself, not what is its origin's, and checks every checksum.

        `on_read` is called after each piece; what it raises ends the check, and passes through. `content`
        asks for `Checked.content`, which costs a SHA-256 of all that is read; a pool that keeps the stream
        as it came need not give it.
        """
        ...

    def space(self) -> Space:
        """The size and free space of the pool."""
        ...

    @property
    def lags(self) -> bool:
        """True if `space` learns only some seconds later of what is written."""
        ...

    def settle(self) -> None:
        """Waits until `space` knows of all that was written before, but for `queue`."""
        ...

    @property
    def queue(self) -> int:
        """The most bytes of one stream that are taken and not yet written while `receive` runs."""
        ...

    def datasets(self) -> Datasets:
        """The source datasets for new images. Raises `NotSupportedError` if the pool has only images."""
        ...
