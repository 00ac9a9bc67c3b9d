"""Wires all rooms into one daemon, which `imgstored.daemon` runs."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from msgspec import Struct

from imgstored import __version__, lanes, log
from imgstored.catalog.aliases import Aliases
from imgstored.catalog.catalog import Catalog
from imgstored.catalog.deletions import Deletions
from imgstored.catalog.holds import Holds
from imgstored.catalog.image_locks import ImageLocks
from imgstored.catalog.images import Images
from imgstored.catalog.receipts import Receipts
from imgstored.catalog.refresh import Refresh
from imgstored.config.specs import (
    check,
    decompress_limits,
    descriptors,
    hook_specs,
    import_limits,
    metrics_address,
    mirror_specs,
    platform,
    registry_specs,
    secrets,
    serve_address,
    serve_limits,
    socket_limits,
    source_specs,
)
from imgstored.create.export import Exporter
from imgstored.create.maker import Maker
from imgstored.create.publish import Publisher
from imgstored.create.vmadm import Vmadm
from imgstored.daemon import End, Parts, run
from imgstored.doctor.services import OwnHost
from imgstored.errors import PINNED, ConfigError, DamagedError, ImgstoreError
from imgstored.events.stream import EventStream, SourceChanged
from imgstored.hooks.hooks import Hooks
from imgstored.host import exhaustion, shortage, signals
from imgstored.host.descriptors import raise_limit
from imgstored.http.lookups import Lookups
from imgstored.http.secrets import KNOWN
from imgstored.imports.journal import Journal
from imgstored.imports.manager import ImportManager
from imgstored.imports.resources import Resources
from imgstored.library.library import Library
from imgstored.maintenance.maintenance import Maintenance
from imgstored.maintenance.verifier import Host, Verifier
from imgstored.metrics import open_metrics
from imgstored.mirrors.export_site import SiteExporter
from imgstored.mirrors.mirror import Mirrors
from imgstored.pools.embedded import EmbeddedPool
from imgstored.pools.timeout import answer
from imgstored.pools.zfs import ZfsPool
from imgstored.queries.dry_run import DryRun
from imgstored.queries.event_log import open_event_log
from imgstored.queries.history import open_history
from imgstored.queries.outdated import Outdated
from imgstored.queries.resolver import Resolver
from imgstored.queries.status import Daemon, PoolStates, Status
from imgstored.queries.usage import Usage
from imgstored.registry.client import Registries
from imgstored.registry.push import Uploads
from imgstored.rpc.methods import methods
from imgstored.rpc.server import Server
from imgstored.rpc.services import Services
from imgstored.serve import check_packages
from imgstored.serve.relay import Relay
from imgstored.sources.client import open_source
from imgstored.sources.signed import SeenVersions
from imgstored.sources.source_set import SourceSet
from imgstored.state.damage import DAMAGED, Aside
from imgstored.state.folder import ALIASES, NO_ALIASES, owned
from imgstored.state.schema import EVENTS, HISTORY, JOURNAL
from imgstored.view import mountpoint, open_view

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from imgproto.documents import LibraryStateDocument, ServerStateDocument

    from imgstored.config.tables import Config, PoolTable
    from imgstored.host.notify import Notifier
    from imgstored.httpd.address import TcpAddress
    from imgstored.httpd.message import HttpLimits
    from imgstored.metrics.endpoint import Metrics
    from imgstored.pools.base import Pool
    from imgstored.queries.event_log import EventLog
    from imgstored.queries.history import History
    from imgstored.serve.application import Application
    from imgstored.serve.endpoint import ImageServer
    from imgstored.view import View

logger = structlog.get_logger(__name__)

#: Seconds that a ZFS pool may take for its first answer.
_OPEN_SECONDS = 60.0


def serve(settings: Config, files: Sequence[Path], notifier: Notifier) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises `ImgstoreError` when it cannot start.

    `files` are where the settings came from; SIGHUP reads them again.
    """
    check(settings)
    KNOWN.configure(secrets(settings, os.environ))
    log.set_up(settings.log)
    log.take_all()
    exhaustion.watch_threads()
    raise_limit(descriptors(settings))
    try:
        files = [file.absolute() for file in files]
        signals.run(_main, settings, files, notifier)
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from error.__cause__


async def _main(settings: Config, files: Sequence[Path], notifier: Notifier) -> None:
    end = End()
    aside = Aside(Path(settings.state) / DAMAGED)
    trio.socket.set_custom_hostname_resolver(Lookups())
    with owned(Path(settings.state), passable=settings.view_in_state, aside=aside) as state:
        journal = Journal(state / JOURNAL, aside)
        try:
            async with (
                open_history(state / HISTORY, aside) as history,
                open_event_log(state / EVENTS, aside) as event_log,
            ):
                core = await _core(settings, files, state, journal, history, event_log, aside)
                await run(_parts(core), files, end, notifier)
        finally:
            journal.close()
            end.done()
    logger.info("stopped")


