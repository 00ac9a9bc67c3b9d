"""Files of clients on a disk that does not answer, and what is no file: the daemon serves all others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import made_image, static_source
from tests.support.daemon import Daemon
from tests.support.dead_disk import DeadDisk
from tests.support.image_site import BASE

UUID = "33333333-aaaa-4bbb-8ccc-000000000001"

# Opens the file while the disk answers, and is told by lines what to do then. Its own end may wait for the
# disk; and so would that of any program that the test starts while it has such a file open itself.
_CLIENT = """
import json, os, sys, threading
from imgctl import Client
import imgctl.client
socket, path, what, manifest = sys.argv[1:]
fd = os.open(path, os.O_RDONLY if what == "site" else os.O_RDWR)
print("open", flush=True)
sys.stdin.readline()
client = Client(socket)
imgctl.client.os.open = lambda *_: os.dup(fd)
def work():
    try:
        if what == "install":
            client.install(json.loads(open(manifest).read()), path)
        elif what == "site":
            client.export_site(fd)
        else:
            client.export(manifest, fd)
    except BaseException as error:
        print("ended", error, flush=True)
    else:
        print("done", flush=True)
imgctl.client.os.close = lambda fd: None
threading.Thread(target=work, daemon=True).start()
sys.stdin.readline()
print("left", flush=True)  # first: the other thread says how that ended
client._socket.shutdown(2)  # it waits in there
sys.stdin.readline()
"""


class FileOnDisk:
    """A client whose file is on the disk."""

    def __init__(self, daemon, path, what, manifest):
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLIENT, str(daemon.socket), str(path), what, str(manifest)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.said() == "open\n"

    def said(self):
        return self._process.stdout.readline()

    def go(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def end(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "net").mkdir()
    with DeadDisk(tmp_path / "net") as mounted:
        yield mounted


@pytest.fixture
def start(daemon, disk):
    """Starts a client; the disk answers again before anything has to end."""
    started = []

    def run(*arguments):
        started.append(FileOnDisk(daemon, *arguments))
        return started[-1]

    yield run
    disk.go_on()
    for client in started:
        client.end()


@pytest.fixture
def image(tmp_path, disk):
    """An image's file on the disk, and elsewhere; and its manifest."""
    manifest, content = made_image(UUID, size=4 << 20)
    (disk.source / "file").write_bytes(content)
    (tmp_path / "f").write_bytes(content)
    (tmp_path / "m").write_text(json.dumps(manifest))
    return tmp_path / "m"


def jobs(daemon):
    return daemon.imgctl("jobs", "-H", "-j", timeout=20).stdout.strip()


def stopped(daemon):
    """It has done all that it does at its end; the kernel may still wait for the disk to close the file."""
    daemon.process.terminate()
    until(lambda: '"event": "stopped"' in daemon.log.read_text())
    return True


def until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["cancelled", "left"])
def test_an_install_from_a_disk_that_is_gone_ends(daemon, disk, image, tmp_path, start, how):
    client = start(disk.place / "file", "install", image)
    disk.stop()
    client.go()
    until(lambda: UUID in jobs(daemon))
    if how == "cancelled":
        assert daemon.imgctl("cancel", UUID, timeout=20).returncode == 0
        assert "cancelled" in client.said()
    else:
        client.go()
        assert client.said() == "left\n"
    until(lambda: jobs(daemon) == "[]")
    # It holds up nobody else who has that image, nor the daemon's own end.
    assert daemon.imgctl("install", "-m", str(image), "-f", str(tmp_path / "f")).returncode == 0
    assert UUID in daemon.imgctl("list", "-H").stdout
    assert stopped(daemon)


