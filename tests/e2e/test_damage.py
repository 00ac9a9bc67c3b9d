"""One damaged file, folder, table or byte of the state: the daemon starts, says so, and has all the rest.

A daemon leaves a state folder with images, a hold, and an import that was under way. Each test damages one
thing of a copy, and starts the real daemon on that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgstored.queries.history import _TYPES as HISTORY_COLUMNS
from imgstored.state.database import Row
from tests.e2e.conftest import gated, made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite
from tests.support.nginx import Nginx

MADE = "44444444-aaaa-4bbb-8ccc-00000000000b"
MIB = 1 << 20
IMAGES = {BASE, INCREMENTAL, ZVOL}

pytestmark = pytest.mark.slow


@dataclass
class Left:
    """What the first daemon left, and the server of its images."""

    folder: Path
    url: str
    file: bytes  #: of the image whose import was under way


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("damage")
    pages = ImageSite(tmp / "site")
    pages.add_fixtures()
    manifest, file = made_image(MADE, size=6 * MIB)
    pages.add(manifest, file)
    with Gate(pages.folder) as gate:
        gate.hold(after=len(file) * 3 // 4)
        location = {f"/{MADE}/": gate.location}
        with Nginx(tmp / "nginx", root=pages.folder, locations=location) as nginx:
            limits = "[limits]\nconnections = 1\nmin_rate = 0\n"
            with Daemon(tmp / "store", config=static_source(nginx.url) + limits) as daemon:
                daemon.imgctl("import", INCREMENTAL, ZVOL, check=True)
                daemon.imgctl("pin", ZVOL, check=True)
                daemon.imgctl("avail", check=True)
                client = started(daemon, "import", MADE)
                until(lambda: any(job["done"] > len(file) // 2 for job in jobs(daemon)), seconds=60)
                until(lambda: list((daemon.folder / "state" / "pool").glob("*-partial/checkpoint")) or 1)
                assert daemon.stop() == 0
                client.communicate(timeout=30)
            gate.open()
            for database in ("journal", "history"):
                # All in one file, so that what is damaged there is read.
                with closing(sqlite3.connect(tmp / "store" / "state" / f"{database}.sqlite")) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            yield Left(tmp / "store", nginx.url, file)


@pytest.fixture
def copy(left, tmp_path):
    """A daemon that does not run yet, on a copy of the folder."""
    folder = tmp_path / "store"
    shutil.copytree(left.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
    limits = "[limits]\nconnections = 1\nmin_rate = 0\n"
    return Daemon(folder, config=static_source(left.url) + limits)


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset % len(content)] ^= 1 << (offset % 8)
    path.write_bytes(content)


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def no_text(path):
    path.write_bytes(b"\xff\xfe{" * 40)


def a_folder(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.mkdir()
    (path / "something").write_text("here")


def a_link(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to("/dev/zero")


def a_pipe(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    os.mkfifo(path)


def a_file(path):
    shutil.rmtree(path)
    path.write_text("no folder any more")


def files_of(folder):
    """All files and folders of the state, by names that are the same each time."""
    return sorted(str(path.relative_to(folder)) for path in (folder / "state").rglob("*"))


def listed(daemon):
    return {image["manifest"]["uuid"] for image in json.loads(daemon.imgctl("list", "-j").stdout)}


def told(daemon):
    """What `status` and `doctor` say about damage."""
    status = [
        problem["message"]
        for problem in json.loads(daemon.imgctl("status", "-j").stdout)["problems"]
        if problem["code"] == "Damaged"
    ]
    doctor = [
        finding["seen"]
        for finding in json.loads(daemon.imgctl("doctor", "-j").stdout)["findings"]
        if finding["check"] in ("state", "manifests") and finding["status"] != "ok"
    ]
    return status, doctor


def starts(daemon, *, costs=frozenset()):
    """It starts; what is not damaged is there, and what was under way comes to an end."""
    with daemon:
        assert listed(daemon) >= IMAGES - costs
        if MADE not in costs:
            until(lambda: MADE in listed(daemon), seconds=60)
        else:
            # It can be asked for again, whatever there was.
            daemon.imgctl("import", MADE, check=True)
        for uuid in IMAGES & costs - listed(daemon):
            daemon.imgctl("import", uuid, check=True)
        said = told(daemon)
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
        assert daemon.stop() == 0
    return said


# -- each file and folder -----------------------------------------------------------------------------------

KINDS = {
    each.__name__: each for each in (zero, cut, empty, no_text, a_folder, a_link, a_pipe, a_file)
}


def costs_of(name):
    """The images that may be lost with a file: those of whose own files it is."""
    costs = {uuid for uuid in (*IMAGES, MADE) if uuid in name}
    if name.startswith("state/journal"):
        costs.add(MADE)
    if BASE in costs and "pool" in name:
        costs.add(INCREMENTAL)
    if name in {"state/pool", "state/imgadm", "state/imgadm/images"}:
        costs |= IMAGES
    return frozenset(costs)


def test_each_file_and_folder_of_the_state(left, tmp_path):
    """Whatever is in its place."""
    failures = []
    names = [name for name in files_of(left.folder) if not name.endswith(("-shm", "-wal"))]
    assert len(names) > 25
    for number, name in enumerate(names):
        for kind, damage in KINDS.items():
            is_folder = (left.folder / name).is_dir()
            if is_folder != (kind == "a_file") and not (is_folder and kind in ("a_link", "a_pipe")):
                continue
            folder = tmp_path / f"{number}-{kind}"
            shutil.copytree(left.folder, folder, symlinks=True, ignore=shutil.ignore_patterns("*.sock", "*.log"))
            limits = "[limits]\nconnections = 1\nmin_rate = 0\n"
            daemon = Daemon(folder, config=static_source(left.url) + limits)
            damage(folder / name)
            try:
                starts(daemon, costs=costs_of(name))
            except BaseException as error:  # noqa: BLE001  all of them are to be seen
                failures.append(f"{name} {kind}: {str(error)[-600:]}")
            shutil.rmtree(folder)
    assert not failures, "\n\n".join(failures)
