"""The speed of the image server: against nginx with the same file, as a rack's cache, in a crowd."""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from bench.listing import fill_manifest
from bench.ours import Ours, source
from bench.progress import say
from bench.servers import PacedNginx
from bench.table import Row, bounded, compared, seconds
from bench.timing import idle_seconds, in_turn
from imgstored.library.library import Library
from imgstored.manifest import load
from tests.support.nginx import Nginx, free_port

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.context import Bench

_MANY_IMAGES = 10_000
_RACK_CONNECTIONS = 2
_DAEMONS = 10
_SLOWER = 8
#: Bytes of a small range, and connections that ask for such.
_SMALL = 64 << 10
_ASKING = (8, 50, 200)
#: Asks for a range at a random place.
_RANGES = """
request = function()
    local start = math.random(0, {size} - {range})
    return wrk.format("GET", nil, {{["Range"] = "bytes=" .. start .. "-" .. (start + {range} - 1)}})
end
"""


def serving(bench: Bench) -> list[Row]:
    """The whole file by one and by eight connections, plain and by TLS, from us and from nginx."""
    image = bench.inputs.get(bench.gzip)
    rows: list[Row] = []
    for tls in (False, True):
        with ExitStack() as stack:
            port = free_port()
            config = _serve(port) + (_certificates(bench.folder("certificates")) if tls else "")
            folder = bench.folder("server")
            plain = stack.enter_context(Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2))
            ours = stack.enter_context(Ours(folder, config=source(plain.url) + config))
            ours.timed_import(image)
            peer = plain
            if tls:
                peer = stack.enter_context(
                    Nginx(bench.folder("nginx-tls"), root=bench.inputs.folder, workers=2, tls=True)
                )
            scheme = "https" if tls else "http"
            urls = {
                "ours": f"{scheme}://127.0.0.1:{port}/images/{image.uuid}/file",
                "nginx": f"{peer.url}/{image.uuid}/file",
            }
            for connections in (1, 8):
                name = f"serve a file{' over TLS' if tls else ''}, {connections} connections"
                sides = {
                    side: (lambda url=url, n=connections: _fetched(url, image.size, n))
                    for side, url in urls.items()
                }
                taken = in_turn(name, bench.runs, sides, timeout=bench.scale.quiet_seconds)
                goal = 1 / 0.7 if tls else 1 / 0.9
                rows.append(compared(name, taken["ours"], "nginx", taken["nginx"], at_most=round(goal, 2)))
    return rows


