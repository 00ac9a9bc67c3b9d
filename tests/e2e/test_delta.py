"""Deltas with a real daemon and a real web server: a kill in the middle, and what people see of them."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import gated
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.deltas import NEW, OLD, files, indexed, publish, tree, upgraded

CONTENTS = files(300)
NEW_STREAM = tree(upgraded(CONTENTS), guid=12)
DELTAS = 'deltas = "always"\n'


@pytest.fixture(scope="module")
def made():
    return {OLD: indexed(tree(CONTENTS, guid=11)), NEW: indexed(NEW_STREAM)}


def test_after_kill_9_a_delta_goes_on_where_it_was(served, gate, tmp_path, made):
    for uuid, each in made.items():
        publish(served.pages, each, uuid)
    file, index = made[NEW]
    with gated(served, gate, tmp_path / "slow", NEW, connections=2, more=DELTAS) as daemon:
        daemon.imgctl("import", OLD, check=True)
        gate.hold(after=len(index) + len(file) // 16)
        client = started(daemon, "import", NEW)
        until(lambda: gate.given - len(index) >= len(file) // 16, seconds=30)
        (job,) = jobs(daemon)
        assert job["delta"]["uuid"] == OLD
        assert 0 < job["delta"]["fetch"] < 0.4 * len(file)
        fetch, done = job["delta"]["fetch"], job["done"]
        assert len(file) - fetch <= done < len(file)
        daemon.kill()
        client.communicate(timeout=30)
        before = gate.given
        gate.open()
        daemon.start()
        until(lambda: NEW in daemon.imgctl("list", "-H", "-o", "uuid").stdout, seconds=60)
        # What had come of two ranges that were under way is fetched again, and nothing else, nor the index.
        assert gate.given - before <= fetch - len(file) // 16 + 2 * 65536
        daemon.imgctl("export", NEW, "-o", str(tmp_path / "out"), check=True)
    assert (tmp_path / "out.zfs").read_bytes() == NEW_STREAM
