"""The embedded pool: its images, and the operations on them."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import weakref
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from imgstored.errors import (
    ImageHeldError,
    ImageNotInstalledError,
    NotSupportedError,
    OriginNotInstalledError,
    PoolError,
    StreamError,
    UsageError,
)
from imgstored.host import filesystem, shortage
from imgstored.host.mounts import storage_of
from imgstored.manifest import check_uuid
from imgstored.pools.base import (
    BOUNDLESS,
    Blocks,
    Checked,
    Datasets,
    Occupant,
    OnRead,
    PoolImage,
    Room,
    Space,
    Use,
)
from imgstored.pools.embedded.check import check_files
from imgstored.pools.embedded.contents import UNREADABLE, Installed, scan, strays
from imgstored.pools.embedded.files import Folder, pool_errors
from imgstored.pools.embedded.notes import (
    CHECKPOINT,
    ImageNote,
    is_whole,
    keep_holds,
    occupied,
    read_checkpoint,
    read_image,
    write_holds,
)
from imgstored.pools.embedded.receive import (
    PARTIAL,
    Receive,
    discard,
    empty_trash,
    set_aside,
)
from imgstored.pools.embedded.stored import open_stream
from imgstored.pools.embedded.unpack import Unpack
from imgstored.pools.refusals import check_tag, damaged, incomplete, refuse_dependents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_LOCK: Final = "lock"

#: The maximum number of holds of an image.
_MAX_TAGS: Final = 1000


class EmbeddedPool:
    """Images in a folder that no other process uses at the same time. See `imgstored.pools.base.Pool`."""

    def __init__(self, name: str, folder: Path, *, read_only: bool = False) -> None:
        """Opens the pool, creates it if it does not exist, and removes half-made files.

        With `read_only` it changes nothing, and does not lock the pool, which another process may have.
        """
        self._name = name
        self._lock = threading.Lock()
        with pool_errors(name, "opening it", folder):
            if not read_only:
                filesystem.make_folder(folder, mode=0o700)
            self._root = Folder.at(folder)
            self._storage = storage_of(folder)
            self._close = weakref.finalize(self, os.close, self._root.fd)
            if not read_only:
                self._occupy()
            found = scan(self._root, name, others={_LOCK}, sweep=not read_only)
            self._images, self._origins, self._damage = found

    @property
    def name(self) -> str:
        """The pool's name, as in POOL/UUID."""
        return self._name

    @property
    def storage(self) -> str:
        """The storage of the folder's file system."""
        return self._storage

    @property
    def shared(self) -> bool:
        """False: the folder is locked, so nobody else changes it."""
        return False

    def close(self) -> None:
        """Unlocks and closes the folder. The pool cannot be used any more."""
        self._release_lock()
        self._close()

    # -- queries ---------------------------------------------------------------------------------------------

    def images(self, known: Iterable[PoolImage] = ()) -> list[PoolImage]:
        """All published images."""
        with self._lock:
            return [installed.image for installed in self._images.values()]

    def image(self, uuid: str) -> PoolImage | None:
        """The published image, or None."""
        with self._lock:
            installed = self._images.get(uuid)
            return None if installed is None else installed.image

    def occupant(self, uuid: str) -> Occupant | None:
        """The published image: nothing else has its name here."""
        image = self.image(check_uuid(uuid))
        return None if image is None else Occupant(f"{self._name}/{uuid}", image, image.used)

    def incoming(self) -> dict[str, int]:
        """None: nobody else receives anything here."""
        return {}

    def unnamed(self) -> dict[str, dict[str, int]]:
        """None: an image has one snapshot here, and that is @final."""
        return {}

    def name_final(self, uuid: str, snapshot: str) -> PoolImage:
        """Fails: there is nothing to rename."""
        raise PoolError(f'image "{check_uuid(uuid)}" has no snapshot but @final in pool "{self.name}"')

    def damage(self) -> list[str]:
        """The damage that was found when the pool was opened, and is still there."""
        with self._lock:
            return list(self._damage.values())

    def strays(self) -> list[str]:
        """The files in the folder that belong to no image and no partial: names relative to it."""
        with self._pool_errors("looking at its folder"):
            return strays(self._root, others={_LOCK})

    def partials(self) -> list[str]:
        """The images, by uuid, of which a part is received and not published."""
        with self._lock:
            return list(self._origins)

    def resume_point(self, uuid: str) -> int:
        """The bytes of the stream that are safe in UUID-partial; 0 for what is no folder."""
        nothing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with self._pool_errors("reading a partial image"), nothing:
            with self._root.folder(check_uuid(uuid) + PARTIAL) as folder:
                checkpoint = read_checkpoint(folder, uuid)
            return 0 if checkpoint is None else checkpoint.reader.offset
        return 0

    def uses(self) -> dict[str, Use]:
        """The clones and holds of each image."""
        with self._lock:
            dependents = self._dependents()
            return {
                uuid: Use(tuple(dependents.get(uuid, ())), tuple(sorted(image.holds)), bool(image.holds))
                for uuid, image in self._images.items()
            }

    def datasets(self) -> Datasets:
        """Fails: the pool has only images, and no datasets for new ones."""
        raise NotSupportedError(
            f'pool "{self._name}" is an embedded one: it has no datasets to make images of',
            hint="`imgctl create --raw DISK` makes an image from a disk; or use a ZFS pool",
        )

    def space(self) -> Space:
        """The size and free space of the folder's file system."""
        with self._pool_errors("looking for its room"):
            status = os.fstatvfs(self._root.fd)
        return Space(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)

    @property
    def lags(self) -> bool:
        """False: the file system counts a block as soon as it gets it."""
        return False

    def settle(self) -> None:
        """Does nothing: `space` sees all written bytes."""

    @property
    def queue(self) -> int:
        """0: all bytes that were taken are written."""
        return 0

    # -- receiving -------------------------------------------------------------------------------------------

    def receive(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Receives an image's stream into UUID-partial, and checks all of it."""
        return self._arrive(
            uuid, origin, lambda note: Receive(self._root, self._name, uuid, note, room).run(blocks)
        )

    def unpack(
        self, uuid: str, blocks: Blocks, *, origin: str | None = None, room: Room = BOUNDLESS
    ) -> PoolImage:
        """Unpacks a container image's layer into UUID-partial, on a copy of the tree below it."""
        return self._arrive(
            uuid, origin, lambda note: Unpack(self._root, self._name, uuid, note, room).run(blocks)
        )

    def _arrive(
        self, uuid: str, origin: str | None, run: Callable[[ImageNote | None], ImageNote]
    ) -> PoolImage:
        check_uuid(uuid)
        with self._lock:
            if uuid in self._images:
                raise PoolError(
                    f'image "{uuid}" is already in pool "{self._name}"', hint="no action is necessary"
                )
            origin_note = self._origin_note(uuid, origin)
            # From here on the origin cannot be destroyed.
            self._origins[uuid] = origin
        try:
            note = run(origin_note)
        finally:
            with self._lock, contextlib.suppress(OSError):
                if self._root.status(uuid + PARTIAL) is None:
                    self._origins.pop(uuid, None)
        return Installed(note, self._used(uuid + PARTIAL, note), set()).image

    def _origin_note(self, uuid: str, origin: str | None) -> ImageNote | None:
        if origin is None:
            return None
        installed = self._images.get(check_uuid(origin))
        if installed is None:
            raise OriginNotInstalledError(
                f'origin image "{origin}" of image "{uuid}" was not found on zpool "{self._name}"',
                hint=f"`imgctl import {origin}` installs it",
            )
        return installed.note

    def abandon(self, uuid: str) -> None:
        """Drops UUID-partial, if there is one."""
        check_uuid(uuid)
        with self._pool_errors("dropping a partial image"), contextlib.suppress(FileNotFoundError):
            discard(self._root, uuid + PARTIAL)
        with self._lock:
            self._origins.pop(uuid, None)

    def publish(self, uuid: str) -> PoolImage:
        """Makes a completely received image durable and visible: the rename of its folder is the commit."""
        if self.image(check_uuid(uuid)) is not None:
            raise incomplete(uuid, self._name)
        with self._pool_errors(f"publishing image {uuid}"):
            installed = self._completed(uuid)
            # A sound image replaces one that was left out as damaged.
            replaced = None if self._root.status(uuid) is None else set_aside(self._root, uuid)
            with self._lock:
                os.rename(uuid + PARTIAL, uuid, src_dir_fd=self._root.fd, dst_dir_fd=self._root.fd)
                self._images[uuid] = installed
                self._origins.pop(uuid, None)
                self._damage.pop(uuid, None)
            self._root.sync()
        if replaced is not None:
            empty_trash(self._root, replaced)
        return installed.image

    def _completed(self, uuid: str) -> Installed:
        """Makes all files of a complete partial durable; returns it."""
        try:
            folder = self._root.folder(uuid + PARTIAL)
        except FileNotFoundError:
            raise incomplete(uuid, self._name) from None
        with folder:
            note, checkpoint = read_image(folder), read_checkpoint(folder, uuid)
            if note is not None and note.kind == "tree" and is_whole(folder.statuses(), note):
                filesystem.sync_all(folder.fd)
                return Installed(note, occupied(folder.statuses(), note), set())
            if (
                note is None
                or checkpoint is None
                or not checkpoint.reader.ended
                or not is_whole(folder.statuses(), note)
            ):
                raise incomplete(uuid, self._name)
            for name in folder.names():
                fd = folder.open(name, os.O_RDONLY)
                try:
                    filesystem.sync(fd)
                finally:
                    os.close(fd)
            os.unlink(CHECKPOINT, dir_fd=folder.fd)
            folder.sync()
            return Installed(note, occupied(folder.statuses()), set())

    # -- operations on an image ------------------------------------------------------------------------------

    def send(self, uuid: str) -> Blocks:
        """The image's stream, as it was received."""
        with self._lock:
            note = self._installed(uuid).note
        if note.kind == "tree":
            raise NotSupportedError(
                f'image "{uuid}" is a container image, of which pool "{self._name}" has no stream',
                hint="export it from a ZFS pool, or copy it with a registry's tools, such as `skopeo`",
            )
        return self._sent(note)

    def _sent(self, note: ImageNote) -> Iterator[bytes]:
        with ExitStack() as stack:
            with self._pool_errors(f"sending image {note.uuid}"):
                folder = stack.enter_context(self._root.folder(note.uuid))
                stream = open_stream(folder, volume=note.kind == "volume", stack=stack)
            pieces = stream.pieces(note.stream_size)
            sent = 0
            while piece := self._next(pieces, note):
                sent += len(piece)
                yield piece
            if sent != note.stream_size:
                raise damaged(note.uuid, self._name)

    def _next(self, pieces: Iterator[bytes], note: ImageNote) -> bytes:
        try:
            with self._pool_errors(f"sending image {note.uuid}"):
                return next(pieces, b"")
        except StreamError:
            raise damaged(note.uuid, self._name) from None

    def check(self, uuid: str, on_read: OnRead, *, content: bool = False) -> Checked:
        """Reads all of the image's files, and compares them with the checksums of their receive."""
        with self._lock:
            installed = self._installed(uuid)
            below = self._images.get(installed.note.origin or "")
            origin = None if below is None else below.note
        with self._pool_errors(f"checking image {uuid}"):
            damaged = check_files(self._root, installed.note, origin, on_read)
        size = None if installed.note.kind == "tree" else installed.note.stream_size
        return Checked(installed.image, size, damaged)

    def destroy(self, uuid: str) -> None:
        """Removes a published image in one step. It must have no dependents and no holds."""
        check_uuid(uuid)
        with self._lock, self._pool_errors(f"deleting image {uuid}"):
            installed = self._installed(uuid)
            refuse_dependents(uuid, self._dependents().get(uuid, []))
            if installed.holds:
                raise ImageHeldError(uuid, sorted(installed.holds))
            trash = set_aside(self._root, uuid)
            del self._images[uuid]
            self._damage.pop(uuid, None)
        with self._pool_errors(f"deleting image {uuid}"):
            self._root.sync()
        empty_trash(self._root, trash)

    def hold(self, uuid: str, tag: str) -> None:
        """Keeps the image from being destroyed until the tag is released."""
        check_tag(tag)
        if tag == UNREADABLE:
            raise UsageError(f'the tag "{UNREADABLE}" stands for damaged holds', hint="choose another tag")
        with self._changed_holds(uuid) as tags:
            if len(tags) >= _MAX_TAGS and tag not in tags:
                raise PoolError(f'image "{uuid}" has too many holds', hint="release some of them")
            tags.add(tag)

    def release(self, uuid: str, tag: str) -> None:
        """Ends a hold."""
        with self._changed_holds(uuid) as tags:
            tags.discard(tag)

    def holds(self, uuid: str) -> list[str]:
        """The tags that hold the image, sorted."""
        with self._lock:
            return sorted(self._installed(uuid).holds)

    @contextmanager
    def _changed_holds(self, uuid: str) -> Iterator[set[str]]:
        with self._lock:
            installed = self._installed(uuid)
            tags = set(installed.holds)
            yield tags
            if tags != installed.holds:
                with self._pool_errors(f"holding image {uuid}"), self._root.folder(uuid) as folder:
                    if UNREADABLE in installed.holds:
                        keep_holds(folder)
                    write_holds(folder, tags)
                installed.holds = tags
                if UNREADABLE not in tags:
                    self._damage.pop(uuid, None)

    # -- with the lock held ----------------------------------------------------------------------------------

    def _installed(self, uuid: str) -> Installed:
        installed = self._images.get(check_uuid(uuid))
        if installed is None:
            raise ImageNotInstalledError(uuid, self._name)
        return installed

    def _dependents(self) -> dict[str, list[str]]:
        """The names of the clones of each image that has any: installed ones first, then partials."""
        found: dict[str, list[str]] = {}
        clones = sorted((each.note.uuid, each.note.origin) for each in self._images.values())
        partials = sorted((partial + PARTIAL, origin) for partial, origin in self._origins.items())
        for name, origin in clones + partials:
            if origin is not None:
                found.setdefault(origin, []).append(f"{self._name}/{name}")
        return found

    # -- opening ---------------------------------------------------------------------------------------------

    def _occupy(self) -> None:
        """Locks the folder for this process, or refuses. The lock ends with the process."""
        status = self._root.status(_LOCK)
        if status is not None and not stat.S_ISREG(status.st_mode):
            # No process can have its lock, and `scan` deletes nothing that it does not know.
            aside = f"{_LOCK}.damaged-{secrets.token_hex(4)}"
            os.rename(_LOCK, aside, src_dir_fd=self._root.fd, dst_dir_fd=self._root.fd)
        fd = self._root.open(_LOCK, os.O_RDWR | os.O_CREAT)
        self._release_lock = weakref.finalize(self, os.close, fd)
        try:
            filesystem.try_lockf(fd)
        except BlockingIOError:
            raise PoolError(
                f'pool "{self._name}" is in use by another process', hint="is another imgstored running?"
            ) from None
        except OSError as error:
            raise PoolError(
                f'pool "{self._name}": its folder cannot be locked: {shortage.why(error)}',
                hint=filesystem.LOCKS_HINT,
            ) from error

    def _used(self, name: str, note: ImageNote) -> int:
        with self._pool_errors("reading an image"), self._root.folder(name) as folder:
            return occupied(folder.statuses(), note)

    def _pool_errors(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return pool_errors(self._name, doing, self._root.fd)