def rack(bench: Bench) -> list[Row]:
    """Ten hosts behind one server, which fetches the image meanwhile; the last one against one alone.

    As fast as the issue says: daemons, which share this machine's processors, and downloads that do nothing
    else with what comes. Then daemons with a source so slow that the processors are not what all wait for.
    """
    rows = []
    for rate, whole in (
        (bench.scale.rate, True),
        (bench.scale.rate, False),
        (bench.scale.rate // _SLOWER, True),
    ):
        rows += _racked(bench, rate, whole=whole)
    return rows


@dataclass(frozen=True, slots=True)
class _Racked:
    """One run. `taken` is what the last one took, `worked` what daemons had of processors: seconds."""

    taken: float
    worked: float
    served: float  #: of `worked`, the server's part
    busy: float  #: the part of all processors' time that anybody used
    downloads: float  #: bytes from the source, in sizes of the file


def _racked(bench: Bench, rate: int, *, whole: bool) -> list[Row]:
    """`whole`: the hosts are daemons, which install the image; else downloads by curl."""
    runs: dict[int, list[_Racked]] = {1: [], _DAEMONS: []}
    for run in range(bench.runs):
        for count, found in runs.items():
            found.append(_one_rack(bench, rate, count, whole=whole))
        say(f"rack {run + 1}: one {runs[1][-1]}, ten {runs[_DAEMONS][-1]}")
    one, ten = runs[1], runs[_DAEMONS]

    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    what = "daemons" if whole else "downloads by curl, 8 ranges each,"
    source_rate = f"{_RACK_CONNECTIONS} connections of {rate / 1e6:g} MB/s"
    busy = middle(each.busy for each in ten)
    alone = [each.taken for each in one]
    rows = [
        compared(
            f"{_DAEMONS} {what} behind a server that downloads by {source_rate};"
            f" the last one (processors {busy:.0%} busy)",
            [each.taken for each in ten],
            "one alone",
            alone,
            at_most=1.3,
        )
    ]
    once = max(each.downloads for each in ten)
    rows.append(Row("its downloads from the source", f"{once:.2f}", goal="1", reached=once < 1.01))
    served = middle(each.served for each in ten)
    if whole:
        processors = os.cpu_count() or 1
        bound = [each.worked / processors for each in ten]
        part = f"{served / processors:.2f} s"
        case = f"the daemons' work, on {processors} processors without a pause (the server's part: {part})"
        rows.append(compared(case, bound, "one alone", alone, at_most=None))
    else:
        rows.append(Row("the server's work for them", f"{served:.2f} s of a processor"))
    return rows


def _one_rack(bench: Bench, rate: int, count: int, *, whole: bool) -> _Racked:
    image = bench.inputs.get(bench.gzip)
    with ExitStack() as stack:
        upstream = stack.enter_context(
            PacedNginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2, rate=rate)
        )
        port = free_port()
        limits = f"client_connections = 1024\n[limits]\nconnections = {_RACK_CONNECTIONS}\n"
        server = stack.enter_context(
            Ours(
                bench.folder("rack"),
                config=source(upstream.url) + _serve(port) + "pull = true\n" + limits,
            )
        )
        url = f"http://127.0.0.1:{port}"
        daemons = [server]
        if whole:
            daemons += [
                stack.enter_context(
                    Ours(
                        bench.folder(f"host-{number}"),
                        config=f'[[sources]]\nurl = "{url}"\n',
                    )
                )
                for number in range(count)
            ]
        earlier = _sent(upstream)  # its log has other cases, too
        worked = [each.processor_seconds() for each in daemons]
        began, idle = time.perf_counter(), idle_seconds()
        with ThreadPoolExecutor(count) as threads:
            if whole:
                list(threads.map(lambda host: host.timed_imgctl("import", image.uuid), daemons[1:]))
            else:
                file = f"{url}/images/{image.uuid}/file"
                list(threads.map(lambda _: _fetched(file, image.size, 8), range(count)))
        taken, idle = time.perf_counter() - began, idle_seconds() - idle
        worked = [each.processor_seconds() - had for each, had in zip(daemons, worked, strict=True)]
        busy = 1 - idle / (taken * (os.cpu_count() or 1))
        return _Racked(taken, sum(worked), worked[0], busy, (_sent(upstream) - earlier) / image.size)


def ranges(bench: Bench) -> list[Row]:
    """Small ranges of one file, by wrk: requests a second, from us and from nginx."""
    if shutil.which("wrk") is None:
        return []
    image = bench.inputs.get(bench.gzip)
    port = free_port()
    script = bench.work / "ranges.lua"
    script.write_text(_RANGES.format(size=image.size, range=_SMALL))
    rows = []
    with (
        # With tcp_nopush the end of each short answer would wait for an acknowledgement.
        Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2, extra="tcp_nopush off;") as nginx,
        Ours(
            bench.folder("server"),
            config=source(nginx.url) + _serve(port) + "client_connections = 1024\n",
        ) as ours,
    ):
        ours.timed_import(image)
        urls = {"ours": f"http://127.0.0.1:{port}/images/{image.uuid}/file", "nginx": image.url(nginx.url)}
        for connections in _ASKING:
            found: dict[str, list[float]] = {"ours": [], "nginx": []}
            for run in range(bench.runs):
                for side, url in urls.items():
                    found[side].append(_requests_a_second(url, connections, script))
                say(f"ranges, {connections} connections {run + 1}: {found}")
            middle = {side: statistics.median(values) for side, values in found.items()}
            rows.append(
                Row(
                    f"ranges of 64 KiB, {connections} connections, requests a second",
                    f"{middle['ours']:,.0f} ({min(found['ours']):,.0f}–{max(found['ours']):,.0f})",
                    f"{middle['nginx']:,.0f} ({min(found['nginx']):,.0f}–{max(found['nginx']):,.0f}) nginx",
                    f"{middle['ours'] / middle['nginx']:.2f}",
                )
            )
    return rows


def _requests_a_second(url: str, connections: int, script: Path) -> float:
    # An answer that is slow on a busy machine is no error: wrk counts it as one after two seconds by default.
    limit = ["--timeout", "60s"]
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", "4s", *limit, "-s", str(script), url]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Socket errors" in report or "Non-2xx" in report:
        raise RuntimeError(f"wrk met errors:\n{report}")
    return float(report.split("Requests/sec:")[1].split()[0])


