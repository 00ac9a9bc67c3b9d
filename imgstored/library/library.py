"""The library: one folder an image, with the file as it came, bit for bit.

    FOLDER/UUID/          the folder of an image (folder.py)
    FOLDER/.spoilt-UUID   how often wrong bytes were given out as the image's file

An image appears by one rename of its folder, and goes by one. Files that were only kept are evicted, the
least recently used first, when they exceed the budget; those that were published here never are. All methods
block, and may be called from any thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from msgspec.structs import replace

from imgstored.errors import ImgstoreError, NoSpaceError
from imgstored.host import filesystem, shortage
from imgstored.host.clock import Ages
from imgstored.host.filesystem import replace_file, sync
from imgstored.library.folder import (
    COMING,
    COMING_SECONDS,
    COPIES,
    DAMAGED,
    ENTRY,
    FILE,
    ICON,
    INDEX,
    MANIFEST,
    NEW,
    OLD,
    RULES,
    SPOILT,
    SPOILT_SECONDS,
    Copy,
    Entry,
    Kind,
    LibraryImage,
    image_of,
    read_image,
)
from imgstored.manifest import Manifest, load
from imgstored.manifest.values import UUID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

log = structlog.get_logger(__name__)

#: Seconds between two times that the use of an entry is written down.
_USE_EVERY: Final = 60.0
#: Seconds between two uses at least, as a file system tells them apart.
_TICK: Final = 1e-3
#: Damaged folders that are kept for people to look at.
_MAX_DAMAGED: Final = 10

#: The journal has the ranges of a file that comes into the library under this key and its uuid.
SPOOL_KEY: Final = "_library-"


class ChangedError(Exception):
    """The image was changed, or removed, by somebody else meanwhile."""


class Upload:
    """A file that a client sends for an image. `finish` gives it to the image; otherwise it is dropped."""

    def __init__(self, library: Library, uuid: str, fd: int, path: Path) -> None:
        self._library = library
        self._uuid = uuid
        self._fd = fd
        self._path = path
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self.size = 0  #: bytes that came so far

    @property
    def sha1(self) -> str:
        """The hash of what came so far, in lower-case hexadecimal."""
        return self._sha1.hexdigest()

    def write(self, data: bytes) -> None:
        """Adds bytes. Raises `OSError`."""
        self._sha1.update(data)
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self, change: Callable[[Mapping[str, Any]], Manifest]) -> None:
        """Makes it the image's file, and changes the manifest. Raises `OSError`, `ChangedError`."""
        sync(self._fd)
        self._library.take_upload(self._uuid, self._path, self.size, change)