class _Core(Struct, frozen=True):
    """The parts that other parts are made of."""

    settings: Config
    files: Sequence[Path]
    state: Path
    catalog: Catalog
    refresh: Refresh
    view: View
    locks: ImageLocks
    holds: Holds
    receipts: Receipts
    history: History
    aside: Aside
    registries: Registries
    sources: SourceSet
    resources: Resources
    imports: ImportManager
    images: Images
    aliases: Aliases
    metrics: Metrics | None
    library: Library | None
    relay: Relay | None
    mirrors: Mirrors
    publisher: Publisher
    events: EventStream
    event_log: EventLog
    hooks: Hooks


async def _core(
    settings: Config,
    files: Sequence[Path],
    state: Path,
    journal: Journal,
    history: History,
    event_log: EventLog,
    aside: Aside,
) -> _Core:
    """Opens the pools, the sources and the state. Raises `ConfigError`, `PoolError`."""
    unknown = "`imgctl verify` has nothing to compare the image with"
    receipts = Receipts(state / "receipts", partial(aside.move, lost=unknown))
    catalog = Catalog(await open_pools(settings), settings.imgadm_folder / "images", receipts)
    await lanes.in_thread(_load, catalog, settings.imgadm_folder)
    view = open_view(settings.view.mode, Path(settings.view.path))
    if settings.view.link and settings.view.mode != "off":
        await lanes.in_thread(
            mountpoint.make_link, Path(settings.view.link), Path(settings.view.path), kind="view"
        )
    events = EventStream()
    locks, holds = ImageLocks(settings.imgadm_locks_folder), Holds(catalog, events)
    library = await _library(settings, catalog)
    registries = Registries(registry_specs(settings))
    sources = SourceSet(
        source_specs(settings),
        imgadm_conf=settings.imgadm_folder / "imgadm.conf",
        lists=state / "lists",
        open_source=partial(open_source, seen=SeenVersions(state / "signed"), registries=registries),
        changed=lambda url, error: events.publish(SourceChanged(url, error)),
        copied=lambda uuid: None if library is None else library.copied_from(uuid),
    )
    uploads = Uploads(state / "uploads")
    await lanes.in_thread(uploads.sweep)
    publisher = Publisher(
        sources.configured,
        registries=registries,
        uploads=uploads,
        decompress=decompress_limits(settings.limits),
    )
    with suppress(ImgstoreError):  # a request for the sources reports what is wrong with them
        await sources.listed()  # the gate learns the secrets in imgadm's file
    metrics = open_metrics(metrics_address(settings), mode=settings.socket.mode, group=settings.socket.group)
    events.subscribe(history.hear, flush=history.flush)
    events.subscribe(event_log.hear)
    hooks = Hooks(hook_specs(settings), events.publish, {"IMGSTORED_SOCKET": settings.socket.path})
    event_log.subscribe(hooks.hear)
    if metrics is not None:
        events.subscribe(metrics.counts.hear)
    refresh = Refresh(catalog, view)
    deletions = Deletions(catalog, locks, view, events, receipts=receipts)
    limits = import_limits(settings)
    resources = Resources(
        catalog, journal, state / "spool", view, locks, limits, receipts=receipts, library=library
    )
    imports = ImportManager(resources, sources, refresh, deletions, events, platform(settings))
    relay = None if library is None else _relay(settings, library, sources, resources)
    return _Core(
        settings=settings,
        files=files,
        state=state,
        catalog=catalog,
        refresh=refresh,
        view=view,
        locks=locks,
        holds=holds,
        receipts=receipts,
        history=history,
        aside=aside,
        registries=registries,
        sources=sources,
        resources=resources,
        imports=imports,
        images=Images(catalog, refresh, deletions, holds, imports.cloned_from),
        aliases=await lanes.in_thread(
            Aliases, state / ALIASES, catalog, partial(aside.move, lost=NO_ALIASES)
        ),
        metrics=metrics,
        library=library,
        relay=relay,
        mirrors=Mirrors(library, sources, relay, mirror_specs(settings), events, publisher=publisher),
        publisher=publisher,
        events=events,
        event_log=event_log,
        hooks=hooks,
    )


def _relay(settings: Config, library: Library, sources: SourceSet, resources: Resources) -> Relay:
    """The relay that fetches files for the library."""
    return Relay(
        sources,
        library,
        journal=resources.journal.ranges,
        limits=lambda: resources.limits.download,
        claim=lambda: resources.free_space.claim_folder(library.folder),
        at_a_time=settings.limits.imports,
    )


