"""Wires everything together: opens the store, starts the servers, and stops them in order."""

from __future__ import annotations

import gc
import os
import signal
import threading
from contextlib import closing, suppress
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
from imgstored.care.pool_states import PoolStates
from imgstored.care.resolver import Resolver
from imgstored.care.status import Daemon, Status
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
from imgstored.doctor.services import OwnHost
from imgstored.errors import ConfigError, ImgstoreError
from imgstored.metrics import open_metrics
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.patience import answer
from imgstored.pools.zfs import ZfsPool
from imgstored.rpc.methods import methods
from imgstored.rpc.methods.care import Care
from imgstored.rpc.methods.making import Making
from imgstored.rpc.server import Server
from imgstored.sources.sourcebook import SourceBook
from imgstored.specs import (
    check,
    install_limits,
    metrics_address,
    platform,
    secrets,
    socket_limits,
    source_specs,
)
from imgstored.state.folder import owned
from imgstored.state.schema import HISTORY, JOURNAL
from imgstored.store.installer import Installer
from imgstored.store.journal import Journal
from imgstored.store.recorder import Recorders
from imgstored.store.store import Store
from imgstored.view import View, open_view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from imgstored.config import Config, PoolTable
    from imgstored.metrics.endpoint import Metrics
    from imgstored.notify import Notifier
    from imgstored.pools.base import Pool

logger = structlog.get_logger(__name__)

#: Seconds for an orderly stop. State survives kill -9 at any point, so what takes longer is left alone.
_STOP_SECONDS = 4.5

#: Seconds that a ZFS pool may take for its first answer.
_OPEN_SECONDS = 60.0

#: What an import needs, where it is installed.
_LARGE_MODULES = ("numpy", "isal.isal_zlib", "httpx2")