@pytest.mark.parametrize("how", ["cancelled", "left", "stopped"])
def test_an_image_is_installed_though_its_file_is_gone_when_it_is_copied(tmp_path, served, how):
    """The library gets no copy, and nobody waits for one."""
    manifest, content = made_image(UUID, size=4 << 20)
    (tmp_path / "m").write_text(json.dumps(manifest))
    (tmp_path / "net").mkdir()
    config = static_source(served.url) + "[library]\nkeep_mib = 100\n"
    # It is looked at, verified and received before.
    with (
        DeadDisk(tmp_path / "net", reads=2 * len(content) + 4096) as disk,
        Daemon(tmp_path / "store", config=config) as daemon,
    ):
        (disk.source / "file").write_bytes(content)
        client = FileOnDisk(daemon, disk.place / "file", "install", tmp_path / "m")
        try:
            client.go()
            until(disk.stopped)
            assert UUID in daemon.imgctl("list", "-H", timeout=20).stdout
            assert UUID in jobs(daemon)
            if how == "cancelled":
                assert daemon.imgctl("cancel", UUID, timeout=20).returncode == 0
                assert client.said() == "done\n"
            elif how == "left":
                client.go()
                assert client.said() == "left\n"
            if how != "stopped":
                until(lambda: jobs(daemon) == "[]")
                assert daemon.imgctl("delete", UUID, timeout=20).returncode == 0
            assert stopped(daemon)
            assert list((daemon.folder / "state" / "library").iterdir()) == []
        finally:
            disk.go_on()
            client.end()


def test_exports_to_such_a_disk_hold_up_nobody(daemon, disk, tmp_path, start):
    assert daemon.imgctl("import", BASE).returncode == 0
    (disk.source / "file").touch()
    # More than are made at the same time.
    clients = [start(disk.place / "file", "export", BASE) for _ in range(5)]
    disk.stop()
    for client in clients:
        client.go()
    assert BASE in daemon.imgctl("list", "-H", timeout=20).stdout
    for client in clients:
        client.go()
        assert client.said() == "left\n"
    exported = daemon.imgctl("export", "-o", str(tmp_path / "good"), BASE, timeout=60)
    assert exported.returncode == 0, exported.stderr
    assert stopped(daemon)


@pytest.mark.parametrize("what", ["fifo", "/dev/zero", "/proc/kmsg", "/proc/self/status", "empty", "folder"])
def test_what_is_no_image_file_is_refused_at_once(daemon, image, tmp_path, what):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    path = what if what.startswith("/") else str(tmp_path / what)
    said = daemon.imgctl("install", "-m", str(image), "-f", path, timeout=30)
    assert said.returncode == 1
    # Whoever may not read the kernel's log cannot give it either.
    expected = ("is not a regular file", "is empty", "ermission denied", "not permitted")
    assert any(words in said.stderr for words in expected), said.stderr
    assert jobs(daemon) == "[]"
    assert daemon.imgctl("install", "-m", str(image), "-f", str(tmp_path / "f")).returncode == 0


@pytest.mark.parametrize("how", ["left", "stopped"])
def test_a_site_on_a_disk_that_is_gone_holds_up_nobody(tmp_path, served, disk, how):
    """Nor the next export, for which there is one thread."""
    config = static_source(served.url) + "[library]\nkeep_mib = 100\n"
    (disk.source / "www").mkdir()
    (tmp_path / "www").mkdir()
    with Daemon(tmp_path / "store", config=config) as daemon:
        daemon.imgctl("import", BASE, check=True)
        client = FileOnDisk(daemon, disk.place / "www", "site", "-")
        try:
            disk.stop()
            client.go()
            until(lambda: '"method": "site.export"' in daemon.log.read_text() or _exporting(daemon))
            if how == "left":
                client.go()
                assert client.said() == "left\n"
                done = daemon.imgctl("export-site", str(tmp_path / "www"), timeout=50)
                assert done.returncode == 0, done.stderr
                assert (tmp_path / "www" / "images" / BASE / "file").exists()
            assert stopped(daemon)
        finally:
            disk.go_on()
            client.end()


def _exporting(daemon):
    """Whether a thread of the daemon waits for the disk."""
    tasks = Path(f"/proc/{daemon.pid}/task")
    return any((each / "wchan").read_text().startswith(("request_wait", "fuse")) for each in tasks.iterdir())
