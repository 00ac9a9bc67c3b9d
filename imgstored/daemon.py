"""Runs the wired daemon: starts it in order, handles signals, and stops it in order."""

from __future__ import annotations

import _thread
import gc
import os
import signal
import threading
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import structlog
import trio
from msgspec import Struct

from imgstored import __version__, lanes, log
from imgstored.config import loading
from imgstored.config.specs import (
    descriptors,
    hook_specs,
    import_limits,
    registry_specs,
    secrets,
    socket_limits,
    source_specs,
)
from imgstored.errors import ImgstoreError
from imgstored.events.stream import DaemonChanged
from imgstored.host import exhaustion
from imgstored.host.descriptors import raise_limit
from imgstored.http.secrets import KNOWN
from imgstored.zstream.fletcher4 import load_arithmetic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from imgstored.catalog.catalog import Catalog
    from imgstored.catalog.images import Images
    from imgstored.config.tables import Config
    from imgstored.create.maker import Maker
    from imgstored.events.stream import EventStream
    from imgstored.hooks.hooks import Hooks
    from imgstored.host.notify import Notifier
    from imgstored.imports.manager import ImportManager
    from imgstored.imports.resources import Resources
    from imgstored.metrics.endpoint import Metrics
    from imgstored.mirrors.mirror import Mirrors
    from imgstored.queries.event_log import EventLog
    from imgstored.registry.client import Registries
    from imgstored.rpc.server import Server
    from imgstored.serve.endpoint import ImageServer
    from imgstored.sources.source_set import SourceSet
    from imgstored.view import View

logger = structlog.get_logger(__name__)

#: Seconds for an orderly stop. State survives kill -9 at any point, so longer work is abandoned.
_STOP_SECONDS = 4.5

#: Seconds between two looks at whether memory ran out.
LOOK_SECONDS = 5.0
#: Seconds for which a daemon runs at least before it ends because of that. What ends too often is not started
#: again (SMF's maintenance).
LEAST_SECONDS = 60.0

#: Seconds for which a line of the log is waited for at the end.
_SAY_SECONDS = 1.0

#: Seconds within which a thread begins, on however busy a machine.
_BEGIN_SECONDS = 20.0

#: Modules that an import needs, if they are installed.
_LARGE_MODULES = ("isal.isal_zlib", "httpx2")


class Parts(Struct, frozen=True):
    """The parts that run, or that a changed configuration changes."""

    catalog: Catalog
    view: View
    resources: Resources
    registries: Registries
    sources: SourceSet
    images: Images
    imports: ImportManager
    server: Server
    maker: Maker
    mirrors: Mirrors
    events: EventStream
    event_log: EventLog
    hooks: Hooks
    metrics: Metrics | None
    image_server: ImageServer | None
    served_anew: Callable[[Config], Awaitable[Callable[[], None]]]  #: takes over `[serve]`, `[[mirror]]`


