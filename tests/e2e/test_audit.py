"""`imgstored --check --deep` beside a daemon at work."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import gated, made_image
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.audited import faults
from tests.support.image_site import BASE

UUID = "44444444-aaaa-4bbb-8ccc-000000000009"


@pytest.mark.slow
def test_an_import_under_way_is_nothing_wrong(served, gate, tmp_path):
    served.pages.add(*made_image(UUID, size=8 << 20))
    gate.hold(after=4 << 20)
    with gated(served, gate, tmp_path / "gated", UUID) as daemon:
        daemon.imgctl("import", BASE, check=True)
        client = started(daemon, "import", UUID)
        until(lambda: any(job["received"] for job in jobs(daemon)))
        assert faults(daemon) == []
        with daemon.client() as other:
            (daemon.folder / "state" / "pool" / BASE / "something").touch()
            assert faults(daemon) == [f"leftovers: 1 files that are part of no image: zones/{BASE}/something"]
            assert other.list()
        gate.open()
        client.communicate(timeout=60)
        assert client.returncode == 0