class Library:
    """The images in one folder."""

    def __init__(self, folder: Path, budget: int, *, pinned: Callable[[], Iterable[str]] = tuple) -> None:
        """`budget` is in bytes, for kept files. `pinned` gives the uuids that are never evicted."""
        self.folder = folder
        self.budget = budget
        self._pinned = pinned
        self._writing = threading.Lock()  # one change of an image at a time; held while files are written
        self._lock = threading.Lock()  # of what is in memory; never held for long
        self._images: dict[str, LibraryImage] = {}
        self._sorted: tuple[LibraryImage, ...] | None = None
        self.arrived: Callable[[], object] = lambda: None  #: called in any thread, when a file has come
        self.evicted = self.evicted_bytes = 0  #: since the start; written by whoever evicts
        self._written: dict[str, float] = {}  # when the use of an entry was last written down; monotonic
        self._last_use = 0.0
        self._ages = Ages()

    # -- the start -------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Reads what is there, and removes what is half made. Sets aside, and logs, what is damaged.

        Raises `OSError` where the folder cannot be used.
        """
        filesystem.make_folder(self.folder, mode=0o700)
        for path in self.folder.iterdir():
            if path.name.startswith((NEW, OLD)):
                _remove(path)
            elif UUID.fullmatch(path.name):
                try:
                    image = read_image(path)
                    filesystem.sweep(path)
                except (OSError, ImgstoreError, msgspec.MsgspecError) as error:
                    log.error("an image of the library is set aside", path=str(path), error=str(error))
                    path.rename(self.folder / f"{DAMAGED}{path.name}-{secrets.token_hex(4)}")
                else:
                    self._images[image.uuid] = image
                    self._last_use = max(self._last_use, image.used_at)
        self._sorted = None
        self.sweep()

    def sweep(self) -> None:
        """Removes files that nobody waits for any more, and all but the last damaged images."""
        for path in self.folder.glob(f"{COMING}*"):
            if self._ages.is_over(path.name, path.lstat().st_mtime, COMING_SECONDS):
                _remove(path)
        for path in self.folder.glob(f"{SPOILT}*"):
            if self._ages.is_over(path.name, path.lstat().st_mtime, SPOILT_SECONDS):
                _remove(path)
        damaged = sorted(self.folder.glob(f"{DAMAGED}*"), key=lambda path: path.lstat().st_mtime)
        for path in damaged[:-_MAX_DAMAGED]:
            _remove(path)

    # -- what is there ---------------------------------------------------------------------------------------

    def get(self, uuid: str) -> LibraryImage | None:
        """The image."""
        with self._lock:
            return self._images.get(uuid)

    def images(self) -> tuple[LibraryImage, ...]:
        """All images, the oldest first by the time when they were published."""
        with self._lock:
            if self._sorted is None:
                self._sorted = tuple(sorted(self._images.values(), key=_by_date))
            return self._sorted

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(image.size for image in self.images())

    @property
    def kept_size(self) -> int:
        """Bytes of the files that the budget is for."""
        return sum(image.size for image in self.images() if image.entry.kind == "kept")

    def open_file(self, uuid: str, *, used: bool = True) -> int | None:
        """A descriptor of the image's file, which the caller closes; None where there is none.

        What is used is evicted last.
        """
        return self._open(uuid, FILE, used=used)

    def open_index(self, uuid: str) -> int | None:
        """A descriptor of the index that the manifest names, which the caller closes; None for none."""
        image = self.get(uuid)
        if image is None or not image.entry.index or not image.entry.index[0]:
            return None
        return self._open(uuid, self.index_path(uuid, image.entry.sha256 or "").name, used=False)

    def open_icon(self, uuid: str) -> int | None:
        """A descriptor of the image's icon, which the caller closes; None where there is none."""
        return self._open(uuid, ICON, used=False)

    def _open(self, uuid: str, name: str, *, used: bool) -> int | None:
        image = self.get(uuid)
        if image is None:
            return None
        try:
            fd = os.open(f"{self.folder}/{uuid}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        if used:
            self._use(image)
        return fd

    def _use(self, image: LibraryImage) -> None:
        uptime = time.monotonic()
        with self._lock:
            if self._images.get(image.uuid) is not image:
                return
            used_at = self._used_now()
            self._images[image.uuid] = replace(image, used_at=used_at)
            # The order stays; `images` gives the time of use of the next change.
            due = uptime - self._written.get(image.uuid, float("-inf")) > _USE_EVERY
            if due:
                self._written[image.uuid] = uptime
        if due:
            with suppress(OSError):
                os.utime(self.folder / image.uuid / ENTRY, (used_at, used_at))

    def _used_now(self) -> float:
        """The time of a use of now: later than all others, also where the clock has gone back."""
        self._last_use = max(time.time(), self._last_use + _TICK)
        return self._last_use

    def path_of(self, uuid: str) -> Path:
        """The path of an image's file, to be linked or read, and not to be changed."""
        return self.folder / uuid / FILE

    def index_path(self, uuid: str, sha256: str) -> Path:
        """The path of the index of an image's file with that SHA-256."""
        return self.folder / uuid / f"{INDEX}{sha256}"

    def spool(self, uuid: str) -> Path:
        """The path at which a file for `keep` may come in."""
        return self.folder / f"{COMING}{uuid}"

    def spoilt(self, uuid: str) -> int:
        """How often wrong bytes were given out as the image's file. Raises `OSError`."""
        try:
            text = (self.folder / f"{SPOILT}{uuid}").read_bytes()[:20]
        except FileNotFoundError:
            return 0
        return int(text) if text.isdigit() else 1

    def spoil(self, uuid: str, times: int) -> None:
        """Remembers that wrong bytes were given out, so many times in all. Raises `OSError`."""
        replace_file(self.folder / f"{SPOILT}{uuid}", str(times).encode(), mode=0o600)

    # -- changes ---------------------------------------------------------------------------------------------

    def layers(self, digests: Collection[str]) -> dict[str, tuple[Path, int]]:
        """The places of these registries' layers, by SHA-256 in hexadecimal: a file, and the offset in it."""
        found: dict[str, tuple[Path, int]] = {}
        for image in self.images():
            offset = 0
            for size, digest in image.entry.layers:
                if digest in digests:
                    found[digest] = (self.path_of(image.uuid), offset)
                offset += size
        return found

    def copied_from(self, uuid: str) -> tuple[Manifest, str] | None:
        """The manifest of a copy whose file is here, and the URL that it came from."""
        image = self.get(uuid)
        if image is None or image.entry.kind == "published" or image.entry.source is None or not image.size:
            return None
        if image.entry.withdrawn:
            return None
        return image.manifest, image.entry.source

    def has_file_of(self, manifest: Manifest) -> bool:
        """True if the image's very file is here, by the manifest's size and SHA-1."""
        image, file = self.get(manifest.uuid), manifest.file
        ours = None if image is None else image.manifest.file
        if file is None or ours is None or file.sha1 is None or image is None or not image.size:
            return False
        return (file.sha1, file.size) == (ours.sha1, ours.size)

    def keep(
        self,
        manifest: Manifest,
        file: Path,
        *,
        kind: Copy = "kept",
        source: str | None = None,
        layers: tuple[tuple[int, str], ...] = (),
    ) -> bool:
        """Takes a verified file over by renaming it, which must be on the same file system. Whether it did.

        `layers` are as of `Entry`.
        It does not where the library has the image already, or the file of a kept one alone exceeds the
        budget. A file on another file system is copied. `source` is the URL that it came from, for people.
        Raises `OSError`.
        """
        size = file.stat().st_size
        if (kind == "kept" and size > self.budget) or self.get(manifest.uuid) is not None:
            return False

        def take(new: Path) -> None:
            try:
                file.rename(new)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copyfile(file, new)
                file.unlink()

        kept = self._add(manifest, kind, size, take, source=source, layers=layers)
        self.evict()
        return kept

    def copy(self, manifest: Manifest, blocks: Iterable[bytes | bytearray | memoryview], size: int) -> bool:
        """As `keep`, with a copy of a file of `size` bytes; of `blocks` nothing is taken if it does not.

        Raises what `blocks` raises, too, which answers for the file's content; and `NoSpaceError`.
        """
        if size > self.budget or self.get(manifest.uuid) is not None:
            return False
        self._add(manifest, "kept", size, lambda new: _copy(blocks, new, size))
        self.evict()
        return True

    def _add(
        self,
        manifest: Manifest,
        kind: Kind,
        size: int,
        take: Callable[[Path], None] | None,
        *,
        source: str | None = None,
        layers: tuple[tuple[int, str], ...] = (),
    ) -> bool:
        """Adds an image, with the file that `take` puts at a path. False if the uuid is taken by now."""
        entry = Entry(kind, time.time(), source=source, spoilt=self.spoilt(manifest.uuid), layers=layers)
        with self._lock:
            used_at = self._used_now()
        image = image_of(manifest, entry, size, icon=False, used_at=used_at)
        new = self.folder / f"{NEW}{manifest.uuid}-{secrets.token_hex(4)}"
        new.mkdir(mode=0o700)
        try:
            if take is not None:
                take(new / FILE)
                (new / FILE).chmod(0o600)
                _sync_file(new / FILE)
            replace_file(new / MANIFEST, msgspec.json.encode(manifest.document), mode=0o600)
            replace_file(new / ENTRY, msgspec.json.encode(image.entry), mode=0o600)
            os.utime(new / ENTRY, (used_at, used_at))
            with self._writing:
                if self.get(manifest.uuid) is not None:
                    return False
                new.rename(self.folder / manifest.uuid)
                with self._lock:
                    self._images[manifest.uuid] = image
                    self._sorted = None
            filesystem.sync_folder(self.folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        self.arrived()
        return True

    def publish(self, manifest: Manifest) -> None:
        """Adds an image that has no file yet. Raises `OSError`; `FileExistsError` where its uuid is taken."""
        if self.get(manifest.uuid) is not None:
            raise FileExistsError(manifest.uuid)
        if not self._add(manifest, "published", 0, None):
            raise FileExistsError(manifest.uuid)

    def change(self, uuid: str, change: Callable[[Mapping[str, Any]], Manifest]) -> None:
        """Replaces an image's manifest by what `change` makes of it. Raises what that does, and `OSError`."""
        with self._writing:
            image = self.get(uuid)
            if image is not None:
                self._write(image, change(image.document), image.size, image.entry)

    def amend(
        self, uuid: str, change: Callable[[LibraryImage], Entry], *, index: bytes | None = None
    ) -> None:
        """Replaces an image's record by what `change` makes of it. The `index` of its file is written first.

        Raises what `change` raises, `ChangedError` where the image is not there, and `OSError`.
        """
        with self._writing:
            image = self.get(uuid)
            if image is None:
                raise ChangedError
            entry = change(image)
            if index is not None:
                replace_file(self.index_path(uuid, entry.sha256 or ""), index, mode=0o600)
            if entry != image.entry:
                self._write(image, image.manifest, image.size, entry)

    @contextmanager
    def upload(self, uuid: str) -> Iterator[Upload]:
        """A file that comes for an image. Raises `OSError`."""
        path = self.folder / f"{NEW}{uuid}-{secrets.token_hex(4)}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield Upload(self, uuid, fd, path)
        finally:
            os.close(fd)
            path.unlink(missing_ok=True)

    def take_upload(
        self, uuid: str, path: Path, size: int, change: Callable[[Mapping[str, Any]], Manifest]
    ) -> None:
        """As `Upload.finish`."""
        with self._writing:
            image = self.get(uuid)
            if image is None or image.document.get("state") != "unactivated":
                raise ChangedError
            manifest = change(image.document)
            if image.manifest.file is not None:
                # Never the manifest of one file beside another file, whenever the daemon dies.
                without = {key: value for key, value in image.document.items() if key != "files"}
                self._write(image, load(without, rules="create"), 0, _unread(image.entry))
                for index in (self.folder / uuid).glob(f"{INDEX}*"):
                    index.unlink()
            path.rename(self.folder / uuid / FILE)
            self._write(image, manifest, size, _unread(image.entry))
        self.arrived()

    def set_icon(self, uuid: str, data: bytes | None) -> None:
        """Sets or removes the image's icon. Raises `OSError`."""
        with self._writing:
            image = self.get(uuid)
            if image is None:
                return
            icon = self.folder / uuid / ICON
            if data is None:
                icon.unlink(missing_ok=True)
            else:
                replace_file(icon, data, mode=0o600)
            document = {key: value for key, value in image.document.items() if key != "icon"}
            if data is not None:
                document["icon"] = True
            self._write(image, load(document, rules=RULES[image.entry.kind]), image.size, image.entry)

    def _write(self, image: LibraryImage, manifest: Manifest, size: int, entry: Entry) -> None:
        """Writes an image's changed manifest. For whoever is writing."""
        icon = (self.folder / image.uuid / ICON).exists()
        new = image_of(manifest, entry, size, icon=icon, used_at=image.used_at)
        replace_file(self.folder / image.uuid / MANIFEST, msgspec.json.encode(manifest.document), mode=0o600)
        if entry != image.entry:
            replace_file(self.folder / image.uuid / ENTRY, msgspec.json.encode(entry), mode=0o600)
        with self._lock:
            self._images[image.uuid] = new
            self._sorted = None

    def hold(self, uuid: str, kind: Copy) -> None:
        """Makes a copy stay at least as long as `kind` says. Raises `OSError`."""
        with self._writing:
            image = self.get(uuid)
            if image is None or image.entry.kind == "published":
                return
            if COPIES.index(kind) > COPIES.index(image.entry.kind):
                self._write(image, image.manifest, image.size, replace(image.entry, kind=kind))

    def release(self, wanted: Collection[str]) -> list[str]:
        """Lets those of schedules that are not wanted be evicted; their uuids. Raises `OSError`."""
        released = []
        with self._writing:
            for image in self.images():
                if image.entry.kind == "scheduled" and image.uuid not in wanted:
                    self._write(image, image.manifest, image.size, replace(image.entry, kind="kept"))
                    released.append(image.uuid)
        if released:
            self.evict()
        return released

    def withdraw(self, uuid: str, withdrawn: bool, source: str) -> bool:
        """Takes a copy out of use whose source does not offer it any more, or into use again; whether it did.

        One that is only kept goes, unless it is pinned. Others stay, and are given to nobody. Nothing happens
        to what images of the library build on, nor to a copy from elsewhere. Raises `OSError`.
        """
        image = self.get(uuid)
        if image is None or image.entry.source != source:
            return False
        if withdrawn and any(
            each.manifest.origin == uuid and not each.entry.withdrawn for each in self.images()
        ):
            return False
        if withdrawn and image.entry.kind == "kept":
            try:
                if uuid not in self._pinned():
                    return self.remove(uuid)
            except ImgstoreError as error:
                log.warning("nobody knows what is pinned", error=error.message)
        with self._writing:
            now = self.get(uuid)
            if now is None or now.entry.source != source or now.entry.withdrawn == withdrawn:
                return False
            self._write(now, now.manifest, now.size, replace(now.entry, withdrawn=withdrawn))
        return True

    def remove(self, uuid: str) -> bool:
        """Removes an image; whoever is being served its file gets the rest of it. Whether it was there.

        Raises `OSError`; then the image stays.
        """
        old = self.folder / f"{OLD}{uuid}-{secrets.token_hex(4)}"
        with self._writing:
            if self.get(uuid) is None:
                return False
            (self.folder / uuid).rename(old)
            with self._lock:
                self._images.pop(uuid, None)
                self._written.pop(uuid, None)
                self._sorted = None
        # The name goes from the disk first, and then what is behind it.
        with suppress(OSError):
            filesystem.sync_folder(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        return True

    def set_aside(self, uuid: str) -> None:
        """Takes a copy out that is damaged; it is kept for people to look at. Raises `OSError`."""
        with self._writing:
            image = self.get(uuid)
            if image is None or image.entry.kind == "published":
                return
            (self.folder / uuid).rename(self.folder / f"{DAMAGED}{uuid}-{secrets.token_hex(4)}")
            with self._lock:
                self._images.pop(uuid, None)
                self._written.pop(uuid, None)
                self._sorted = None

    def evict(self) -> list[str]:
        """Removes kept files beyond the budget, the least recently used first; their uuids."""
        with self._lock:
            images = list(self._images.values())
        if sum(image.size for image in images if image.entry.kind == "kept") <= self.budget:
            return []
        try:
            pinned = frozenset(self._pinned())
        except ImgstoreError as error:
            log.warning("nothing is evicted: nobody knows what is pinned", error=error.message)
            return []
        sizes = {image.uuid: image.size for image in images}
        chosen = evicted(images, self.budget, pinned | _origins(images))
        for uuid in chosen:
            try:
                self.remove(uuid)
            except OSError as error:
                log.error("a kept file cannot be evicted", uuid=uuid, error=shortage.why(error))
                continue
            log.info("a kept file was evicted", uuid=uuid, budget=self.budget)
            with self._lock:
                self.evicted += 1
                self.evicted_bytes += sizes[uuid]
        return chosen


def _origins(images: Iterable[LibraryImage]) -> frozenset[str]:
    """The uuids of all that published images build on: nobody could import those otherwise."""
    by_uuid = {image.uuid: image for image in images}
    found: set[str] = set()
    for image in by_uuid.values():
        origin = image.manifest.origin if image.entry.kind == "published" else None
        while origin is not None and origin not in found:
            found.add(origin)
            origin = None if origin not in by_uuid else by_uuid[origin].manifest.origin
    return frozenset(found)


def evicted(images: Iterable[LibraryImage], budget: int, pinned: frozenset[str]) -> list[str]:
    """The uuids of those to remove, so that the rest of the kept files has `budget` bytes at most. Pure."""
    kept = sorted((each for each in images if each.entry.kind == "kept"), key=lambda each: each.used_at)
    over = sum(image.size for image in kept) - budget
    chosen = []
    for image in kept:
        if over <= 0:
            break
        if image.uuid not in pinned:
            chosen.append(image.uuid)
            over -= image.size
    return chosen


def _unread(entry: Entry) -> Entry:
    """Of an image whose file nobody has read yet."""
    return replace(entry, md5=None, sha256=None, index=None)


def _by_date(image: LibraryImage) -> tuple[str, str]:
    return image.manifest.published_at or "", image.uuid


def _remove(path: Path) -> None:
    """Removes a folder or a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copy(blocks: Iterable[bytes | bytearray | memoryview], new: Path, size: int) -> None:
    written = 0
    with new.open("xb", buffering=0) as target:
        for block in blocks:
            view = memoryview(block)
            written += len(view)
            while view:
                try:
                    view = view[target.write(view) :]
                except OSError as error:
                    if shortage.is_full(error):
                        raise NoSpaceError("there is no room for a copy of the image's file") from error
                    raise
    if written != size:
        raise OSError(0, f"the file has {written} bytes, and not {size}")


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)
