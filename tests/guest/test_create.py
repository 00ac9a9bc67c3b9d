"""Images made on real ZFS, by the real daemon and imgctl: of datasets, volumes and machines."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from imgstored.pools.zfs import ZfsPool
from imgstored.zstream.reader import begin_of
from imgstored.zstream.records import Feature
from tests.e2e.test_on_demand import started, until
from tests.guest.host import POOL, same_content
from tests.guest.zpool import Zpool, run
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, DATA, INCREMENTAL
from tests.support.vmadm import FAILS, PREPARE, StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VM = "55555555-aaaa-4bbb-8ccc-000000000001"
_MIB = 1 << 20


class Host:
    """A pool, a daemon that looks after it, and machines."""

    def __init__(self, folder: Path, pool: Zpool, vmadm: StandIn, daemon: Daemon) -> None:
        self.folder, self.pool, self.vmadm, self.daemon = folder, pool, vmadm, daemon

    def imgctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.daemon.imgctl(*arguments, timeout=150)

    def did(self, *arguments: str) -> str:
        done = self.imgctl(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def installed(self, name: str) -> None:
        suffix = {"base": "gz", "incremental": "xz", "zvol": "bz2"}[name]
        manifest, file = DATA / f"{name}.imgmanifest", DATA / f"{name}.zfs.{suffix}"
        self.did("install", "-m", str(manifest), "-f", str(file))

    def created(self, out: Path, *arguments: str) -> dict[str, Any]:
        """Makes an image, and installs it; its manifest."""
        self.did("create", "-o", str(out), *arguments)
        manifest_file = out.with_name(out.name + ".imgmanifest")
        manifest: dict[str, Any] = json.loads(manifest_file.read_text())
        (file,) = [path for path in out.parent.iterdir() if path.name.startswith(f"{out.name}.z")]
        described = manifest["files"][0]
        assert described["size"] == file.stat().st_size
        assert described["sha1"] == hashlib.sha1(file.read_bytes()).hexdigest()
        self.did("install", "-m", str(manifest_file), "-f", str(file))
        return manifest


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    (folder / "imgadm" / "images").mkdir(parents=True)
    (folder / "run").mkdir()
    vmadm = StandIn(folder / "vmadm")
    daemon = Daemon(
        folder / "store",
        top=f'imgadm = "{folder}/imgadm"\nimgadm_locks = "{folder}/run"\nvmadm = "{vmadm.program}"\n',
        config=f'[pool]\ntype = "zfs"\nname = "{POOL}"\n',
        timeout=90,
    )
    with Zpool(POOL) as pool, daemon:
        yield Host(folder, pool, vmadm, daemon)


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    yield running
    running.vmadm.broken()
    running.pool.empty()


def filled(host: Host, name: str, mib: int = 2, seed: int = 1) -> Path:
    """A filesystem with some files in it."""
    run("zfs", "create", "-p", f"{POOL}/{name}")
    folder, chance = host.pool.mountpoint(name), random.Random(seed)
    (folder / "random").write_bytes(chance.randbytes(mib * _MIB))
    (folder / "text").write_text("text\n" * 1000)
    return folder


def snapshots(host: Host) -> list[str]:
    return [name for name in host.pool.names() if "@" in name]


def test_of_a_dataset(host: Host, tmp_path: Path) -> None:
    """Its own @final is what it was before; nothing else is left."""
    folder = filled(host, "web/data")
    run("zfs", "snapshot", f"{POOL}/web/data@final")
    (folder / "later").write_text("after @final")
    guid = host.pool.guid("web/data")
    given = (f"{POOL}/web/data", "name=web", "version=1.0", "os=smartos")
    said = host.imgctl("create", "-c", "gzip", "-o", str(tmp_path / "web"), *given)
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    end = lines[lines.index("    }") + 1 :]
    assert end[0].startswith(f'Moving existing @final snapshot out of the way to "{POOL}/web/data@final-')
    assert end[1:] == [
        f'Snapshotting to "{POOL}/web/data@final"',
        f'Sending image file to "{tmp_path}/web.zfs.gz"',
        f'Saving manifest to "{tmp_path}/web.imgmanifest"',
    ]
    assert snapshots(host) == ["web/data@final"]
    assert host.pool.guid("web/data") == guid
    manifest = json.loads((tmp_path / "web.imgmanifest").read_text())
    assert (manifest["type"], manifest["version"]) == ("zone-dataset", "1.0")
    host.did("install", "-m", f"{tmp_path}/web.imgmanifest", "-f", f"{tmp_path}/web.zfs.gz")
    same_content(host.pool, f"{manifest['uuid']}@final", folder)
    # What others receive by hand has the name that vmadm looks for.
    stream = gzip.decompress((tmp_path / "web.zfs.gz").read_bytes())
    subprocess.run(["zfs", "receive", f"{POOL}/byhand"], input=stream, check=True)
    assert "byhand@final" in host.pool.names()


def test_of_a_volume(host: Host, tmp_path: Path) -> None:
    run("zfs", "create", "-V", "16M", f"{POOL}/vol")
    content = random.Random(3).randbytes(3 * _MIB)
    with host.pool.device("vol").open("r+b") as device:
        device.seek(5 * _MIB)
        device.write(content)
    digest = hashlib.sha256(host.pool.device("vol").read_bytes()).hexdigest()
    given = (f"{POOL}/vol", "name=vol", "version=2", "os=linux")
    manifest = host.created(tmp_path / "vol", "-c", "zstd", *given)
    assert (manifest["type"], manifest["image_size"], manifest["version"]) == ("zvol", 16, "2")
    assert hashlib.sha256(host.pool.device(manifest["uuid"]).read_bytes()).hexdigest() == digest
    host.did("export", "--format", "raw", "-o", str(tmp_path / "disk"), manifest["uuid"])
    assert hashlib.sha256((tmp_path / "disk.raw").read_bytes()).hexdigest() == digest
    assert snapshots(host) == [f"{manifest['uuid']}@final"]


def test_incremental(host: Host, tmp_path: Path) -> None:
    """Of clones of images that are incremental themselves, as deep as is allowed; fields are inherited."""
    host.installed("base")
    host.installed("incremental")
    run("zfs", "clone", f"{POOL}/{INCREMENTAL}@final", f"{POOL}/work")
    folder = host.pool.mountpoint("work")
    (folder / "mine").write_text("mine")
    given = (f"{POOL}/work", "name=mine", "version=1.0.0")
    manifest = host.created(tmp_path / "mine", "-i", "--max-origin-depth", "2", *given)
    assert (manifest["origin"], manifest["os"], manifest["type"]) == (INCREMENTAL, "smartos", "zone-dataset")
    assert host.pool.get(manifest["uuid"], "origin") == [f"{POOL}/{INCREMENTAL}@final"]
    same_content(host.pool, f"{manifest['uuid']}@final", folder)
    assert (tmp_path / "mine.zfs").stat().st_size < (DATA / "base.zfs.gz").stat().st_size

    run("zfs", "clone", f"{POOL}/{manifest['uuid']}@final", f"{POOL}/deep")
    given = (f"{POOL}/deep", "name=deep", "version=1.0.0")
    refused = host.imgctl("create", "-i", "--max-origin-depth", "2", "-o", str(tmp_path / "deep"), *given)
    assert refused.returncode == 1
    assert 'error (MaxOriginDepth): cannot create image: maximum origin depth "2"' in refused.stderr
    filled(host, "plain")
    refused = host.imgctl("create", "-i", "-o", str(tmp_path / "deep"), f"{POOL}/plain", *given[1:])
    assert "error (VmHasNoOrigin): cannot create an incremental image" in refused.stderr
    assert not list(tmp_path.glob("*deep*"))
    assert not list(tmp_path.glob(".*"))
    # Exported as it is: what differs from its origin, and the whole of the origin.
    for uuid in (BASE, manifest["uuid"]):
        host.did("export", "-c", "gzip", "-o", str(tmp_path / uuid), uuid)
    host.pool.destroy("deep")
    host.pool.destroy("work")
    guids = {uuid: host.pool.guid(uuid) for uuid in (BASE, manifest["uuid"])}
    host.did("delete", manifest["uuid"])
    host.did("install", "-m", f"{tmp_path}/{manifest['uuid']}.imgmanifest",
             "-f", f"{tmp_path}/{manifest['uuid']}.zfs.gz")  # fmt: skip
    assert host.pool.guid(manifest["uuid"]) == guids[manifest["uuid"]]


@pytest.mark.parametrize("origin_with", [True, False])
def test_with_large_blocks(host: Host, tmp_path: Path, origin_with: bool) -> None:
    """What is made and exported can be installed, and images that are based on it too (openzfs/zfs#6224)."""
    folder = filled(host, "big")
    if origin_with:
        run("zfs", "set", "recordsize=1m", f"{POOL}/big")
        (folder / "large").write_bytes(random.Random(2).randbytes(3 * _MIB))
    given = ("name=big", "version=1.0.0", "os=smartos")
    base = host.created(tmp_path / "big", f"{POOL}/big", *given)
    assert has_large_blocks(tmp_path / "big.zfs") == origin_with
    same_content(host.pool, f"{base['uuid']}@final", folder)

    run("zfs", "clone", "-o", "recordsize=1m", f"{POOL}/{base['uuid']}@final", f"{POOL}/work")
    work = host.pool.mountpoint("work")
    with (work / "random").open("r+b") as file:
        file.seek(_MIB)
        file.write(random.Random(3).randbytes(200_000))
    if origin_with:
        with (work / "large").open("r+b") as file:
            file.seek(1_300_000)
            file.write(random.Random(3).randbytes(200_000))
    (work / "new").write_bytes(random.Random(4).randbytes(3 * _MIB))
    child = host.created(tmp_path / "child", "-i", f"{POOL}/work", "name=child", "version=1.0.0")
    assert has_large_blocks(tmp_path / "child.zfs")
    same_content(host.pool, f"{child['uuid']}@final", work)

    guids = [host.pool.guid(uuid) for uuid in (base["uuid"], child["uuid"])]
    for uuid in (base["uuid"], child["uuid"]):
        host.did("export", "-o", str(tmp_path / uuid), uuid)
    assert has_large_blocks(tmp_path / f"{base['uuid']}.zfs") == origin_with
    host.did("verify", "--record", child["uuid"])
    host.pool.destroy("work")
    for uuid in (child["uuid"], base["uuid"]):
        host.did("delete", uuid)
    for uuid in (base["uuid"], child["uuid"]):
        host.did("install", "-m", f"{tmp_path}/{uuid}.imgmanifest", "-f", f"{tmp_path}/{uuid}.zfs")
    assert [host.pool.guid(uuid) for uuid in (base["uuid"], child["uuid"])] == guids
    same_content(host.pool, f"{base['uuid']}@final", folder)


def has_large_blocks(file: Path) -> bool:
    begin, _ = begin_of(iter([file.read_bytes()]))
    return Feature.LARGE_BLOCKS in begin.features


def test_what_is_refused(host: Host, tmp_path: Path) -> None:
    host.installed("base")
    filled(host, "plain")
    given = ("name=a", "version=1", "os=smartos", "-o", str(tmp_path))
    for source, words in (
        (f"{POOL}/{BASE}", "is an installed image"),
        (f"{POOL}/nosuch", f'there is no dataset "{POOL}/nosuch"'),
        ("elsewhere/data", 'no such pool: "elsewhere"'),
        (f"{POOL}/plain@snap", "is not the name of a dataset"),
        (f"{POOL}/../plain", f'there is no dataset "{POOL}/../plain"'),
        ("66666666-aaaa-4bbb-8ccc-000000000001", 'error (VmNotFound): vm "66666666-'),
        ("plain", "neither the uuid of a vm nor the name of a dataset"),
    ):
        refused = host.imgctl("create", source, *given)
        assert refused.returncode == 1, source
        assert words in refused.stderr, source
    wrong = host.imgctl("create", f"{POOL}/plain", *given, "type=zvol")
    assert "error (ManifestValidation): invalid manifest: type (" in wrong.stderr
    assert snapshots(host) == [f"{BASE}@final"]
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(host: Host, tmp_path: Path) -> None:
    """No room for the file; a client that leaves; a daemon that is killed."""
    filled(host, "large", mib=40)
    run("zfs", "snapshot", f"{POOL}/large@final")
    guid = host.pool.guid("large")
    small = tmp_path / "small"
    small.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small))
    given = (f"{POOL}/large", "name=large", "version=1", "os=smartos")
    try:
        failed = host.imgctl("create", "-o", str(small), *given)
        assert "error (NoSpace): there is no room left for" in failed.stderr
        assert list(small.iterdir()) == []
    finally:
        run("umount", str(small))
    assert snapshots(host) == ["large@final"]

    def half_made() -> subprocess.Popen[str]:
        client = started(host.daemon, "create", "-c", "xz", "-o", str(tmp_path / "large"), *given)
        until(lambda: len(snapshots(host)) == 2, seconds=60)
        return client

    with half_made() as client:
        client.kill()
    until(lambda: snapshots(host) == ["large@final"], seconds=60)
    assert host.pool.guid("large") == guid

    with half_made() as client:
        host.daemon.kill()
        client.communicate(timeout=60)
    assert len(snapshots(host)) == 2
    host.daemon.start()
    until(lambda: snapshots(host) == ["large@final"], seconds=60)
    assert host.pool.guid("large") == guid
    assert list((host.daemon.folder / "state" / "creating").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["small"]


def test_datasets_beside_images(host: Host) -> None:
    """What is frozen is no image meanwhile; what others made is left alone; rolled back is all back."""
    root = filled(host, VM)
    pool = ZfsPool(POOL)
    datasets = pool.datasets()
    assert datasets.freeze(f"{POOL}/{VM}", "5") is None
    assert (pool.image(VM), pool.images()) == (None, [])
    datasets.thaw(f"{POOL}/{VM}", "4")
    assert snapshots(host) == [f"{VM}@final"]
    datasets.thaw(f"{POOL}/{VM}", "5")
    datasets.thaw(f"{POOL}/{VM}", "5")
    assert snapshots(host) == []

    run("zfs", "snapshot", f"{POOL}/{VM}@final")
    assert [image.uuid for image in pool.images()] == [VM]
    datasets.thaw(f"{POOL}/{VM}", "5")
    assert snapshots(host) == [f"{VM}@final"]
    run("zfs", "destroy", f"{POOL}/{VM}@final")

    before = sorted(path.name for path in root.iterdir())
    names = [f"{POOL}/{VM}", f"{POOL}/{VM}/data"]
    run("zfs", "create", names[1])
    datasets.snapshot(names, "before")
    (root / "later").write_text("later")
    (root / "data" / "later").write_text("later")
    run("zfs", "snapshot", f"{POOL}/{VM}@in-between")
    assert datasets.has(names[0], "before")
    datasets.roll_back([*names, f"{POOL}/nosuch"], "before")
    assert snapshots(host) == []
    assert sorted(path.name for path in root.iterdir()) == ["data", *before]
    assert list((root / "data").iterdir()) == []
    assert not datasets.has(names[0], "before")


@pytest.fixture
def vm(host: Host) -> Path:
    """A machine that was cloned from an image; the folder that is its root."""
    host.installed("base")
    run("zfs", "clone", f"{POOL}/{BASE}@final", f"{POOL}/{VM}")
    run("zfs", "create", f"{POOL}/{VM}/data")
    root = host.pool.mountpoint(VM)
    host.vmadm.add(VM, root, zfs_filesystem=f"{POOL}/{VM}", zpool=POOL)
    with suppress(FileNotFoundError):
        (host.vmadm.folder / "calls").unlink()
    return root


def test_of_a_machine_that_is_stopped(host: Host, vm: Path, tmp_path: Path) -> None:
    (vm / "mine").write_text("mine")
    given = (VM, "name=vm", "version=1.0.0")
    said = host.did("create", "-i", "-o", str(tmp_path / "vm"), *given)
    assert said.startswith(f"Inheriting from origin image {BASE} (base 1.0.0)\nManifest:\n")
    manifest = json.loads((tmp_path / "vm.imgmanifest").read_text())
    assert manifest["origin"] == BASE
    assert host.vmadm.calls() == []
    assert snapshots(host) == [f"{BASE}@final"]
    listed = json.loads(host.did("list", "-j"))
    assert [image["manifest"]["uuid"] for image in listed] == [BASE]
    host.vmadm.add(VM, vm, zfs_filesystem=f"{POOL}/{VM}", zpool=POOL, state="running")
    refused = host.imgctl("create", "-o", str(tmp_path / "other"), *given)
    assert f'error (VmNotStopped): vm "{VM}" is not stopped' in refused.stderr


def test_prepared_by_a_script(host: Host, vm: Path, tmp_path: Path) -> None:
    """The image has what the script made; the machine has it not, and runs again."""
    host.vmadm.add(VM, vm, zfs_filesystem=f"{POOL}/{VM}", zpool=POOL, state="running")
    before = sorted(path.name for path in vm.iterdir())
    script = tmp_path / "prepare"
    script.write_text(PREPARE)
    given = (VM, "name=vm", "version=1.0.0")
    said = host.did("create", "-s", str(script), "-o", str(tmp_path / "vm"), *given).splitlines()
    assert said[said.index("    }") + 1 :] == [
        f"Stopping VM {VM} to snapshot it",
        f'Snapshotting VM "{VM}" to @imgadm-create-pre-prepare',
        f"Preparing VM {VM} (starting it)",
        "Prepare script is running",
        "Prepare script succeeded",
        f"Prepare script stopped VM {VM}",
        f'Snapshotting to "{POOL}/{VM}@final"',
        f'Sending image file to "{tmp_path}/vm.zfs"',
        f"Rollback VM {VM} to pre-prepare snapshot (cleanup)",
        f"Restarting VM {VM} (cleanup)",
        f'Saving manifest to "{tmp_path}/vm.imgmanifest"',
    ]
    assert sorted(path.name for path in vm.iterdir()) == before
    machine = host.vmadm.machine(VM)
    assert machine["state"] == "running"
    assert machine["customer_metadata"] == {"user-script": "true"}
    assert snapshots(host) == [f"{BASE}@final"]
    host.did("install", "-m", f"{tmp_path}/vm.imgmanifest", "-f", f"{tmp_path}/vm.zfs")
    uuid = json.loads((tmp_path / "vm.imgmanifest").read_text())["uuid"]
    run("zfs", "clone", f"{POOL}/{uuid}@final", f"{POOL}/look")
    assert (host.pool.mountpoint("look") / "prepared").read_text() == "prepared\n"


def test_a_script_that_fails(host: Host, vm: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in vm.iterdir())
    script = tmp_path / "prepare"
    script.write_text(FAILS)
    failed = host.imgctl(
        "create", "-s", str(script), "-o", str(tmp_path / "vm"), VM, "name=vm", "version=1.0.0"
    )
    assert failed.returncode == 1
    assert (
        f"error (PrepareImageError): prepare-image script error while preparing VM {VM}: no disk for this\n"
        in failed.stderr
    )
    assert sorted(path.name for path in vm.iterdir()) == before
    assert host.vmadm.machine(VM)["state"] == "stopped"
    assert snapshots(host) == [f"{BASE}@final"]
    assert [path.name for path in tmp_path.iterdir()] == ["prepare"]
