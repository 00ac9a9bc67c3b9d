"""The daemon on file systems that take no more files, with a real server and real imports."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import static_source
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.full import few_inodes
from tests.support.image_site import BASE, INCREMENTAL


@pytest.fixture
def small(tmp_path):
    with few_inodes(tmp_path / "small", 300) as small:
        yield small


def test_an_import_does_not_fail_for_the_view(tmp_path, served, small):
    """Nor does the start: the folder of the view cannot even be made."""
    small.leave(0)
    daemon = Daemon(tmp_path / "store", config=static_source(served.url))
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace(str(daemon.images), f"{small.folder}/view/images"))
    with daemon:
        done = daemon.imgctl("import", BASE)
        assert (done.returncode, done.stderr) == (0, "")
        assert "no free inodes" in daemon.log.read_text()
        found = json.loads(daemon.imgctl("doctor", "-j").stdout)["findings"]
        assert {f["status"] for f in found if "free inodes" in f["seen"] and f["check"] == "view"} == {"fail"}
        small.leave(100)
        assert daemon.imgctl("import", INCREMENTAL).returncode == 0
        for uuid in (BASE, INCREMENTAL):
            until((small.folder / "view" / "images" / uuid / "manifest.json").is_file)


def test_an_image_without_room_for_its_manifest(tmp_path, served, small):
    """It is no image, and says why; the next try has it."""
    daemon = Daemon(
        tmp_path / "store", top=f'imgadm = "{small.folder}/imgadm"', config=static_source(served.url)
    )
    with daemon:
        small.leave(0)
        done = daemon.imgctl("import", BASE)
        assert done.returncode != 0
        assert "no free inodes" in done.stderr
        assert json.loads(daemon.imgctl("list", "-j").stdout) == []
        assert list((small.folder / "imgadm" / "images").iterdir()) == []
        small.leave(50)
        assert daemon.imgctl("import", BASE).returncode == 0


def test_the_state_folder(tmp_path, served, small):
    daemon = Daemon(tmp_path / "store", config=static_source(served.url))
    text = daemon.config_file.read_text()
    daemon.config_file.write_text(text.replace(f"{daemon.folder}/state", f"{small.folder}/state"))
    with daemon:
        small.leave(0)
        done = daemon.imgctl("import", BASE)
        assert done.returncode != 0
        assert "no free inodes" in done.stderr
        small.leave(100)
        assert daemon.imgctl("import", BASE).returncode == 0
