from __future__ import annotations

import hashlib
import json
import os
import resource
import time

import pytest
import trio

from imgstored.catalog.catalog import Catalog, InstalledImage
from imgstored.create.maker import CreateSpec, Maker
from imgstored.create.prepare import Timeouts
from imgstored.create.vmadm import Vmadm
from imgstored.errors import (
    ImageNotInstalledError,
    ImgstoreError,
    MaxOriginDepthError,
    NoSpaceError,
    NotSupportedError,
    OriginHasNoFinalSnapshotError,
    PoolError,
    PoolNotFoundError,
    PrepareImageDidNotRunError,
    PrepareImageError,
    UsageError,
    VmHasNoOriginError,
    VmNotFoundError,
    VmNotStoppedError,
)
from imgstored.pools.base import PoolImage
from tests.support.datasets import MemoryPool
from tests.support.vmadm import FAILS, PREPARE, StandIn

DATASET = "zones/web"
VM = "55555555-aaaa-4bbb-8ccc-000000000001"
ROOT = f"zones/{VM}"
FIELDS = ("name=web", "version=1.0", "os=smartos")
PRE = "imgadm-create-pre-prepare"


def image_uuid(number):
    return f"11111111-aaaa-4bbb-8ccc-{number:012}"


class Host:
    """A pool in memory, and vmadm's stand-in."""

    def __init__(self, folder):
        self.folder = folder
        self.pool = MemoryPool()
        self.datasets = self.pool.all
        self.datasets.add(DATASET)
        self.catalog = Catalog({"zones": self.pool}, folder / "images")
        self.vmadm = StandIn(folder / "vmadm")
        self.root = folder / "root"
        self.root.mkdir()
        self.notes = folder / "creating"

    def maker(self, each=30.0):
        vmadm = Vmadm(str(self.vmadm.program), sysinfo=str(self.folder / "nosuch"))
        return Maker(self.catalog, vmadm, self.notes, Timeouts(each, 0.05))

    def add_image(self, number, origin=None, **fields):
        uuid = image_uuid(number)
        image = PoolImage(uuid, number, origin, "filesystem", 0, 0)
        manifest = {"v": 2, "uuid": uuid, "name": f"image{number}", "version": "9", "os": "linux", **fields}
        self.catalog.add(InstalledImage("zones", image, manifest))
        return uuid

    def add_machine(self, **fields):
        self.vmadm.add(VM, self.root, zfs_filesystem=ROOT, **fields)
        self.datasets.add(ROOT)

    def left(self):
        return sorted(path.name for path in self.notes.glob("*"))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


async def made(host, output, *, source=DATASET, fields=FIELDS, maker=None, **options):
    """The events but for progress, and the manifest."""
    events = []
    spec = CreateSpec(source, {}, fields, **options)
    os.ftruncate(output[0], 0)
    async with (maker or host.maker()).create(spec, output[0], client="tests", path="out") as job:
        async for event in job:
            if event["event"] != "progress":
                events.append(event)
        return events, job.result["manifest"]


async def test_an_image_of_a_dataset(host, output):
    events, manifest = await made(host, output)
    assert [event["event"] for event in events] == ["manifest", "making", "sending"]
    assert (events[0]["prefix"], events[0]["suffix"]) == ("web-1.0", ".zfs")
    assert events[0]["manifest"] == {key: value for key, value in manifest.items() if key != "files"}
    assert output[1].read_bytes() == b"a stream"
    sha1 = hashlib.sha1(b"a stream").hexdigest()
    assert manifest["files"] == [{"sha1": sha1, "size": 8, "compression": "none"}]
    assert (manifest["version"], manifest["type"]) == ("1.0", "zone-dataset")
    assert host.datasets.sent == [(DATASET, None)]
    assert host.datasets.snapshots == {}
    assert host.left() == []


