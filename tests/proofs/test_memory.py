"""Memory runs out: the short form of `make memory`."""

from __future__ import annotations

import pytest

from tests.proofs.forks import Forks
from tests.proofs.memory import Memory, Shortage, turns, why_not
from tests.proofs.model import BrokenPromiseError
from tests.proofs.world import SMALL, image_server

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def memory(tmp_path):
    shortage = Shortage(tmp_path)
    with (
        image_server(tmp_path / "server") as url,
        Forks(environment=shortage.environment()) as forks,
        Memory(tmp_path, url, forks, shortage, seed=7) as memory,
    ):
        yield memory
    shortage.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_allocation_fails(memory):
    list(turns(memory, 5, limited=lambda turn: turn % 4 == 3))
    assert sum(memory.outcomes[each] for each in ("done", "refused", "ended")) == 5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_allocation_but_those_that_are_meant_fails(memory):
    """The counter counts one process, and stops when it is told to; and a failure is felt."""
    operation = next(each for each in memory.world.sensible() if (each.name, each.uuid) == ("import", SMALL))
    memory.shortage.arm(memory.daemon.pid)
    assert memory.world.attempt(operation) is None
    memory.world.done(operation)
    count, failed = memory.shortage.disarm()
    assert count > 1000
    assert failed == 0
    memory.world.check()
    count, failed = memory.shortage.disarm()
    # Each thread may have been about to count one when the counter stopped. Had it gone on, there would be
    # thousands.
    assert count < 50
    assert failed == 0
    memory.shortage.arm(memory.daemon.pid, 1, 1 << 40)
    held = next(each for each in memory.world.sensible() if each.name == "hold")
    assert memory.world.attempt(held) is not None
    _, failed = memory.shortage.disarm()
    assert failed > 0


def test_a_request_that_fails_without_a_cause_is_seen(memory):
    """The check can fail."""
    operation = next(each for each in memory.world.sensible() if each.name == "hold" or each.uuid == SMALL)
    with pytest.raises(BrokenPromiseError, match="without a cause"):
        memory._judge(operation, "no", failed=False, name="import")
