"""`limits.min_free_mib` on ZFS, whose free space shows what was written only seconds later."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.e2e.conftest import made_image
from tests.guest.host import ORIGIN, POOL, zfs_host
from tests.guest.zpool import Zpool, run

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIB = 1 << 20
SMALL, GREAT = "44444444-aaaa-4bbb-8ccc-0000000000a1", "44444444-aaaa-4bbb-8ccc-0000000000a2"
_TIMEOUT = Path("/sys/module/zfs/parameters/zfs_txg_timeout")


@contextlib.contextmanager
def late_transaction_groups() -> Iterator[None]:
    """ZFS writes what it has every minute, and counts it then."""
    before = _TIMEOUT.read_text()
    _TIMEOUT.write_text("60")
    try:
        yield
    finally:
        _TIMEOUT.write_text(before)


def sent(mib: int) -> bytes:
    """The stream of a filesystem with so much text."""
    with Zpool(ORIGIN, "512M") as pool:
        run("zfs", "create", "-o", "compression=off", f"{ORIGIN}/text")
        for number in range(mib):
            text = f"image server {number} " * _MIB
            (pool.mountpoint("text") / f"{number}").write_text(text[:_MIB])
        run("zfs", "snapshot", f"{ORIGIN}/text@final")
        return subprocess.run(["zfs", "send", f"{ORIGIN}/text@final"], capture_output=True, check=True).stdout


def described(uuid: str, file: bytes) -> dict[str, Any]:
    """The manifest of a compressed file."""
    manifest, _ = made_image(uuid, size=_MIB)
    files = [{"sha1": hashlib.sha1(file).hexdigest(), "size": len(file), "compression": "gzip"}]
    return {**manifest, "files": files}


def available() -> int:
    """Bytes of the pool, with all that was written."""
    run("zpool", "sync", POOL)
    return int(run("zfs", "list", "-Hpo", "available", POOL).stdout)


def test_what_the_pool_does_not_show_yet_counts(tmp_path: Path) -> None:
    """The file is small: nothing says beforehand how much room its stream takes."""
    with zfs_host(tmp_path) as host, late_transaction_groups():
        run("zfs", "set", "compression=off", POOL)
        # What is to be kept free is to be kept where the spool is, too, and /tmp may have little.
        run("zfs", "create", "-o", f"refreservation={available() - 200 * _MIB}", f"{POOL}/reserved")
        for uuid, mib in ((SMALL, 24), (GREAT, 80)):
            file = gzip.compress(sent(mib), compresslevel=1)
            assert len(file) < 4 * _MIB
            host.served.pages.add(described(uuid, file), file)
        min_free = available() // _MIB - 60
        text = host.daemon.config_file.read_text()
        host.daemon.config_file.write_text(
            text.replace("[limits]\n", f"[limits]\nmin_free_mib = {min_free}\n")
        )
        host.daemon.start()
        done = host.daemon.imgctl("import", GREAT, timeout=150)
        assert "(NoSpace)" in done.stderr
        came = re.search(r"([\d.]+) MiB came", done.stderr)
        assert came is not None, done.stderr
        # It would all have come, and have been installed.
        assert 20 < float(came[1]) <= 61
        assert host.daemon.imgctl("import", SMALL, timeout=150).returncode == 0
        assert available() >= min_free * _MIB