async def test_the_stream_has_ended_before_its_snapshot_goes(host, output):
    """As a stream of ZFS keeps its snapshot from being destroyed; here the file cannot be written."""
    seen = []

    def stream():
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            seen.append(dict(host.datasets.snapshots))

    host.datasets.stream = stream
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(NoSpaceError, match="there is no room left for out"):
            await made(host, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [list(snapshots) for snapshots in seen] == [[f"{DATASET}@final"]]
    assert host.datasets.snapshots == {}


async def test_a_final_that_is_there_is_moved_and_moved_back(host, output):
    host.datasets.snapshots[f"{DATASET}@final"] = "theirs"
    events, _ = await made(host, output)
    moved = next(event["what"] for event in events if event.get("step") == "final-moved")
    assert moved.startswith(f"{DATASET}@final-1")
    assert host.datasets.snapshots == {f"{DATASET}@final": "theirs"}


@pytest.mark.parametrize("at", ["freeze", "send"])
async def test_a_failure_leaves_nothing(host, output, at):
    def broken():
        yield b"some"
        raise PoolError("send failed")

    host.datasets.snapshots[f"{DATASET}@final"] = "theirs"
    host.datasets.failing = {at}
    host.datasets.stream = broken
    with pytest.raises(PoolError, match=f"{at} failed"):
        await made(host, output)
    assert host.datasets.snapshots == {f"{DATASET}@final": "theirs"}
    assert host.left() == []


async def test_what_cannot_be_undone_is_undone_by_the_next_daemon(host, output):
    host.datasets.snapshots[f"{DATASET}@final"] = "theirs"
    host.datasets.failing = {"thaw"}
    with pytest.raises(PoolError, match="thaw failed"):
        await made(host, output)
    assert len(host.datasets.snapshots) == 2
    assert len(host.left()) == 1
    await trio.to_thread.run_sync(host.maker().recover)
    assert len(host.left()) == 1
    host.datasets.failing = set()
    await trio.to_thread.run_sync(host.maker().recover)
    assert host.datasets.snapshots == {f"{DATASET}@final": "theirs"}
    assert host.left() == []


async def test_a_client_that_leaves_ends_it(host, output):
    def endless():
        while True:
            time.sleep(0.01)
            yield bytes(1 << 10)

    host.datasets.stream = endless
    with trio.fail_after(10):
        spec = CreateSpec(DATASET, {}, FIELDS, compression="gzip")
        async with host.maker().create(spec, output[0], client="tests", path="out") as job:
            async for event in job:
                if event["event"] == "progress":
                    break
    assert host.datasets.snapshots == {}
    assert host.left() == []


async def test_one_image_at_a_time_of_a_dataset(host, output, tmp_path):
    def endless():
        while True:
            time.sleep(0.01)
            yield bytes(1 << 10)

    host.datasets.stream = endless
    maker = host.maker()
    async with maker.create(CreateSpec(DATASET, {}, FIELDS), output[0], client="tests", path="out") as job:
        async for event in job:
            if event["event"] == "sending":
                break
        with (tmp_path / "other").open("wb") as other, pytest.raises(UsageError, match="already"):
            await made(host, (other.fileno(), None), maker=maker)
        assert list(host.datasets.snapshots) == [f"{DATASET}@final"]
    host.datasets.stream = lambda: iter([b"x"])
    await made(host, output, maker=maker)


def test_a_note_that_cannot_be_read_is_kept(host):
    host.notes.mkdir()
    (host.notes / "5.json").write_text("{")
    (host.notes / "6.json").write_text('{"pool": "gone", "dataset": "gone/x", "vm": null}')
    trio.run(trio.to_thread.run_sync, trio_main(host))
    assert host.left() == ["5.json", "6.json"]


def trio_main(host):
    async def make():
        return host.maker()

    return trio.run(make).recover


# -- incremental ---------------------------------------------------------------------------------------------


async def test_incremental(host, output):
    base = host.add_image(1, type="zone-dataset")
    host.datasets.add(DATASET, origin=base)
    events, manifest = await made(
        host, output, fields=("name=web", "version=2"), incremental=True, compression="gz"
    )
    assert events[0] == {"event": "inheriting", "uuid": base, "name": "image1", "version": "9"}
    assert (manifest["origin"], manifest["os"]) == (base, "linux")
    assert manifest["files"][0]["compression"] == "gzip"
    assert host.datasets.sent == [(DATASET, base)]


async def test_a_whole_image_of_a_clone(host, output):
    host.datasets.add(DATASET, origin=host.add_image(1, type="zone-dataset"))
    _, manifest = await made(host, output)
    assert "origin" not in manifest
    assert host.datasets.sent == [(DATASET, None)]


@pytest.mark.parametrize(("depth", "fits"), [(2, False), (3, True), (None, True)])
async def test_max_origin_depth(host, output, depth, fits):
    chain = [host.add_image(1, type="zone-dataset")]
    chain += [host.add_image(number, image_uuid(number - 1), type="zone-dataset") for number in (2, 3)]
    host.datasets.add(DATASET, origin=chain[-1])
    options = {"incremental": True, "max_origin_depth": depth}
    if fits:
        assert (await made(host, output, **options))[1]["origin"] == chain[-1]
    else:
        with pytest.raises(MaxOriginDepthError, match='maximum origin depth "2" has been reached'):
            await made(host, output, **options)
    assert host.datasets.snapshots == {}


async def test_what_cannot_be_incremental(host, output):
    with pytest.raises(VmHasNoOriginError, match=f'dataset "{DATASET}" has no origin'):
        await made(host, output, incremental=True)
    host.datasets.add(DATASET, origin=image_uuid(1))
    with pytest.raises(ImageNotInstalledError):
        await made(host, output, incremental=True)
    host.add_image(1)
    host.datasets.add(DATASET, origin=image_uuid(1), final=False)
    with pytest.raises(OriginHasNoFinalSnapshotError, match='has no "@final" snapshot'):
        await made(host, output, incremental=True)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"source": "web"}, UsageError),
        ({"source": "zones/nosuch"}, PoolError),
        ({"source": "tank/web"}, PoolNotFoundError),
        ({"source": VM}, VmNotFoundError),
        ({"compression": "lz4"}, UsageError),
        ({"max_origin_depth": 1}, UsageError),
        ({"script": "true"}, UsageError),
        ({"script": "", "source": VM}, UsageError),
        ({"fields": ("name",)}, UsageError),
        ({"fields": ("name=a",)}, ImgstoreError),
    ],
)
async def test_what_is_refused(host, output, options, kind):
    with pytest.raises(kind):
        await made(host, output, **options)
    assert host.datasets.snapshots == {}
    assert host.left() == []


