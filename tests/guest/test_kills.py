"""kill -9 and reboots on real ZFS: a receive goes on where it was cut, and an image is whole or not there."""

from __future__ import annotations

import json
import random
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from imgctl import RemoteError

from tests.e2e.test_on_demand import jobs, started, until
from tests.guest.host import LARGE, POOL, Host, LargeImage, large_image, same_content, zfs_host
from tests.guest.zpool import run
from tests.pools.contract import GUIDS
from tests.support.crashing_daemon import DELETE_STEPS, IMPORT_STEPS
from tests.support.image_site import BASE, INCREMENTAL, ZVOL
from tests.support.streams import real_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_MIB = 1 << 20
_GUIDS = {BASE: GUIDS["base"], INCREMENTAL: GUIDS["incremental"], ZVOL: GUIDS["zvol"]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with zfs_host(tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture
def host(running: Host) -> Iterator[Host]:
    """The daemon does not run yet."""
    yield running
    running.clear()
    assert running.daemon.stop() == 0


@pytest.fixture(scope="module")
def large(running: Host) -> Iterator[LargeImage]:
    with large_image() as image:
        running.served.pages.add(image.manifest, image.file)
        yield image


# -- in the middle -------------------------------------------------------------------------------------------


def killed_in_the_middle(host: Host, large: LargeImage, part: float) -> int:
    """Imports that much of the large image; returns the bytes of stream that were on the way to the pool."""
    # What passes lies in four ranges, of which the first may be the last that is whole.
    host.gate.hold(after=int(part * len(large.file)) + 5 * _MIB)
    host.daemon.start()
    client = started(host.daemon, "import", LARGE)
    enough = part * len(large.stream)
    received = until(
        lambda: next((job["received"] for job in jobs(host.daemon) if job["received"] > enough), 0),
        seconds=120,
    )
    host.daemon.kill()
    client.communicate(timeout=60)
    return int(received)


def goes_on(host: Host) -> int:
    """Opens the gate, and starts the daemon again; returns the bytes that the server had sent before."""
    # What nginx still has of connections that are gone comes to nobody.
    sent = host.gate.given
    host.gate.open()
    host.daemon.start()
    return sent


def ends_whole(host: Host, large: LargeImage) -> None:
    """Nobody asks again; what was begun goes on by itself."""
    until(lambda: host.listed() == {f"{POOL}/{LARGE}"}, seconds=180)
    host.idle()
    assert host.pool.names() == [LARGE, f"{LARGE}@final"]
    assert host.pool.guid(LARGE) == large.guid
    assert host.spooled() == []
    same_content(host.pool, f"{LARGE}@final", large.content)


def written_by(pid: int) -> int:
    """Bytes that a process gave to the kernel by write(2): proc(5), /proc/PID/io."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["wchar"])


@pytest.mark.parametrize("rebooted", [False, True], ids=["killed", "rebooted"])
def test_an_import_goes_on_where_its_receive_was_cut(host: Host, large: LargeImage, rebooted: bool) -> None:
    before = len(host.log("goes on with a receive"))
    received = killed_in_the_middle(host, large, 0.6)
    (token,) = host.pool.get(f"{LARGE}-partial", "receive_resume_token")
    assert token.startswith("1-")
    if rebooted:
        host.pool.reimport()
    sent = goes_on(host)
    ends_whole(host, large)

    went_on = host.log("goes on with a receive")[before:]
    assert [each["uuid"] for each in went_on] == [LARGE]
    kept = went_on[0]["offset"]
    # What was in the pipe when it was cut is lost.
    assert received - 4 * _MIB <= kept < len(large.stream)
    # Four connections had a range of 1 MiB each under way.
    present = host.log("resuming")[-1]["present"]
    to_come = len(large.file) - present
    assert host.gate.given - sent <= to_come + 4 * _MIB
    # Into the spool and into the pool, and nothing of it twice.
    assert written_by(host.daemon.pid) <= to_come + len(large.stream) - kept + 2 * _MIB


def test_a_part_of_another_file_is_dropped(host: Host, large: LargeImage) -> None:
    before = len(host.log("begins afresh, and drops what is there"))
    killed_in_the_middle(host, large, 0.3)
    host.pool.destroy(f"{LARGE}-partial")
    cut = subprocess.run(
        ["zfs", "receive", "-s", f"{POOL}/{LARGE}-partial@final"],
        input=real_stream("base")[:2_000_000],
        check=False,
    )
    assert cut.returncode != 0
    assert host.pool.get(f"{LARGE}-partial", "receive_resume_token")[0].startswith("1-")
    goes_on(host)
    ends_whole(host, large)
    (dropped,) = host.log("begins afresh, and drops what is there")[before:]
    assert dropped["uuid"] == LARGE
    assert dropped["error"]


# -- at each step --------------------------------------------------------------------------------------------


def whole_at_any_moment(host: Host) -> set[str]:
    """Asserts what must hold while no daemon runs, too; returns the images that are there."""
    names = host.pool.names()
    uuids = {name for name in names if "@" not in name and not name.endswith("-partial")}
    for uuid in uuids:
        assert f"{uuid}@final" in names
        assert host.pool.guid(uuid) == _GUIDS[uuid]
        record = json.loads(host.manifest_file(uuid).read_text())
        assert (record["manifest"]["uuid"], record["zpool"]) == (uuid, POOL)
    return uuids


def check_whole(host: Host, uuids: set[str]) -> None:
    """Asserts that just these images are there, and nothing else of them."""
    assert whole_at_any_moment(host) == uuids
    assert host.pool.names() == sorted(name for uuid in uuids for name in (uuid, f"{uuid}@final"))
    files = sorted(path.name for path in (host.imgadm / "images").iterdir())
    assert files == sorted(host.manifest_file(uuid).name for uuid in uuids)
    assert host.spooled() == []
    assert host.listed() == {f"{POOL}/{uuid}" for uuid in uuids}
    shown = {path.name for path in host.daemon.images.iterdir() if len(path.name) == 36}
    assert shown == uuids


def dies(host: Host, request: str, uuid: str) -> None:
    """Asks for something at which the daemon dies."""
    with host.daemon.client() as client, pytest.raises(RemoteError):
        client.call(request, uuid=uuid)
    assert host.daemon.process is not None
    assert host.daemon.process.wait(60) == -9


@pytest.mark.parametrize("step", IMPORT_STEPS)
@pytest.mark.parametrize(("when", "uuid"), [("before", BASE), ("after", ZVOL)], ids=["before", "after"])
def test_an_import_that_is_killed_ends_whole(host: Host, when: str, step: str, uuid: str) -> None:
    host.daemon.start(dies=f"{when}:{step}")
    dies(host, "import", uuid)
    whole_at_any_moment(host)
    host.daemon.start()
    # Nobody asks again.
    until(lambda: whole_at_any_moment(host) == {uuid} and jobs(host.daemon) == [], seconds=120)
    check_whole(host, {uuid})


@pytest.mark.parametrize("step", DELETE_STEPS)
@pytest.mark.parametrize(("when", "uuid"), [("before", ZVOL), ("after", BASE)], ids=["before", "after"])
def test_a_deletion_that_is_killed_leaves_all_or_nothing(host: Host, when: str, step: str, uuid: str) -> None:
    host.daemon.start(dies=f"{when}:{step}")
    host.ensure(uuid)
    dies(host, "delete", uuid)
    expected = {uuid} if (when, step) == ("before", "destroy") else set()
    assert whole_at_any_moment(host) == expected
    host.daemon.start()
    check_whole(host, expected)


def _begun_or_over(host: Host, clients: Iterable[subprocess.Popen[str]]) -> bool:
    return bool(jobs(host.daemon)) or all(client.poll() is not None for client in clients)


def test_killed_at_any_moment(host: Host) -> None:
    dice = random.Random(20261124)
    host.daemon.start()
    for _ in range(3):
        clients = [started(host.daemon, "import", uuid) for uuid in (INCREMENTAL, ZVOL)]
        # One that is over before anybody looks was quick, and is killed no more.
        until(partial(_begun_or_over, host, clients), seconds=120)
        time.sleep(dice.uniform(0.2, 3))
        host.daemon.kill()
        for client in clients:
            client.communicate(timeout=60)
        whole_at_any_moment(host)
        host.daemon.start()
        whole_at_any_moment(host)
        # What was not begun yet is asked for again.
        host.ensure(INCREMENTAL, ZVOL)
        host.idle()
        check_whole(host, {BASE, INCREMENTAL, ZVOL})
        with host.daemon.client() as client:
            for uuid in (INCREMENTAL, ZVOL, BASE):
                client.delete(uuid)
        check_whole(host, set())
    run("zpool", "scrub", "-w", POOL)
    assert "errors: No known data errors" in run("zpool", "status", POOL).stdout
