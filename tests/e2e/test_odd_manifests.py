"""What imgadm takes is taken, and what is installed can be used and restored, whatever its manifest says.

docs/manifests.md has the table for people; its rows name the cases of tests/support/odd_manifests.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from imgctl.cli import main

from tests.support.daemon import Daemon
from tests.support.image_site import BASE, fixture_file, fixture_manifest
from tests.support.odd_manifests import ON_DISK, SERVED, Odd
from tests.support.streams import filesystem_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FILE = filesystem_stream(size=64 << 10, seed=1)


def numbered(number: int) -> str:
    return f"22222222-aaaa-4bbb-8ccc-{number:012x}"


def good(uuid: str) -> dict[str, Any]:
    return {
        "v": 2,
        "uuid": uuid,
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": "good",
        "version": "1.0.0",
        "state": "active",
        "disabled": False,
        "public": True,
        "published_at": "2026-11-24T00:00:09.000Z",
        "type": "zone-dataset",
        "os": "smartos",
        "files": [{"sha1": hashlib.sha1(FILE).hexdigest(), "size": len(FILE), "compression": "none"}],
    }


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Daemon]:
    """Another host."""
    with Daemon(tmp_path / "elsewhere") as running:
        yield running


@pytest.fixture
def imgctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process: there are many of them. Returns what it prints."""

    def run(daemon: Daemon, *arguments: str) -> str:
        monkeypatch.setenv("IMGSTORED_SOCKET", str(daemon.socket))
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["imgctl", *arguments])
        status = main()
        printed = capsys.readouterr()
        assert status == 0, (arguments, printed.err)
        assert not [line for line in printed.out.split("\n") if not line.isprintable()]
        return printed.out

    return run


def use(daemon: Daemon, elsewhere: Daemon, imgctl: Any, folder: Path, shown: Mapping[str, Odd]) -> None:
    """Does with every installed image what can be done; `shown` are the odd ones by uuid."""
    documents = json.loads(imgctl(daemon, "list", "-j"))
    manifests = {image["manifest"]["uuid"]: image["manifest"] for image in documents}
    assert manifests.keys() >= shown.keys()
    columns = "uuid,name,version,os,type,pub,published,size,origin,requirements,tags,clones,source"
    for by in ("published_at,name", "name,-version", "os,type,size", "origin,requirements"):
        assert len(imgctl(daemon, "list", "-H", "-o", columns, "-s", by).splitlines()) == len(manifests)
    imgctl(daemon, "list", "--docker")
    for command in (("tree",), ("tree", "-j"), ("du",), ("du", "-j"), ("history",), ("vacuum", "-n", "-f")):
        imgctl(daemon, *command)
    for place, (uuid, odd) in enumerate(shown.items()):
        assert json.loads(imgctl(daemon, "get", uuid))["manifest"] == manifests[uuid]
        assert json.loads((daemon.images / uuid / "manifest.json").read_text()) == manifests[uuid]
        used = _usage(daemon)[uuid]
        assert (used["name"] or "-", used["version"] or "-") == (
            "good" if odd.name is None else odd.name or "-",
            "1.0.0" if odd.version is None else odd.version or "-",
        )
        target = folder / str(place)
        target.mkdir(parents=True)
        imgctl(daemon, "export", "-o", str(target), uuid)
        (exported,) = target.glob("*.imgmanifest")
        (file,) = (path for path in target.iterdir() if path != exported)
        imgctl(elsewhere, "install", "-m", str(exported), "-f", str(file))
        restored = json.loads(imgctl(elsewhere, "get", uuid))["manifest"]
        assert restored["uuid"] == uuid
        kept = {key: value for key, value in manifests[uuid].items() if key not in _DECIDING}
        assert {key: restored[key] for key in kept} == kept
    links = {link.resolve().name for link in (daemon.images / "by-name").glob("*/*")}
    assert links <= manifests.keys()
    for host in (daemon, elsewhere):
        assert "damaged" not in imgctl(host, "verify")
        for uuid in shown:
            imgctl(host, "delete", uuid)
        assert not shown.keys() & _usage(host).keys()


#: What an export makes true, or brings up to date.
_DECIDING = ("v", "uuid", "origin", "files", "creator_uuid", "disabled", "state", "published_at")


def _usage(daemon: Daemon) -> dict[str, dict[str, Any]]:
    with daemon.client() as client:
        (pool,) = client.usage()
    return {image["uuid"]: image for image in pool["images"]}


