"""The preparation of a machine by a script, and its rollback afterwards.

The script runs in the machine, when that starts (`sdc:operator-script`). It says how it goes in the machine's
metadata, `prepare-image:state`: running, then success or error; and then shuts the machine down.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
from imgproto.events import CreationStep
from msgspec import Struct

from imgstored.errors import ImgstoreError, PrepareImageDidNotRunError, PrepareImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgproto.events import MakingStep

    from imgstored.create.vmadm import Machine, Vmadm
    from imgstored.pools.base import Datasets

log = structlog.get_logger(__name__)

#: The snapshot to which everything goes back.
SNAPSHOT: Final = "imgadm-create-pre-prepare"

_STATE: Final = "prepare-image:state"
_ERROR: Final = "prepare-image:error"
#: Characters of a machine's own words.
_WORDS: Final = 500


class Timeouts(Struct, frozen=True):
    """The time limits of a preparation, in seconds."""

    each: float = 300.0  #: for the script to begin, to end, and for the machine to stop
    between: float = 2.0  #: two looks


class Preparation(Struct, frozen=True):
    """One machine's preparation. All calls block."""

    vmadm: Vmadm
    machine: Machine  #: as it was before
    datasets: Datasets
    tell: Callable[[CreationStep], None]
    check: Callable[[], None]  #: raises when nobody wants the image any more
    timeouts: Timeouts = Timeouts()

    @contextmanager
    def prepared(self, script: str) -> Iterator[None]:
        """The machine is stopped, and the script has run; at the end it is all undone.

        Raises `PrepareImageDidNotRunError`, `PrepareImageError`, and what pools and vmadm raise.
        """
        try:
            if self.machine.state != "stopped":
                self._tell("vm-stopping")
                self.vmadm.stop(self.machine.uuid)
            self._tell("vm-snapshotting")
            self.datasets.snapshot(self._names, SNAPSHOT)
        except BaseException:
            self._restart()
            raise
        try:
            self._run(script)
            yield
        finally:
            self._tell("vm-rolling-back")
            self.roll_back()
            # Not reached where that fails: a machine that is half prepared is not to run.
            self._restart()

    def _restart(self) -> None:
        if self.machine.state != "stopped":
            self._tell("vm-restarting")
            self.vmadm.start(self.machine.uuid)

    def roll_back(self) -> None:
        """Makes the machine, which is stopped first, what it was in the snapshot; that is gone then.

        Does nothing where there is no snapshot.
        """
        if not any(self.datasets.has(name, SNAPSHOT) for name in self._names):
            return
        if self.vmadm.machine(self.machine.uuid).state != "stopped":
            self.vmadm.stop(self.machine.uuid, force=True)
        self.datasets.roll_back(self._names, SNAPSHOT)
        change = {
            "remove_internal_metadata": ["operator-script"],
            "remove_customer_metadata": [_STATE, _ERROR],
        }
        try:
            self.vmadm.update(self.machine.uuid, change)
        except ImgstoreError as error:
            # The machine is as it was but for that; it must still be restarted.
            log.warning("a machine keeps its prepare script", vm=self.machine.uuid, error=error.message)

    @property
    def _names(self) -> list[str]:
        root = [] if self.machine.root is None else [self.machine.root]
        return [*root, *self.machine.disks]

    def _run(self, script: str) -> None:
        uuid = self.machine.uuid
        self.vmadm.update(
            uuid,
            {
                "set_internal_metadata": {"operator-script": script},
                "remove_customer_metadata": [_STATE, _ERROR],
            },
        )
        self._tell("vm-starting")
        self.vmadm.start(uuid)
        if self._wait(lambda machine: bool(machine.metadata.get(_STATE))) is None:
            self._tell("prepare-timeout")
            raise PrepareImageDidNotRunError(
                f"prepare-image script did not run on VM {uuid} boot",
                hint="check that the machine's guest tools run the script, and that it reports its start",
            )
        self._tell("prepare-running")
        ended = self._wait(lambda machine: machine.metadata.get(_STATE) in ("success", "error"))
        if ended is None:
            raise self._failed("prepare-image script did not complete")
        if ended.metadata[_STATE] == "error":
            raise self._failed(str(ended.metadata.get(_ERROR) or ""))
        self._tell("prepare-succeeded")
        if self._wait(lambda machine: machine.state == "stopped") is None:
            raise self._failed("VM did not shutdown")
        self._tell("prepare-stopped")

    def _wait(self, met: Callable[[Machine], bool]) -> Machine | None:
        """The machine, once it meets the condition; None if it does not in time."""
        deadline = time.monotonic() + self.timeouts.each
        while True:
            machine = self.vmadm.machine(self.machine.uuid)
            if met(machine):
                return machine
            if time.monotonic() > deadline:
                return None
            pause = time.monotonic() + self.timeouts.between
            while time.monotonic() < pause:
                self.check()
                time.sleep(min(0.2, self.timeouts.between))

    def _failed(self, details: str) -> PrepareImageError:
        said = "".join(c if c.isprintable() else " " for c in details[:_WORDS]).strip()
        why = f": {said}" if said else ""
        return PrepareImageError(
            f"prepare-image script error while preparing VM {self.machine.uuid}{why}",
            hint="the machine is rolled back",
        )

    def _tell(self, step: MakingStep) -> None:
        self.tell(CreationStep(event="making", step=step, what=self.machine.uuid))
