"""The wall clock jumps by hours and years, back and forth, while a daemon works and between two."""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.proofs.clocks import YEAR, Clock, Jumps
from tests.proofs.forks import Forks
from tests.proofs.memory import why_not
from tests.proofs.world import LARGE, SMALL, running_nginx
from tests.support.http_server import PATIENCE

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


@pytest.fixture
def clock(tmp_path):
    clock = Clock(tmp_path)
    yield clock
    clock.close()


@pytest.fixture
def server(tmp_path):
    with running_nginx(tmp_path / "server") as nginx:
        yield nginx


@pytest.fixture
def jumps(tmp_path, server, clock):
    with (
        Forks(environment=clock.environment()) as forks,
        Jumps(tmp_path, server.url, forks, clock, random.Random(int(os.environ.get("SEED", "17")))) as jumps,
    ):
        yield jumps


def test_it_jumps_again_and_again(jumps):
    for _ in range(int(os.environ.get("N", "6"))):
        jumps.turn()


def test_the_clock_of_a_daemon_is_moved(jumps, clock):
    """What the others rest on: what it says of itself is by that clock."""
    clock.move(10 * YEAR)
    jumps.daemon.kill()
    jumps.daemon.start()
    with jumps.world.client() as client:
        assert client.status()["started_at"] > time.time() + 9 * YEAR
        client.import_image(SMALL)
        (entry,) = client.history(limit=1)
        assert entry["started_at"] > time.time() + 9 * YEAR
        assert 0 <= entry["seconds"] < PATIENCE
        clock.move(-YEAR)
        client.import_image(LARGE)
        older, newest = client.history(limit=2)
    assert (newest["uuid"], older["uuid"]) == (LARGE, SMALL)
    assert 0 <= newest["seconds"] < PATIENCE


@pytest.mark.parametrize("years", [-10, 10])
def test_a_source_that_failed_is_asked_again_at_once(jumps, clock, server, years):
    """That it failed in the future, or long ago, keeps nobody from asking."""
    clock.move(-years * YEAR)
    server.stop()
    with jumps.world.client() as client:
        with pytest.raises(Exception, match=r"."):
            client.import_image(SMALL)
        (source,) = client.status()["sources"]
        assert source["error"] is not None
        clock.move(0)
        server.start()
        client.import_image(SMALL)
        (source,) = client.status()["sources"]
        assert source["error"] is None