@pytest.mark.slow
def test_what_servers_give_is_taken_used_and_restored(daemon, served, elsewhere, imgctl, tmp_path):
    odd = {numbered(number): each for number, each in enumerate(SERVED.values())}
    for uuid, each in odd.items():
        served.pages.add(each.of(good(uuid)), FILE)
        if (folder := served.pages.folder / uuid.upper()).exists():
            folder.rename(served.pages.folder / uuid)
    imgctl(daemon, "avail", "-o", "uuid,name,version,os,type,pub,size", "-s", "os,name,type")
    for uuid, each in odd.items():
        assert json.loads(imgctl(daemon, "show", uuid)) == {**each.of(good(uuid)), "uuid": uuid}
        imgctl(daemon, "import", "--dry-run", uuid)
        printed = imgctl(daemon, "import", uuid).splitlines()
        name = "good" if each.name is None else each.name
        version = "1.0.0" if each.version is None else each.version
        assert printed[0].startswith(f"Importing {uuid} ({name}@{version}) from "), printed
        assert printed[-1].startswith(f"Imported image {uuid} (")
    log = daemon.log.read_text()
    valid = [SERVED[name] for name in ("name-path", "name-dots", "name-long", "v-newer", "file-more")]
    for uuid, each in odd.items():
        served_as = each.of(good(uuid))
        on_disk = json.loads((daemon.folder / f"state/imgadm/images/zones-{uuid}.json").read_text())
        assert on_disk["manifest"] == {**served_as, "uuid": uuid}
        warned = [line for line in log.splitlines() if uuid in line and "a manifest is odd" in line]
        assert len(warned) == (each not in valid), (uuid, warned)
    assert imgctl(daemon, "update", "-n") == ""
    use(daemon, elsewhere, imgctl, tmp_path / "exported", odd)


@pytest.mark.slow
def test_what_imgadm_left_on_disk_is_used_and_restored(served, daemon, elsewhere, imgctl, tmp_path):
    odd = {numbered(number): each for number, each in enumerate(ON_DISK.values())}
    for uuid in odd:
        served.pages.add(good(uuid), FILE)
    imgctl(daemon, "ensure", *odd)
    daemon.stop()
    for uuid, each in odd.items():
        path = daemon.folder / f"state/imgadm/images/zones-{uuid}.json"
        path.write_text(
            json.dumps({"manifest": each.of(good(uuid)), "zpool": "zones", "source": 5}, indent=2)
        )
    daemon.start()
    assert imgctl(daemon, "update", "-n").count("Updated ") > 40
    use(daemon, elsewhere, imgctl, tmp_path / "exported", odd)


def test_an_incremental_image_is_restored_whatever_its_manifest_says_of_its_origin(
    daemon, served, elsewhere, imgctl, tmp_path
):
    """The stream is based on what the pool says."""
    from tests.support.image_site import INCREMENTAL

    imgctl(daemon, "import", INCREMENTAL)
    daemon.stop()
    path = daemon.folder / f"state/imgadm/images/zones-{INCREMENTAL}.json"
    path.write_text(json.dumps({"manifest": {**fixture_manifest(INCREMENTAL), "origin": 5, "version": 1}}))
    daemon.start()
    for uuid in (BASE, INCREMENTAL):
        target = tmp_path / uuid
        target.mkdir()
        imgctl(daemon, "export", "-c", "gzip", "-o", str(target), uuid)
        (exported,) = target.glob("*.imgmanifest")
        imgctl(elsewhere, "install", "-m", str(exported), "-f", str(exported.with_suffix(".zfs.gz")))
    assert json.loads(imgctl(elsewhere, "get", INCREMENTAL))["manifest"]["origin"] == BASE


def test_a_manifest_without_a_checksum_is_not_proof_against_a_file_that_is_damaged(daemon, served):
    """The size is compared all the same, and every record of a stream has a checksum of its own."""
    uuid = numbered(0)
    damaged = bytearray(FILE)
    damaged[len(damaged) // 2] ^= 1
    manifest = SERVED["sha1-absent"].of(good(uuid))
    served.pages.add(manifest, bytes(damaged))
    result = daemon.imgctl("import", uuid)
    assert result.returncode == 1
    assert "checksum" in result.stderr
    assert daemon.imgctl("list").stdout == ""


def test_an_install_says_what_is_odd(shared_daemon, tmp_path):
    """To people at a terminal, or with -v; scripts see what imgadm prints."""
    manifest = fixture_manifest(BASE) | {"version": 1, "x-vendor": {}}
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(manifest))
    arguments = ("install", "-m", str(path), "-f", os.fspath(fixture_file(BASE)))
    result = shared_daemon.imgctl("-v", *arguments)
    assert result.returncode == 0
    assert (
        "note: the manifest is odd, and is kept as it is: version (not a string), x-vendor" in result.stderr
    )
    shared_daemon.imgctl("delete", BASE, check=True)
    quiet = shared_daemon.imgctl(*arguments)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert json.loads(shared_daemon.imgctl("get", BASE).stdout)["manifest"] == manifest
