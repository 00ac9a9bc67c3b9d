"""The time of an import, against the programs that people use without imgstored."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bench.ours import Ours, source
from bench.peers import RAPIDGZIP, Peers, found
from bench.servers import PacedNginx
from bench.table import Row, compared
from bench.timing import in_turn, timed
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from bench.context import Bench
    from bench.inputs import Input, Kind

_OURS = "imgctl import"
_IMGADM = "imgadm's way"
_CONNECTIONS = 8
#: The goals against gzip's peers: with a checksum on the way, and by two parallel programs one after another.
_TEE = "curl \\| tee >(sha1sum) \\| igzip -dc"
_CLEVER = {_TEE: 0.85, RAPIDGZIP: 1.0}
_ARIA2 = "aria2c -x8, igzip -dc"
_NO_TLS = "imgctl import without TLS"

_Sides = dict[str, "Callable[[], float]"]


def paced(bench: Bench) -> list[Row]:
    """As `gzip` makes it, with a line of 20 MB/s for each connection."""
    return _paced(bench, bench.scale.rate, {_IMGADM: 0.25, _ARIA2: 0.7})


def slow(bench: Bench) -> list[Row]:
    """The same with a line so slow that the processors have time enough, whoever else uses them."""
    return _paced(bench, bench.scale.slow_rate, {_ARIA2: 1.0}, only=[_ARIA2])


def _paced(bench: Bench, rate: int, goals: Mapping[str, float], only: list[str] | None = None) -> list[Row]:
    server = PacedNginx(bench.folder("nginx"), root=bench.inputs.folder, rate=rate, workers=2)
    case = f"gzip, {rate / 1e6:g} MB/s a connection"
    rows, ours = _measured(bench, case, bench.gzip, server, goals, only)
    link = bench.inputs.get(bench.gzip).size / (_CONNECTIONS * rate)
    return [*rows, compared(case, ours, f"the link, of {_CONNECTIONS} connections", [link], at_most=1.1)]


def gzip(bench: Bench) -> list[Row]:
    """As `gzip` makes it, as fast as loopback goes; and each stage by itself."""
    case = "gzip, unlimited"
    goals = {_IMGADM: 0.5, **_CLEVER}
    image = bench.inputs.get(bench.gzip)
    server = _server(bench)
    inflate = f"{found('igzip') or 'gzip'} -dc"
    with _unpacked(bench, image) as stream:
        alone: _Sides = {
            "the link": lambda: timed(["curl", "-sSf", "-o", "/dev/null", image.url(server.url)]),
            "inflating": lambda: timed(["sh", "-c", f"{inflate} '{image.path}' > /dev/null"]),
            "receiving": lambda: _receive(bench, stream),
        }
        taken, rows = _turns(bench, case, bench.gzip, server, goals, alone)
    slowest = max(alone, key=lambda name: statistics.median(taken[name]))
    for name in alone:
        most = 1.2 if name == slowest else None
        rows.append(compared(case, taken[_OURS], f"{name}, alone", taken[name], at_most=most))
    return rows


def gzip_busy(bench: Bench) -> list[Row]:
    """The same while another process keeps one processor busy, for both sides."""
    case = "gzip, unlimited, beside a busy process"
    with _busy():
        rows, _ = _measured(
            bench, case, bench.gzip, _server(bench), {_TEE: 1.0, RAPIDGZIP: 1.0}, only=[_TEE, RAPIDGZIP]
        )
    return rows


def bzip2(bench: Bench) -> list[Row]:
    """As `bzip2` makes it, as fast as loopback goes."""
    goals = {_IMGADM: 0.5, "aria2c -x8, lbzip2 -dc": 0.8}
    return _measured(bench, "bzip2, unlimited", bench.bzip2, _server(bench), goals)[0]


def xz(bench: Bench) -> list[Row]:
    """As `xz -T2` makes it, in several blocks, as fast as loopback goes."""
    goals = {_IMGADM: 0.7, "aria2c -x8, xz -dc -T0": 0.8}
    return _measured(bench, "xz of several blocks, unlimited", bench.xz, _server(bench), goals)[0]


def zstd(bench: Bench) -> list[Row]:
    """As `zstd` makes it, as fast as loopback goes."""
    goals = {"aria2c -x8, zstd -qdc": 0.8}
    return _measured(bench, "zstd, unlimited", bench.zstd, _server(bench), goals)[0]


def tls(bench: Bench) -> list[Row]:
    """Over TLS, as fast as loopback goes; and ours without TLS."""
    image = bench.inputs.get(bench.gzip)
    goals = {_IMGADM: 0.5, **_CLEVER, _NO_TLS: 1.05}
    with ExitStack() as stack:
        plain = stack.enter_context(Nginx(bench.folder("nginx"), root=bench.inputs.folder, workers=2))
        other = stack.enter_context(Ours(bench.folder("ours-plain"), config=source(plain.url)))
        more: _Sides = {_NO_TLS: lambda: other.timed_import(image)}
        taken, rows = _turns(
            bench, "gzip over TLS, unlimited", bench.gzip, _server(bench, tls=True), goals, more
        )
    rows.append(
        compared("gzip over TLS, unlimited", taken[_OURS], _NO_TLS, taken[_NO_TLS], at_most=goals[_NO_TLS])
    )
    return rows


def _server(bench: Bench, *, tls: bool = False) -> Nginx:
    return Nginx(bench.folder("nginx-tls" if tls else "nginx"), root=bench.inputs.folder, workers=2, tls=tls)


def _measured(
    bench: Bench,
    case: str,
    kind: Kind,
    server: Nginx,
    goals: Mapping[str, float],
    only: list[str] | None = None,
) -> tuple[list[Row], list[float]]:
    """A row for each peer, and our seconds."""
    taken, rows = _turns(bench, case, kind, server, goals, {}, only)
    return rows, taken[_OURS]


def _turns(
    bench: Bench,
    case: str,
    kind: Kind,
    server: Nginx,
    goals: Mapping[str, float],
    more: _Sides,
    only: list[str] | None = None,
) -> tuple[dict[str, list[float]], list[Row]]:
    """Seconds of all sides, `more` among them, and a row for each peer; those with goals come first."""
    image = bench.inputs.get(kind)
    with ExitStack() as stack:
        stack.enter_context(server)
        ca = server.ca_file if server.tls else None
        peers = Peers(bench.folder("peer"), image.url(server.url), image, ca=ca).all()
        others = {name: peer for name, peer in peers.items() if only is None or name in only}
        ours = stack.enter_context(Ours(bench.folder("ours"), config=source(server.url, ca=ca)))
        taken = in_turn(
            case,
            bench.runs,
            {_OURS: lambda: ours.timed_import(image), **others, **more},
            timeout=bench.scale.quiet_seconds,
        )
    return taken, [
        compared(case, taken[_OURS], name, taken[name], at_most=goals.get(name))
        for name in sorted(others, key=lambda name: name not in goals)
    ]


@contextmanager
def _unpacked(bench: Bench, image: Input) -> Iterator[str]:
    """The path of the image's stream, which is there meanwhile."""
    path = bench.folder("stream")
    with path.open("wb") as file:
        subprocess.run([found("igzip") or "gzip", "-dc", str(image.path)], stdout=file, check=True)
    try:
        yield str(path)
    finally:
        path.unlink()


def _receive(bench: Bench, stream: str) -> float:
    folder = bench.folder("receive")
    taken = timed([sys.executable, "-m", "bench.receive", stream, str(folder)])
    shutil.rmtree(folder)
    return taken


@contextmanager
def _busy() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()
