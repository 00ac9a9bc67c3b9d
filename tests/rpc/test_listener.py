from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest
import structlog.testing

from imgstored.errors import ConfigError
from imgstored.rpc import listener
from imgstored.rpc.listener import listen
from tests.support.descriptors import open_files


@pytest.fixture
def listening(path):
    made = []

    def start(**settings):
        made.append(listen(path, **{"mode": 0o666, "group_gid": None, **settings}))
        return made[-1]

    yield start
    for one in made:
        one.close()


def connects(path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


@pytest.mark.parametrize(("mode", "umask"), [(0o666, 0o077), (0o660, 0o000), (0o600, 0o022)])
def test_permissions_are_what_was_asked_for(path, listening, mode, umask):
    before = os.umask(umask)
    try:
        listening(mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert stat.S_IMODE(path.with_name("imgstored.sock.lock").stat().st_mode) == 0o600
    assert connects(path)


def test_a_folder_that_is_there_keeps_its_permissions(path, listening):
    path.parent.mkdir(mode=0o700)
    listening()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_group_owns_it(path, listening):
    listening(mode=0o660, group_gid=12345)
    assert (path.stat().st_uid, path.stat().st_gid) == (0, 12345)


def test_nobody_connects_before_the_permissions_are_set(path, listening, monkeypatch):
    seen = []

    def spy(self, mode, *, follow_symlinks=True):
        if stat.S_ISSOCK(os.lstat(self).st_mode):
            seen.append(connects(self))
        os.chmod(self, mode, follow_symlinks=follow_symlinks)  # noqa: PTH101 - the one that is replaced

    monkeypatch.setattr(type(path), "chmod", spy)
    listening()
    assert seen == [False]
    assert connects(path)


def test_closing_removes_the_name_and_keeps_the_lock(path, listening):
    before = open_files()
    one = listening()
    one.close()
    one.close()
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["imgstored.sock.lock"]
    assert open_files() <= before
    listening()
    assert connects(path)


def test_a_socket_that_was_replaced_is_not_removed(path, listening):
    one = listening()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other, structlog.testing.capture_logs() as logs:
        other.bind(str(path))
        one.close()
        assert path.is_socket()
    assert [entry["event"] for entry in logs] == ["the socket was replaced or removed by somebody else"]


def test_a_socket_that_was_removed_is_no_error(path, listening):
    one = listening()
    path.unlink()
    one.close()
    assert not path.exists()


def test_a_stale_socket_is_taken_over(path, listening):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
        gone.listen()
    assert not connects(path)
    listening()
    assert connects(path)


def test_the_socket_of_a_killed_daemon_is_taken_over(path, listening):
    script = (
        "import pathlib, sys, time; from imgstored.rpc.listener import listen;"
        "held = listen(pathlib.Path(sys.argv[1]), mode=0o666, group_gid=None);"
        "print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"up\n"
        with pytest.raises(ConfigError, match="another imgstored is listening"):
            listening()
        assert connects(path)
        daemon.kill()
    listening()
    assert connects(path)


def test_a_second_daemon_is_refused(path, listening):
    listening()
    before = open_files()
    with pytest.raises(ConfigError, match="another imgstored is listening"):
        listening()
    assert open_files() <= before
    assert connects(path)


def test_a_live_socket_of_somebody_else_is_refused(path, listening):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        before = open_files()
        with pytest.raises(ConfigError, match="another imgstored is listening"):
            listening()
        assert connects(path)
        assert open_files() <= before


def test_one_that_is_too_busy_to_accept_is_alive(path, listening, monkeypatch):
    monkeypatch.setattr(listener, "_PROBE_SECONDS", 0.1)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigError, match="another imgstored is listening"):
            listening()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_refused_and_kept(path, listening, kind):
    path.parent.mkdir()
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.parent)
    with pytest.raises(ConfigError, match="is not a socket") as caught:
        listening()
    assert caught.value.hint
    assert path.lstat()


def test_a_lock_that_is_a_link_is_not_followed(path, folder, listening):
    path.parent.mkdir()
    path.with_name("imgstored.sock.lock").symlink_to(folder / "elsewhere")
    with pytest.raises(ConfigError, match="cannot listen"):
        listening()
    assert not (folder / "elsewhere").exists()


def test_a_name_that_is_too_long(folder):
    before = open_files()
    with pytest.raises(ConfigError, match="cannot listen") as caught:
        listen(folder / ("x" * 120), mode=0o666, group_gid=None)
    assert "shorter than 100 bytes" in caught.value.hint
    assert open_files() <= before


def test_a_folder_that_cannot_be_made(folder):
    with pytest.raises(ConfigError, match="cannot listen"):
        listen(folder / "no" / "such" / "folder" / "s", mode=0o666, group_gid=None)


def test_what_fails_after_binding_leaves_nothing(path, monkeypatch):
    before = open_files()
    monkeypatch.setattr(listener, "BACKLOG", "not a number")
    with pytest.raises(TypeError):
        listen(path, mode=0o666, group_gid=None)
    assert not path.exists()
    assert open_files() <= before


def test_of_many_that_start_at_once_one_listens(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    barrier, won, refused = threading.Barrier(8), [], []

    def start():
        barrier.wait()
        try:
            won.append(listen(path, mode=0o666, group_gid=None))
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    assert connects(path)
    won[0].close()
