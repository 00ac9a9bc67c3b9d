"""`imgctl vmadm` on a ZFS host: a machine is cloned from an image that nobody can destroy meanwhile."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_on_demand import until
from tests.e2e.test_vmadm import Vmadm
from tests.guest.host import POOL, SECOND, Host, zfs_host
from tests.guest.zpool import run
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VM = "66666666-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        host.daemon.start()
        yield host
        host.clear()


def test_a_machine_is_cloned_from_an_image_that_stays(host: Host, tmp_path: Path) -> None:
    vmadm = Vmadm(host.daemon, tmp_path)
    clones = [
        {"run": ["zfs", "clone", f"{POOL}/{INCREMENTAL}@final", f"{POOL}/{VM}"]},
        {"run": ["zfs", "clone", f"{SECOND}/{ZVOL}@final", f"{SECOND}/{VM}-disk0"]},
    ]
    payload = {
        "uuid": VM,
        "image_uuid": INCREMENTAL,
        "disks": [{"image_uuid": ZVOL, "zpool": SECOND}],
        "stand_in": [{"wait": str(tmp_path / "go")}, *clones, {"say": "created"}],
    }
    with vmadm.start("create") as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(payload).encode())
        process.stdin.close()
        until(lambda: vmadm.started() or process.poll() is not None, seconds=240)
        assert process.poll() is None
        assert [image["status"] for image in vmadm.record["images"]] == [0, 0]
        assert host.pool.names() == sorted(
            name for uuid in (BASE, INCREMENTAL) for name in (uuid, f"{uuid}@final")
        )
        for dataset in (f"{POOL}/{INCREMENTAL}", f"{SECOND}/{ZVOL}"):
            refused = run("zfs", "destroy", "-r", dataset, check=False)
            assert refused.returncode != 0
            assert "busy" in refused.stderr or "held" in refused.stderr
        (tmp_path / "go").touch()
        assert process.wait(120) == 0
        assert process.stdout is not None
        assert process.stdout.read() == b"created\n"
    assert host.pool.get(VM, "origin") == [f"{POOL}/{INCREMENTAL}@final"]
    assert host.second.get(f"{VM}-disk0", "origin") == [f"{SECOND}/{ZVOL}@final"]
    until(lambda: not run("zfs", "holds", "-H", f"{POOL}/{INCREMENTAL}@final").stdout, seconds=60)
    host.pool.destroy(VM)
    host.second.destroy(f"{VM}-disk0")
