"""Any order of what may happen to a daemon, against a simple model: hypothesis chooses, and shrinks.

Imports, also several at once, clients that leave, cancellations, deletions, holds, publications, restarts and
kills, a source that is down, and imgadm that has an image's lock. After each step all promises hold, and
`imgstored --check --deep` finds nothing. The daemon is the real one, with the embedded pool.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import tempfile
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from imgctl import RemoteError

from tests.proofs import world as worlds
from tests.proofs.forks import Daemon, Forks
from tests.proofs.model import GONE, MAYBE, THERE, World
from tests.proofs.world import CLONE, IMAGES, SMALL
from tests.support.lock_holder import LockHolder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.proofs.model import Operation
    from tests.support.nginx import Nginx

_SECONDS = 60.0
_numbers = itertools.count()


class Host(RuleBasedStateMachine):
    """One host; `shared` are the parts that all examples share: the image server, and what forks."""

    shared: tuple[Path, Nginx, Forks]

    def __init__(self) -> None:
        super().__init__()
        folder, self.nginx, forks = self.shared
        made = worlds.settings(folder / str(next(_numbers)), self.nginx.url)
        made.write()
        self.world = World(made, random.Random(0))
        self.daemon = Daemon(forks, made.folder)

    @initialize()
    def begins(self) -> None:
        self.nginx.running or self.nginx.start()
        self.daemon.start()

    def teardown(self) -> None:
        self.daemon.close()
        shutil.rmtree(self.world.settings.folder, ignore_errors=True)

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 99))
    def one_thing(self, which: int) -> None:
        """A client asks for something that makes sense."""
        sensible = self.world.sensible()
        self._do(sensible[which % len(sensible)])

    @rule(uuids=st.lists(st.sampled_from(IMAGES), min_size=2, max_size=4))
    def several_imports_at_once(self, uuids: list[str]) -> None:
        """Also of one image twice, and of a clone beside its origin."""
        operations = [self._operation("import", uuid) for uuid in uuids]
        self._together([each for each in operations if each is not None])

    @rule(uuid=st.sampled_from(IMAGES), pause=st.sampled_from((0.0, 0.01, 0.05)))
    def a_cancelled_import(self, uuid: str, pause: float) -> None:
        operation = self._operation("import", uuid)
        if operation is None:
            return
        self.world.asked(operation)
        failures: list[str | None] = []
        thread = threading.Thread(target=lambda: failures.append(self.world.attempt(operation)))
        thread.start()
        time.sleep(pause)
        with suppress(RemoteError), self.world.client() as client:
            client.cancel(uuid)
        thread.join(_SECONDS)
        assert failures, "a cancelled import does not end"
        if failures[0] is None:
            self.world.done(operation)

    @rule(uuid=st.sampled_from(IMAGES))
    def imgadm_has_the_lock(self, uuid: str) -> None:
        """An import waits for it, and goes on."""
        operation = self._operation("import", uuid)
        if operation is None or not self.nginx.running:
            return
        self.world.asked(operation)
        failures: list[str | None] = []
        thread = threading.Thread(target=lambda: failures.append(self.world.attempt(operation)))
        with LockHolder(self.world.settings.state / "locks", uuid):
            thread.start()
            thread.join(0.3)
            assert thread.is_alive(), f"it did not wait for imgadm: {failures}"
        thread.join(_SECONDS)
        assert failures == [None]
        self.world.done(operation)

    @rule()
    def a_restart(self) -> None:
        self.daemon.stop()
        self.daemon.start()

    @rule()
    def a_kill(self) -> None:
        self.daemon.kill()
        self.daemon.start()

    @rule(uuid=st.sampled_from(IMAGES), pause=st.sampled_from((0.0, 0.02, 0.08)))
    def a_kill_under_an_import(self, uuid: str, pause: float) -> None:
        operation = self._operation("import", uuid)
        if operation is None:
            return
        self.world.asked(operation)
        thread = threading.Thread(target=self.world.attempt, args=(operation,))
        thread.start()
        time.sleep(pause)
        self.daemon.kill()
        thread.join(_SECONDS)
        assert not thread.is_alive()
        self.daemon.start()

    @precondition(lambda self: self.nginx.running)
    @rule()
    def the_source_fails(self) -> None:
        self.nginx.stop()

    @precondition(lambda self: not self.nginx.running)
    @rule()
    def the_source_is_back(self) -> None:
        self.nginx.start()

    # -- what holds ------------------------------------------------------------------------------------------

    @invariant()
    def all_promises_hold(self) -> None:
        if self.daemon.pid:
            self.world.check()

    # -- the parts -------------------------------------------------------------------------------------------

    def _operation(self, name: str, uuid: str) -> Operation | None:
        found = self.world.sensible()
        return next((each for each in found if (each.name, each.uuid) == (name, uuid)), None)

    def _do(self, operation: Operation) -> None:
        self.world.asked(operation)
        failure = self.world.attempt(operation)
        if failure is None:
            self.world.done(operation)
        else:
            assert operation.name in ("import", "leave", "mirror"), f"{operation} failed: {failure}"
            assert not self.nginx.running, f"{operation} failed: {failure}"

    def _together(self, operations: list[Operation]) -> None:
        failures: dict[int, str | None] = {}

        def attempt(number: int, operation: Operation) -> None:
            failures[number] = self.world.attempt(operation)

        for operation in operations:
            self.world.asked(operation)
        threads = [threading.Thread(target=attempt, args=pair) for pair in enumerate(operations)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_SECONDS)
        assert len(failures) == len(operations), "an import does not end"
        if not self.nginx.running:
            return
        assert set(failures.values()) <= {None}, failures
        for operation in operations:
            self.world.done(operation)


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Path, Nginx, Forks]]:
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="imgstore-model-", dir=base))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        nginx = stack.enter_context(worlds.running_nginx(folder / "server"))
        yield folder, nginx, stack.enter_context(Forks())


#: With IMGSTORE_MODEL_EXAMPLES=1000 it is the long form.
EXAMPLES = int(os.environ.get("IMGSTORE_MODEL_EXAMPLES", "6"))


@pytest.mark.slow
@pytest.mark.timeout(0 if EXAMPLES > 100 else 900)
def test_any_order_of_what_may_happen(shared):
    Host.shared = shared
    try:
        run_state_machine_as_test(
            Host,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=12,
                deadline=None,
                derandomize=EXAMPLES <= 100,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        del Host.shared


def test_the_model_knows_what_follows_from_what():
    world = World(None, random.Random(0))  # type: ignore[arg-type]  # it asks nobody
    names = {(each.name, each.uuid) for each in world.sensible()}
    assert ("import", CLONE) in names
    assert ("delete", SMALL) not in names
    clone = next(each for each in world.sensible() if (each.name, each.uuid) == ("import", CLONE))
    world.asked(clone)
    assert world.model.images[SMALL] == world.model.images[CLONE] == MAYBE
    world.done(clone)
    assert world.model.images[SMALL] == world.model.images[CLONE] == THERE
    names = {(each.name, each.uuid) for each in world.sensible()}
    assert ("delete", CLONE) in names
    assert ("delete", SMALL) not in names, "it has a clone"
    assert set(world.model.holds.values()) == {GONE}
