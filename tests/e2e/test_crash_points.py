"""kill -9 before and after each step of an import's end, and of a deletion: all of an image, or nothing."""

from __future__ import annotations

import pytest

from tests.e2e.test_bad_input import leftovers
from tests.e2e.test_on_demand import jobs, started, until
from tests.e2e.test_restart import whole_or_nothing
from tests.support.audited import faults
from tests.support.crashing_daemon import DELETE_STEPS, IMPORT_STEPS
from tests.support.image_site import BASE


@pytest.fixture
def daemon(crashing_daemon):
    return crashing_daemon


def die(daemon, point: str, *arguments: str) -> None:
    """Runs a command on which the daemon dies, and starts it again."""
    daemon.die_at(point)
    client = started(daemon, *arguments)
    assert daemon.process.wait(30) == -9
    client.communicate(timeout=30)
    assert client.returncode == 1
    daemon.start(dies="")


@pytest.mark.slow
@pytest.mark.parametrize("step", IMPORT_STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_import_that_is_killed_ends_whole(daemon, when, step):
    die(daemon, f"{when}:{step}", "import", BASE)
    # Nobody asks again: what was begun goes on by itself.
    whole_or_nothing(daemon)
    until(lambda: whole_or_nothing(daemon) == {BASE} and jobs(daemon) == [], seconds=30)
    assert sorted(leftovers(daemon)) == [f"imgadm/images/zones-{BASE}.json", f"pool/{BASE}"]
    assert faults(daemon) == []

    daemon.imgctl("delete", BASE, check=True)
    assert leftovers(daemon) == []


@pytest.mark.parametrize("step", DELETE_STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_that_is_killed_leaves_all_or_nothing(daemon, when, step):
    daemon.imgctl("import", BASE, check=True)
    die(daemon, f"{when}:{step}", "delete", BASE)
    there = whole_or_nothing(daemon)
    assert there == ({BASE} if (when, step) == ("before", "destroy") else set())
    assert len(leftovers(daemon)) == 2 * len(there)
    assert faults(daemon) == []
