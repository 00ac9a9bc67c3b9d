"""Wires everything together: opens the store, starts the servers, and stops them in order."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from imgstored import __version__, config, log
from imgstored.errors import ClientError, ConfigError, ImgstoreError
from imgstored.http.location import Access, check_headers
from imgstored.http.proxy import parse_proxy
from imgstored.pools.embedded import EmbeddedPool
from imgstored.rpc.limits import Limits as SocketLimits
from imgstored.rpc.methods import methods
from imgstored.rpc.server import Server
from imgstored.sources.base import SourceSpec
from imgstored.sources.url import normalised
from imgstored.store.catalog import Catalog
from imgstored.store.installer import Installer, InstallLimits
from imgstored.store.journal import Journal
from imgstored.store.sourcebook import SourceBook
from imgstored.store.store import Store
from imgstored.transfer.decompress import DecompressLimits
from imgstored.transfer.download import DownloadLimits
from imgstored.view import open_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgstored.config import Config, SourceTable

logger = structlog.get_logger(__name__)

_MIB = 1 << 20

#: Seconds for an orderly stop. State survives kill -9 at any point, so what takes longer is left alone.
_STOP_SECONDS = 4.5


def serve(settings: Config, file: Path | None) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Raises `ImgstoreError` when it cannot start.

    `file` is where the settings came from; SIGHUP reads it again.
    """
    log.set_up(settings.log)
    try:
        trio.run(_main, settings, file, strict_exception_groups=True)
    except BaseExceptionGroup as group:
        error = _first(group)
        if error is None:
            raise
        raise error from group


def check(settings: Config) -> None:
    """Raises `ConfigError` for what can be seen to be wrong without starting."""
    source_specs(settings)


async def _main(settings: Config, file: Path | None) -> None:
    state = Path(settings.state)
    patience = threading.Timer(_STOP_SECONDS, _leave)
    patience.daemon = True
    with _owned(state):
        spools = state / "spool"
        spools.mkdir(mode=0o700, exist_ok=True)
        journal = Journal(state / "journal.sqlite")
        try:
            pool = await trio.to_thread.run_sync(EmbeddedPool, settings.pool.name, settings.pool_folder)
            catalog = Catalog({pool.name: pool}, settings.imgadm_folder / "images")
            await trio.to_thread.run_sync(catalog.load)
            view = open_view(settings.view.mode, Path(settings.view.path))
            installer = Installer(catalog, journal, spools, view, install_limits(settings))
            sources = SourceBook(
                source_specs(settings),
                imgadm_conf=settings.imgadm_folder / "imgadm.conf",
                lists=state / "lists",
            )
            store = Store(catalog, sources, installer)
            server = Server(
                Path(settings.socket.path),
                methods(store, sources, pool=pool.name),
                mode=settings.socket.mode,
                group=settings.socket.group,
                limits=socket_limits(settings),
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(view.run, catalog.all())
                await nursery.start(store.run)
                async with trio.open_nursery() as serving:
                    await serving.start(server.serve)
                    logger.info("ready", version=__version__, pool=pool.name, view=view.kind, pid=os.getpid())
                    await _signals(file, installer, sources, server)
                    patience.start()
                    store.stop()
                    server.stop()
                # Every client has its last answer.
                nursery.cancel_scope.cancel()
        finally:
            journal.close()
            patience.cancel()
    logger.info("stopped")


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
def _owned(state: Path) -> Iterator[None]:
    """The state folder, for this process alone. Raises `ConfigError`."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"state: the folder {state} cannot be used: {error.strerror}",
            hint="start imgstored as root, or name a folder of your own as `state` in its configuration",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"state: another imgstored uses the folder {state}",
            hint="stop it first, or give this one another `state` (and `socket.path`, and `view.path`)",
        ) from error
    finally:
        os.close(lock)


def _first(group: BaseExceptionGroup[BaseException]) -> ImgstoreError | None:
    """The group's only reason, if it is an error for people."""
    _, others = group.split(ImgstoreError)
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf if others is None and isinstance(leaf, ImgstoreError) else None


# -- what the rooms want of the configuration ----------------------------------------------------------------


def source_specs(settings: Config) -> tuple[SourceSpec, ...] | None:
    """The sources of the file, or None where it has no such key. Raises `ConfigError`."""
    if settings.sources is None:
        return None
    return tuple(_source_spec(place, table) for place, table in enumerate(settings.sources))


def _source_spec(place: int, table: SourceTable) -> SourceSpec:
    access = Access(
        ca_file=table.ca_file,
        insecure=table.insecure,
        proxy=table.proxy,
        headers=tuple(table.headers.items()),
    )
    try:
        url = normalised(table.url)
        check_headers(access)
        if table.proxy is not None:
            parse_proxy(table.proxy)
    except ClientError as error:
        raise ConfigError(f"sources[{place}]: {error.message}", hint=error.hint) from error
    return SourceSpec(
        url=url,
        type=table.type,
        insecure=table.insecure,
        channel=table.channel,
        access=access,
        verify=table.verify,
    )


def install_limits(settings: Config) -> InstallLimits:
    """As the store wants them."""
    limits = settings.limits
    return InstallLimits(
        imports=limits.imports,
        min_free=limits.min_free_mib * _MIB,
        keep_partial_seconds=limits.keep_partial_days * 86400.0,
        download=DownloadLimits(
            connections=limits.connections,
            connect_seconds=limits.connect_seconds,
            silence_seconds=limits.silence_seconds,
            min_rate=limits.min_rate,
            tries=limits.tries,
        ),
        decompress=DecompressLimits(
            max_output=limits.max_image_mib * _MIB,
            max_ratio=limits.max_ratio,
            memory=limits.decoder_memory_mib * _MIB,
            window=limits.decoder_memory_mib * _MIB,
        ),
    )


def socket_limits(settings: Config) -> SocketLimits:
    """As the socket's server wants them."""
    limits = settings.limits
    return SocketLimits(
        connections=limits.clients, in_flight=limits.client_requests, idle=limits.client_idle_seconds
    )
