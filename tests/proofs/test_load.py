"""A daemon under some load: the short form of `make load`, without what another machine changes."""

from __future__ import annotations

import pytest

from tests.proofs.forks import Forks
from tests.proofs.load import Load, is_flat, more_descriptors
from tests.proofs.world import image_server


@pytest.fixture
def load(tmp_path):
    more_descriptors()
    with image_server(tmp_path / "server") as url, Forks() as forks:
        load = Load(tmp_path / "host", url, forks)
        try:
            yield load
        finally:
            load.daemon.close()


def test_many_connections(load):
    load.daemon.start()
    before = load.descriptors()
    found = load.connections(200, 50)
    assert (found["failed"], found["first failures"]) == (0, [])
    # A file that was open for a moment may have been counted before.
    assert found["descriptors"] >= before + 190
    with load.client() as client:
        assert client.list() == []


@pytest.mark.slow
def test_many_images(load):
    assert load.images(60)["images"] == 60


@pytest.mark.slow
def test_churn_keeps_no_descriptors(load):
    load.daemon.start()
    found = load.churn(60)
    # One for each cycle would double them; one for a moment is no leak.
    assert is_flat(found["descriptors"], 1.2), found["descriptors"]
    load.world.check()


def test_what_grows_is_not_flat():
    assert is_flat([1, 9, 10, 10, 10, 10, 10, 10, 10], 1.1)
    assert not is_flat([10, 11, 12, 13, 14, 15, 16, 17, 18], 1.1)