async def _library(settings: Config, catalog: Catalog) -> Library | None:
    """The library, if there is one and its folder can be used."""
    if not settings.has_library:
        return None

    def pinned() -> set[str]:
        """The uuids of pinned images, in a thread of trio's. Raises `PoolError`."""
        return {
            uuid
            for name, pool in catalog.pools.items()
            for uuid, use in trio.from_thread.run(catalog.ask, name, pool.uses).items()
            if PINNED in use.tags
        }

    library = Library(settings.library_folder, settings.library.keep_mib << 20, pinned=pinned)
    try:
        await lanes.in_thread(library.open, kind="library")
    except OSError as error:
        # The daemon's main job does not need the library.
        logger.error(
            "the library cannot be used: nothing is kept or served",
            path=str(settings.library_folder),
            error=shortage.why(error),
        )
        return None
    return library


def _image_server(core: _Core) -> ImageServer | None:
    """The image server, if the configuration says where it listens. Raises `ConfigError`."""
    serving = _serving(core, core.settings)
    if serving is None or core.library is None:
        return None
    from imgstored.create.file_index import index_of
    from imgstored.serve.endpoint import ImageServer

    return ImageServer(
        serving.address,
        serving.application,
        core.library,
        serving.limits,
        rate=serving.rate,
        context=serving.context,
        index_of=index_of,
    )


class _Serving(Struct, frozen=True):
    """The parts of the image server, as the configuration has it."""

    address: TcpAddress
    application: Application
    limits: HttpLimits
    rate: int
    context: ssl.SSLContext | None


def _serving(core: _Core, settings: Config) -> _Serving | None:
    """The image server's parts; None if nothing is served. Blocks: it reads keys. Raises `ConfigError`."""
    address, library, resources = serve_address(settings), core.library, core.resources
    if address is None or library is None:
        return None
    check_packages()
    from imgstored.httpd.server import server_context
    from imgstored.serve.application import Application
    from imgstored.serve.page import Job
    from imgstored.serve.publishing import Publishing
    from imgstored.serve.writers import Writers, read_key

    table = settings.serve
    context = None
    if table.cert_file is not None:
        key = None if table.key_file is None else Path(table.key_file)
        context = server_context(Path(table.cert_file), key)
    catalog = core.catalog

    def installed(uuid: str) -> bool:
        return any(catalog.find(pool, uuid) is not None for pool in catalog.pools)

    relay = core.relay if table.pull else None
    publishing = None
    if table.tokens or table.keys:
        keys = {name: read_key(name, Path(path)) for name, path in table.keys.items()}
        publishing = Publishing(
            library,
            Writers(table.tokens, keys),
            lambda: resources.free_space.claim_folder(library.folder),
        )

    def jobs() -> list[Job]:
        return [
            Job(each["name"], each["version"], each["phase"], each["done"], each["total"])
            for each in core.imports.jobs()
        ]

    application = Application(library, installed=installed, relay=relay, publishing=publishing, jobs=jobs)
    return _Serving(address, application, serve_limits(settings), table.rate_mib << 20, context)


async def _served_anew(core: _Core, image_server: ImageServer | None, settings: Config) -> Callable[[], None]:
    """Applies a changed configuration to the image server and the mirrors.

    Raises `ConfigError` where that is wrong; nothing has changed then.
    """
    mirrors = mirror_specs(settings)
    serving = await lanes.in_thread(_serving, core, settings)

    def change() -> None:
        core.mirrors.reconfigure(mirrors)
        if image_server is None or serving is None:
            if (image_server is None) == (settings.serve.listen is not None):
                logger.warning("a restart turns the image server on or off", listen=settings.serve.listen)
            return
        try:
            image_server.reconfigure(
                serving.address,
                serving.application,
                serving.limits,
                rate=serving.rate,
                context=serving.context,
            )
        except ConfigError as error:
            logger.error("the image server stays as it was", error=error.message, hint=error.hint)

    return change


def _parts(core: _Core) -> Parts:
    maker = Maker(core.catalog, Vmadm(core.settings.vmadm), core.state / "creating")
    image_server = _image_server(core)
    return Parts(
        catalog=core.catalog,
        view=core.view,
        resources=core.resources,
        registries=core.registries,
        sources=core.sources,
        images=core.images,
        imports=core.imports,
        server=_server(core, maker, image_server),
        maker=maker,
        mirrors=core.mirrors,
        events=core.events,
        event_log=core.event_log,
        hooks=core.hooks,
        metrics=core.metrics,
        image_server=image_server,
        served_anew=partial(_served_anew, core, image_server),
    )


