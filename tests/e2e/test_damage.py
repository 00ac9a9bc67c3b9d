"""One damaged file, folder, table or byte of the state: the daemon starts, says so, and has all the rest.

A daemon leaves a state folder with images, a hold, and an import that was under way. Each test damages one
thing of a copy, and starts the real daemon on that.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.e2e.test_on_demand import jobs, started, until
from tests.support.daemon import Daemon
from tests.support.gate import Gate
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite
from tests.support.nginx import Nginx

if TYPE_CHECKING:
    from pathlib import Path

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
                for uuid in (INCREMENTAL, ZVOL):
                    daemon.imgctl("import", uuid, check=True)
                daemon.imgctl("pin", ZVOL, check=True)
                daemon.imgctl("alias", "volume", ZVOL, check=True)
                daemon.imgctl("avail", check=True)
                client = started(daemon, "import", MADE)
                until(lambda: any(job["done"] > len(file) // 2 for job in jobs(daemon)), seconds=60)
                until(lambda: list((daemon.folder / "state" / "pool").glob("*-partial/checkpoint")) or 1)
                assert daemon.stop() == 0
                client.communicate(timeout=30)
            gate.open()
            for database in ("journal", "history", "events"):
                # All in one file, so that what is damaged there is read.
                with closing(sqlite3.connect(tmp / "store" / "state" / f"{database}.sqlite")) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            yield Left(tmp / "store", nginx.url, file)


def copied(left, folder):
    """A daemon that does not run yet, on a copy of the folder."""
    ignored = shutil.ignore_patterns("*.sock", "*.log")
    shutil.copytree(left.folder, folder, symlinks=True, ignore=ignored)
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
    names = sorted(str(path.relative_to(folder)) for path in (folder / "state").rglob("*"))
    return [*(name for name in names if not name.endswith(("-shm", "-wal"))), "images/.imgstored"]


def listed(client):
    return {image["manifest"]["uuid"] for image in client.list()}


def told(client):
    """What `status` and `doctor` say about damage."""
    problems = client.status()["problems"]
    status = [problem["message"] for problem in problems if problem["code"] == "Damaged"]
    doctor = [
        finding["seen"]
        for finding in client.doctor()["findings"]
        if finding["check"] in ("state", "manifests") and finding["status"] != "ok"
    ]
    return status, doctor


def comes(client, uuid):
    client.ensure([uuid])


def starts(daemon, *, costs=frozenset(), look=lambda client: None):
    """It starts; what is not damaged is there, and what was under way comes to an end."""
    with daemon, daemon.client() as client:
        assert listed(client) >= IMAGES - costs
        said = told(client)
        look(client)
        if MADE in costs:
            # It can be asked for again, whatever there was.
            comes(client, MADE)
        until(lambda: MADE in listed(client), seconds=60)
        for uuid in IMAGES & costs:
            comes(client, uuid)
        log = daemon.log.read_text()
        assert "Traceback" not in log, log
    return said


FOLDERS_KINDS = ("a_file", "a_link", "a_pipe")
PARTS = 4

# -- each file and folder -----------------------------------------------------------------------------------

KINDS = {each.__name__: each for each in (zero, cut, empty, no_text, a_folder, a_link, a_pipe, a_file)}


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


#: Kinds after which a file cannot be used at all.
OTHER_KINDS = {"a_folder", "a_link", "a_pipe", "a_file"}

#: What is not named: it is dropped without loss, made anew, or told as a fault of the configuration.
UNNAMED = ("-partial", ".imgstored", "imgadm.conf", ".import.lock")


def cases(left):
    """Each file and folder, with kinds of damage: two of them in turn, or all of them."""
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    for number, name in enumerate(files_of(left.folder)):
        is_folder = (left.folder / name).is_dir()
        if name.endswith(".imgstored"):
            # Anything but a file of that name says that the folder is somebody else's.
            yield from ((name, kind) for kind in ("empty", "no_text"))
            continue
        kinds = [kind for kind in KINDS if (kind in FOLDERS_KINDS if is_folder else kind != "a_file")]
        count = len(kinds) if thorough else 1 if is_folder else 2
        for turn in range(count):
            yield name, kinds[(number + turn * 3) % len(kinds)] if not thorough else kinds[turn]


@pytest.mark.parametrize("part", range(PARTS))
def test_each_file_and_folder_of_the_state(left, tmp_path, part):
    """Whatever is in its place, the daemon starts, names it, and has the rest."""
    failures = []
    found = list(cases(left))
    assert len(found) > 50
    for number, (name, kind) in enumerate(found[part::PARTS]):
        folder = tmp_path / str(number)
        daemon = copied(left, folder)
        KINDS[kind](folder / name)
        try:
            status, doctor = starts(daemon, costs=costs_of(name))
            if kind in OTHER_KINDS and not any(each in name for each in UNNAMED):
                assert status or "imgadm" in name, "status does not name it"
                assert doctor, "doctor does not name it"
        except BaseException as error:  # noqa: BLE001  all of them are to be seen
            failures.append(f"{name} {kind}: {type(error).__name__} {str(error)[-900:]}")
        shutil.rmtree(folder)
    assert not failures, "\n\n".join(failures)
