"""The daemon on a host where no pyzfs is to be seen, only the C library."""

from __future__ import annotations

import json
from pathlib import Path

from tests.guest.host import POOL, zfs_host
from tests.guest.zpool import run
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

#: Where Debian has pyzfs; it cannot be seen in the mount namespace of the daemon.
PYZFS = Path("/usr/lib/python3/dist-packages/libzfs_core")
HIDDEN = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {PYZFS} && exec "$@"', "sh")


def test_the_main_job(tmp_path: Path) -> None:
    assert (PYZFS / "__init__.py").exists()
    with zfs_host(tmp_path) as host:
        host.daemon.before = HIDDEN
        host.daemon.start()
        assert [line["libzfs_core"] for line in host.log("the ZFS pool is there")] == ["libzfs_core.so.3"] * 2
        maps = Path(f"/proc/{host.daemon.pid}/maps").read_text()
        assert "libzfs_core.so.3" in maps
        assert "_cffi_backend" not in maps
        host.ensure(INCREMENTAL, ZVOL)
        assert host.listed() == {f"{POOL}/{uuid}" for uuid in (BASE, INCREMENTAL, ZVOL)}
        found = json.loads(host.daemon.imgctl("doctor", "-j").stdout)["findings"]
        assert [each for each in found if each["check"] == f"pool {POOL}" and each["status"] == "fail"] == []
        host.daemon.imgctl("hold", ZVOL, "vm 7", check=True)
        assert "imgstored:vm 7" in run("zfs", "holds", "-H", f"{POOL}/{ZVOL}@final").stdout
        assert host.daemon.imgctl("delete", ZVOL).returncode == 1
        host.daemon.imgctl("release", ZVOL, "vm 7", check=True)
        for uuid in (ZVOL, INCREMENTAL, BASE):
            host.daemon.imgctl("delete", uuid, check=True)
        assert host.pool.names() == []
        host.ensure(BASE)
        host.daemon.kill()
        host.daemon.start()
        assert host.listed() == {f"{POOL}/{BASE}"}
        assert host.daemon.stop() == 0
