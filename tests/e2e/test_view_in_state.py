"""The view as it is on illumos: in the state folder, with a link to it, read by somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import static_source
from tests.support.access import let_everybody_in
from tests.support.daemon import Daemon
from tests.support.image_site import BASE

#: As nobody: reads what it may, and says what it may not.
STRANGER = """
import os, sys
os.setgid(65534), os.setgroups([]), os.setuid(65534)
link, state, uuid = sys.argv[1:]
assert open(f"{link}/{uuid}/manifest.json").read().startswith("{")
assert uuid in os.listdir(link)
def refused(do, *arguments):
    try:
        do(*arguments)
    except PermissionError:
        return
    raise AssertionError(arguments)
refused(os.listdir, state)
for name in ("journal.sqlite", "journal.sqlite-wal", "history.sqlite", "lock", "version"):
    refused(open, f"{state}/{name}")
for name in ("spool", "pool", "receipts", "locks"):
    refused(os.listdir, f"{state}/{name}")
"""


def test_somebody_else_reads_the_view_and_nothing_more(tmp_path, served):
    daemon = Daemon(tmp_path / "store", config=static_source(served.url))
    state, link = tmp_path / "store" / "state", tmp_path / "store" / "link"
    text = daemon.config_file.read_text()
    wanted = f'path = "{state}/images"\nlink = "{link}"'
    daemon.config_file.write_text(text.replace(f'path = "{daemon.images}"', wanted))
    let_everybody_in(tmp_path / "store")
    with daemon:
        assert daemon.imgctl("import", BASE).returncode == 0
        assert link.readlink() == state / "images"
        subprocess.run([sys.executable, "-c", STRANGER, link, state, BASE], check=True)
        daemon.stop()
        link.unlink()
        daemon.start()
        assert (link / BASE / "manifest.json").is_file()
        daemon.stop()
        link.unlink()
        link.mkdir()
        (link / "treasure").touch()
        daemon.start()
        assert os.listdir(link) == ["treasure"]  # noqa: PTH208 - the names alone
        assert "something else is in its place" in daemon.log.read_text()
        assert Path(state / "images" / BASE).is_dir()
