"""Wires everything together: opens the store, starts the servers, and stops them in order."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import __version__, config, log
from imgstored.care.dry_run import DryRun
from imgstored.care.history import History
from imgstored.care.resolver import Resolver
from imgstored.care.upkeep import Upkeep
from imgstored.care.usage import Usage
from imgstored.care.verifier import Host, Verifier
from imgstored.catalog.catalog import Catalog
from imgstored.catalog.holds import Holds
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.receipts import Receipts
from imgstored.catalog.refresh import Refresh
from imgstored.create.export import Exporter
from imgstored.create.maker import Maker
from imgstored.create.publish import Publisher
from imgstored.create.vmadm import Vmadm
from imgstored.errors import ConfigError, ImgstoreError, PoolError
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.zfs import ZfsPool
from imgstored.rpc.methods import methods
from imgstored.rpc.methods.care import Care
from imgstored.rpc.methods.making import Making
from imgstored.rpc.server import Server
from imgstored.sources.sourcebook import SourceBook
from imgstored.specs import check, install_limits, socket_limits, source_specs
from imgstored.store.installer import Installer
from imgstored.store.journal import Journal
from imgstored.store.store import Store
from imgstored.view import View, open_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.config import Config, PoolTable
    from imgstored.pools.base import Pool

logger = structlog.get_logger(__name__)

#: Seconds for an orderly stop. State survives kill -9 at any point, so what takes longer is left alone.
_STOP_SECONDS = 4.5

#: Seconds that a ZFS pool may take for its first answer.
_OPEN_SECONDS = 60.0

#: What an import needs, where it is installed.
_LARGE_MODULES = ("numpy", "isal.isal_zlib", "httpx2")


def serve(settings: Config, file: Path | None) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises `ImgstoreError` when it cannot start.

    `file` is where the settings came from; SIGHUP reads it again.
    """
    log.set_up(settings.log)
    check(settings)
    try:
        trio.run(_main, settings, file, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from group


async def _main(settings: Config, file: Path | None) -> None:
    patience = threading.Timer(_STOP_SECONDS, _leave)
    patience.daemon = True
    with _owned(Path(settings.state)) as state:
        journal = Journal(state / "journal.sqlite")
        try:
            with closing(History(state / "history.sqlite")) as history:
                await _run(await _wired(settings, state, journal, history), file, patience)
        finally:
            journal.close()
            patience.cancel()
    logger.info("stopped")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What runs."""

    catalog: Catalog
    view: View
    installer: Installer
    sources: SourceBook
    store: Store
    server: Server
    maker: Maker


async def _wired(settings: Config, state: Path, journal: Journal, history: History) -> _Parts:
    """Opens what there is, and makes each part of those that it knows. Raises `ConfigError`, `PoolError`."""
    pools = await open_pools(settings)
    catalog = Catalog(pools, settings.imgadm_folder / "images")
    await trio.to_thread.run_sync(_load, catalog, settings.imgadm_folder)
    view = open_view(settings.view.mode, Path(settings.view.path))
    locks = ImageLocks(settings.imgadm_locks_folder)
    receipts = Receipts(state / "receipts")
    installer = Installer(
        catalog, journal, state / "spool", view, locks, install_limits(settings), receipts=receipts
    )
    sources = SourceBook(
        source_specs(settings),
        imgadm_conf=settings.imgadm_folder / "imgadm.conf",
        lists=state / "lists",
    )
    refresh = Refresh(catalog, view)
    store = Store(catalog, sources, installer, refresh, recorder=history)
    care = Care(
        Resolver(catalog, refresh, sources, history, store.jobs),
        DryRun(catalog, refresh, sources, journal, lambda: installer.room, store.jobs),
        Usage(catalog, refresh),
        history,
    )
    upkeep = Upkeep(catalog, sources, locks, view, refresh, store.expecting)
    verifier = Verifier(Host(catalog, receipts, Holds(catalog), refresh, locks, lambda: bool(store.jobs())))
    maker = Maker(catalog, Vmadm(settings.vmadm), state / "creating")
    making = Making(maker, Exporter(catalog), Publisher(source_specs(settings) or ()))
    server = Server(
        Path(settings.socket.path),
        methods(
            store, sources, pools=list(pools), making=making, care=care, upkeep=upkeep, verifier=verifier
        ),
        mode=settings.socket.mode,
        group=settings.socket.group,
        limits=socket_limits(settings),
    )
    return _Parts(catalog, view, installer, sources, store, server, maker)


async def _run(parts: _Parts, file: Path | None, patience: threading.Timer) -> None:
    """Serves until a signal ends it; `patience` counts from then."""
    async with trio.open_nursery() as nursery:
        await nursery.start(parts.view.run, parts.catalog.all())
        await nursery.start(parts.store.run)
        async with trio.open_nursery() as serving:
            await serving.start(parts.server.serve)
            logger.info(
                "ready",
                version=__version__,
                pools=list(parts.catalog.pools),
                view=parts.view.kind,
                pid=os.getpid(),
            )
            nursery.start_soon(_warm_up)
            nursery.start_soon(trio.to_thread.run_sync, parts.maker.recover)
            await _signals(file, parts.installer, parts.sources, parts.server)
            patience.start()
            parts.store.stop()
            parts.server.stop()
        # Every client has its last answer.
        nursery.cancel_scope.cancel()


async def _warm_up() -> None:
    """Imports what takes long to import: the start does not wait for it, nor does the first image."""
    for module in _LARGE_MODULES:
        with suppress(ImportError):
            await trio.to_thread.run_sync(import_module, module, abandon_on_cancel=True)


async def open_pools(settings: Config) -> dict[str, Pool]:
    """The pools by their names, the default one first. Raises `ConfigError`, `PoolError`."""
    pools: dict[str, Pool] = {}
    for table in settings.pools:
        if table.type == "zfs":
            pools[table.name] = await _open_zfs(table)
        else:
            folder = settings.pool_folder(table)
            pools[table.name] = await trio.to_thread.run_sync(EmbeddedPool, table.name, folder)
    return pools


async def _open_zfs(table: PoolTable) -> ZfsPool:
    # A pool whose disks do not answer keeps whoever asks it in the kernel.
    try:
        with trio.fail_after(_OPEN_SECONDS):
            return await trio.to_thread.run_sync(
                partial(ZfsPool, table.name, properties=table.properties), abandon_on_cancel=True
            )
    except trio.TooSlowError:
        raise PoolError(
            f'pool "{table.name}": no answer for {_OPEN_SECONDS:.0f} seconds',
            hint="see `zpool status`: is it suspended, or being imported?",
        ) from None


def _load(catalog: Catalog, folder: Path) -> None:
    try:
        catalog.load()
    except OSError as error:
        raise ConfigError(
            f"imgadm: the folder {folder} cannot be used: {error.strerror}",
            hint="start imgstored as root, or name a folder of your own as `imgadm` in its configuration",
        ) from error


async def _signals(file: Path | None, installer: Installer, sources: SourceBook, server: Server) -> None:
    """Reads the configuration again on SIGHUP; returns when the daemon is to stop."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async for number in received:
            if number != signal.SIGHUP:
                logger.info("stopping", signal=signal.Signals(number).name)
                return
            try:
                settings = await trio.to_thread.run_sync(config.load, file)
                sources.reconfigure(source_specs(settings))
            except ImgstoreError as error:
                logger.error("the configuration stays as it was", error=error.message, hint=error.hint)
                continue
            installer.reconfigure(install_limits(settings))
            server.reconfigure(socket_limits(settings))
            log.set_up(settings.log)
            logger.info("read the configuration again", file=None if file is None else str(file))


def _leave() -> None:
    """Ends the process although something is still at work, such as a disk that does not answer."""
    logger.warning("leaving before everything has ended", seconds=_STOP_SECONDS)
    os._exit(0)


@contextmanager
def _owned(state: Path) -> Iterator[Path]:
    """The state folder with its `spool`, for this process alone. Raises `ConfigError`."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (state / "spool").mkdir(mode=0o700, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"state: {error.filename} cannot be used: {error.strerror}",
            hint="start imgstored as root, or name a folder of your own as `state` in its configuration",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"state: another imgstored uses the folder {state}",
                hint="stop it first, or give this one another `state` (and `socket.path`, and `view.path`)",
            ) from error
        yield state
    finally:
        os.close(lock)


def _first(group: BaseExceptionGroup[BaseException]) -> ImgstoreError | None:
    """The group's only reason, if it is an error for people."""
    _, others = group.split(ImgstoreError)
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if others is None and isinstance(leaf, ImgstoreError) else None