async def test_an_installed_image_is_no_source(host, output):
    uuid = host.add_image(1)
    host.datasets.add(f"zones/{uuid}")
    with pytest.raises(UsageError, match="is an installed image"):
        await made(host, output, source=f"zones/{uuid}")


async def test_a_host_without_machines(host, output):
    host.vmadm.program.unlink()
    with pytest.raises(NotSupportedError, match="this host has no machines"):
        await made(host, output, source=VM)


# -- machines ------------------------------------------------------------------------------------------------


async def test_of_a_machine(host, output):
    host.add_machine()
    _, manifest = await made(host, output, source=VM)
    assert host.datasets.sent == [(ROOT, None)]
    assert manifest["type"] == "zone-dataset"
    host.vmadm.add(VM, host.root, zfs_filesystem=ROOT, state="running")
    with pytest.raises(VmNotStoppedError, match=f'vm "{VM}" is not stopped'):
        await made(host, output, source=VM)


async def test_of_a_machine_with_disks(host, output):
    """Its first disk: the one that it boots from."""
    disks = [{"zfs_filesystem": f"{ROOT}/disk1"}, {"zfs_filesystem": f"{ROOT}/disk0", "boot": True}]
    host.add_machine(brand="bhyve", disks=disks, bootrom="uefi")
    host.datasets.add(f"{ROOT}/disk0", volume=True)
    _, manifest = await made(host, output, source=VM)
    assert host.datasets.sent == [(f"{ROOT}/disk0", None)]
    assert (manifest["type"], manifest["image_size"]) == ("zvol", 10)
    assert manifest["requirements"] == {"brand": "bhyve", "bootrom": "uefi"}
    host.add_machine(brand="kvm", disks=[])
    with pytest.raises(NotSupportedError):
        await made(host, output, source=VM)


async def test_prepared_by_a_script(host, output):
    disks = [{"zfs_filesystem": f"{ROOT}/disk0"}]
    host.add_machine(state="running", disks=disks)
    events, _ = await made(host, output, source=VM, script=PREPARE)
    assert [event["step"] for event in events if event["event"] == "making"] == [
        "vm-stopping",
        "vm-snapshotting",
        "vm-starting",
        "prepare-running",
        "prepare-succeeded",
        "prepare-stopped",
        "snapshotting",
        "vm-rolling-back",
        "vm-restarting",
    ]
    assert (host.root / "prepared").exists()
    assert host.datasets.rolled_back == [ROOT, f"{ROOT}/disk0"]
    assert host.datasets.snapshots == {}
    machine = host.vmadm.machine(VM)
    assert (machine["state"], machine["internal_metadata"]) == ("running", {})
    assert machine["customer_metadata"] == {"user-script": "true"}
    assert host.left() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("was", "script", "seconds", "kind", "words"),
    [
        ("stopped", FAILS, 30, PrepareImageError, f"script error while preparing VM {VM}: no disk for this$"),
        ("running", FAILS, 30, PrepareImageError, "no disk for this$"),
        (
            "running",
            "true",
            0.5,
            PrepareImageDidNotRunError,
            f"prepare-image script did not run on VM {VM} boot",
        ),
        ("running", "mdata-put prepare-image:state running", 4, PrepareImageError, "did not complete"),
        ("stopped", "mdata-put prepare-image:state success", 4, PrepareImageError, "VM did not shutdown"),
    ],
)
async def test_a_script_that_fails(host, output, was, script, seconds, kind, words):
    host.add_machine(state=was)
    with pytest.raises(kind, match=words):
        await made(host, output, source=VM, script=script, maker=host.maker(seconds))
    assert host.datasets.rolled_back == [ROOT]
    assert host.datasets.snapshots == {}
    assert host.vmadm.machine(VM)["state"] == was
    assert host.left() == []


