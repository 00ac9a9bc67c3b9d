"""Wires everything together; `imgstored.daemon` runs it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import __version__, log
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
from imgstored.daemon import Parts, leaves_after, run
from imgstored.doctor.services import OwnHost
from imgstored.errors import ConfigError, ImgstoreError
from imgstored.metrics import open_metrics
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.patience import answer
from imgstored.pools.zfs import ZfsPool
from imgstored.rpc.methods import methods
from imgstored.rpc.server import Server
from imgstored.rpc.services import Services
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
from imgstored.view import open_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgstored.config import Config, PoolTable
    from imgstored.manifest.platform import Platform
    from imgstored.metrics.endpoint import Metrics
    from imgstored.notify import Notifier
    from imgstored.pools.base import Pool
    from imgstored.view import View

logger = structlog.get_logger(__name__)

#: Seconds that a ZFS pool may take for its first answer.
_OPEN_SECONDS = 60.0


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
    patience = leaves_after()
    with owned(Path(settings.state)) as state:
        journal = Journal(state / JOURNAL)
        try:
            with closing(History(state / HISTORY)) as history:
                core = await _core(settings, files, state, journal, history)
                await run(_parts(core), files, patience, notifier)
        finally:
            journal.close()
            patience.cancel()
    logger.info("stopped")


@dataclass(frozen=True, slots=True)
class _Core:
    """What all else is about."""

    settings: Config
    files: Sequence[Path]
    state: Path
    catalog: Catalog
    view: View
    locks: ImageLocks
    receipts: Receipts
    journal: Journal
    history: History
    installer: Installer
    sources: SourceBook
    refresh: Refresh
    store: Store
    platform: Platform | None
    metrics: Metrics | None


async def _core(
    settings: Config, files: Sequence[Path], state: Path, journal: Journal, history: History
) -> _Core:
    """Opens what there is. Raises `ConfigError`, `PoolError`."""
    catalog = Catalog(await open_pools(settings), settings.imgadm_folder / "images")
    await trio.to_thread.run_sync(_load, catalog, settings.imgadm_folder)
    view = open_view(settings.view.mode, Path(settings.view.path))
    locks = ImageLocks(settings.imgadm_locks_folder)
    receipts = Receipts(state / "receipts")
    limits = install_limits(settings)
    installer = Installer(catalog, journal, state / "spool", view, locks, limits, receipts=receipts)
    sources = SourceBook(
        source_specs(settings),
        imgadm_conf=settings.imgadm_folder / "imgadm.conf",
        lists=state / "lists",
    )
    refresh = Refresh(catalog, view)
    runs_on = platform(settings)
    metrics = open_metrics(metrics_address(settings), mode=settings.socket.mode, group=settings.socket.group)
    store = Store(
        catalog,
        sources,
        installer,
        refresh,
        runs_on,
        recorder=history if metrics is None else Recorders(history, metrics.counts),
        hit=None if metrics is None else metrics.counts.hit,
    )
    return _Core(
        settings=settings,
        files=files,
        state=state,
        catalog=catalog,
        view=view,
        locks=locks,
        receipts=receipts,
        journal=journal,
        history=history,
        installer=installer,
        sources=sources,
        refresh=refresh,
        store=store,
        platform=runs_on,
        metrics=metrics,
    )


def _parts(core: _Core) -> Parts:
    maker = Maker(core.catalog, Vmadm(core.settings.vmadm), core.state / "creating")
    return Parts(
        catalog=core.catalog,
        view=core.view,
        installer=core.installer,
        sources=core.sources,
        store=core.store,
        server=_server(core, maker),
        maker=maker,
        metrics=core.metrics,
    )


def _server(core: _Core, maker: Maker) -> Server:
    """What the socket offers, and who else tells how the daemon is."""
    settings, catalog, store = core.settings, core.catalog, core.store
    states = PoolStates(catalog, {table.name: table.type for table in settings.pools})
    status = Status(
        Daemon(__version__, os.getpid(), str(core.files[0]) if core.files else None, lambda: core.view.kind),
        states,
        core.sources,
        core.history,
        jobs=store.jobs,
        clients=lambda: server.connections,
        warnings=log.recent_warnings,
    )
    server = Server(
        Path(settings.socket.path),
        methods(_services(core, maker, status)),
        mode=settings.socket.mode,
        group=settings.socket.group,
        limits=socket_limits(settings),
        timing=None if core.metrics is None else core.metrics.counts.request,
    )
    if core.metrics is not None:
        core.metrics.show(
            states,
            core.sources,
            jobs=store.jobs,
            clients=lambda: server.connections,
            view=lambda: core.view.kind,
        )
    return server


def _services(core: _Core, maker: Maker, status: Status) -> Services:
    settings, catalog, store = core.settings, core.catalog, core.store
    refresh, sources = core.refresh, core.sources
    holds, busy = Holds(catalog), lambda: bool(store.jobs())
    return Services(
        pools=list(catalog.pools),
        store=store,
        sources=sources,
        resolver=Resolver(catalog, refresh, sources, core.history, store.jobs),
        dry_run=DryRun(
            catalog, refresh, sources, core.journal, lambda: core.installer.room, store.jobs, core.platform
        ),
        usage=Usage(catalog, refresh),
        history=core.history,
        upkeep=Upkeep(catalog, sources, core.locks, core.view, refresh, store.expecting),
        verifier=Verifier(Host(catalog, core.receipts, holds, refresh, core.locks, busy)),
        maker=maker,
        exporter=Exporter(catalog),
        publisher=Publisher(source_specs(settings) or ()),
        status=status,
        doctor=OwnHost(settings, core.files, catalog.pools, lambda: core.view.kind).examine,
    )


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


def _first(group: BaseExceptionGroup[BaseException]) -> ImgstoreError | None:
    """The group's only reason, if it is an error for people."""
    _, others = group.split(ImgstoreError)
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if others is None and isinstance(leaf, ImgstoreError) else None
