"""What was installed is written down, and images are compared with it; pins keep them."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest
from imgctl.errors import RemoteError

from tests.e2e.conftest import made_image
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, fixture_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Served
    from tests.support.daemon import Daemon

MADE = "44444444-aaaa-4bbb-8ccc-000000000001"
SIZES = {BASE: "stream.zfs", INCREMENTAL: "stream.zfs", ZVOL: "disk.raw"}


@pytest.fixture
def daemon(shared_daemon: Daemon) -> Daemon:
    return shared_daemon


def pool(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "pool"


def receipts(daemon: Daemon) -> dict[str, dict[str, object]]:
    """By the image's uuid."""
    found = (daemon.folder / "state" / "receipts").glob("zones-*.json")
    return {path.stem.removeprefix("zones-"): json.loads(path.read_text()) for path in found}


def test_images_are_what_was_installed(daemon: Daemon, tmp_path: Path) -> None:
    assert daemon.imgctl("verify").stdout == "Verified 0 images\n"
    daemon.imgctl("import", INCREMENTAL, check=True)
    (tmp_path / "zvol.imgmanifest").write_text(fixture_file(ZVOL).with_name("zvol.imgmanifest").read_text())
    manifest, file = str(tmp_path / "zvol.imgmanifest"), str(fixture_file(ZVOL))
    daemon.imgctl("install", "-m", manifest, "-f", file, check=True)
    written = receipts(daemon)
    assert written[INCREMENTAL] == {
        "guid": 11629902597155826855,
        "kind": "filesystem",
        "stream_size": (pool(daemon) / INCREMENTAL / "stream.zfs").stat().st_size,
        "origin": BASE,
        "origin_guid": written[BASE]["guid"],
        "dataset": json.loads((pool(daemon) / INCREMENTAL / "image.json").read_text())["dataset"],
        "format": 1,
    }
    done = daemon.imgctl("verify")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "Verified 3 images: 3 ok"
    assert f"Image {ZVOL} (zvol@1.0.0) in zones is ok\n" in done.stdout
    for uuid in (INCREMENTAL, BASE):
        daemon.imgctl("delete", uuid, check=True)
    assert set(receipts(daemon)) == {ZVOL}


def test_what_rots_is_found(daemon: Daemon) -> None:
    daemon.imgctl("ensure", BASE, ZVOL, check=True)
    with (pool(daemon) / ZVOL / "disk.raw").open("r+b") as disk:
        disk.seek(12_345_678)
        disk.write(b"rotten")
    done = daemon.imgctl("verify", "-j")
    assert done.returncode == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    results = {event["uuid"]: event["result"] for event in events if event["event"] == "verified"}
    assert results == {BASE: "ok", ZVOL: "damaged"}
    done = daemon.imgctl("verify", ZVOL)
    assert done.returncode == 1
    assert f"Image {ZVOL} (zvol@1.0.0) in zones is damaged: " in done.stdout
    assert done.stdout.endswith("Verified 1 image: 1 damaged\n")
    assert daemon.imgctl("verify", BASE).returncode == 0
    assert daemon.imgctl("verify", MADE).returncode == 3


@pytest.mark.parametrize("point", ["after:manifest", "before:publish", "after:publish", "after:view"])
def test_a_receipt_comes_before_its_image(crashing_daemon: Daemon, point: str) -> None:
    daemon = crashing_daemon
    daemon.die_at(point)
    with daemon.client() as client, pytest.raises(RemoteError):
        client.import_image(BASE)
    assert daemon.process is not None
    assert daemon.process.wait(30) == -signal.SIGKILL
    if (pool(daemon) / BASE).exists():
        assert set(receipts(daemon)) == {BASE}
    daemon.start(dies="")
    until(lambda: (pool(daemon) / BASE).exists() and jobs(daemon) == [])
    done = daemon.imgctl("verify")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "Verified 1 image: 1 ok")


@pytest.mark.slow
def test_a_verification_is_left(daemon: Daemon, served: Served) -> None:
    served.pages.add(*made_image(MADE, size=96 << 20))
    daemon.imgctl("import", MADE, check=True)
    process = started(daemon, "verify", "-j")
    assert process.stdout is not None
    assert '"verifying"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.communicate()
    until(lambda: daemon.imgctl("holds", MADE).stdout == "")
    began = time.monotonic()
    assert daemon.imgctl("verify", MADE).returncode == 0
    assert time.monotonic() - began < 10


def test_a_pin(daemon: Daemon) -> None:
    daemon.imgctl("import", BASE, check=True)
    assert daemon.imgctl("pin", BASE).stdout == f"Pinned image {BASE}\n"
    assert daemon.imgctl("holds", BASE).stdout == "pinned\n"
    refused = daemon.imgctl("delete", BASE)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[1] == f"  hint: `imgctl unpin {BASE}` removes the pin"
    daemon.imgctl("hold", BASE, "web", check=True)
    refused = daemon.imgctl("delete", BASE)
    assert f"`imgctl unpin {BASE}` removes the pin; `imgctl release {BASE} TAG` ends a hold" in refused.stderr
    daemon.imgctl("release", BASE, "web", check=True)
    assert daemon.imgctl("unpin", "base").stdout == f"Unpinned image {BASE}\n"
    assert daemon.imgctl("delete", BASE).returncode == 0
    assert daemon.imgctl("pin", BASE).returncode == 3
