"""A fleet that imports one image: what a plan for it takes, by simulation. Deterministic; pure: no I/O.

    registry replicas ──► a cache in each rack ──► the hosts of the rack

Bytes flow as a fluid: whoever is served by a server has an equal part of its bandwidth, up to its own. A
server takes a number of clients at once; more wait, and ask again after a pause that doubles, of which chance
takes up to a half. A cache passes on what it has while the rest still arrives, as `[serve]` with `pull` does.

`python -m bench.fleet` prints the table of docs/scale.md, as JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GBIT: Final = 125_000_000
#: Seconds of one step: short against the seconds that an image takes.
_STEP: Final = 1.0
#: Seconds after which a simulation gives up.
_MOST: Final = 7200.0


class Plan(Struct, frozen=True):
    """A fleet, and how it imports. Rates in bytes a second, times in seconds."""

    hosts: int = 10_000
    size: int = 2_000_000_000  #: bytes of the image's file
    per_rack: int = 40  #: hosts
    replicas: int = 4  #: of the registry
    replica_rate: float = 25 * _GBIT
    cache_rate: float = 10 * _GBIT  #: of a rack's cache; 0: no caches, hosts ask the registry
    host_rate: float = 250e6  #: the least of a host's network, decompression and pool
    jitter: float = 60.0  #: a host starts at a random moment of so many
    slots: int = 256  #: clients that a replica serves at once
    cache_slots: int = 1024
    first_pause: float = 1.0  #: of a client that was turned away
    last_pause: float = 30.0
    begin: float = 0.5  #: before the first byte: the question, and the plan
    end: float = 0.5  #: after the last one
    seed: int = 1


class Result(Struct, frozen=True):
    """What came of it. Times in seconds from the order to import to the image being installed."""

    median: float
    most: float
    p99: float
    from_registry: int  #: bytes
    peak: float  #: bytes a second that all replicas sent at most
    refused: int  #: requests that were turned away
    finished: tuple[float, ...]  #: when each host was done, in order


class _Client(Struct, eq=False):
    """One download, from a server."""

    server: _Server
    rate: float  #: its own, at most
    starts: float
    pause: float
    upstream: _Client | None = None  #: its server's own download, beyond which there is nothing
    done: float = 0.0  #: bytes
    ended: float | None = None


class _Server(Struct, eq=False):
    rate: float
    slots: int
    active: list[_Client] = []


def simulate(plan: Plan) -> Result:
    """The result of a plan; always the same for the same plan."""
    chance = random.Random(plan.seed)
    replicas = [_Server(plan.replica_rate, plan.slots, []) for _ in range(plan.replicas)]
    hosts: list[_Client] = []
    pulls: list[_Client] = []
    servers = [*replicas]
    for first in range(0, plan.hosts, plan.per_rack):
        count = min(plan.per_rack, plan.hosts - first)
        starts = [chance.uniform(0, plan.jitter) + plan.begin for _ in range(count)]
        replica = replicas[first // plan.per_rack % plan.replicas]
        if not plan.cache_rate:
            hosts += [_Client(chance.choice(replicas), plan.host_rate, at, plan.first_pause) for at in starts]
            continue
        cache = _Server(plan.cache_rate, plan.cache_slots, [])
        servers.append(cache)
        # The first host of a rack has its cache ask the registry.
        pull = _Client(replica, plan.cache_rate, min(starts) + plan.begin, plan.first_pause)
        pulls.append(pull)
        hosts += [_Client(cache, plan.host_rate, at, plan.first_pause, pull) for at in starts]
    refused, peak = _run(plan, [*pulls, *hosts], servers, chance)
    finished = sorted(_ended(host) + plan.end for host in hosts)
    fetched = pulls if plan.cache_rate else hosts
    return Result(
        statistics.median(finished),
        finished[-1],
        finished[int(len(finished) * 0.99)],
        len(fetched) * plan.size,
        peak,
        refused,
        tuple(finished),
    )


def _ended(client: _Client) -> float:
    return _MOST if client.ended is None else client.ended


def _run(
    plan: Plan,
    clients: Sequence[_Client],
    servers: Sequence[_Server],
    chance: random.Random,
) -> tuple[int, float]:
    """Lets time pass until all have ended; requests that were turned away, and the replicas' peak.

    The replicas are the first of the servers.
    """
    by_step: dict[int, list[_Client]] = {}
    for client in clients:
        by_step.setdefault(int(client.starts / _STEP), []).append(client)
    left, refused, peak, step = len(clients), 0, 0.0, 0
    while left and step * _STEP < _MOST:
        for client in by_step.pop(step, ()):
            if len(client.server.active) < client.server.slots:
                client.server.active.append(client)
                continue
            refused += 1
            pause = client.pause * chance.uniform(0.5, 1.0)
            client.pause = min(2 * client.pause, plan.last_pause)
            by_step.setdefault(step + max(1, int(pause / _STEP)), []).append(client)
        step += 1
        sent = 0.0
        for place, server in enumerate(servers):
            if server.active:
                moved, ended = _serve(server, plan.size, step * _STEP)
                left -= ended
                sent += moved if place < plan.replicas else 0.0
        peak = max(peak, sent / _STEP)
    return refused, peak


def _serve(server: _Server, size: int, now: float) -> tuple[float, int]:
    """One step of a server: each client gets an equal part, and what one does not take the others get."""
    budget = server.rate * _STEP
    moved, ended = 0.0, 0
    wants = sorted((_wants(client, size), place) for place, client in enumerate(server.active))
    for turn, (wanted, place) in enumerate(wants):
        given = min(wanted, budget / (len(wants) - turn))
        budget -= given
        moved += given
        server.active[place].done += given
    for client in server.active:
        if client.done >= size - 1:
            client.ended = now
            ended += 1
    if ended:
        server.active = [client for client in server.active if client.ended is None]
    return moved, ended


def _wants(client: _Client, size: int) -> float:
    there = size if client.upstream is None else client.upstream.done
    return max(0.0, min(client.rate * _STEP, there - client.done))


def plans() -> Iterator[tuple[str, Plan]]:
    """The plans of docs/scale.md."""
    best = Plan()
    yield "no caches, all at once", replace(best, cache_rate=0.0, jitter=0.0)
    yield "caches, all at once", replace(best, jitter=0.0)
    yield "caches, one replica", replace(best, replicas=1)
    yield "caches, starts within 60 s", best
    yield "caches, starts within 300 s", replace(best, jitter=300.0)
    yield "caches of 25 Gbit/s", replace(best, cache_rate=25 * _GBIT)


def main() -> None:
    """Prints each plan's figures, and how many hosts were done when."""
    found = {}
    for name, plan in plans():
        result = simulate(plan)
        ends = result.finished
        found[name] = {
            "median": round(result.median),
            "p99": round(result.p99),
            "most": round(result.most),
            "registry_gb": round(result.from_registry / 1e9),
            "peak_gbit": round(result.peak / _GBIT),
            "refused": result.refused,
            "curve": [round(ends[int(part * (len(ends) - 1) / 100)], 1) for part in range(0, 101, 2)],
        }
        print(f"{name}: {found[name] | {'curve': '…'}}", file=sys.stderr)
    json.dump(found, sys.stdout, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    main()