def serve(settings: Config, files: Sequence[Path], notifier: Notifier) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises `ImgstoreError` when it cannot start.

    `files` are where the settings came from; SIGHUP reads them again.
    """
    check(settings)
    log.set_up(settings.log, secrets(settings))
    log.take_all()
    try:
        files = [file.absolute() for file in files]
        trio.run(_main, settings, files, notifier, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from error.__cause__


async def _main(settings: Config, files: Sequence[Path], notifier: Notifier) -> None:
    patience = threading.Timer(_STOP_SECONDS, _leave)
    patience.daemon = True
    with owned(Path(settings.state)) as state:
        journal = Journal(state / JOURNAL)
        try:
            with closing(History(state / HISTORY)) as history:
                parts = await _wired(settings, state, journal, history, files)
                await _run(parts, files, patience, notifier)
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
    metrics: Metrics | None


async def _wired(
    settings: Config, state: Path, journal: Journal, history: History, files: Sequence[Path]
) -> _Parts:
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
    metrics = open_metrics(metrics_address(settings), mode=settings.socket.mode, group=settings.socket.group)
    counts = None if metrics is None else metrics.counts
    store = Store(
        catalog,
        sources,
        installer,
        refresh,
        platform(settings),
        recorder=history if counts is None else Recorders(history, counts),
        hit=None if counts is None else counts.hit,
    )
    care = Care(
        Resolver(catalog, refresh, sources, history, store.jobs),
        DryRun(catalog, refresh, sources, journal, lambda: installer.room, store.jobs, platform(settings)),
        Usage(catalog, refresh),
        history,
    )
    upkeep = Upkeep(catalog, sources, locks, view, refresh, store.expecting)
    verifier = Verifier(Host(catalog, receipts, Holds(catalog), refresh, locks, lambda: bool(store.jobs())))
    maker = Maker(catalog, Vmadm(settings.vmadm), state / "creating")
    making = Making(maker, Exporter(catalog), Publisher(source_specs(settings) or ()))
    states = PoolStates(catalog, {table.name: table.type for table in settings.pools})
    status = Status(
        Daemon(__version__, os.getpid(), str(files[0]) if files else None, lambda: view.kind),
        states,
        sources,
        history,
        jobs=store.jobs,
        clients=lambda: server.connections,
        warnings=log.recent_warnings,
    )
    server = Server(
        Path(settings.socket.path),
        methods(
            store,
            sources,
            pools=list(pools),
            making=making,
            care=care,
            upkeep=upkeep,
            verifier=verifier,
            status=status,
            doctor=OwnHost(settings, files, pools, lambda: view.kind),
        ),
        mode=settings.socket.mode,
        group=settings.socket.group,
        limits=socket_limits(settings),
        timing=None if counts is None else counts.request,
    )
    if metrics is not None:
        metrics.show(states, sources, jobs=store.jobs, clients=lambda: server.connections, view=view.kind)
    return _Parts(catalog, view, installer, sources, store, server, maker, metrics)


async def _run(parts: _Parts, files: Sequence[Path], patience: threading.Timer, notifier: Notifier) -> None:
    """Serves until a signal ends it; `patience` counts from then."""
    async with trio.open_nursery() as nursery:
        await nursery.start(parts.view.run, parts.catalog.all())
        await nursery.start(parts.store.run)
        if parts.metrics is not None:
            await nursery.start(parts.metrics.serve)
        async with trio.open_nursery() as serving:
            await serving.start(parts.server.serve)
            # What is there now stays: the collector, which waited for this, need not look at it again.
            gc.freeze()
            gc.enable()
            logger.info(
                "ready",
                version=__version__,
                pools=list(parts.catalog.pools),
                view=parts.view.kind,
                pid=os.getpid(),
            )
            nursery.start_soon(notifier.watch)
            nursery.start_soon(_warm_up)
            nursery.start_soon(trio.to_thread.run_sync, parts.maker.recover)
            # Whoever hears that we are ready may send one at once.
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
                notifier.ready()
                await _signals(received, files, parts, notifier)
            notifier.stopping()
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
    opened = partial(ZfsPool, table.name, properties=table.properties)
    return await answer(table.name, opened, threads=trio.CapacityLimiter(1), seconds=_OPEN_SECONDS)


def _load(catalog: Catalog, folder: Path) -> None:
    try:
        catalog.load()
    except OSError as error:
        raise ConfigError(
            f"imgadm: the folder {folder} cannot be used: {error.strerror}",
            hint="start imgstored as root, or name a folder of your own as `imgadm` in its configuration",
        ) from error


async def _signals(
    received: AsyncIterator[int], files: Sequence[Path], parts: _Parts, notifier: Notifier
) -> None:
    """Reads the configuration again on SIGHUP; returns when the daemon is to stop."""
    async for number in received:
        if number != signal.SIGHUP:
            logger.info("stopping", signal=signal.Signals(number).name)
            return
        notifier.reloading()
        await _reload(files, parts)
        notifier.ready()


async def _reload(files: Sequence[Path], parts: _Parts) -> None:
    try:
        settings = await trio.to_thread.run_sync(config.load, *files)
        parts.sources.reconfigure(source_specs(settings))
    except ImgstoreError as error:
        logger.error("the configuration stays as it was", error=error.message, hint=error.hint)
        return
    parts.installer.reconfigure(install_limits(settings))
    parts.server.reconfigure(socket_limits(settings))
    log.set_up(settings.log, secrets(settings))
    logger.info("read the configuration again", files=[str(file) for file in files])


def _leave() -> None:
    """Ends the process although something is still at work, such as a disk that does not answer."""
    logger.warning("leaving before everything has ended", seconds=_STOP_SECONDS)
    os._exit(0)


def _first(group: BaseExceptionGroup[BaseException]) -> ImgstoreError | None:
    """The group's only reason, if it is an error for people."""
    _, others = group.split(ImgstoreError)
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if others is None and isinstance(leaf, ImgstoreError) else None
