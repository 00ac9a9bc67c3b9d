"""Embedded pools, and what can be known of a ZFS pool without one."""

from __future__ import annotations

import shutil
import time

import pytest

from imgstored.doctor import folders, pools
from imgstored.pools.embedded import EmbeddedPool
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.streams import filesystem_stream

CHECK = "pool zones"


def only(findings):
    (finding,) = findings
    return finding


def test_an_embedded_pool_to_come_and_one_that_is_there(examined, tmp_path):
    finding = only(pools.pool("zones", examined()))
    assert (finding.check, finding.status) == (CHECK, "ok")
    assert not (tmp_path / "state").exists()
    pool = EmbeddedPool("zones", tmp_path / "state" / "pool")
    subject = examined(pools={"zones": pool})
    assert only(pools.pool("zones", subject)).seen.endswith(f"in {tmp_path}/state/pool")
    pool.close()
    shutil.rmtree(tmp_path / "state")
    finding = only(pools.pool("zones", subject))
    assert finding.status == "fail"
    assert "no longer exists" in finding.seen


def test_each_of_several_pools(examined, tmp_path):
    (tmp_path / "file").touch()
    subject = examined(f'[[pool]]\n[[pool]]\nname = "tank2"\npath = "{tmp_path}/file"\n')
    assert only(pools.pool("zones", subject)).status == "ok"
    finding = only(pools.pool("tank2", subject))
    assert (finding.check, finding.status) == ("pool tank2", "fail")
    assert finding.seen == f"{tmp_path}/file is not a folder"


def test_a_pool_without_room(examined):
    finding = only(pools.pool("zones", examined("[limits]\nmin_free_mib = 1000000000\n")))
    assert finding.status == "fail"
    assert "imports must leave" in finding.seen
    assert "vacuum" in finding.hint


def test_a_zfs_pool_that_is_not_there(examined):
    """Whatever this host lacks of it: the module, the kernel's side, or the pool."""
    finding = only(pools.pool("none-such", examined('[pool]\ntype = "zfs"\nname = "none-such"\n')))
    assert finding.status == "fail"
    assert finding.seen.startswith('pool "none-such": ')
    assert finding.hint


@pytest.fixture
def zpool(tmp_path):
    """A program that prints what it is told, in the form of `zpool get -H -o property,value`."""

    def make(found, *, before=""):
        program = tmp_path / "zpool"
        lines = "\n".join(f"{name}\t{value}" for name, value in found.items())
        program.write_text(
            f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\n{before}\ncat <<'END'\n{lines}\nEND\n"
        )
        program.chmod(0o755)
        return str(program)

    return make


SOUND = {
    "health": "ONLINE",
    "readonly": "off",
    "feature@large_blocks": "enabled",
    "feature@embedded_data": "active",
    "feature@lz4_compress": "active",
    "feature@zstd_compress": "enabled",
}


def test_a_sound_zfs_pool(zpool, tmp_path):
    assert pools.zpool_findings(CHECK, "zones", zpool(SOUND)) == []
    asked = (tmp_path / "asked").read_text().split()
    assert asked[:4] == ["get", "-H", "-o", "property,value"]
    assert asked[-1] == "zones"


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"health": "DEGRADED"}, "warn", "its health is DEGRADED"),
        ({"health": "SUSPENDED"}, "fail", "its health is SUSPENDED"),
        ({"readonly": "on"}, "fail", "read-only"),
        ({"feature@large_blocks": "disabled"}, "warn", "large_blocks (images made by `zfs send -L`)"),
        ({"feature@zstd_compress": "-"}, "warn", "zstd_compress"),
    ],
)
def test_what_a_zfs_pool_lacks(zpool, change, status, said):
    finding = only(pools.zpool_findings(CHECK, "zones", zpool({**SOUND, **change})))
    assert (finding.check, finding.status) == (CHECK, status)
    assert said in finding.seen
    assert finding.hint


def test_a_program_that_hangs_or_is_none(zpool, monkeypatch, tmp_path):
    monkeypatch.setattr(pools, "_LIMIT", 0.2)
    began = time.monotonic()
    finding = only(pools.zpool_findings(CHECK, "zones", zpool(SOUND, before="exec sleep 60")))
    assert time.monotonic() - began < 30
    assert (finding.status, "no answer" in finding.seen) == ("warn", True)
    assert only(pools.zpool_findings(CHECK, "zones", str(tmp_path))).status == "warn"


def test_little_room(monkeypatch):
    monkeypatch.setattr(folders, "LITTLE", 3000)
    assert [folders.rated(CHECK, "here", free, 1000).status for free in (999, 1000, 3000)] == [
        "fail",
        "warn",
        "ok",
    ]


class Incoming(EmbeddedPool):
    """Somebody is receiving an image into it, as only others can on ZFS."""

    def incoming(self):
        return {BASE: 5 << 20}


def test_what_others_are_receiving_and_what_has_no_manifest(tmp_path):
    pool = Incoming("zones", tmp_path / "pool")
    for uuid in (INCREMENTAL, ZVOL):
        pool.receive(uuid, [filesystem_stream(size=10_000, seed=1)])
        pool.publish(uuid)
    (tmp_path / f"zones-{ZVOL}.json").write_text("{")  # what is in it is another check's matter
    receiving, bare = pools.unfinished_images(CHECK, pool, tmp_path)
    pool.close()
    assert receiving.status == "ok"
    assert receiving.seen == f"another program is receiving zones/{BASE}: 5.0 MiB so far"
    assert (bare.status, bare.seen) == ("warn", f"images without a manifest: zones/{INCREMENTAL}")
    assert "imgctl update" in bare.hint
