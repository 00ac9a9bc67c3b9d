"""Real daemons against the simulation of a fleet: a registry, the cache of a rack, and its hosts.

    registry ──► line ──► imgstored with `pull` ──► line ──► 1, 2, 4 and 8 daemons, which install the image

A line has one bandwidth for all of its connections, so slow that this machine's processors are not what all
wait for. The simulation gets the lines' bandwidths, and the size of the file.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from bench.fleet import Plan, simulate
from bench.inputs import Kind
from bench.ours import Ours
from bench.progress import say
from bench.table import Row, compared
from tests.support.docker_registry import DockerRegistry
from tests.support.nginx import free_port

if TYPE_CHECKING:
    from types import TracebackType

    from bench.context import Bench

_HOSTS: Final = (1, 2, 4, 8)
#: Bytes of the image's stream.
_STREAM: Final = 32_000_000
#: Seconds that a daemon may take to start, and to stop: nine share this machine.
_START: Final = 120.0
#: A line carries the file so many times in a minute.
_FILES_A_MINUTE: Final = 24
_PIECE: Final = 32 << 10
#: Seconds of a pause that a line makes up for: a busy machine wakes it late.
_CREDIT: Final = 0.25


class Line:
    """A proxy whose connections share one bandwidth, each in its turn; in a thread of its own."""

    def __init__(self, port: int, rate: float) -> None:
        """`rate` is in bytes a second, of what comes from 127.0.0.1:`port`."""
        self.port = free_port()
        self._to = port
        self._rate = rate
        self._free_at = 0.0
        self._turn = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Line:
        self._thread.start()
        started = asyncio.start_server(self._carry, "127.0.0.1", self.port)
        asyncio.run_coroutine_threadsafe(started, self._loop).result(_START)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_START)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            back, there = await asyncio.open_connection("127.0.0.1", self._to, limit=_PIECE)
            try:
                await asyncio.gather(self._copy(reader, there), self._copy(back, writer, slow=True))
            finally:
                there.close()
                writer.close()

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if slow:
                    await self._pass(len(data))
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    async def _pass(self, size: int) -> None:
        # The lock goes round in the order of asking: equal parts for all who always have something.
        async with self._turn:
            self._free_at = max(self._free_at, time.monotonic() - _CREDIT) + size / self._rate
            await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))


def calibration(bench: Bench) -> list[Row]:
    """The time of the last host, measured and simulated."""
    size = min(_STREAM, bench.scale.stream)
    image = bench.inputs.get(Kind("fleet", "gzip", ("gzip", "-6", "-n"), size))
    rate = image.size * _FILES_A_MINUTE / 60
    manifest = bench.folder("manifest.json")
    manifest.write_text(json.dumps(image.manifest))
    rows = []
    with DockerRegistry(bench.folder("registry")) as registry:
        with Ours(bench.folder("publisher"), timeout=_START) as daemon:
            url = f"oci://{registry.host}/images"
            daemon.timed_imgctl("publish", "-q", "-m", str(manifest), "-f", str(image.path), url)
        for count in [each for each in _HOSTS if each <= bench.scale.clients // 10]:
            taken = [_taken(bench, registry, rate, count, image.uuid) for _ in range(bench.runs)]
            plan = Plan(
                hosts=count,
                per_rack=count,
                size=image.size,
                replicas=1,
                replica_rate=rate,
                cache_rate=rate,
                jitter=0.0,
            )
            simulated = simulate(plan).most
            say(f"{count} hosts: {taken}, simulated {simulated:.1f} s")
            what = "1 host" if count == 1 else f"the last of {count} hosts"
            case = f"{what} behind a cache behind a registry, lines of {rate / 1e6:.2f} MB/s"
            rows.append(compared(case, taken, "simulated", [simulated], at_most=None))
    return rows


def _taken(bench: Bench, registry: DockerRegistry, rate: float, count: int, uuid: str) -> float:
    """Seconds until the last of the hosts has the image."""
    with ExitStack() as stack:
        up = stack.enter_context(Line(registry.port, rate))
        port = free_port()
        config = (
            f'[[sources]]\nurl = "oci://127.0.0.1:{up.port}/images"\n[library]\nkeep_mib = 10000\n'
            f'[serve]\nlisten = "127.0.0.1:{port}"\npull = true\n'
        )
        stack.enter_context(Ours(bench.folder("rack"), config=config, timeout=_START))
        down = stack.enter_context(Line(port, rate))
        limits = "[limits]\nconnections = 4\nmin_rate = 0\n"
        hosts = [
            stack.enter_context(
                Ours(
                    bench.folder(f"host-{number}"),
                    config=f'[[sources]]\nurl = "http://127.0.0.1:{down.port}"\n{limits}',
                    timeout=_START,
                )
            )
            for number in range(count)
        ]
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as threads:
            list(threads.map(lambda host: host.timed_imgctl("import", uuid), hosts))
        return time.perf_counter() - began
