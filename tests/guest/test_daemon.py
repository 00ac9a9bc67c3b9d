"""The real daemon and the real imgctl on real ZFS, with an image server, imgadm's files, and a FUSE mount."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_bad_input import OTHER, broken, corrupted
from tests.e2e.test_holds import HOLDER
from tests.e2e.test_on_demand import jobs, started, until
from tests.guest.host import (
    LARGE,
    POOL,
    SECOND,
    Host,
    LargeImage,
    installed_by_imgadm,
    large_image,
    same_content,
    zfs_host,
)
from tests.guest.zpool import Zpool, run
from tests.pools.contract import GUIDS
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ZVOL_SHA256, fixture_manifest
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

CORRUPT = "22222222-aaaa-4bbb-8ccc-000000000002"
_MIB = 1 << 20

#: Holds imgadm's lock of an image until it is told to let go.
LOCKER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("host")
    with zfs_host(folder, view="fuse") as host:
        host.daemon.start()
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    yield running
    running.clear()


@pytest.fixture(scope="module")
def large(running: Host) -> Iterator[LargeImage]:
    with large_image() as image:
        running.served.pages.add(image.manifest, image.file)
        yield image


def imgctl(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return host.daemon.imgctl(*arguments, timeout=150)


def did(host: Host, *arguments: str) -> str:
    done = imgctl(host, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def everything_shown(host: Host) -> set[str]:
    return {path.name for path in host.daemon.images.iterdir() if len(path.name) == 36}


def nothing_is_there(host: Host) -> bool:
    return host.pool.names() == [] and not list((host.imgadm / "images").iterdir())


# -- what is imported ----------------------------------------------------------------------------------------


def test_images_are_imported_and_shown(host: Host) -> None:
    said = did(host, "import", INCREMENTAL)
    assert f"Imported image {BASE} (base@1.0.0)\nImported image {INCREMENTAL} (incremental@1.0.0)\n" in said
    did(host, "import", ZVOL)
    images = {"base": BASE, "incremental": INCREMENTAL, "zvol": ZVOL}
    assert host.pool.names() == sorted(name for uuid in images.values() for name in (uuid, f"{uuid}@final"))
    for name, uuid in images.items():
        assert host.pool.guid(uuid) == GUIDS[name]  # type: ignore[index]
    assert host.pool.get(INCREMENTAL, "origin") == [f"{POOL}/{BASE}@final"]
    assert host.pool.get(BASE, "readonly,canmount,mounted") == ["on", "noauto", "no"]

    listed = json.loads(did(host, "list", "-j"))
    assert {(each["manifest"]["uuid"], each["zpool"]) for each in listed} == {
        (uuid, POOL) for uuid in images.values()
    }
    assert json.loads(did(host, "get", ZVOL))["manifest"]["name"] == "zvol"
    children = json.loads(did(host, "get", "-r", BASE))["children"]
    assert children == {"snapshots": [f"{POOL}/{BASE}@final"], "clones": [f"{POOL}/{INCREMENTAL}"]}

    assert f"{host.daemon.images} fuse" in Path("/proc/mounts").read_text()
    assert everything_shown(host) == set(images.values())
    shown = json.loads((host.daemon.images / INCREMENTAL / "manifest.json").read_text())
    assert shown == fixture_manifest(INCREMENTAL)
    assert (host.daemon.images / INCREMENTAL / "origin").readlink() == Path(f"../{BASE}")

    refused = imgctl(host, "delete", BASE)
    assert refused.returncode == 1
    assert f'image "{BASE}" has dependent clones: {POOL}/{INCREMENTAL}\n' in refused.stderr
    for uuid in (INCREMENTAL, ZVOL, BASE):
        assert did(host, "delete", uuid) == f"Deleted image {uuid}\n"
    assert nothing_is_there(host)
    assert everything_shown(host) == set()


def test_cloned_as_vmadm_does(host: Host) -> None:
    host.ensure(INCREMENTAL, ZVOL)
    with Zpool("original", "256M") as original:
        for name, options in (("base", ()), ("incremental", ("-o", "origin=original/base@s"))):
            target = f"original/{name}@s"
            subprocess.run(["zfs", "receive", *options, target], input=real_stream(name), check=True)  # type: ignore[arg-type]
        for uuid, name in ((BASE, "base"), (INCREMENTAL, "incremental")):
            clone = f"vm-{name}"
            run("zfs", "clone", f"{POOL}/{uuid}@final", f"{POOL}/{clone}")
            assert host.pool.get(clone, "readonly,mounted") == ["off", "yes"]
            same_content(original, f"{name}@s", host.pool.mountpoint(clone))
            (host.pool.mountpoint(clone) / "new").write_text("written")
    run("zfs", "clone", f"{POOL}/{ZVOL}@final", f"{POOL}/vm-disk0")
    assert hashlib.sha256(host.pool.device("vm-disk0").read_bytes()).hexdigest() == ZVOL_SHA256

    # imgadm tells of all clones, machines among them.
    children = json.loads(did(host, "get", "-r", BASE))["children"]
    assert sorted(children["clones"]) == [f"{POOL}/{INCREMENTAL}", f"{POOL}/vm-base"]
    for uuid, clone in ((INCREMENTAL, "vm-incremental"), (ZVOL, "vm-disk0")):
        refused = imgctl(host, "delete", uuid)
        assert refused.returncode == 1
        assert (
            f'imgctl delete: error (ImageHasDependentClones): image "{uuid}" has dependent clones: '
            f"{POOL}/{clone}\n" in refused.stderr
        )
        host.pool.destroy(clone)
        did(host, "delete", uuid)
    host.pool.destroy("vm-base")
    did(host, "delete", BASE)
    assert nothing_is_there(host)


def test_a_second_pool_with_a_digit_in_its_name(host: Host) -> None:
    did(host, "import", "-P", SECOND, INCREMENTAL)
    assert host.second.get(INCREMENTAL, "origin") == [f"{SECOND}/{BASE}@final"]
    assert host.pool.names() == []
    assert imgctl(host, "get", BASE).returncode == 3
    assert json.loads(did(host, "get", "-P", SECOND, BASE))["zpool"] == SECOND
    host.ensure(BASE)
    assert host.listed() == {f"{SECOND}/{BASE}", f"{SECOND}/{INCREMENTAL}", f"{POOL}/{BASE}"}
    did(host, "delete", "-P", SECOND, INCREMENTAL)
    did(host, "delete", "-P", SECOND, BASE)
    assert (host.listed(), host.second.names()) == ({f"{POOL}/{BASE}"}, [])

    unknown = imgctl(host, "import", "-P", "nopool", BASE)
    assert unknown.returncode == 1
    assert 'no such pool: "nopool"' in unknown.stderr
    assert POOL in unknown.stderr
    assert SECOND in unknown.stderr


def test_what_fails_or_is_cancelled_leaves_no_partial(host: Host, large: LargeImage) -> None:
    host.served.pages.add(*broken("sha1", "1" * 40))
    manifest, file = corrupted()
    host.served.pages.add(manifest | {"uuid": CORRUPT}, file)
    for uuid, code in ((OTHER, "DownloadError"), (CORRUPT, "InternalError")):
        refused = imgctl(host, "import", uuid)
        assert refused.returncode == 1
        assert f"error ({code})" in refused.stderr
        assert nothing_is_there(host)
        assert host.spooled() == []

    def half_received() -> subprocess.Popen[str]:
        host.gate.hold(after=len(large.file) // 2)
        client = started(host.daemon, "import", LARGE)
        until(lambda: any(job["received"] > 4 * _MIB for job in jobs(host.daemon)), seconds=120)
        assert f"{LARGE}-partial" in host.pool.names()
        return client

    client = half_received()
    did(host, "cancel", LARGE)
    _, errors = client.communicate(timeout=60)
    assert "error (Cancelled)" in errors
    assert nothing_is_there(host)

    client = half_received()
    host.served.nginx.stop()
    _, errors = client.communicate(timeout=120)
    assert client.returncode == 1, errors
    assert nothing_is_there(host)
    host.served.nginx.start()
    host.gate.open()

    # What was downloaded serves the next try, which receives from the beginning.
    host.ensure(LARGE)
    assert host.pool.guid(LARGE) == large.guid
    same_content(host.pool, f"{LARGE}@final", large.content)
    assert host.log("resuming")[-1]["present"] > 4 * _MIB


# -- what keeps an image -------------------------------------------------------------------------------------


def test_nobody_destroys_what_is_held(host: Host) -> None:
    host.ensure(BASE, ZVOL)
    did(host, "hold", BASE, "web 1")
    host.daemon.kill()
    host.daemon.start()
    assert did(host, "holds", BASE) == "web 1\n"
    # `imgadm delete` does just this.
    assert run("zfs", "destroy", "-r", f"{POOL}/{BASE}", check=False).returncode != 0
    assert host.pool.guid(BASE) == GUIDS["base"]
    refused = imgctl(host, "delete", BASE)
    assert f'error (ImageHeld): image "{BASE}" is held: web 1' in refused.stderr
    did(host, "release", BASE, "web 1")
    did(host, "delete", BASE)

    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(host.daemon.socket), ZVOL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert run("zfs", "destroy", "-r", f"{POOL}/{ZVOL}", check=False).returncode != 0
        # What a killed daemon's clients held is released by the next one.
        host.daemon.kill()
        assert host.pool.get(f"{ZVOL}@final", "userrefs") == ["1"]
        host.daemon.start()
        assert host.pool.get(f"{ZVOL}@final", "userrefs") == ["0"]
        holder.kill()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(host.daemon.socket), ZVOL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    until(lambda: host.pool.get(f"{ZVOL}@final", "userrefs") == ["0"], seconds=30)
    did(host, "delete", ZVOL)


# -- beside imgadm -------------------------------------------------------------------------------------------


def test_what_imgadm_installs_and_deletes_is_seen(host: Host) -> None:
    installed_by_imgadm(host, fixture_manifest(BASE), real_stream("base"))
    assert host.listed() == {f"{POOL}/{BASE}"}
    # The view follows without anybody asking.
    until(lambda: everything_shown(host) == {BASE}, seconds=60)
    assert json.loads((host.daemon.images / BASE / "manifest.json").read_text()) == fixture_manifest(BASE)
    # Ours builds on imgadm's.
    host.ensure(INCREMENTAL)
    did(host, "delete", INCREMENTAL)

    run("zfs", "set", "imgadm:ignore=yes", f"{POOL}/{BASE}")
    assert host.listed() == set()
    run("zfs", "inherit", "imgadm:ignore", f"{POOL}/{BASE}")
    assert host.listed() == {f"{POOL}/{BASE}"}

    host.manifest_file(BASE).write_text('{"manifest": ')
    assert did(host, "list").splitlines()[1].startswith(f"{BASE}  -")
    assert any(
        str(host.manifest_file(BASE)) in json.dumps(line)
        for line in host.log("cannot read an image's manifest")
    )
    assert host.manifest_file(BASE).read_text() == '{"manifest": '

    run("zfs", "destroy", "-r", f"{POOL}/{BASE}")
    host.manifest_file(BASE).unlink()
    until(lambda: everything_shown(host) == set(), seconds=60)
    assert host.listed() == set()
    host.ensure(BASE)
    assert host.pool.guid(BASE) == GUIDS["base"]


def test_an_import_waits_for_imgadms_lock(host: Host) -> None:
    lock = host.locks / f"img.{BASE}.import.lock"
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as locker:
        assert locker.stdout is not None
        assert locker.stdin is not None
        assert locker.stdout.readline() == "locked\n"
        client = started(host.daemon, "import", BASE)
        assert client.stdout is not None
        said = []
        with contextlib.suppress(StopIteration):
            while "Waiting for image" not in (line := next(client.stdout)):
                said.append(line)
            said.append(line)
        assert said[-1:] == [f"Waiting for image {BASE} import lock\n"], said
        assert host.pool.names() == []
        installed_by_imgadm(host, fixture_manifest(BASE), real_stream("base"))
        locker.stdin.close()
        output, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    assert f"Image {BASE} (base@1.0.0) was imported while waiting on lock\n" in output
    assert host.pool.names() == [BASE, f"{BASE}@final"]
    assert host.spooled() == []


def test_imgadms_configuration_keeps_what_it_has(host: Host) -> None:
    conf = host.imgadm / "imgadm.conf"
    before = json.loads(conf.read_text())
    did(host, "sources", "-f", "-a", "http://127.0.0.1:9")
    after = json.loads(conf.read_text())
    assert after.pop("sources") == [*before["sources"], {"type": "imgapi", "url": "http://127.0.0.1:9"}]
    assert after == {key: value for key, value in before.items() if key != "sources"}
    did(host, "sources", "-d", "http://127.0.0.1:9")
    assert json.loads(conf.read_text()) == before
