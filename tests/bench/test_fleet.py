"""The simulation of a fleet: laws that hold for every plan, and the figure that was measured."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bench.fleet import Plan, simulate

SMALL = Plan(hosts=80, per_rack=40, replicas=2, jitter=10.0, size=100_000_000)


def test_the_same_plan_has_the_same_result() -> None:
    assert simulate(SMALL) == simulate(SMALL)
    assert simulate(SMALL) != simulate(replace(SMALL, seed=2))


def test_a_cache_asks_the_registry_once() -> None:
    assert simulate(SMALL).from_registry == 2 * SMALL.size
    assert simulate(replace(SMALL, cache_rate=0.0)).from_registry == SMALL.hosts * SMALL.size


@pytest.mark.parametrize("cache_rate", [0.0, 50e6])
def test_no_server_sends_more_than_it_can(cache_rate: float) -> None:
    plan = replace(SMALL, cache_rate=cache_rate, replica_rate=100e6, jitter=0.0)
    result = simulate(plan)
    assert result.peak <= plan.replicas * plan.replica_rate * 1.000001
    slowest = cache_rate * 2 or plan.replicas * plan.replica_rate
    assert result.most >= plan.hosts * plan.size / slowest


def test_a_host_alone_takes_as_long_as_its_slowest_part() -> None:
    plan = replace(SMALL, hosts=1, jitter=0.0, host_rate=10e6)
    assert simulate(plan).most == pytest.approx(10 + plan.begin + plan.end, abs=3)


def test_who_is_turned_away_comes_back_and_all_finish() -> None:
    result = simulate(replace(SMALL, cache_rate=0.0, slots=2, jitter=0.0))
    assert result.refused > 0
    assert len(result.finished) == SMALL.hosts
    assert result.most < 7200


def test_nothing_comes_before_the_cache_has_it() -> None:
    """A slow registry: the hosts are done when their cache is, and not before."""
    plan = replace(SMALL, replica_rate=10e6, replicas=1, jitter=0.0)
    assert simulate(plan).finished[0] >= 2 * plan.size / plan.replica_rate


@pytest.mark.parametrize(("hosts", "measured"), [(1, 3.1), (2, 5.4), (4, 10.7), (8, 21.0)])
def test_hosts_share_a_line_as_measured(hosts: int, measured: float) -> None:
    """Real daemons behind a real registry, as docs/scale.md says: the time of the last one, in seconds."""
    plan = Plan(
        hosts=hosts,
        per_rack=hosts,
        replicas=1,
        size=7_546_481,
        replica_rate=3.02e6,
        cache_rate=3.02e6,
        jitter=0.0,
    )
    # Later, by what it has for the begin and the end, and by up to a step.
    assert -0.1 <= simulate(plan).most - measured <= 1.5


@pytest.mark.parametrize(("hosts", "measured"), [(1, 36.3), (10, 38.4)])
def test_it_is_near_to_what_was_measured(hosts: int, measured: float) -> None:
    """Real daemons behind a real server, as docs/scale.md says: the time of the last one, in seconds."""
    plan = Plan(
        hosts=hosts,
        per_rack=10,
        replicas=1,
        size=172_732_016,
        replica_rate=5e6,
        cache_rate=1.25e9,
        jitter=0.0,
    )
    assert simulate(plan).most == pytest.approx(measured, rel=0.1)
