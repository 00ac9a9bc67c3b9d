"""A disk that becomes read-only while a daemon works on it, as ext4 makes it after an error."""

from __future__ import annotations

import errno

import pytest

from tests.proofs.faults import Faults
from tests.proofs.forks import Forks
from tests.proofs.world import CLONE, SMALL, image_server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_disk_that_becomes_read_only(tmp_path):
    """Nothing is lost, each change fails with an error for people, and all goes on when it can be written."""

    def read_only(_change):
        raise OSError(errno.EROFS, "the disk is read-only")

    with image_server(tmp_path / "server") as url, Forks() as forks, Faults(tmp_path, url, forks) as faults:
        world = faults.world

        def sensible(name, uuid):
            return next(each for each in world.sensible() if (each.name, each.uuid) == (name, uuid))

        def succeeds(operation):
            world.asked(operation)
            assert world.attempt(operation) is None
            world.done(operation)

        succeeds(sensible("import", SMALL))
        for name, uuid in (("import", CLONE), ("hold", SMALL), ("delete", SMALL)):
            operation = sensible(name, uuid)
            faults.recorder.fault = read_only
            world.asked(operation)
            failure = world.attempt(operation)
            assert failure is not None
            assert "fault in imgstored" not in failure
            # SQLite has its own words for it.
            assert (
                "read-only" in failure.lower() or "journal.sqlite cannot be used: disk I/O error" in failure
            )
            with world.client() as client:
                assert [image["manifest"]["uuid"] for image in client.list()] == [SMALL]
            faults.recorder.fault = lambda change: None
            # What could not be tidied up then goes at the next start.
            faults.daemon.kill()
            assert "Traceback" not in faults.daemon.log.read_text()
            faults.daemon.start()
            world.check()
            assert world.model.images[SMALL] == "there"
        succeeds(sensible("hold", SMALL))
        succeeds(sensible("import", CLONE))
        faults.daemon.kill()
        faults.daemon.start()
        world.check()
