"""What people met who used imgctl for the first time: each answer is true, and says what to do."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import static_source
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def daemon(served, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "store", config=static_source(served.url), view="off") as running:
        yield running


def shell(daemon: Daemon, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'imgctl() {{ "{sys.executable}" -m imgctl "$@"; }}; {command}'],
        env={"IMGSTORED_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_form_that_there_is_not_is_no_field_of_dashes(daemon):
    daemon.imgctl("import", BASE, check=True)
    refused = daemon.imgctl("list", "-o", "xml")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert 'error (Usage): there is no field "xml", nor is it a form' in refused.stderr
    assert "a form is one of json, yaml, csv, wide" in refused.stderr
    assert 'did you mean "json"' in daemon.imgctl("list", "-o", "jsno").stderr
    # Where others are there, it is a warning.
    some = daemon.imgctl("list", "-o", "name,nmae")
    assert (some.returncode, some.stdout.split()) == (0, ["NAME", "NMAE", "base", "-"])
    assert 'no image has the field "nmae": did you mean "name"?' in some.stderr


def test_a_pool_that_there_is_not(daemon, tmp_path):
    refused = daemon.imgctl("import", "-P", "nopool", BASE)
    assert refused.returncode == 1
    assert 'error (PoolNotFound): no such pool: "nopool"' in refused.stderr
    assert "imgstored has zones" in refused.stderr
    # imgadm has no other name for it.
    link = tmp_path / "imgadm"
    link.symlink_to(sys.executable.rpartition("/")[0] + "/imgctl")
    theirs = shell(daemon, f"'{link}' import -P nopool {BASE}")
    assert (theirs.returncode, "error (InternalError): no such pool" in theirs.stderr) == (1, True)


def test_closed_streams_are_told_of_in_a_sentence(daemon):
    daemon.imgctl("import", BASE, check=True)
    for command, said in {
        "imgctl export -o - base >&-": "standard output is closed",
        "imgctl install -f - <&-": "standard input is closed",
        "imgctl create --raw -m - /etc/hostname <&-": "standard input is closed",
    }.items():
        done = shell(daemon, command)
        assert said in done.stderr, command
        assert "Traceback" not in done.stderr
        assert done.returncode == 1


def test_an_alias_whose_image_is_gone_is_named(daemon):
    daemon.imgctl("import", BASE, check=True)
    daemon.imgctl("alias", "web", "base", check=True)
    daemon.imgctl("delete", "web", check=True)
    refused = daemon.imgctl("get", "web")
    assert refused.returncode == 3
    assert 'image "web" was not found on zpool "zones"' in refused.stderr
    assert f'the alias "web" means image {BASE}, which is not installed' in refused.stderr
    daemon.imgctl("import", "web", check=True)
    assert daemon.imgctl("get", "web").returncode == 0
    daemon.imgctl("alias", "-d", "web", check=True)


def test_what_was_not_held_was_not_released(daemon):
    daemon.imgctl("import", BASE, check=True)
    assert daemon.imgctl("release", "base", "x").stdout == f"Image {BASE} was not held (x)\n"
    assert daemon.imgctl("unpin", "base").stdout == f"Image {BASE} was not pinned\n"
    daemon.imgctl("hold", "base", "x", check=True)
    daemon.imgctl("pin", "base", check=True)
    assert daemon.imgctl("release", "base", "x").stdout == f"Released image {BASE} (x)\n"
    assert daemon.imgctl("unpin", "base").stdout == f"Unpinned image {BASE}\n"


def test_an_origin_that_several_images_share_is_told_of_once(daemon):
    lines = daemon.imgctl("import", INCREMENTAL, BASE, ZVOL, check=True).stdout.splitlines()
    assert lines[-1] == "3 images installed"
    told = [line for line in lines if "Imported image" in line or "Downloaded image" in line]
    assert len(told) == len(set(told)) == 6


def test_a_tree_counts_the_data_of_origins(daemon):
    daemon.imgctl("import", INCREMENTAL, check=True)
    base, incremental = (line.split() for line in daemon.imgctl("tree").stdout.splitlines()[2:4])
    assert (base[-2:], incremental[-2:]) == (["3.6", "MiB"], ["4.2", "MiB"])
