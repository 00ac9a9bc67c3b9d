"""The tree as a FUSE mount. Needs pyfuse3, which keeps its state in its module: one mount at a time.

The kernel caches answers, and serves most readers by itself. When an image comes or goes, the tree changes
first, and then the kernel is made to forget. That may wait for readers who in turn wait for this process, so
it runs in threads while the view goes on serving, with a time limit: a stuck reader must not stop an import.
"""

from __future__ import annotations

import errno
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyfuse3
import structlog
import trio

from imgstored import lanes
from imgstored.errors import ConfigError
from imgstored.host.mounts import mounted_at
from imgstored.view import mountpoint
from imgstored.view.operations import Operations
from imgstored.view.plain import withdraw
from imgstored.view.tree import tree_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from imgstored.catalog.catalog import InstalledImage
    from imgstored.host.mounts import Mount
    from imgstored.view.tree import Change, Tree

log = structlog.get_logger(__name__)

#: Seconds that a stuck mount may delay the start.
_PREPARE_LIMIT = 10.0
#: Seconds that a mount which does not answer may delay the start.
_LOOK_LIMIT = 5.0
#: Seconds between two checks of the mount, and before it is mounted again.
_INTERVAL = 5.0
#: Seconds to wait for the kernel to forget; after that it forgets when it can.
_FORGET_LIMIT = 3.0
#: Seconds that forgetting under way may delay the stop.
_STOP_LIMIT = 1.0
#: Threads that make the kernel forget.
_FORGETTERS = 4
#: Errors if the kernel has nothing to forget: it did not know the entry, or has no mount yet, or no longer.
_NOTHING_TO_FORGET = frozenset({errno.ENOENT, errno.ENOSYS, errno.ENODEV, errno.ENOTCONN})


