"""kill -9 at each named point, and at random ones: the short form of `make kills`."""

from __future__ import annotations

import pytest

from tests.proofs.fail_points import ON_ZFS, POINTS
from tests.proofs.forks import Forks
from tests.proofs.kills import Kills, each_point
from tests.proofs.model import BrokenPromiseError
from tests.proofs.world import SMALL, image_server, settings


@pytest.fixture
def kills(tmp_path):
    # Some of what is killed is killed in an fsync: a slow disk makes this long, and shows nothing more.
    with image_server(tmp_path / "server") as url, Forks() as forks:
        made = settings(tmp_path / "host", url)
        made.write()
        run = Kills(made, forks, seed=20261129)
        run.begin()
        try:
            yield run
        finally:
            run.close()


def test_each_point_is_there():
    """Who gives a function another name sees it here, and not only where daemons die."""
    points = (POINTS | ON_ZFS).items()
    places = [(name, owner, attribute) for name, (owners, attribute) in points for owner in owners]
    assert [place for place in places if not hasattr(place[1], place[2])] == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_at_each_point(kills):
    assert each_point(kills) == set()
    assert {point.partition(":")[2] for point in kills.kills} == set(POINTS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_at_random_points_and_moments(kills):
    while kills.count < 25:
        kills.turn()


def test_a_broken_promise_is_seen(kills):
    """The check can fail: what a client was told, and what belongs to nothing."""
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
