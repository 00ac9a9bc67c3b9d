"""A ZFS pool: its images, and the operations on them."""

from __future__ import annotations

import contextlib
import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from imgstored.errors import (
    ConfigError,
    ImageHeldError,
    ImageNotInstalledError,
    OriginNotInstalledError,
    PoolError,
    ResumeError,
    StreamError,
)
from imgstored.host.mounts import storage_of_zfs
from imgstored.manifest import check_uuid
from imgstored.pools.base import BOUNDLESS, MAX_TAG, Occupant, Use
from imgstored.pools.refusals import check_tag, in_the_way, incomplete, refuse_dependents
from imgstored.pools.zfs import programs
from imgstored.pools.zfs.check import check_stream, differs
from imgstored.pools.zfs.datasets import ZfsDatasets
from imgstored.pools.zfs.lzc import Lzc
from imgstored.pools.zfs.pipe import QUEUE, outlet
from imgstored.pools.zfs.programs import FINAL, PARTIAL
from imgstored.pools.zfs.properties import DEFAULT, checked
from imgstored.pools.zfs.receive import Receive
from imgstored.pools.zfs.system import unmount
from imgstored.pools.zfs.unpack import Unpack, drop_partial
from imgstored.zstream.token import parse_token

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from imgstored.pools.base import Blocks, Checked, OnRead, PoolImage, Room, Space

log = structlog.get_logger(__name__)

#: zpoolconcepts(7): a letter, then also digits and these signs.
_POOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,62}")

#: The prefix of our holds' tags, so that holds of others are never released.
_OURS: Final = "imgstored:"


