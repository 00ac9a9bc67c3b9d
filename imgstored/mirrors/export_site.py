"""Writes the library's images as a static site into a folder that any web server can serve.

files ──► manifests ──► index and list by their hashes ──► lists ──► the signed pointer

Each is complete, and on the disk, before the next names it. What the site has already stays as it is. What
is signed comes from the library alone, and never from the folder, which may be somebody else's.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio
from imgproto.events import Note, Progress
from msgspec import Struct

from imgstored import __version__
from imgstored.create.file_index import index_of
from imgstored.create.job import in_thread, running
from imgstored.errors import (
    DownloadError,
    FileSystemError,
    ImgstoreError,
    NoSpaceError,
    NotSupportedError,
    UsageError,
)
from imgstored.host import shortage
from imgstored.host.filesystem import replace_file
from imgstored.host.foreign_files import ForeignFile
from imgstored.http.location import origin_of
from imgstored.library.digests import Digests
from imgstored.library.library import ChangedError
from imgstored.manifest import FileIndex, decoded, is_uuid, with_index
from imgstored.mirrors.folder import Folder
from imgstored.mirrors.selection import by_names, with_origins
from imgstored.serve.downgrade import as_dataset
from imgstored.serve.listing import is_active, is_public
from imgstored.site import layout
from imgstored.site.layout import Item, Pointer, hashed
from imgstored.site.minisign import parse_secret_key, signed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from typing import Any

    from imgproto.documents import LeftOutDocument, SiteDocument

    from imgstored.create.job import Job, Reporter
    from imgstored.library.folder import LibraryImage
    from imgstored.library.library import Library
    from imgstored.site.minisign import SecretKey

log = structlog.get_logger(__name__)

_DAY: Final = 86400
#: Days for which a signature holds, if nothing else is said, and at most.
DEFAULT_DAYS: Final = 30
_MAX_DAYS: Final = 3650
#: Seconds for which files are kept that no index names any more: a client may be about to fetch them.
_OLD_HASHED: Final = 86400.0
#: Seconds between two progress events.
_INTERVAL: Final = 0.5
#: Why an image is left out.
_NOT_KEPT: Final = "it is installed, but its original file was not kept"
_UNKNOWN: Final = "the library does not have it"
_PRIVATE: Final = "its manifest calls it private; name it to export it"
#: What the names of files begin with that are named by their hashes.
_BY_HASH: Final = ("site-", "list-", "manifest-")


class SiteSpec(Struct, frozen=True):
    """The site that a client wants."""

    names: Sequence[str] = ()  #: empty: all images
    url: str | None = None  #: the site's own address, without which there is no DSAPI
    keys: Sequence[str] = ()  #: texts of secret keys
    days: int = DEFAULT_DAYS
    delete: bool = False  #: remove images from the site that are not chosen


class _State(Struct, frozen=True):
    """The memory of all exports."""

    version: int  #: the last one that was signed


class SiteExporter:
    """Exports from one library."""

    def __init__(
        self, library: Library | None, state: Path, *, installed: Callable[[], Mapping[str, str]]
    ) -> None:
        """`state` is a file of the daemon's own; `installed` gives the uuids and names of this host's images.

        The latter is called in trio's thread.
        """
        self._library = library
        self._state = state
        self._installed = installed
        self._signing = threading.Lock()
        self._limiter = trio.CapacityLimiter(1)

    def export(
        self, spec: SiteSpec, fd: int, *, client: str, path: str
    ) -> AbstractAsyncContextManager[Job[SiteDocument]]:
        """Brings the folder open as `fd` up to date; the job's result is what was done.

        Raises `NotSupportedError` without a library, `UsageError`, `KeyFileError`, and `ClientError` for a
        URL that no client can use; the job `FileSystemError`, `NoSpaceError`, and `UsageError` where the
        folder is in one of the daemon's own.
        """
        library = self._library
        if library is None:
            raise NotSupportedError(
                "this daemon keeps no original files of images",
                hint="set `library.keep_mib` or `serve.listen`",
            )
        if not 1 <= spec.days <= _MAX_DAYS:
            raise UsageError(f"a signature holds 1 to {_MAX_DAYS} days, not {spec.days}")
        if spec.url is not None:
            origin_of(spec.url)
        keys = [parse_secret_key(text) for text in spec.keys]
        installed = dict(self._installed())

        def run(reporter: Reporter) -> SiteDocument:
            try:
                with ForeignFile(fd, check=reporter.check) as disk:
                    own = os.dup(fd)
                    try:
                        folder = Folder(own, disk)
                        if self._is_own(folder, library, path):
                            raise UsageError(
                                f"{path} is in a folder of the daemon's own",
                                hint="choose one for the site alone",
                            )
                        export = _Run(library, spec, keys, installed, self._next_version, folder, path)
                        return export(reporter)
                    finally:
                        disk.release(own)
            except TimeoutError as error:
                raise FileSystemError(f"{path} cannot be written: {error}") from error

        async def work(job: Job[SiteDocument]) -> SiteDocument:
            return await in_thread(job, run, self._limiter)

        return running(client, work)

    def _is_own(self, folder: Folder, library: Library, path: str) -> bool:
        """Whether the folder is in one of the daemon's own. Raises `FileSystemError`."""
        try:
            return any(folder.is_below(each) for each in (library.folder, self._state.parent))
        except TimeoutError:
            raise
        except OSError as error:
            raise FileSystemError(
                f"{path} cannot be used: {error.strerror or error}", hint="name a folder that can be read"
            ) from error

    def _next_version(self, now: float) -> int:
        """A version that is higher than any before, also of a host whose state was lost. On the disk."""
        with self._signing:
            try:
                last = decoded(self._state.read_bytes(), _State).version
            except FileNotFoundError:
                last = 0
            except (OSError, msgspec.MsgspecError) as error:
                log.warning("the last version of a site cannot be read", error=str(error))
                last = 0
            version = max(last + 1, int(now))
            replace_file(self._state, msgspec.json.encode(_State(version)), mode=0o600)
            return version