async def run(parts: Parts, files: Sequence[Path], end: End, notifier: Notifier) -> None:
    """Serves until a signal ends it; `end` begins then, or when an error does."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_begins_to_end, end)
        nursery.start_soon(exhaustion.look_for_lost_results, LOOK_SECONDS)
        await nursery.start(parts.hooks.run)
        await nursery.start(parts.view.run, parts.catalog.all)
        nursery.start_soon(parts.sources.run)
        await nursery.start(parts.images.run)
        await nursery.start(parts.imports.run)
        await nursery.start(parts.mirrors.run)
        if parts.metrics is not None:
            await nursery.start(parts.metrics.serve)
        if parts.image_server is not None:
            await nursery.start(parts.image_server.serve)
        async with trio.open_nursery() as serving:
            await serving.start(parts.server.serve)
            # All objects of now stay: the collector, which waited for this, need not look at them again.
            gc.freeze()
            gc.enable()
            logger.info(
                "ready",
                version=__version__,
                pools=list(parts.catalog.pools),
                view=parts.view.kind,
                pid=os.getpid(),
            )
            parts.events.publish(DaemonChanged(True, __version__, os.getpid()))
            nursery.start_soon(notifier.watch)
            nursery.start_soon(_warm_up)
            nursery.start_soon(
                partial(trio.to_thread.run_sync, parts.maker.recover, limiter=trio.CapacityLimiter(1))
            )
            # A process that learns that the daemon is ready may send a signal at once.
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
                notifier.ready()
                await _signals(received, files, parts, notifier)
            notifier.stopping()
            end.begin()
            parts.events.publish(DaemonChanged(False, __version__, os.getpid()))
            await parts.event_log.flush()
            parts.imports.stop()
            parts.server.stop()
        # Every client has its last answer.
        await parts.hooks.stop()
        nursery.cancel_scope.cancel()


async def _warm_up() -> None:
    """Loads modules that take long to load, so that neither the start nor the first image waits for them."""
    loads: dict[str, Callable[[], object]] = {"checksums of streams": load_arithmetic}
    loads |= {module: partial(import_module, module) for module in _LARGE_MODULES}
    limiter = trio.CapacityLimiter(1)
    for name, load in loads.items():
        try:
            await trio.to_thread.run_sync(load, abandon_on_cancel=True, limiter=limiter)
        except ImportError:
            pass  # optional
        except Exception as error:  # noqa: BLE001 (whatever it is, the daemon can do without)
            # Descriptors or memory may be short, for example. The first use tries again, and reports it.
            logger.info("a part cannot be loaded yet", part=name, error=str(error))


async def _signals(
    received: AsyncIterator[int], files: Sequence[Path], parts: Parts, notifier: Notifier
) -> None:
    """Reads the configuration again on SIGHUP; returns when the daemon is to stop."""
    async for number in received:
        if number != signal.SIGHUP:
            logger.info("stopping", signal=signal.Signals(number).name)
            return
        notifier.reloading()
        await _reload(files, parts)
        notifier.ready()


async def _reload(files: Sequence[Path], parts: Parts) -> None:
    try:
        settings = await lanes.in_thread(loading.load, *files)
        registries = registry_specs(settings)
        serve = await parts.served_anew(settings)
        parts.sources.reconfigure(source_specs(settings))
    except ImgstoreError as error:
        logger.error("the configuration stays as it was", error=error.message, hint=error.hint)
        return
    parts.registries.configure(registries)
    parts.resources.reconfigure(import_limits(settings))
    parts.server.reconfigure(socket_limits(settings))
    parts.hooks.reconfigure(hook_specs(settings))
    KNOWN.configure(secrets(settings, os.environ))
    serve()
    log.set_up(settings.log)
    raise_limit(descriptors(settings))
    logger.info("read the configuration again", files=[str(file) for file in files])


class End:
    """Ends the process if it has not ended by itself: a disk may not answer, or a task be lost.

    A thread of its own waits for that from the beginning, as there may be none for it later. It also has the
    daemon stop once memory ran out where nothing was prepared for it: see `exhaustion`.
    """

    def __init__(self) -> None:
        self._status: int | None = None  #: None: the end has not begun
        self._told = False
        self._beginning: dict[threading.Thread, float] = {}  # threads, and since when
        self._began = time.monotonic()
        self._main = threading.get_ident()  # the thread that makes this
        # Plain locks, which take no memory to wait for.
        self._begun, self._done = threading.Lock(), threading.Lock()
        self._begun.acquire()
        self._done.acquire()
        threading.Thread(target=self._watch, name="end", daemon=True).start()

    def begin(self, status: int = 0) -> None:
        """From now on the daemon is stopping; its status if it has to be ended. Again, it changes nothing."""
        if self._status is None:
            self._status = status
            self._begun.release()

    def done(self) -> None:
        """The daemon has ended by itself."""
        self._done.release()
        self.begin()

    def _watch(self) -> None:
        while True:
            try:
                if not self._told:
                    self._wait()
                if self._done.acquire(timeout=_STOP_SECONDS):
                    return
                try:
                    _say(logger.warning, "leaving before everything has ended", seconds=_STOP_SECONDS)
                finally:
                    os._exit(self._status or int(exhaustion.is_noted()))
            except Exception as error:  # noqa: BLE001  (whatever it is, nobody else ends the daemon)
                exhaustion.note(error)

    def _wait(self) -> None:
        """Returns once the daemon has been told to end."""
        while not self._begun.acquire(timeout=LOOK_SECONDS):
            self._look_for_lost_threads()
            if exhaustion.is_noted() and time.monotonic() >= self._began + LEAST_SECONDS:
                # The system may give a signal of the process to any thread, which does not wake the main one.
                signal.pthread_kill(self._main, signal.SIGTERM)
                self._told = True
                _say(
                    logger.error, "memory ran out: the daemon ends, and starts anew with what is on the disk"
                )
                break
        self._told = True

    def _look_for_lost_threads(self) -> None:
        """Notes a thread that does not begin: if it died for want of memory, its starter waits for ever."""
        now = time.monotonic()
        beginning = [thread for thread in threading.enumerate() if not thread.is_alive()]
        self._beginning = {thread: self._beginning.get(thread, now) for thread in beginning}
        if any(now - since > _BEGIN_SECONDS for since in self._beginning.values()):
            exhaustion.note(MemoryError("a thread does not begin"))


def _say(log: Callable[..., object], text: str, **named: object) -> None:
    """Logs from a thread of its own: nobody may read the log any more, and the end must not wait for that."""
    said = threading.Lock()
    said.acquire()

    def say() -> None:
        try:
            log(text, **named)
        finally:
            said.release()

    # `threading.Thread` waits for its begin without a bound.
    _thread.start_new_thread(say, ())
    said.acquire(timeout=_SAY_SECONDS)


async def _begins_to_end(end: End) -> None:
    """Begins the end when the daemon's tasks are cancelled, by whatever error."""
    try:
        await trio.sleep_forever()
    finally:
        end.begin(1)
