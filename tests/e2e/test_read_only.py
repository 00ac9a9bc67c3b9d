"""A state folder on a disk that is read-only, as ext4 makes it after an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.e2e.conftest import static_source
from tests.e2e.test_full_disk import MIB, Disk, on, problems
from tests.e2e.test_on_demand import until
from tests.support.daemon import Daemon
from tests.support.full import small
from tests.support.image_site import BASE, ZVOL

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def started(daemon):
    """What a daemon says that does not start."""
    command = [sys.executable, "-m", "imgstored", "--config", str(daemon.config_file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_state_folder_that_is_read_only_at_the_start(tmp_path, served):
    with small(tmp_path / "disk", 48 * MIB) as folder:
        daemon = on(Disk(folder), Daemon(tmp_path / "store", config=static_source(served.url)))
        with daemon:
            daemon.imgctl("import", BASE, check=True)
            assert daemon.stop() == 0
            remount(folder, "ro")
            try:
                refused = started(daemon)
                assert refused.returncode != 0
                assert "Read-only file system" in refused.stderr
                assert str(folder) in refused.stderr
                assert "hint: " in refused.stderr
                assert "Traceback" not in refused.stderr
            finally:
                remount(folder, "rw")
            daemon.start()
            daemon.imgctl("list", BASE, check=True)
            daemon.imgctl("import", ZVOL, check=True)
            until(lambda: problems(daemon) == [], seconds=30)
            listed = json.loads(daemon.imgctl("list", "-j").stdout)
            assert {image["manifest"]["uuid"] for image in listed} == {BASE, ZVOL}