class _Run:
    """One export, in a thread."""

    def __init__(
        self,
        library: Library,
        spec: SiteSpec,
        keys: Sequence[SecretKey],
        installed: Mapping[str, str],
        version: Callable[[float], int],
        folder: Folder,
        path: str,
    ) -> None:
        self._library = library
        self._digests = Digests(library)
        self._spec = spec
        self._keys = keys
        self._installed = installed
        self._version = version
        self._folder = folder
        self._path = path
        self._left_out: list[LeftOutDocument] = []
        self._new: list[str] = []
        self._copied = 0
        self._linked = 0
        self._reported_at = 0.0

    def __call__(self, reporter: Reporter) -> SiteDocument:
        try:
            self._folder.lock()
        except BlockingIOError as error:
            raise FileSystemError(
                f"{self._path}: another export is under way", hint="wait until it has ended"
            ) from error
        except OSError:
            pass  # a file system without locks; each file is still whole
        try:
            return self._export(reporter)
        except ChangedError as error:
            raise FileSystemError(
                "an image of the library changed while it was exported", hint="try again"
            ) from error
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> ImgstoreError:
        if shortage.is_full(error):
            return NoSpaceError(f"there is no room left in {self._path}", hint="free some, and export again")
        return FileSystemError(
            f"{self._path} cannot be written: {error.strerror or error}",
            hint="the folder has something else in the place of the site's files"
            if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError)
            else "",
        )

    # -- what ------------------------------------------------------------------------------------------------

    def _chosen(self, reporter: Reporter) -> list[LibraryImage]:
        """The images, each after its origin; notes what is left out."""
        there = [image for image in self._library.images() if _is_exported(image)]
        chosen = there
        if self._spec.names:
            chosen, unknown = by_names(there, self._spec.names)
            for text in unknown:
                uuid = next((uuid for uuid, name in self._installed.items() if text in (uuid, name)), None)
                self._leave_out(
                    text if uuid is None else uuid,
                    _UNKNOWN if uuid is None else _NOT_KEPT,
                )
        else:
            here = {image.uuid for image in self._library.images()}
            for uuid in sorted(self._installed.keys() - here):
                self._leave_out(uuid, _NOT_KEPT)
            # Everybody may read a site.
            for image in there:
                if not is_public(image.document):
                    self._leave_out(image.uuid, _PRIVATE, name=image.manifest.name)
            there = chosen = [image for image in there if is_public(image.document)]
        ordered, lacking = with_origins(chosen, there)
        for image in lacking:
            reporter.tell(
                Note(
                    event="note",
                    text=f"the origin of image {image.uuid}, {image.manifest.origin}, is not in the library:"
                    " hosts need another source for it",
                )
            )
        return ordered

    def _leave_out(self, image: str, reason: str, *, name: str = "") -> None:
        self._left_out.append({"image": image, "name": self._installed.get(image, name), "reason": reason})

    # -- the steps -------------------------------------------------------------------------------------------

    def _export(self, reporter: Reporter) -> SiteDocument:
        images = self._chosen(reporter)
        total = sum(image.size for image in images)
        items: list[Item] = []
        documents: list[dict[str, Any]] = []
        self._folder.tidy()
        with self._folder.below(layout.IMAGES) as folder:
            folder.tidy()
            done = 0
            for image in images:
                item = self._place(image, folder, partial(self._report, reporter, done, total))
                done += image.size
                if item is not None:
                    items.append(item)
                    documents.append(dict(image.document))
            folder.sync()
        pages = layout.pages(
            items, self._datasets(documents), f"imgstored/{__version__}", signed=bool(self._keys)
        )
        written = self._write(pages)
        pointer = self._sign(pages.index) if self._keys else None
        if pointer is None:
            self._unsign(reporter)
        deleted = self._clean(items, pages) if not self._left_out_by_damage() else 0
        log.info(
            "exported a site", folder=self._path, images=len(items), new=len(self._new), copied=self._copied
        )
        return {
            "images": len(items),
            "new": self._new,
            "copied": self._copied,
            "linked": self._linked,
            "written": written,
            "deleted": deleted,
            "left_out": self._left_out,
            "version": None if pointer is None else pointer.version,
            "until": None if pointer is None else pointer.until,
            "signed_by": [key.public.name for key in self._keys],
        }

    def _left_out_by_damage(self) -> bool:
        """True if an image that was chosen is not there: then nothing is removed."""
        return any(each["reason"] not in (_NOT_KEPT, _UNKNOWN, _PRIVATE) for each in self._left_out)

    def _place(self, image: LibraryImage, folder: Folder, report: Callable[[int], None]) -> Item | None:
        """Brings an image's file into the site; None if it cannot be."""
        try:
            sha256 = self._digests.sha256(image.uuid, lambda: report(0))
        except DownloadError as error:
            self._leave_out(image.uuid, error.message)
            return None
        try:
            index = self._digests.index(image.uuid, sha256, lambda fd: index_of(fd, lambda: report(0)))
        except NotSupportedError:
            index = None  # this installation has no zstd
        with folder.below(image.uuid) as own:
            own.tidy()
            copied = own.place(layout.FILE, self._library.path_of(image.uuid), report)
            if image.icon:
                icon = self._library.open_icon(image.uuid)
                if icon is not None:
                    with os.fdopen(icon, "rb") as file:
                        own.put(layout.ICON, file.read())
            if index is not None:
                own.put(layout.INDEX, index)
            elif layout.INDEX in own.names():
                own.remove(layout.INDEX)
            own.sync()
        if copied is not None:
            self._new.append(image.uuid)
            self._copied += copied
            self._linked += copied == 0
        described, manifest = _index_of(image, index)
        return Item(image.uuid, manifest, layout.Hashed(sha256, image.size), described)

    def _report(self, reporter: Reporter, before: int, total: int, done: int) -> None:
        reporter.check()
        now = time.monotonic()
        if now - self._reported_at >= _INTERVAL:
            self._reported_at = now
            reporter.tell(Progress(event="progress", done=before + done, total=total, rate=0.0, images=[]))

    def _datasets(self, documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if self._spec.url is None:
            return []
        base = self._spec.url.rstrip("/")
        found = []
        for document in documents:
            dataset = as_dataset(document, base)
            for file in dataset.get("files", []):
                file["url"] = f"{base}/{layout.IMAGES}/{document['uuid']}/{layout.FILE}"
            found.append(dataset)
        return found

    def _write(self, pages: layout.Pages) -> int:
        """Writes the pages, first those that others name. Returns how many are new."""
        written = 0
        for group in (pages.manifests, pages.hashed, pages.lists):
            folders: set[tuple[str, ...]] = set()
            for path, data in group.items():
                *parents, name = path.split("/")
                with ExitStack() as stack:
                    if self._below(stack, parents).put(name, data):
                        written += 1
                        folders.add(tuple(parents))
            for parents_ in folders:
                with ExitStack() as stack:
                    self._below(stack, parents_).sync()
        return written

    def _below(self, stack: ExitStack, parents: Sequence[str]) -> Folder:
        folder = self._folder
        for name in parents:
            folder = stack.enter_context(folder.below(name))
        return folder

    def _sign(self, index: bytes) -> Pointer:
        """Writes the pointer: from then on clients with keys see the new state."""
        now = time.time()
        pointer = Pointer(self._version(now), int(now) + self._spec.days * _DAY, hashed(index))
        text = "".join(signed(key, index, pointer.comment).text() for key in self._keys)
        with self._folder.below(layout.IMAGES) as folder:
            folder.put(layout.POINTER, text.encode())
            folder.sync()
        return pointer

    def _unsign(self, reporter: Reporter) -> None:
        """An export without a key leaves a signature of the state before, which clients go on with."""
        with self._folder.below(layout.IMAGES) as folder:
            if layout.POINTER in folder.names():
                reporter.tell(
                    Note(
                        event="note",
                        text="the site was signed, and its signature is of the state before: --sign",
                    )
                )

    def _clean(self, items: Sequence[Item], pages: layout.Pages) -> int:
        """Removes what nothing names any more, once nothing does. Returns how many images."""
        keep = {path.rpartition("/")[2] for path in pages.hashed}
        here = {item.uuid for item in items}
        deleted = 0
        now = time.time()
        with self._folder.below(layout.IMAGES) as folder:
            if self._keys:
                _clean_hashed(folder, keep, now)
            for name in folder.names():
                if name in here and self._keys:
                    with folder.below(name) as own:
                        _clean_hashed(own, keep, now)
                elif self._spec.delete and is_uuid(name) and name not in here:
                    folder.remove(name)
                    deleted += 1
        if self._spec.delete and deleted and "datasets" in self._folder.names():
            with self._folder.below("datasets") as folder:
                for name in folder.names():
                    if is_uuid(name) and name not in here:
                        folder.remove(name)
        return deleted


def _is_exported(image: LibraryImage) -> bool:
    return bool(image.size) and is_active(image.document) and not image.entry.withdrawn


def _index_of(image: LibraryImage, index: bytes | None) -> tuple[layout.Hashed | None, bytes]:
    """The index as it lies beside the file, and the manifest that names it, or none."""
    described = None if index is None else hashed(index)
    named = None if described is None else FileIndex(described.sha256, described.size)
    return described, msgspec.json.encode(with_index(image.document, named))


def _clean_hashed(folder: Folder, keep: set[str], now: float) -> None:
    for name in folder.names():
        if name.startswith(_BY_HASH) and name not in keep and folder.age(name, now) > _OLD_HASHED:
            folder.remove(name)
