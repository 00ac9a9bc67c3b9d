"""Starts of the real daemon: with several pools, and those that fail, which end in a line for people."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from imgctl import RemoteError

from imgstored import app
from imgstored.config import loading
from imgstored.errors import PoolError
from tests.support.daemon import CHAIN_BASE, Daemon

FIXTURES = Path(__file__).parent / "data"
TWO_POOLS = '[[pool]]\n[[pool]]\nname = "tank2"\n'


def test_several_pools(tmp_path):
    with Daemon(tmp_path / "store", config=TWO_POOLS) as daemon, daemon.client() as client:
        hello = client.call("hello", client="tests", protocol=1)
        assert (hello["pool"], hello["pools"]) == ("zones", ["zones", "tank2"])
        ready = next(line for line in daemon.log.read_text().splitlines() if '"ready"' in line)
        assert json.loads(ready)["pools"] == ["zones", "tank2"]

        files = ("-m", str(FIXTURES / "base.imgmanifest"), "-f", str(FIXTURES / "base.zfs.gz"))
        daemon.imgctl("install", "-P", "tank2", *files, check=True)
        assert client.get(CHAIN_BASE, "tank2")["zpool"] == "tank2"
        assert daemon.imgctl("get", CHAIN_BASE).returncode == 3

        with pytest.raises(RemoteError) as caught:
            client.get(CHAIN_BASE, "tank3")
        assert caught.value.message == 'no such pool: "tank3"'
        assert "zones, tank2" in caught.value.hint
        assert "`pool` in its configuration" in caught.value.hint


def refused(folder: Path, *, top: str = "", view: str = 'mode = "off"', config: str = "") -> tuple[str, str]:
    """What a start that fails says on standard error: its error, and its hint."""
    file = folder / "imgstored.toml"
    file.write_text(
        f'state = "{folder}/state"\n{top}\n[socket]\npath = "{folder}/s.sock"\n[view]\n{view}\n' + config
    )
    done = subprocess.run(
        [sys.executable, "-m", "imgstored", "--config", str(file)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    *logged, error, hint = done.stderr.splitlines()
    assert done.returncode == (os.EX_CONFIG if "(ConfigError)" in error else 1)
    assert all(json.loads(line)["event"] for line in logged)
    assert hint.startswith("hint: ")
    return error, hint


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        *((place, "auto") for place in ("file", "file/in", "loop", "full")),  # which tries both
        ("file", "fuse"),
        ("full", "files"),
    ],
)
def test_a_view_that_cannot_start(tmp_path, place, mode):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    error, hint = refused(tmp_path, view=f'mode = "{mode}"\npath = "{tmp_path}/{place}"')
    assert error.startswith("imgstored: error (ConfigError): ")
    assert f"{tmp_path}/{place}" in error
    assert "`view.path`" in hint


@pytest.mark.parametrize(
    ("top", "said"),
    [
        ('imgadm = "{file}"', "imgadm: the folder {file} cannot be used: Not a directory"),
        ('imgadm_locks = "{file}"', "imgadm_locks: the folder {file} cannot be used: File exists"),
        ('pool = {{ path = "{file}" }}', 'pool "zones": opening it failed: File exists'),
    ],
)
def test_a_folder_that_is_none(tmp_path, top, said):
    (tmp_path / "file").touch()
    names = {"file": tmp_path / "file"}
    assert said.format(**names) in refused(tmp_path, top=top.format(**names))[0]


def test_a_zfs_property_that_no_image_can_have(tmp_path):
    error, hint = refused(tmp_path, config='[pool]\ntype = "zfs"\nproperties = { mountpoint = "/etc" }\n')
    assert 'pool.properties: images cannot be given the property "mountpoint"' in error
    assert "canmount" in hint
    assert not (tmp_path / "state").exists()


def test_a_zfs_pool_that_is_not_there(tmp_path):
    """Whatever this host lacks of it: the module, the kernel's side, or the pool."""
    name = f"none-{os.getpid()}"
    error, _ = refused(
        tmp_path, top=f'imgadm = "{tmp_path}/imgadm"', config=f'[pool]\ntype = "zfs"\nname = "{name}"\n'
    )
    assert error.startswith(f'imgstored: error (InternalError): pool "{name}": ')
    assert not (tmp_path / "s.sock").exists()


async def test_a_zfs_pool_that_does_not_answer(monkeypatch):
    """Disks that hang cannot be had here."""
    answer = threading.Event()
    monkeypatch.setattr(app, "ZfsPool", lambda name, properties: answer.wait())
    monkeypatch.setattr(app, "_OPEN_SECONDS", 0.05)
    try:
        with trio.fail_after(5), pytest.raises(PoolError) as caught:
            await app.open_pools(loading.parse('[pool]\ntype = "zfs"\n'))
    finally:
        answer.set()
    assert caught.value.message.startswith('pool "zones" does not answer')
    assert "zpool status" in caught.value.hint
