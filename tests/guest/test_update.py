"""`update` and `vacuum` on real ZFS: snapshots that are not called @final, and machines that were cloned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.guest.host import POOL, Host, zfs_host
from tests.guest.zpool import run
from tests.support.image_site import BASE, INCREMENTAL, ZVOL

if TYPE_CHECKING:
    from collections.abc import Iterator

MACHINE = "55555555-aaaa-4bbb-8ccc-000000000001"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        for manifest in host.served.pages.manifests:
            if manifest["uuid"] == BASE:
                manifest["files"][0]["dataset_guid"] = "3180115020765103000"
        host.served.pages._write_list()
        host.daemon.start()
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    yield running
    running.clear()


def snapshots(uuid: str) -> list[str]:
    listed = run("zfs", "list", "-H", "-t", "snapshot", "-o", "name", f"{POOL}/{uuid}").stdout.split()
    return [name.partition("@")[2] for name in listed]


def updated(host: Host, *uuids: str, dry_run: bool = False) -> dict[str, list[str]]:
    """The events of each image."""
    events: list[dict[str, str]] = []
    with host.daemon.client() as client:
        client.update(list(uuids), dry_run=dry_run, on_event=events.append)
    told: dict[str, list[str]] = {}
    for event in events:
        told.setdefault(event["uuid"], []).append(event["event"])
    return told


def test_the_original_snapshot_becomes_final(host: Host) -> None:
    host.ensure(BASE, ZVOL)
    for uuid in (BASE, ZVOL):
        run("zfs", "snapshot", f"{POOL}/{uuid}@later")
        run("zfs", "rename", f"{POOL}/{uuid}@final", f"{POOL}/{uuid}@old")
    assert host.listed() == set()
    # Of the zvol the source says no guid, so that nobody can tell which snapshot it is.
    told = {BASE: ["snapshot-renamed"], ZVOL: ["original-unknown"]}
    assert updated(host, dry_run=True) == told
    assert snapshots(BASE) == ["old", "later"]
    assert updated(host) == told
    assert (snapshots(BASE), snapshots(ZVOL)) == (["final", "later"], ["old", "later"])
    assert host.listed() == {f"{POOL}/{BASE}"}
    assert updated(host, BASE) == {}


def test_a_machine_is_no_image_without_a_name(host: Host) -> None:
    host.ensure(BASE)
    run("zfs", "clone", f"{POOL}/{BASE}@final", f"{POOL}/{MACHINE}")
    run("zfs", "snapshot", f"{POOL}/{MACHINE}@backup")
    run("zfs", "create", f"{POOL}/{MACHINE[:-1]}2")
    run("zfs", "snapshot", f"{POOL}/{MACHINE[:-1]}2@backup")
    assert updated(host) == {}
    assert snapshots(MACHINE) == snapshots(f"{MACHINE[:-1]}2") == ["backup"]


def test_what_a_machine_was_cloned_from_stays(host: Host) -> None:
    host.ensure(INCREMENTAL, ZVOL)
    run("zfs", "clone", f"{POOL}/{BASE}@final", f"{POOL}/{MACHINE}")
    with host.daemon.client() as client:
        assert [image["uuid"] for image in client.vacuum_candidates()] == [INCREMENTAL, ZVOL]
    # Of any name, and of any snapshot.
    run("zfs", "snapshot", f"{POOL}/{ZVOL}@mine")
    run("zfs", "clone", f"{POOL}/{ZVOL}@mine", f"{POOL}/a-disk")
    with host.daemon.client() as client:
        assert [image["uuid"] for image in client.vacuum_candidates()] == [INCREMENTAL]
        assert client.vacuum_candidates(older_than=3600) == []
