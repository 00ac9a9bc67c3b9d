"""kill -9 at each named point, and at random ones: the short form of `make kills`."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.proofs.fail_points import BY_DELTA, ON_ZFS, POINTS
from tests.proofs.forks import Forks
from tests.proofs.kills import Kills, each_point, each_point_of_a_delta
from tests.proofs.model import BrokenPromiseError
from tests.proofs.world import SMALL, image_server, settings


@pytest.fixture
def run(tmp_path):
    """Makes a run, of whose daemons that part are image servers, and starts its first one."""
    # Some of what is killed is killed in an fsync: a slow disk makes this long, and shows nothing more.
    with ExitStack() as stack:
        url = stack.enter_context(image_server(tmp_path / "server"))
        forks = stack.enter_context(Forks())

        def made(serving: float) -> Kills:
            kills = Kills(settings(tmp_path / "host", url), forks, seed=20261129, serving=serving)
            stack.callback(kills.close)
            kills.begin()
            return kills

        yield made


def test_each_point_is_there():
    """Who gives a function another name sees it here, and not only where daemons die."""
    points = (POINTS | ON_ZFS).items()
    places = [(name, owner, attribute) for name, (owners, attribute) in points for owner in owners]
    assert [place for place in places if not hasattr(place[1], place[2])] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_at_each_point(run):
    kills = run(serving=1)
    assert each_point(kills) == set()
    assert {point.partition(":")[2] for point in kills.kills} == set(POINTS) - set(BY_DELTA)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_at_each_point_of_a_delta(run):
    assert each_point_of_a_delta(run(serving=0)) == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_at_random_points_and_moments(run):
    kills = run(serving=0.6)
    while kills.count < 25:
        kills.turn()


def test_a_broken_promise_is_seen(run):
    """The check can fail: what a client was told, and what belongs to nothing."""
    kills = run(serving=1)
    imported = next(each for each in kills.world.sensible() if (each.name, each.uuid) == ("import", SMALL))
    assert not kills.turn(imported, point="before:nowhere")
    kills.world.check()
    stray = kills.world.settings.state / "pool" / SMALL / "stray"
    stray.touch()
    with pytest.raises(BrokenPromiseError, match="part of no image"):
        kills.world.check()
    stray.unlink()
    kills.daemon.stop()
    stray.parent.rename(kills.world.settings.state / "elsewhere")
    kills.daemon.start()
    with pytest.raises(BrokenPromiseError, match="clients were told"):
        kills.world.check()
    assert kills.daemon.folder == kills.world.settings.folder
