"""The paths of the view and their contents; independent of FUSE and file systems.

    /UUID/manifest.json       the manifest, as indented JSON
    /UUID/origin              -> ../ORIGIN, where the image has one
    /by-name/NAME/VERSION     -> ../../UUID

An image in several pools is shown once, as the pool that had it first has it. Of several images with the same
name and version, `by-name` shows the one published last; when that goes, the next comes back.

Threads do not share a tree. A change takes effect at once, between two looks at the tree, and lists what
caches must forget.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec import Struct
from msgspec import field as struct_field

from imgstored.errors import InvalidUUIDError
from imgstored.manifest import is_uuid, text_of
from imgstored.view.names import component

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from imgstored.catalog.catalog import InstalledImage

log = structlog.get_logger(__name__)

ROOT_INODE = 1
MANIFEST = b"manifest.json"
ORIGIN = b"origin"
BY_NAME = b"by-name"

#: A path below the root, component by component.
Path = tuple[bytes, ...]


@dataclass(slots=True, eq=False)
class Folder:
    """A folder. Its entries are in the order of their ids, which only grow."""

    inode: int
    changed: int  #: ns since the epoch
    entries: dict[bytes, Entry] = field(default_factory=dict, repr=False)

    def node(self, name: bytes) -> Node | None:
        """The node of that name in this folder."""
        entry = self.entries.get(name)
        return None if entry is None else entry.node

    def after(self, entry_id: int) -> Iterator[Entry]:
        """The entries that come after the one with that id, which may be gone; 0 begins at the first."""
        return (entry for entry in self.entries.values() if entry.id > entry_id)


@dataclass(slots=True, eq=False)
class File:
    """A manifest as JSON; its text is made when it is first asked for."""

    inode: int
    changed: int  #: ns since the epoch
    document: Mapping[str, object] = field(repr=False)
    _content: bytes | None = field(default=None, init=False, repr=False)

    @property
    def content(self) -> bytes:
        """All its bytes; never changes."""
        if self._content is None:
            self._content = _indented(self.document) + b"\n"
        return self._content


class Link(Struct, eq=False):
    """A symbolic link."""

    inode: int
    changed: int  #: ns since the epoch
    target: bytes


Node = Folder | File | Link


class Entry(Struct, frozen=True):
    """A name in a folder. No other name ever gets its id, nor the same name after it was removed."""

    id: int
    name: bytes
    node: Node


class Change(Struct):
    """The steps of a change, in an order that never shows a dangling link."""

    entries: list[tuple[int, bytes]] = struct_field(
        default_factory=list
    )  #: (folder's inode, name) of changed entries
    folders: list[int] = struct_field(default_factory=list)  #: inodes of folders with a new time
    paths: list[Path] = struct_field(default_factory=list)  #: an image's folder, or a link in `by-name`


class _Slot(Struct):
    """The images of one name and version."""

    published: dict[str, str] = struct_field(default_factory=dict)  # by uuid
    shown: str | None = None

    def join(self, uuid: str, published: str) -> None:
        if uuid == self.shown:
            self.leave(uuid)
        self.published[uuid] = published
        if self.shown is None or self._rank(uuid) > self._rank(self.shown):
            self.shown = uuid

    def leave(self, uuid: str) -> None:
        del self.published[uuid]
        if self.shown == uuid:
            self.shown = max(self.published, key=self._rank, default=None)

    def _rank(self, uuid: str) -> tuple[str, str]:
        return self.published[uuid], uuid


class Tree:
    """The view's tree. `now` gives the time in ns since the epoch."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._inodes = itertools.count(ROOT_INODE)  # never used again: the kernel may still know them
        self._ids = itertools.count(1)
        self._copies: dict[str, dict[str, InstalledImage]] = {}  # by uuid, by pool
        self._slots: dict[tuple[bytes, bytes], _Slot] = {}
        self.root = self._folder()
        self._by_name = self._folder()
        self._put(self.root, BY_NAME, self._by_name, Change())

    def at(self, path: Sequence[bytes]) -> Node | None:
        """The node at a path, without following links; the root for an empty path."""
        node: Node | None = self.root
        for name in path:
            if not isinstance(node, Folder):
                return None
            node = node.node(name)
        return node

    def add(self, image: InstalledImage) -> Change:
        """Shows an image, or its new state. Raises `InvalidUUIDError` if its uuid cannot name a folder."""
        if not is_uuid(image.uuid):
            raise InvalidUUIDError(image.uuid)
        copies = self._copies.setdefault(image.uuid, {})
        before = _first(copies)
        copies[image.pool] = image
        return self._show(before, _first(copies))

    def remove(self, image: InstalledImage) -> Change:
        """Hides a pool's image. Does nothing if it is not shown."""
        copies = self._copies.get(image.uuid, {})
        before = _first(copies)
        copies.pop(image.pool, None)
        if not copies:
            self._copies.pop(image.uuid, None)
        return self._show(before, _first(copies))

    # -- changes ---------------------------------------------------------------------------------------------

    def _show(self, before: InstalledImage | None, after: InstalledImage | None) -> Change:
        change = Change()
        if _alike(before, after):
            return change
        slots: dict[tuple[bytes, bytes], None] = {}  # a set that keeps its order
        coming = None if after is None else _slot(after)
        if before is not None:
            going = _slot(before)
            slots[going] = None
            if coming != going:
                self._slots[going].leave(before.uuid)
        if after is not None and coming is not None:
            slots[coming] = None
            slot = self._slots.get(coming)
            if slot is None:
                slot = self._slots[coming] = _Slot()
            slot.join(after.uuid, after.text("published_at"))
            self._put_image(after, change)
        for each in slots:
            self._update_link(each, change)
        if before is not None and after is None:
            self._drop_image(before.uuid, change)
        return change

    def _put_image(self, image: InstalledImage, change: Change) -> None:
        folder, name = self._folder(), image.uuid.encode("ascii")
        manifest = File(next(self._inodes), folder.changed, image.manifest)
        # Nobody knows the new folder yet, and has anything of it to forget.
        folder.entries[MANIFEST] = Entry(next(self._ids), MANIFEST, manifest)
        if image.origin is not None and is_uuid(image.origin):
            link = self._link(b"../" + image.origin.encode("ascii"))
            folder.entries[ORIGIN] = Entry(next(self._ids), ORIGIN, link)
        old = self.root.node(name)
        self._put(self.root, name, folder, change)
        change.paths.append((name,))
        if isinstance(old, Folder):
            self._empty(old, change)

    def _drop_image(self, uuid: str, change: Change) -> None:
        name = uuid.encode("ascii")
        folder = self.root.entries[name].node
        self._drop(self.root, name, change)
        change.paths.append((name,))
        if isinstance(folder, Folder):
            self._empty(folder, change)

    def _update_link(self, slot: tuple[bytes, bytes], change: Change) -> None:
        """Makes the link of a name and version lead to the image of its slot, or removes it."""
        name, version = slot
        uuid = self._slots[slot].shown
        folder = self._by_name.node(name)
        if uuid is None:
            del self._slots[slot]
            assert isinstance(folder, Folder)
            self._drop(folder, version, change)
            if not folder.entries:
                self._drop(self._by_name, name, change)
        else:
            if not isinstance(folder, Folder):
                folder = self._folder()
                self._put(self._by_name, name, folder, change)
            target = b"../../" + uuid.encode("ascii")
            link = folder.node(version)
            if isinstance(link, Link) and link.target == target:
                return
            self._put(folder, version, self._link(target), change)
        change.paths.append((BY_NAME, name, version))

    # -- nodes -----------------------------------------------------------------------------------------------

    def _folder(self) -> Folder:
        return Folder(next(self._inodes), self._now())

    def _link(self, target: bytes) -> Link:
        return Link(next(self._inodes), self._now(), target)

    def _put(self, folder: Folder, name: bytes, node: Node, change: Change) -> None:
        old = folder.entries.get(name)
        # A replaced entry keeps its id: a process that lists the folder must not see the name twice.
        folder.entries[name] = Entry(next(self._ids) if old is None else old.id, name, node)
        self._note(folder, name, change)

    def _drop(self, folder: Folder, name: bytes, change: Change) -> None:
        del folder.entries[name]
        self._note(folder, name, change)

    def _empty(self, folder: Folder, change: Change) -> None:
        """Empties a removed folder, which processes may still have open."""
        for name in list(folder.entries):
            self._drop(folder, name, change)

    def _note(self, folder: Folder, name: bytes, change: Change) -> None:
        folder.changed = self._now()
        change.entries.append((folder.inode, name))
        if folder.inode not in change.folders:
            change.folders.append(folder.inode)


def _indented(document: Mapping[str, object]) -> bytes:
    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError):
        # Half a surrogate pair: Python's escape for it is also JSON's.
        return json.dumps(dict(document), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")


def tree_of(images: Iterable[InstalledImage], now: Callable[[], int]) -> Tree:
    """A tree that shows the images; logs an image that cannot be shown."""
    tree = Tree(now)
    for image in images:
        try:
            tree.add(image)
        except InvalidUUIDError as error:
            log.error("an image cannot be shown in the view", pool=image.pool, error=error.message)
    return tree


def _first(copies: Mapping[str, InstalledImage]) -> InstalledImage | None:
    return next(iter(copies.values()), None)


def _alike(one: InstalledImage | None, other: InstalledImage | None) -> bool:
    """True if the two look the same in the tree."""
    if one is None or other is None:
        return one is other
    return one.manifest == other.manifest and one.origin == other.origin


def _slot(image: InstalledImage) -> tuple[bytes, bytes]:
    # Not the text for people: different names must have different paths.
    return component(text_of(image.manifest.get("name"))), component(text_of(image.manifest.get("version")))