def _library_state(core: _Core) -> LibraryStateDocument | None:
    """The library in the protocol's *status*."""
    library, relay = core.library, core.relay
    if library is None:
        return None
    return {
        "path": str(library.folder),
        "images": len(library.images()),
        "size": library.size,
        "kept": library.kept_size,
        "budget": library.budget,
        "evicted": library.evicted,
        "evicted_bytes": library.evicted_bytes,
        "fetching": 0 if relay is None else relay.fetching,
        "fetched": 0 if relay is None else relay.fetched,
        "fetched_bytes": 0 if relay is None else relay.fetched_bytes,
    }


def _server(core: _Core, maker: Maker, image_server: ImageServer | None) -> Server:
    """Wires the services of the socket, and the sources of the metrics."""

    def image_server_state() -> ServerStateDocument | None:
        return None if image_server is None else image_server.state()

    settings, catalog, imports = core.settings, core.catalog, core.imports
    states = PoolStates(catalog, {table.name: table.type for table in settings.pools})
    status = Status(
        Daemon(
            __version__,
            os.getpid(),
            str(core.files[0]) if core.files else None,
            lambda: core.view.kind,
            settings.view.path,
        ),
        states,
        core.sources,
        core.history,
        jobs=imports.jobs,
        clients=lambda: server.connections,
        warnings=log.recent_warnings,
        faults=partial(_faults, core),
        library=partial(_library_state, core),
        server=image_server_state,
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
            jobs=imports.jobs,
            fetched=imports.fetched,
            clients=lambda: server.connections,
            view=lambda: core.view.kind,
            library=partial(_library_state, core),
            server=image_server_state,
        )
    return server


def _services(core: _Core, maker: Maker, status: Status) -> Services:
    """The services that the socket's methods call."""
    catalog, refresh, sources, imports = core.catalog, core.refresh, core.sources, core.imports
    host = Host(
        catalog,
        core.receipts,
        core.holds,
        refresh,
        core.locks,
        lambda: imports.busy,
        lambda: {key for spec in sources.configured() for key in spec.keys},
    )
    return Services(
        pools=list(catalog.pools),
        images=core.images,
        aliases=core.aliases,
        imports=imports,
        sources=sources,
        outdated=Outdated(catalog, refresh, sources),
        resolver=Resolver(catalog, refresh, sources, core.history, imports.jobs, core.aliases),
        dry_run=DryRun(catalog, refresh, sources, imports, core.resources),
        usage=Usage(catalog, refresh),
        history=core.history,
        event_log=core.event_log,
        maintenance=Maintenance(catalog, sources, core.locks, core.view, refresh, imports.cloned_from),
        verifier=Verifier(host),
        maker=maker,
        exporter=Exporter(catalog),
        publisher=core.publisher,
        mirrors=core.mirrors,
        site_exporter=SiteExporter(
            core.library,
            core.state / "site.json",
            installed=lambda: {image.uuid: image.text("name") for image in catalog.all()},
        ),
        status=status,
        doctor=OwnHost(
            core.settings, core.files, catalog.pools, lambda: core.view.kind, partial(_faults, core)
        ).examine,
    )


def _faults(core: _Core) -> list[ImgstoreError]:
    """Faults of the daemon's own files: a full disk, and damage that was found. Blocks briefly."""
    waiting = [
        fault for fault in (core.imports.fault, core.history.fault, core.event_log.fault) if fault is not None
    ]
    damaged = [
        DamagedError(f'pool "{name}": {what}', hint="check the disk; `imgctl import` replaces an image")
        for name, pool in core.catalog.pools.items()
        for what in pool.damage()
    ]
    return [*waiting, *core.aside.errors(), *damaged]


async def open_pools(settings: Config) -> dict[str, Pool]:
    """The pools by their names, the default one first. Raises `ConfigError`, `PoolError`."""
    pools: dict[str, Pool] = {}
    for table in settings.pools:
        if table.type == "zfs":
            pools[table.name] = await _open_zfs(table)
        else:
            folder = settings.pool_folder(table)
            pools[table.name] = await lanes.in_thread(EmbeddedPool, table.name, folder)
    return pools


async def _open_zfs(table: PoolTable) -> ZfsPool:
    opened = partial(ZfsPool, table.name, properties=table.properties)
    pool = await answer(table.name, opened, threads=trio.CapacityLimiter(1), seconds=_OPEN_SECONDS)
    logger.info("the ZFS pool is there", pool=pool.name, libzfs_core=pool.binding)
    return pool


def _load(catalog: Catalog, folder: Path) -> None:
    try:
        catalog.load()
    except OSError as error:
        raise ConfigError(
            f"imgadm: the folder {folder} cannot be used: {shortage.why(error)}",
            hint="start imgstored as root, or name a folder of your own as `imgadm` in its configuration",
        ) from error


def _first(group: BaseExceptionGroup[BaseException]) -> ImgstoreError | None:
    """The group's only error, if it is one for people."""
    _, others = group.split(ImgstoreError)
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if others is None and isinstance(leaf, ImgstoreError) else None
