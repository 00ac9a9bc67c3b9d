"""The time of an import, against the programs that people use without imgstored."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from bench.ours import Ours, source
from bench.peers import Peers
from bench.servers import PacedNginx
from bench.table import Row, compared
from bench.timing import in_turn
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.context import Bench
    from bench.inputs import Kind

_OURS = "imgctl import"
_IMGADM = "imgadm's way"


def paced(bench: Bench) -> list[Row]:
    """As `gzip` makes it, with a line of 20 MB/s for each connection."""
    rate = bench.scale.rate
    server = PacedNginx(bench.folder("nginx"), root=bench.inputs.folder, rate=rate, workers=2)
    return _rows(bench, f"gzip, {rate / 1e6:g} MB/s a connection", bench.gzip, server, {_IMGADM: 0.25})


def gzip(bench: Bench) -> list[Row]:
    """As `gzip` makes it, as fast as loopback goes."""
    return _rows(
        bench, "gzip, unlimited", bench.gzip, _server(bench), {_IMGADM: 0.5, "curl \\| gzip -dc": 0.8}
    )


def bzip2(bench: Bench) -> list[Row]:
    """As `bzip2` makes it, as fast as loopback goes."""
    return _rows(bench, "bzip2, unlimited", bench.bzip2, _server(bench), {_IMGADM: 0.5})


def xz(bench: Bench) -> list[Row]:
    """As `xz -T2` makes it, in several blocks, as fast as loopback goes."""
    return _rows(bench, "xz of several blocks, unlimited", bench.xz, _server(bench), {_IMGADM: 0.7})


def tls(bench: Bench) -> list[Row]:
    """Over TLS, as fast as loopback goes."""
    return _rows(
        bench, "gzip over TLS, unlimited", bench.gzip, _server(bench, tls=True), {"curl, gzip -cd": 0.5}
    )


def _server(bench: Bench, *, tls: bool = False) -> Nginx:
    return Nginx(bench.folder("nginx-tls" if tls else "nginx"), root=bench.inputs.folder, workers=2, tls=tls)


def _rows(bench: Bench, case: str, kind: Kind, server: Nginx, goals: Mapping[str, float]) -> list[Row]:
    """A row for each peer; those without a goal are there to be looked at."""
    image = bench.inputs.get(kind)
    with ExitStack() as stack:
        stack.enter_context(server)
        ca = server.ca_file if server.tls else None
        peers = Peers(bench.folder("peer"), image.url(server.url), kind.compression, ca=ca)
        ours = stack.enter_context(Ours(bench.folder("ours"), config=source(server.url, ca=ca)))
        others = {"curl, gzip -cd": peers.tls} if server.tls else peers.all()
        taken = in_turn(
            case,
            bench.runs,
            {_OURS: lambda: ours.timed_import(image), **others},
            timeout=bench.scale.quiet_seconds,
        )
    return [
        compared(case, taken[_OURS], name, taken[name], at_most=goals.get(name))
        for name in sorted(others, key=lambda name: name not in goals)
    ]