def crowd(bench: Bench) -> list[Row]:
    """Clients that ask for ranges at random: memory, and whether anybody starves."""
    image = bench.inputs.get(bench.gzip)
    port = free_port()
    with (
        Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2) as upstream,
        Ours(
            bench.folder("server"),
            config=source(upstream.url) + _serve(port) + "client_connections = 1024\n",
        ) as ours,
    ):
        ours.timed_import(image)
        url = f"http://127.0.0.1:{port}/images/{image.uuid}/file"
        before = _resident(ours)
        times, most = _asked_at_random(url, image.size, bench.scale.clients, ours)
    slowest = max(times) / statistics.median(times)
    clients = bench.scale.clients
    return [
        bounded(f"{clients} clients, ranges at random: memory more", [most - before], "≤ 32 MiB", at_most=32),
        Row(
            f"{clients} clients, ranges at random: the slowest client's time",
            seconds([max(times)]),
            f"{seconds([statistics.median(times)])} median",
            f"{slowest:.2f}",
            "≤ 2",
            slowest <= 2,
        ),
    ]


def lists(bench: Bench) -> list[Row]:
    """ListImages with a library of many images."""
    images = _MANY_IMAGES if bench.scale.images > 100 else 200
    folder = bench.folder("library-of-many")
    shutil.rmtree(folder, ignore_errors=True)
    library = Library(folder, 1 << 40)
    library.open()
    for number in range(images):
        manifest = load({**fill_manifest(number), "files": []}, rules="create")
        library.publish(manifest)
    port = free_port()
    with Ours(bench.folder("server"), config=f'[library]\npath = "{folder}"\n{_serve(port, keep=False)}'):
        url = f"http://127.0.0.1:{port}/images"
        _read(url)
        whole = [_read(url) for _ in range(20)]
        marker = fill_manifest(images // 2)["uuid"]
        part = [_read(f"{url}?limit=100&marker={marker}") for _ in range(20)]
    shutil.rmtree(folder)
    return [
        _at_most(f"`/images` with {images:,} images, the first 1,000", whole, 0.1),
        _at_most("the same, a page of 100 in the middle", part, 0.01),
    ]


def _sent(server: Nginx) -> int:
    """Bytes of files, by its access log."""
    return sum(hit.bytes_sent for hit in server.settled_hits() if hit.path.endswith("/file"))


def _at_most(case: str, taken: list[float], goal: float) -> Row:
    return Row(case, seconds(taken), goal=f"≤ {goal * 1000:g} ms", reached=statistics.median(taken) <= goal)


def _serve(port: int, *, keep: bool = True) -> str:
    kept = "[library]\nkeep_mib = 4096\n" if keep else ""
    return f'{kept}[serve]\nlisten = "127.0.0.1:{port}"\n'


def _certificates(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    issued = trustme.CA().issue_cert("127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return f'cert_file = "{folder}/cert.pem"\nkey_file = "{folder}/key.pem"\n'


def _fetched(url: str, size: int, connections: int) -> float:
    """Seconds of so many curls that fetch a part each."""
    began = time.perf_counter()
    curls = []
    for number in range(connections):
        start, stop = size * number // connections, size * (number + 1) // connections - 1
        command = ["curl", "-skf", "-o", os.devnull, "-r", f"{start}-{stop}", url]
        curls.append(subprocess.Popen(command))
    if any(curl.wait() for curl in curls):
        raise RuntimeError(f"curl cannot fetch {url}")
    return time.perf_counter() - began


def _asked_at_random(url: str, size: int, clients: int, ours: Ours) -> tuple[list[float], float]:
    """Seconds of each client for its ranges, and MiB that the daemon had at most meanwhile."""
    chance = random.Random(1)
    plans = [[chance.randrange(max(1, size - (1 << 20))) for _ in range(20)] for _ in range(clients)]
    most, ended = _resident(ours), threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.05):
            most = max(most, _resident(ours))

    def client(starts: list[int]) -> float:
        began = time.perf_counter()
        for start in starts:
            request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{start + (1 << 20) - 1}"})
            with urllib.request.urlopen(request, timeout=120) as answer:
                while answer.read(1 << 16):
                    pass
        return time.perf_counter() - began

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(clients) as threads:
            return list(threads.map(client, plans)), most
    finally:
        ended.set()
        watching.join()


def _resident(ours: Ours) -> float:
    """MiB that the daemon has resident now."""
    for line in Path(f"/proc/{ours.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not say how much memory a process has")


def _read(url: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=60) as answer:
        body = answer.read()
    taken = time.perf_counter() - began
    assert json.loads(body)
    return taken