async def test_a_machine_that_cannot_be_rolled_back_is_not_restarted(host, output):
    """A machine that is half prepared must not run. The next daemon makes it what it was."""
    host.add_machine(state="running")
    host.datasets.failing = {"roll_back"}
    with pytest.raises(PoolError, match="roll_back failed"):
        await made(host, output, source=VM, script=PREPARE)
    assert host.vmadm.machine(VM)["state"] == "stopped"
    assert list(host.datasets.snapshots) == [f"{ROOT}@{PRE}"]
    assert len(host.left()) == 1
    host.datasets.failing = set()
    await trio.to_thread.run_sync(host.maker().recover)
    assert host.datasets.rolled_back == [ROOT]
    assert host.vmadm.machine(VM)["state"] == "running"
    assert (host.datasets.snapshots, host.left()) == ({}, [])


async def test_a_machine_is_not_rolled_back_days_later(host):
    """Somebody may have used it since."""
    host.add_machine()
    host.datasets.snapshots = {f"{ROOT}@{PRE}": "ours", f"{ROOT}@final": "5000"}
    host.notes.mkdir()
    told = {"pool": "zones", "dataset": ROOT, "vm": VM, "running": True}
    (host.notes / "5000.json").write_text(json.dumps(told))
    await trio.to_thread.run_sync(host.maker().recover)
    assert list(host.datasets.snapshots) == [f"{ROOT}@{PRE}"]
    assert (host.datasets.rolled_back, host.left()) == ([], ["5000.json"])
    assert host.vmadm.machine(VM)["state"] == "stopped"


async def test_a_machine_that_is_to_be_prepared_in_the_future_is_not_rolled_back(host):
    """The clock was wrong then, or is now: nobody knows for how long somebody has used it."""
    host.add_machine()
    mark = str(int((time.time() + 86400 * 365) * 1000))
    host.datasets.snapshots = {f"{ROOT}@{PRE}": "ours"}
    host.notes.mkdir()
    told = {"pool": "zones", "dataset": ROOT, "vm": VM, "running": True}
    (host.notes / f"{mark}.json").write_text(json.dumps(told))
    await trio.to_thread.run_sync(host.maker().recover)
    assert (host.datasets.rolled_back, host.left()) == ([], [f"{mark}.json"])


async def test_a_machine_whose_snapshot_fails_is_started_again(host, output):
    host.add_machine(state="running")
    host.datasets.failing = {"snapshot"}
    with pytest.raises(PoolError, match="snapshot failed"):
        await made(host, output, source=VM, script=PREPARE)
    assert host.vmadm.machine(VM)["state"] == "running"
    assert host.vmadm.calls() == [f"stop {VM}", f"start {VM}"]
    assert host.left() == []


async def test_vmadm_fails(host, output):
    host.add_machine()
    host.vmadm.broken("start")
    with pytest.raises(ImgstoreError, match="vmadm start failed: vmadm: start is broken"):
        await made(host, output, source=VM, script=PREPARE)
    assert host.datasets.rolled_back == [ROOT]
    host.vmadm.broken("get")
    with pytest.raises(ImgstoreError, match="vmadm get failed"):
        await made(host, output, source=VM)


def test_what_the_platform_is(tmp_path):
    sysinfo = tmp_path / "sysinfo"
    vmadm = Vmadm("/nosuch", str(sysinfo))
    assert vmadm.platform() is None
    told = json.dumps({"SDC Version": "7.0", "Live Image": "20260101T000000Z"})
    sysinfo.write_text(f"#!/bin/sh\necho '{told}'\n")
    sysinfo.chmod(0o755)
    platform = vmadm.platform()
    assert platform is not None
    assert (platform.version, platform.timestamp) == ("7.0", "20260101T000000Z")
    sysinfo.write_text("#!/bin/sh\necho '{'\n")
    assert vmadm.platform() is None
