"""File systems that lack calls: each place that locks says so in a sentence, and nothing else needs them."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from imgstored.__main__ import exit_status
from imgstored.errors import ConfigError
from imgstored.host import filesystem
from tests.support.daemon import Daemon
from tests.support.image_site import BASE, INCREMENTAL, ZVOL, ImageSite
from tests.support.nginx import Nginx
from tests.support.refused import command

ROOT = Path(__file__).parents[2]
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

#: What takes a lock in a folder `there`, by which call, and what is named when it cannot.
LOCKS = {
    "state": ("flock", "from imgstored.state.folder import owned\nwith owned(there): pass", "{there}/lock"),
    "socket": (
        "flock",
        "from imgstored.rpc.listener import listen\nlisten(there / 'sock', mode=0o600, group_gid=None)",
        "{there}/sock.lock",
    ),
    "view": ("flock", "from imgstored.view.plain import PlainFolder\nPlainFolder(there)", "{there}"),
    "pool": ("lockf", "from imgstored.pools.embedded import EmbeddedPool\nEmbeddedPool('p', there)", '"p"'),
    "image": (
        "lockf",
        "import trio\n"
        "from imgstored.catalog import image_locks\n"
        "image_locks._PAUSE = 0\n"
        "async def take():\n"
        f"    async with image_locks.ImageLocks(there).held('{BASE}'): pass\n"
        "trio.run(take)",
        "{there}/img." + BASE + ".import.lock",
    ),
}

_TOLD = """
import json, sys
from pathlib import Path
from imgstored.errors import ImgstoreError
there = Path(sys.argv[1])
try:
{code}
except ImgstoreError as error:
    print(json.dumps([error.message, error.hint, error.__cause__.errno]))
else:
    sys.exit("no error")
"""


@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
@pytest.mark.parametrize("place", LOCKS)
def test_a_lock_that_there_cannot_be_is_said_in_a_sentence(tmp_path, place, number):
    call, code, named = LOCKS[place]
    there = tmp_path / "there"
    there.mkdir()
    script = _TOLD.format(code="\n".join(f"    {line}" for line in code.splitlines()))
    run = command({call: number}, sys.executable, "-c", script, str(there))
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    message, hint, cause = json.loads(done.stdout)
    assert named.format(there=there) in message
    assert "cannot be locked" in message
    assert os.strerror(number) in message
    assert "None" not in message
    assert "must have locks" in hint
    assert cause == number


def test_without_a_room_for_locks_a_later_start_may_help():
    """Of a file system without locks the kernel says what it says when it has none left."""
    for number, status in ((errno.ENOLCK, 1), (errno.EOPNOTSUPP, os.EX_CONFIG)):
        error = ConfigError("cannot be locked")
        error.__cause__ = OSError(number, os.strerror(number))
        assert exit_status(error) == status


def test_a_folder_that_cannot_be_synced_is_said_once(monkeypatch):
    said = []
    monkeypatch.setattr(filesystem.log, "warning", lambda text, **_: said.append(text))
    filesystem._cannot_sync.cache_clear()
    folder = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(folder)
        filesystem.sync(folder)
        filesystem.sync(folder)
    finally:
        os.close(folder)
    assert len(said) == 1


def test_a_descriptor_that_is_not_open_is_a_fault_of_ours(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        filesystem.sync(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        filesystem.set_mode(fd, 0o600)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get
)
def test_the_main_job_needs_none_of_what_may_be_lacking(tmp_path, number):
    site = ImageSite(tmp_path / "site")
    site.add_fixtures()
    calls = ("fsync", "fchmod", "utime", "fallocate", "copy_file_range", "clone", "seek_data", "fadvise")
    with Nginx(tmp_path / "nginx", root=site.folder) as nginx:
        source = f'[[sources]]\nurl = "{nginx.url}"\ntype = "static"\n'
        before = command(dict.fromkeys(calls, number))
        with Daemon(tmp_path / "store", config=source, before=before, view="off") as daemon:
            for uuid in (INCREMENTAL, ZVOL):
                done = daemon.imgctl("import", uuid)
                assert (done.returncode, done.stderr) == (0, "")
            assert daemon.imgctl("update").returncode == 0
            assert daemon.imgctl("hold", BASE, "mine").returncode == 0
            assert daemon.imgctl("verify").returncode == 0
            assert daemon.log.read_text().count("cannot be synced") >= 1
            assert "Traceback" not in daemon.log.read_text()


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_daemon_without_locks_ends_with_a_sentence(tmp_path, call):
    daemon = Daemon(tmp_path / "store", view="off")
    run = command(
        {call: errno.ENOLCK}, sys.executable, "-m", "imgstored", "--config", str(daemon.config_file)
    )
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "None" not in done.stderr
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("imgstored: error (")
    assert hint.startswith("hint: ")


def test_no_message_is_made_of_strerror_alone():
    """An `OSError` that was made of words alone has none, and would be told as "None"."""
    bare = []
    for path in sorted([*(ROOT / "imgstored").rglob("*.py"), *(ROOT / "ctl").rglob("*.py")]):
        tree = ast.parse(path.read_text())
        guarded = {
            id(each) for node in ast.walk(tree) if isinstance(node, ast.BoolOp) for each in node.values[:-1]
        }
        bare += [
            f"{path.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr == "strerror"
            and isinstance(node.ctx, ast.Load)
            and not (isinstance(node.value, ast.Name) and node.value.id == "os")
            and id(node) not in guarded
        ]
    assert bare == []
