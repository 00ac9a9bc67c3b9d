"""How much the daemon has to do until it answers, with many images; `python -m bench` has the seconds."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest

from imgstored.pools.embedded import EmbeddedPool
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, fixture_manifest
from tests.support.streams import filesystem_stream, in_pieces

IMAGES = 1000
NAMES = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))) for number in range(IMAGES)]


def stocked(state: Path) -> None:
    """A thousand images in the pool of a daemon that has stopped: one that was received, and copies of it."""
    pool = EmbeddedPool("zones", state / "pool")
    pool.receive(NAMES[0], in_pieces(filesystem_stream(size=1000, seed=1)))
    pool.publish(NAMES[0])
    pool.close()
    first = state / "pool" / NAMES[0]
    note = json.loads((first / "image.json").read_text())
    manifests = state / "imgadm" / "images"
    manifests.mkdir(parents=True)
    for number, name in enumerate(NAMES):
        folder = state / "pool" / name
        if number:
            shutil.copytree(first, folder)
            (folder / "image.json").write_text(json.dumps({**note, "uuid": name}))
        manifest = {
            **fixture_manifest(BASE),
            "uuid": name,
            "name": f"base-{number % 40}",
            "version": f"{number}.0",
        }
        record = {"manifest": manifest, "zpool": "zones"}
        (manifests / f"zones-{name}.json").write_text(json.dumps(record, indent=2))


def processor_seconds(pid: int) -> float:
    """What a process has used so far, in all of its threads (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("view", ["off", "files", "fuse"])
def test_a_start_with_a_thousand_images_is_short(tmp_path, view):
    stocked(tmp_path / "store" / "state")
    daemon = Daemon(tmp_path / "store", view=view, timeout=60)
    used = []
    for _ in range(4):  # the first compiles, and writes the files of the view
        with daemon:
            used.append(processor_seconds(daemon.pid))
            with daemon.client() as client:
                assert len(client.list()) == IMAGES
            assert len(list(daemon.images.glob("????????-*"))) == (0 if view == "off" else IMAGES)
    # 0.2 to 0.3 s on a quiet machine. Not the time that passed: what else the machine does is not counted.
    assert min(used[1:]) < 1.0
