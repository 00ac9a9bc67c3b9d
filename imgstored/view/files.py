"""The tree as plain read-only files, for hosts without FUSE."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import lanes
from imgstored.errors import ConfigError
from imgstored.host import shortage
from imgstored.view.plain import PlainFolder
from imgstored.view.tree import tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.view.tree import Change, Tree

log = structlog.get_logger(__name__)


class FilesView:
    """Shows installed images as files in a folder of their own, which stay when it ends."""

    kind = "files"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tree: Tree | None = None  # as long as it is shown
        self._folder: PlainFolder | None = None
        self._one_at_a_time = trio.Lock()  # for the tree and the folder, and the thread that changes them

    async def run(
        self,
        images: Callable[[], Iterable[InstalledImage]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Makes the folder show the installed images, and keeps it up to date until cancelled.

        Raises `ConfigError` if the folder cannot be used, but never after the start. Without room for the
        files it shows nothing until there is room: imports do not need the view.
        """
        try:
            async with self._one_at_a_time:
                self._tree = tree_of(images(), time.time_ns)
                await lanes.in_thread(self._open, self._tree, kind="view")
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                async with self._one_at_a_time:
                    self._close()

    async def add(self, image: InstalledImage) -> None:
        """Shows an image: readers that look after the call find all of it."""
        async with self._one_at_a_time:
            if self._tree is not None:
                await self._update(self._tree, self._tree.add(image))

    async def remove(self, image: InstalledImage) -> None:
        """Hides an image. A reader with an open file may go on reading it."""
        async with self._one_at_a_time:
            if self._tree is not None:
                await self._update(self._tree, self._tree.remove(image))

    async def _update(self, tree: Tree, change: Change) -> None:
        await lanes.in_thread(self._make, tree, change, kind="view")

    def _make(self, tree: Tree, change: Change) -> None:
        if self._folder is not None:
            self._folder.update(tree, change.paths)
            return
        try:
            self._open(tree)
        except ConfigError as error:
            log.error("the view shows nothing", path=str(self._path), why=error.message, hint=error.hint)

    def _open(self, tree: Tree) -> None:
        """Makes the folder equal to the tree. Raises `ConfigError` if more room would not help."""
        folder = None
        try:
            folder = PlainFolder(self._path)
            folder.synchronise(tree)
        except BaseException as error:
            if folder is not None:
                folder.close()
            if not isinstance(error, ConfigError) or not _is_full(error):
                raise
            log.error("the view shows nothing", path=str(self._path), why=error.message, hint=error.hint)
            return
        self._folder = folder
        log.info("shown as files", path=str(self._path), images=len(tree.root.entries) - 1)

    def _close(self) -> None:
        self._tree = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None


def _is_full(error: ConfigError) -> bool:
    return isinstance(error.__cause__, OSError) and shortage.is_full(error.__cause__)
