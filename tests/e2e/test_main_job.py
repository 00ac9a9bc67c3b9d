"""The main job, with the real daemon, the real client and a real web server."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ZVOL_SHA256


@pytest.fixture
def daemon(shared_daemon):
    return shared_daemon


def test_import_of_an_incremental_image_brings_its_origin(daemon, served):
    result = daemon.imgctl("import", INCREMENTAL)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f'Importing {INCREMENTAL} (incremental@1.0.0) from "{served.url}"',
        f"Gather image {INCREMENTAL} ancestry",
        "Must download and install 2 images (2.2 MiB)",
    ]
    assert sorted(lines[3:]) == sorted(
        [
            f"Downloaded image {BASE} (1.7 MiB)",
            f"Downloaded image {INCREMENTAL} (524.5 KiB)",
            f"Imported image {BASE} (base@1.0.0)",
            f"Imported image {INCREMENTAL} (incremental@1.0.0)",
        ]
    )
    assert lines[-1] == f"Imported image {INCREMENTAL} (incremental@1.0.0)"

    listed = daemon.imgctl("list", "-H", "-o", "uuid,name,clones")
    assert [line.split() for line in listed.stdout.splitlines()] == [
        [BASE, "base", "1"],
        [INCREMENTAL, "incremental", "0"],
    ]

    got = json.loads(daemon.imgctl("get", INCREMENTAL).stdout)
    assert got["manifest"]["origin"] == BASE
    assert got["zpool"] == "zones"
    assert got["source"] == served.url

    shown = json.loads((daemon.images / INCREMENTAL / "manifest.json").read_text())
    assert shown == got["manifest"]
    assert (daemon.images / INCREMENTAL / "origin").readlink().as_posix() == f"../{BASE}"
    assert (daemon.images / "by-name" / "base" / "1.0.0").resolve() == (daemon.images / BASE).resolve()


def test_a_second_import_says_so_and_downloads_nothing(daemon, served):
    assert daemon.imgctl("import", BASE).returncode == 0
    before = served.bytes_sent()
    again = daemon.imgctl("import", BASE)
    assert (again.returncode, again.stdout) == (
        0,
        f"Image {BASE} (base 1.0.0) is already installed, skipping\n",
    )
    assert served.bytes_sent() == before


def test_an_origin_cannot_be_deleted_before_what_is_cloned_from_it(daemon):
    daemon.imgctl("import", INCREMENTAL, check=True)
    refused = daemon.imgctl("delete", BASE)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f'imgctl delete: error (ImageHasDependentClones): image "{BASE}" has dependent clones: '
        f"zones/{INCREMENTAL}\n"
    )
    assert daemon.imgctl("delete", INCREMENTAL).stdout == f"Deleted image {INCREMENTAL}\n"
    assert daemon.imgctl("delete", BASE).stdout == f"Deleted image {BASE}\n"
    assert daemon.imgctl("list").stdout == ""
    assert not (daemon.images / BASE).exists()
    gone = daemon.imgctl("delete", BASE)
    assert gone.returncode == 3


def test_a_zvol_becomes_the_disk_that_it_was(daemon):
    daemon.imgctl("import", ZVOL, check=True)
    disk = next((daemon.folder / "state" / "pool" / ZVOL).glob("*.raw"))
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == ZVOL_SHA256
    assert disk.stat().st_blocks * 512 < disk.stat().st_size


def test_an_image_is_installed_from_files(daemon, tmp_path):
    from tests.support.image_site import DATA

    result = daemon.imgctl("install", "-m", str(DATA / "base.imgmanifest"), "-f", str(DATA / "base.zfs.gz"))
    assert result.stdout.splitlines() == [
        f"Installing image {BASE} (base@1.0.0)",
        f"Installed image {BASE} (base@1.0.0)",
    ]
    assert (daemon.images / BASE / "manifest.json").exists()
