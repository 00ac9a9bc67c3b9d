"""Opens the view: a FUSE mount, plain files, or none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, Protocol

import structlog
import trio

from imgstored.errors import ConfigError
from imgstored.view.files import FilesView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.view.fuse import FuseView

log = structlog.get_logger(__name__)

Mode = Literal["auto", "fuse", "files", "off"]

_WHAT_TO_INSTALL = (
    "install fuse3 and libfuse3-dev (Debian's names) and then `pip install 'imgstore[fuse]'`; "
    '`view.mode = "files"` needs none of it'
)


class View(Protocol):
    """A tree of installed images as files. `add` and `remove` do nothing while it does not run."""

    @property
    def kind(self) -> str:
        """`fuse`, `files` or `off`; `auto` before the view has started."""
        ...

    async def run(
        self,
        images: Callable[[], Iterable[InstalledImage]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Shows images until cancelled; reports its start when they can be read, or raises `ConfigError`.

        `images` returns the images that are installed when it is called; `add` and `remove` report changes
        from then on.
        """
        ...

    async def add(self, image: InstalledImage) -> None:
        """Shows an image: readers that look after the call find all of it."""
        ...

    async def remove(self, image: InstalledImage) -> None:
        """Hides an image: readers that look after the call do not find it."""
        ...


def open_view(mode: Mode, path: Path) -> View:
    """The view of the configuration. Raises `ConfigError` for `fuse` on hosts without FUSE."""
    if mode == "off":
        return NoView()
    if mode == "files":
        return FilesView(path)
    if mode == "fuse":
        return _fuse_view(path)
    try:
        return _FuseOrFilesView(_fuse_view(path), FilesView(path))
    except ConfigError as error:
        log.info("the view is plain files", why=error.message)
        return FilesView(path)


class NoView:
    """Shows nothing."""

    kind = "off"

    async def run(
        self,
        images: Callable[[], Iterable[InstalledImage]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Waits until cancelled."""
        task_status.started()
        await trio.sleep_forever()

    async def add(self, image: InstalledImage) -> None:
        """Nothing to do."""

    async def remove(self, image: InstalledImage) -> None:
        """Nothing to do."""


class _FuseOrFilesView:
    """A mount, or files if mounting fails, which only a try shows."""

    def __init__(self, fuse: FuseView, files: FilesView) -> None:
        self._fuse = fuse
        self._files = files
        self._view: View | None = None

    @property
    def kind(self) -> str:
        """`fuse` or `files`; `auto` while that is not known."""
        return "auto" if self._view is None else self._view.kind

    async def run(
        self,
        images: Callable[[], Iterable[InstalledImage]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Mounts, or writes files if that fails, until cancelled."""
        for view in (self._fuse, self._files):
            self._view = view
            try:
                await view.run(images, task_status=task_status)
            except ConfigError as error:
                if view is self._files:
                    raise
                log.warning("the view is plain files, because it cannot be mounted", why=error.message)
            else:
                return

    async def add(self, image: InstalledImage) -> None:
        """Shows an image."""
        if self._view is not None:
            await self._view.add(image)

    async def remove(self, image: InstalledImage) -> None:
        """Hides an image."""
        if self._view is not None:
            await self._view.remove(image)


def _fuse_view(path: Path) -> FuseView:
    check_fuse()
    from imgstored.view.fuse import FuseView

    return FuseView(path)


def check_fuse() -> None:
    """Raises `ConfigError` if there can be no mount: without pyfuse3, or without the device."""
    try:
        import pyfuse3  # noqa: F401 - not everybody has it
    except ImportError as error:
        raise ConfigError(f"FUSE is not possible here: {error}", hint=_WHAT_TO_INSTALL) from error
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise ConfigError(
            f"FUSE is not possible here: /dev/fuse: {error.strerror or error}",
            hint=f"`modprobe fuse`, or give the container /dev/fuse; {_WHAT_TO_INSTALL}",
        ) from error