class FuseView:
    """Shows installed images on a mount, which is mounted again if somebody else unmounts it."""

    _last: ClassVar[FuseView | None] = None  # the view of this process that was mounted last

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tree: Tree | None = None  # as long as it is to be shown
        self._mounted = False
        self._lost = False
        self._has_session = False  # of pyfuse3, not closed yet
        self._looked = trio.Event()  # at the mount that there is
        self._running = False
        self._forgetters = trio.CapacityLimiter(_FORGETTERS)
        self._lookers = trio.CapacityLimiter(1)

    @property
    def kind(self) -> str:
        """`fuse`, or `off` while somebody else has unmounted it."""
        return "off" if self._lost else "fuse"

    async def run(
        self,
        images: Callable[[], Iterable[InstalledImage]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Mounts, serves until cancelled, and unmounts, even if a process is using the mount.

        Raises `ConfigError` if it cannot be mounted, but never after the start.
        """
        # A thread that is stuck in the kernel still uses pyfuse3's session.
        if FuseView._last is not None and FuseView._last.busy:
            raise ConfigError(
                "this process has a FUSE mount already", hint="there can be one `view` of mode fuse"
            )
        FuseView._last = self
        self._running = True
        self._tree = tree = tree_of(images(), time.time_ns)
        try:
            await self._show(tree, task_status)
            while True:
                self._lost = True
                await self._put_back(tree)
        finally:
            self._tree = None
            self._running = self._lost = False

    async def _show(self, tree: Tree, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mounts, and serves until somebody else unmounts it. Raises `ConfigError`."""
        place = await self._prepare()
        options = await lanes.in_thread(_options, kind="view")
        mount = self._mount(tree, place, options)
        log.info("mounted", path=str(place), images=len(tree.root.entries) - 1)
        try:
            await self._serve(place, mount, task_status)
        finally:
            with trio.CancelScope(shield=True):
                await lanes.in_thread(self._unmount, place, mount, kind="view")

    async def _put_back(self, tree: Tree) -> None:
        """Mounts the view again as soon as that is possible, and serves until it is lost again."""
        log.warning("the view is mounted no longer; it will be put back", path=str(self._path))
        why = ""
        while True:
            await trio.sleep(_INTERVAL)
            try:
                return await self._show(tree)
            except ConfigError as error:
                if error.message != why:
                    log.error("the view cannot be put back yet", why=error.message, hint=error.hint)
                why = error.message

    @property
    def busy(self) -> bool:
        """True if this view still uses pyfuse3."""
        return self._running or self._forgetters.borrowed_tokens > 0

    async def add(self, image: InstalledImage) -> None:
        """Shows an image: every lookup after the call finds all of it."""
        if self._tree is not None:
            await self._forget(self._tree.add(image))

    async def remove(self, image: InstalledImage) -> None:
        """Hides an image: lookups after the call fail. A reader with an open file may go on reading it."""
        if self._tree is not None:
            await self._forget(self._tree.remove(image))

    # -- mounting --------------------------------------------------------------------------------------------

    async def _prepare(self) -> Path:
        try:
            with trio.fail_after(_PREPARE_LIMIT):
                return await trio.to_thread.run_sync(
                    _prepare, self._path, abandon_on_cancel=True, limiter=self._lookers
                )
        except trio.TooSlowError:
            raise ConfigError(
                f"{self._path} does not answer",
                hint=f"is there a mount whose server hangs? Try `umount -l {self._path}` as root",
            ) from None

    def _mount(self, tree: Tree, place: Path, options: set[str]) -> Mount | None:
        if self._forgetters.borrowed_tokens > 0:
            raise ConfigError(
                "a reader holds up the view's last mount",
                hint="end the program that reads it, or restart imgstored",
            )
        if self._has_session:
            pyfuse3.close(unmount=False)
            self._has_session = False
        before = set(_fuse_descriptors())
        self._looked = trio.Event()
        try:
            pyfuse3.init(Operations(tree), str(place), options)
            self._has_session = self._mounted = True
        except RuntimeError as error:
            raise ConfigError(
                f"cannot mount on {place}: {error}",
                hint='mounting needs root, or fusermount3; `view.mode = "files"` needs neither',
            ) from error
        for descriptor in set(_fuse_descriptors()) - before:
            # A killed reader takes back its question, even one that has woken us up. A blocking read would
            # then stop the event loop until the next question.
            os.set_blocking(descriptor, False)
        return mounted_at(place)

    def _unmount(self, place: Path, mount: Mount | None) -> None:
        # pyfuse3 unmounts by the path, so only if nobody else has mounted something there.
        ours = mount is None or mounted_at(place) == mount
        if self._forgetters.borrowed_tokens == 0:
            pyfuse3.close(unmount=ours)
            self._has_session = False
        # pyfuse3 leaves the mount if the connection to the kernel was broken from outside.
        if mount is not None and mounted_at(place) == mount:
            try:
                mountpoint.unmount(place)
            except ConfigError as error:
                log.error(error.message, hint=error.hint)
        log.info("unmounted", path=str(place))

    # -- serving ---------------------------------------------------------------------------------------------

    async def _serve(self, place: Path, mount: Mount | None, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            serving = trio.CancelScope(shield=True)
            ended = trio.Event()
            nursery.start_soon(self._answer, serving, ended)
            try:
                await self._look(place)
                self._lost = False
                task_status.started()
                await self._wait_for_loss(place, mount, ended)
            finally:
                self._mounted = False
                self._looked.set()
                # Forgetting may end only after answers of this view.
                with trio.move_on_after(_STOP_LIMIT, shield=True):
                    await self._all_forgotten()
                serving.cancel()

    async def _answer(self, until: trio.CancelScope, ended: trio.Event) -> None:
        try:
            with until:
                await _main()
        except Exception as error:
            # The images are still there for other clients: no reason for the daemon to end.
            if not _nothing_to_read(error):
                log.exception("the view has failed", path=str(self._path))
        finally:
            ended.set()

    async def _look(self, place: Path) -> None:
        """Makes the kernel ask about the root, before it can forget anything."""
        with trio.move_on_after(_LOOK_LIMIT) as limit:
            try:
                await trio.to_thread.run_sync(os.stat, place, abandon_on_cancel=True, limiter=self._lookers)
            except OSError as error:
                log.warning("the view does not answer", path=str(place), error=error.strerror or str(error))
        if limit.cancelled_caught:
            log.warning("the view does not answer", path=str(place), seconds=_LOOK_LIMIT)
        self._looked.set()

    async def _wait_for_loss(self, place: Path, mount: Mount | None, ended: trio.Event) -> None:
        """Waits until the view is no longer mounted.

        After `umount -l` the kernel reports nothing while a process still uses the mount.
        """
        while not ended.is_set():
            with trio.move_on_after(_INTERVAL):
                await ended.wait()
            if mount is not None and not await self._is_mounted(place, mount):
                return

    async def _is_mounted(self, place: Path, mount: Mount) -> bool:
        look = partial(mounted_at, place)
        try:
            return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=self._lookers) == mount
        except OSError:
            return True  # as far as we know

    async def _all_forgotten(self) -> None:
        """Waits until no thread makes the kernel forget anything."""
        taken: list[object] = []
        try:
            for _ in range(_FORGETTERS):
                await self._forgetters.acquire_on_behalf_of(token := object())
                taken.append(token)
        finally:
            for token in taken:
                self._forgetters.release_on_behalf_of(token)

    async def _forget(self, change: Change) -> None:
        if not self._mounted:
            return
        await self._looked.wait()
        with trio.move_on_after(_FORGET_LIMIT) as limit:
            await trio.to_thread.run_sync(
                self._make_kernel_forget, change, abandon_on_cancel=True, limiter=self._forgetters
            )
        if limit.cancelled_caught:
            log.warning(
                "a reader holds up the view; it may show for a while what is gone", path=str(self._path)
            )

    def _make_kernel_forget(self, change: Change) -> None:
        for folder, name in change.entries:
            if not self._mounted:
                return
            try:
                pyfuse3.invalidate_entry(folder, name)
            except OSError as error:
                _check(error)
        for folder in change.folders:
            if not self._mounted:
                return
            try:
                pyfuse3.invalidate_inode(folder, attr_only=True)
            except OSError as error:
                _check(error)


async def _main() -> None:
    """Answers until the view is unmounted."""
    while True:
        try:
            await pyfuse3.main()
        except Exception as error:
            if not _nothing_to_read(error):
                raise
        else:
            return


def _nothing_to_read(error: BaseException) -> bool:
    """True if all that happened is that a question was taken back (see `FuseView._mount`)."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_nothing_to_read, error.exceptions))
    return isinstance(error, OSError) and error.errno == errno.EAGAIN


def _check(error: OSError) -> None:
    if error.errno not in _NOTHING_TO_FORGET:
        log.warning("the kernel may remember what has changed", error=str(error))


def _prepare(path: Path) -> Path:
    place = mountpoint.take_over(path)
    withdraw(place)
    mountpoint.make_empty_folder(place)
    return place


def _options() -> set[str]:
    options = {
        "ro",
        "default_permissions",
        "nosuid",
        "nodev",
        "noexec",
        "fsname=imgstored",
        "subtype=imgstored",
    }
    return options | ({"allow_other"} if _may_allow_others() else set())


def _may_allow_others() -> bool:
    if os.geteuid() == 0:
        return True
    try:
        lines = Path("/etc/fuse.conf").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def _fuse_descriptors() -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are what is wanted
        try:
            if os.readlink(f"/proc/self/fd/{name}") == "/dev/fuse":  # noqa: PTH115 - not a path of any file
                yield int(name)
        except OSError:
            continue  # the one by which we are listing