class ZfsPool:
    """Images in a ZFS pool. See `imgstored.pools.base.Pool`.

    `properties` are those of received images; they replace `readonly=on` and `canmount=noauto`.
    `imgstored.pools.zfs.properties` has the allowed ones.
    """

    def __init__(self, name: str, *, properties: Mapping[str, str] | None = None) -> None:
        """Opens the pool. Raises `ConfigError`, and `PoolError`: without ZFS it says what to install."""
        if not _POOL_NAME.fullmatch(name):
            raise ConfigError(
                f'a pool cannot be named "{name}"', hint="give the name of a pool, not of a dataset"
            )
        self._properties = checked(DEFAULT if properties is None else properties)
        self._lzc = Lzc(name)
        # Fails if there is no such pool, or we lack the privilege to query it.
        self.space()
        self._lock = threading.Lock()
        self._receiving: dict[str, str | None] = {}  # uuid to origin, also before the kernel knows it

    @property
    def name(self) -> str:
        """The pool's name, as in POOL/UUID."""
        return self._lzc.pool

    @property
    def binding(self) -> str:
        """The binding to libzfs_core: `pyzfs`, or the name of the library's file."""
        return self._lzc.binding

    @property
    def storage(self) -> str:
        """The storage that all datasets of the pool share."""
        return storage_of_zfs(self.name)

    @property
    def shared(self) -> bool:
        """True: imgadm, vmadm and `zfs` change the pool, too."""
        return True

    # -- queries ---------------------------------------------------------------------------------------------

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        """All published images: datasets POOL/UUID with a snapshot @final, except with imgadm:ignore."""
        return programs.images(self._lzc, known)

    def image(self, uuid: str) -> PoolImage | None:
        """The published image, or None."""
        found = self.occupant(uuid)
        return None if found is None else found.image

    def occupant(self, uuid: str) -> Occupant | None:
        """The dataset POOL/UUID, of whatever kind."""
        check_uuid(uuid)
        found = programs.dataset(self._lzc, self._dataset(uuid), f"looking at image {uuid}")
        if found is None:
            return None
        image = None if found.guid is None or found.hidden else found.image(uuid)
        return Occupant(found.name, image, found.used, found.receiving, found.hidden)

    def incoming(self) -> dict[str, int]:
        """The images that other programs receive without a -partial, with their bytes so far."""
        return programs.incoming(self._lzc)

    def unnamed(self) -> dict[str, dict[str, int]]:
        """Datasets POOL/UUID without @final, except clones of images: their snapshots with the guids."""
        return programs.unnamed(self._lzc)

    def name_final(self, uuid: str, snapshot: str) -> PoolImage:
        """Renames a snapshot of such a dataset to @final, which makes the dataset an image."""
        dataset, doing = self._dataset(check_uuid(uuid)), f"naming the snapshot of image {uuid}"
        if snapshot not in self.unnamed().get(uuid, {}):
            raise PoolError(f"{dataset}@{snapshot} no longer exists", hint="try again")
        self._lzc.rename(f"{dataset}@{snapshot}", dataset + FINAL, doing)
        return self._installed(uuid)

    def damage(self) -> list[str]:
        """None: the pool has only ZFS's own data, whose health `PoolStates` reports."""
        return []

    def partials(self) -> list[str]:
        """The images of which a part is received and not published, also those that imgadm is receiving."""
        return programs.partials(self._lzc)

    def resume_point(self, uuid: str) -> int:
        """The bytes of the stream in UUID-partial, estimated from its token.

        For a complete partial, the bytes of its data.
        """
        check_uuid(uuid)
        found = programs.dataset(self._lzc, self._dataset(uuid) + PARTIAL, f"looking at image {uuid}")
        if found is None:
            return 0
        if found.guid is not None:
            return found.size
        with contextlib.suppress(ResumeError):
            return 0 if found.token is None else parse_token(found.token).bytes
        return 0

    def uses(self) -> dict[str, Use]:
        """The clones and holds that protect each image; queries tags only of held snapshots."""
        with self._lock:
            found = programs.all_dependents(self._lzc)
            return {uuid: self._use(uuid, each) for uuid, each in found.items()}

    def _use(self, uuid: str, found: programs.Dependents) -> Use:
        tags = self._tags(uuid) if self._dataset(uuid) + FINAL in found.held else []
        return Use(tuple(self._with_coming(uuid, found.names)), tuple(tags), bool(found.held))

    def space(self) -> Space:
        """The size of the pool's datasets, and the room for them."""
        return programs.space(self._lzc)

    @property
    def lags(self) -> bool:
        """True: ZFS counts the blocks of a transaction group once the group is on disk."""
        return True

    def settle(self) -> None:
        """Waits for the transaction group that is open now."""
        programs.settle(self._lzc)

    @property
    def queue(self) -> int:
        """The bytes that the pipe and the kernel hold."""
        return QUEUE

    # -- receiving -------------------------------------------------------------------------------------------

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Receives an image's stream into UUID-partial, and checks all of it."""
        check_uuid(uuid)
        with self._registered(uuid, origin):
            self._refuse_existing(uuid)
            origin_image = self._origin(uuid, origin)
            return Receive(self._lzc, uuid, origin_image, self._properties).run(blocks)

    def unpack(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Unpacks a container image's layer into UUID-partial, a clone of what is below it."""
        check_uuid(uuid)
        with self._registered(uuid, origin):
            self._refuse_existing(uuid)
            return Unpack(self._lzc, uuid, self._origin(uuid, origin), self._properties, room).run(blocks)

    @contextmanager
    def _registered(self, uuid: str, origin: str | None) -> Iterator[None]:
        """`destroy` refuses the origin while the block lasts. The block checks that the origin is there."""
        with self._lock:
            self._receiving[uuid] = None if origin is None else check_uuid(origin)
        try:
            yield
        finally:
            with self._lock:
                self._receiving.pop(uuid, None)

    def _refuse_existing(self, uuid: str) -> None:
        found = self.occupant(uuid)
        if found is not None and found.image is not None:
            raise PoolError(f'image "{uuid}" is already in pool "{self.name}"', hint="no action is necessary")
        if found is not None:
            raise in_the_way(found)

    def _origin(self, uuid: str, origin: str | None) -> PoolImage | None:
        if origin is None:
            return None
        image = self.image(origin)
        if image is None:
            raise OriginNotInstalledError(
                f'origin image "{origin}" of image "{uuid}" was not found on zpool "{self.name}"',
                hint=f"`imgctl import {origin}` installs it",
            )
        return image

    def abandon(self, uuid: str) -> None:
        """Drops UUID-partial, if there is one."""
        check_uuid(uuid)
        drop_partial(self._lzc, uuid)

    def publish(self, uuid: str) -> PoolImage:
        """Makes a completely received image visible: the rename of its dataset is the commit."""
        check_uuid(uuid)
        doing = f"publishing image {uuid}"
        partial = programs.dataset(self._lzc, self._dataset(uuid) + PARTIAL, doing)
        if partial is None or partial.guid is None or self.image(uuid) is not None:
            raise incomplete(uuid, self.name)
        self._lzc.rename(partial.name, self._dataset(uuid), doing)
        return self._installed(uuid)

    # -- operations on an image ------------------------------------------------------------------------------

    def send(self, uuid: str) -> Blocks:
        """The image's stream, as the kernel makes it; with an origin, only the differences from that."""
        return self._sent(self._installed(uuid))

    def _sent(self, image: PoolImage) -> Generator[bytes, None, None]:
        origin = None if image.origin is None else self._dataset(image.origin) + FINAL
        snapshot, doing = self._dataset(image.uuid) + FINAL, f"sending image {image.uuid}"
        return outlet(self.name, lambda fd: self._lzc.send(snapshot, fd, doing, origin=origin))

    def check(self, uuid: str, on_read: OnRead, *, content: bool = False) -> Checked:
        """Makes the kernel send the image, which checks every block that is not the origin's."""
        image = self._installed(uuid)
        return check_stream(image, self._sent(image), self._written(uuid), on_read, content=content)

    def _written(self, uuid: str) -> int:
        """Bytes of an image's dataset that are newer than its @final; 0 if these change nothing.

        When a pool is imported, ZFS claims the intent log of each dataset that was written to as a layer is,
        which rewrites the dataset's head. `written` counts that; for a receive ZFS does not take it for a
        change, either (dsl_dataset.c, `dsl_dataset_modified_since_snap`).
        """
        dataset, doing = self._dataset(uuid), f"checking image {uuid}"
        written = programs.written(self._lzc, dataset, doing)
        try:
            if written and not differs(
                outlet(self.name, lambda fd: self._lzc.send(dataset, fd, doing, origin=dataset + FINAL))
            ):
                return 0
        except (PoolError, StreamError) as error:
            log.info("what was written to an image is not known", uuid=uuid, error=error.message)
        return written

    def destroy(self, uuid: str) -> None:
        """Removes a published image in one step. It must have no dependents and no holds."""
        check_uuid(uuid)
        doing = f"deleting image {uuid}"
        with self._lock:
            image = self._installed(uuid)
            dependents = self._dependents(uuid)
            refuse_dependents(uuid, dependents.names)
            self._refuse_held(uuid, dependents.held, doing)
            unmount(self._dataset(uuid), self.name)
            programs.destroy(self._lzc, self._dataset(uuid), doing, guid=image.dataset)

    def hold(self, uuid: str, tag: str) -> None:
        """Protects the image from destruction until the tag is released."""
        check_tag(tag)
        self._installed(uuid)
        if not self._lzc.hold(self._dataset(uuid) + FINAL, _OURS + tag, f"holding image {uuid}"):
            raise ImageNotInstalledError(uuid, self.name)

    def release(self, uuid: str, tag: str) -> None:
        """Ends a hold."""
        self._installed(uuid)
        if tag.isprintable() and len(tag.encode()) <= MAX_TAG:
            self._lzc.release(self._dataset(uuid) + FINAL, _OURS + tag, f"releasing image {uuid}")

    def holds(self, uuid: str) -> list[str]:
        """The tags of imgstored's own holds, sorted. `zfs holds` shows others, too."""
        self._installed(uuid)
        return self._tags(uuid)

    def _tags(self, uuid: str) -> list[str]:
        tags = self._lzc.holds(self._dataset(uuid) + FINAL, f"looking at image {uuid}")
        return [tag.removeprefix(_OURS) for tag in tags if tag.startswith(_OURS)]

    def datasets(self) -> ZfsDatasets:
        """The source datasets for new images."""
        return ZfsDatasets(self._lzc)

    # -- in common -------------------------------------------------------------------------------------------

    def _dataset(self, uuid: str) -> str:
        return f"{self.name}/{uuid}"

    def _installed(self, uuid: str) -> PoolImage:
        image = self.image(uuid)
        if image is None:
            raise ImageNotInstalledError(uuid, self.name)
        return image

    def _dependents(self, uuid: str) -> programs.Dependents:
        """The dependents, including clones that are being received. The caller must hold the lock."""
        found = programs.dependents(self._lzc, self._dataset(uuid), f"looking at image {uuid}")
        return programs.Dependents(self._with_coming(uuid, found.names), found.held)

    def _with_coming(self, uuid: str, names: list[str]) -> list[str]:
        coming = (self._dataset(each) + PARTIAL for each, origin in self._receiving.items() if origin == uuid)
        return sorted({*names, *coming})

    def _refuse_held(self, uuid: str, snapshots: list[str], doing: str) -> None:
        tags: list[str] = []
        for snapshot in snapshots:
            where = "" if snapshot.endswith(FINAL) else f" (on {snapshot})"
            tags += [tag.removeprefix(_OURS) + where for tag in self._lzc.holds(snapshot, doing)]
        if tags:
            raise ImageHeldError(uuid, sorted(tags))
