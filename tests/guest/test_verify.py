"""`verify` on real ZFS: what has become of images that a daemon or imgadm installed."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
from typing import IO, TYPE_CHECKING

import pytest

from imgstored.zstream.reader import StreamReader
from imgstored.zstream.records import RecordType
from tests.guest.host import POOL, SECOND, Host, installed_by_imgadm, zfs_host
from tests.guest.zpool import FOLDER, run
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file, fixture_manifest
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        host.daemon.start()
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    yield running
    running.clear()


def verified(host: Host, *uuids: str, pool: str | None = None) -> dict[str, tuple[str, str]]:
    """The result and the reason for each image."""
    events: list[dict[str, str]] = []
    with host.daemon.client() as client:
        client.verify(list(uuids) or None, pool=pool, on_event=events.append)
    return {
        event["uuid"]: (event["result"], event["reason"]) for event in events if event["event"] == "verified"
    }


def test_what_is_as_it_was(host: Host) -> None:
    host.ensure(INCREMENTAL, ZVOL)
    sound = dict.fromkeys((BASE, INCREMENTAL, ZVOL), ("ok", ""))
    assert verified(host) == sound
    # Machines have snapshots of their own, and clones.
    run("zfs", "snapshot", f"{POOL}/{BASE}@vm")
    run("zfs", "clone", f"{POOL}/{BASE}@final", f"{POOL}/machine")
    assert verified(host, INCREMENTAL, pool=POOL) == {BASE: ("ok", ""), INCREMENTAL: ("ok", "")}
    assert verified(host, pool=SECOND) == {}
    assert run("zfs", "holds", "-H", f"{POOL}/{BASE}@final").stdout == ""
    done = host.daemon.imgctl("verify", ZVOL, timeout=150)
    assert done.returncode == 0
    assert done.stdout == f"Image {ZVOL} (zvol@1.0.0) in {POOL} is ok\nVerified 1 image: 1 ok\n"


def test_what_imgadm_installed_is_compared_from_then_on(host: Host) -> None:
    installed_by_imgadm(host, fixture_manifest(BASE), gzip.decompress(fixture_file(BASE).read_bytes()))
    # It is mounted, and somebody looks at it, which changes the times of access.
    run("tar", "cf", "/dev/null", str(host.pool.mountpoint(BASE)))
    run("zpool", "sync", POOL)
    result, reason = verified(host)[BASE]
    # There may be a receipt of what another test had installed.
    assert re.match(r"imgstored (did not install it|installed an earlier dataset of it);", reason), reason
    assert result == "unknown"
    assert verified(host) == {BASE: ("ok", "")}


def test_what_imgadm_has_deleted_and_installed_again(host: Host) -> None:
    host.ensure(BASE)
    host.pool.destroy(BASE)
    installed_by_imgadm(host, fixture_manifest(BASE), gzip.decompress(fixture_file(BASE).read_bytes()))
    run("tar", "cf", "/dev/null", str(host.pool.mountpoint(BASE)))
    run("zpool", "sync", POOL)
    result, reason = verified(host)[BASE]
    assert (result, "an earlier dataset of it" in reason) == ("unknown", True)
    assert verified(host) == {BASE: ("ok", "")}


def test_what_was_written_to(host: Host) -> None:
    host.ensure(BASE)
    run("zfs", "set", "readonly=off", f"{POOL}/{BASE}")
    run("zfs", "mount", f"{POOL}/{BASE}")
    (host.pool.mountpoint(BASE) / "new").write_bytes(bytes(range(256)) * 8192)
    run("zfs", "unmount", f"{POOL}/{BASE}")
    run("zpool", "sync", POOL)
    # A snapshot in between does not hide it.
    run("zfs", "snapshot", f"{POOL}/{BASE}@vm")
    result, reason = verified(host)[BASE]
    assert result == "changed"
    assert "bytes were written to its dataset after @final" in reason


def test_another_image_in_its_place(host: Host) -> None:
    host.ensure(BASE)
    host.pool.destroy(BASE)
    target = f"{POOL}/{BASE}@final"
    subprocess.run(["zfs", "receive", target], input=real_stream("zvol"), check=True)
    result, reason = verified(host)[BASE]
    assert result == "changed"
    assert "another image is in its place" in reason


def test_what_is_gone(host: Host) -> None:
    host.ensure(BASE, ZVOL)
    host.pool.destroy(BASE)
    # As imgadm deletes.
    host.pool.destroy(ZVOL)
    host.manifest_file(ZVOL).unlink()
    result, reason = verified(host)[BASE]
    assert (result, "no longer in the pool" in reason) == ("lost", True)
    assert ZVOL not in verified(host)


def places(disk: IO[bytes], content: bytes) -> list[int]:
    """Where in a sparse file it is; also where blocks of destroyed datasets still lie."""
    found, end = [], 0
    size = os.fstat(disk.fileno()).st_size
    while end < size:
        try:
            start = os.lseek(disk.fileno(), end, os.SEEK_DATA)
        except OSError:  # ENXIO: no more data
            break
        end = os.lseek(disk.fileno(), start, os.SEEK_HOLE)
        data, at = os.pread(disk.fileno(), end - start, start), -1
        while (at := data.find(content, at + 1)) >= 0:
            found.append(start + at)
    return found


def test_a_disk_that_rots(host: Host) -> None:
    host.ensure(BASE, ZVOL)
    run("zpool", "sync", POOL)
    host.daemon.stop()
    run("zpool", "export", POOL)
    records = StreamReader().records(real_stream("base"))
    blocks = [record.payload for record in records if record.type == RecordType.WRITE]
    with (FOLDER / f"{POOL}.img").open("r+b") as disk:
        # Of data that cannot be compressed a block is on the disk as it is in the stream.
        content = bytes(max(blocks, key=lambda block: len(set(bytes(block[:4096]))))[:4096])
        there = places(disk, content)
        assert there
        for place in there:
            disk.seek(place + 1000)
            disk.write(b"rotten")
    run("zpool", "import", "-d", str(FOLDER), POOL)
    host.daemon.start()
    results = verified(host)
    assert results[BASE][0] == "damaged"
    assert "zpool status" in results[BASE][1]
    assert results[ZVOL] == ("ok", "")
    done = host.daemon.imgctl("verify", BASE, timeout=150)
    assert done.returncode == 1
    assert f"Image {BASE} (base@1.0.0) in {POOL} is damaged: its blocks cannot be read" in done.stdout
