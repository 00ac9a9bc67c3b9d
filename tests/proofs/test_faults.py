"""One call of the disk fails: the short form of `make faults`."""

from __future__ import annotations

import errno

import pytest

from tests.proofs.faults import Fault, Faults
from tests.proofs.forks import Forks
from tests.proofs.model import BrokenPromiseError
from tests.proofs.recording import Change
from tests.proofs.world import FIRST, SMALL, image_server


@pytest.fixture
def faults(tmp_path):
    with image_server(tmp_path / "server") as url, Forks() as forks, Faults(tmp_path, url, forks) as faults:
        yield faults


def test_a_fault_is_one_change():
    fault = Fault(2, errno.EIO)
    fault(Change("sync", 1))
    with pytest.raises(OSError, match="a fault"):
        fault(Change("write", 1))
    fault(Change("sync", 1))
    assert fault.failed == Change("write", 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR], ids=["EIO", "ENOSPC", "EINTR"])
def test_some_changes_of_each_kind(faults, code):
    faults.each("import", SMALL, code, range(1, 2000, 17))
    faults.each("hold", SMALL, code, range(1, 2000, 3))
    faults.each("release", SMALL, code, range(1, 2000, 3))
    faults.each("delete", SMALL, code, range(1, 2000, 9))
    faults.each("publish", FIRST, code, range(1, 2000, 13))
    assert {key.partition(" ")[0] for key in faults.count} == {
        "import",
        "hold",
        "release",
        "delete",
        "publish",
    }


def test_an_operation_that_fails_without_a_fault_is_seen(faults):
    """The check can fail: the image is gone behind the daemon's back."""
    faults.each("import", SMALL, errno.EIO, [5000])
    (faults.mounted.place / "state" / "pool" / SMALL / "image.json").write_text("{")
    with pytest.raises(BrokenPromiseError, match="clients were told"):
        faults.turn("hold", SMALL, errno.EIO, 5000)
