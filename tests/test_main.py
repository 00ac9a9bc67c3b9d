"""The program's arguments and what it exits with, of real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from imgctl import Client

from imgstored.__main__ import exit_status
from imgstored.config import loading
from imgstored.errors import ConfigError, PoolError

#: Seconds, however busy the machine is.
TIMEOUT = 60


def settings(folder: Path, **others: str) -> Path:
    file = folder / "imgstored.toml"
    values = {"state": f"{folder}/state", "socket.path": f"{folder}/s.sock", "view.mode": "off", **others}
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    return file


def imgstored(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "imgstored", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **options,
    )


# -- exit status ---------------------------------------------------------------------------------------------


def test_wrong_arguments_end_with_2():
    assert imgstored("--nonsense").returncode == 2


@pytest.mark.parametrize("text", ["nonsense", 'nonsense = "x"', 'state = "relative"', 'view.mode = "tv"'])
def test_a_wrong_configuration_ends_with_78(tmp_path, text):
    (tmp_path / "imgstored.toml").write_text(text)
    assert imgstored("--config", tmp_path / "imgstored.toml").returncode == os.EX_CONFIG == 78


def test_a_folder_that_is_not_ours_ends_with_77(tmp_path):
    """Of another user: root itself is refused nothing."""
    (tmp_path / "closed").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:2]:
        if parent.stat().st_uid == os.getuid():
            parent.chmod(0o755)
    file = settings(tmp_path, state=f"{tmp_path}/closed/state")
    if os.getuid() == 0:
        done = imgstored("--config", file, user=65534, group=65534, extra_groups=[])
    else:
        (tmp_path / "closed").chmod(0)
        done = imgstored("--config", file)
    assert "Permission denied" in done.stderr
    assert done.returncode == os.EX_NOPERM == 77


def test_what_may_be_otherwise_the_next_time_ends_with_1():
    assert exit_status(PoolError("the pool is suspended")) == 1
    assert exit_status(ConfigError("wrong")) == 78
    full = ConfigError("state: cannot be used")
    full.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert exit_status(full) == 1
    refused = PoolError("/dev/zfs cannot be opened")
    refused.__cause__ = PermissionError()
    assert exit_status(refused) == 77


def test_another_daemon_in_the_same_folder_may_end(tmp_path):
    with (tmp_path / "log").open("w") as log:
        first = settings(tmp_path)
        command = [sys.executable, "-m", "imgstored", "--config", str(first), "--detach"]
        subprocess.run(command, stderr=log, timeout=TIMEOUT, check=True)
    pid = daemon_pid(tmp_path / "log")
    try:
        second = tmp_path / "second.toml"
        second.write_text(f'socket.path = "{tmp_path}/second.sock"\n')
        done = imgstored("--config", first, "--config", second)
    finally:
        os.kill(pid, signal.SIGTERM)
    assert "another imgstored uses the folder" in done.stderr
    assert done.returncode == 1
    await_end(pid)


# -- a Python in which trio does not run --------------------------------------------------------------------

#: Runs imgstored by a Python that cannot wait at all, on a system that trio does not know.
WITHOUT_POLL = """
import runpy, select, sys
del select.epoll, select.poll
sys.platform = "sunos5"
sys.argv = ["imgstored", *sys.argv[1:]]
runpy.run_module("imgstored", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("option", [[], ["--check"], ["--detach"]])
def test_a_python_in_which_trio_does_not_run_is_told_in_a_sentence(tmp_path, option):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POLL, "--config", str(settings(tmp_path)), *option],
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    error, hint = done.stderr.splitlines()
    assert done.returncode == os.EX_CONFIG
    assert error == (
        f"imgstored: error (ConfigError): {sys.executable} on sunos5: trio cannot be imported:"
        " NotImplementedError: unsupported platform"
    )
    assert hint.startswith("hint: ")
    assert "select.poll" in hint
    assert not (tmp_path / "state").exists()


# -- --detach ------------------------------------------------------------------------------------------------


def daemon_pid(log: Path) -> int:
    ready = next(line for line in log.read_text().splitlines() if '"ready"' in line)
    return int(json.loads(ready)["pid"])


def is_running(pid: int) -> bool:
    """Not a zombie either: what a container's first process does not wait for stays as one."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def await_end(pid: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_detach_returns_when_requests_are_answered(tmp_path):
    log = tmp_path / "log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "imgstored", "--config", str(settings(tmp_path)), "--detach"],
            stderr=output,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
        )
    pid = daemon_pid(log)
    try:
        assert done.returncode == 0
        with Client(str(tmp_path / "s.sock")) as client:
            assert client.list() == []
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
    await_end(pid)
    assert '"stopped"' in log.read_text()


def test_detach_fails_as_the_start_does(tmp_path):
    file = settings(tmp_path)
    (tmp_path / "state").touch()
    done = imgstored("--config", file, "--detach")
    assert done.returncode == os.EX_CONFIG
    assert "state: " in done.stderr


def test_detach_fails_when_the_start_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "--config", str(settings(tmp_path)), "--detach"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        pid = int(process.stderr.readline())
        assert pid != process.pid
        assert process.poll() is None
        os.kill(pid, signal.SIGKILL)
        assert process.wait(TIMEOUT) == 1


#: A start that hangs, as on a disk that does not answer.
STUCK = """
import os, sys, time
import imgstored.app
def serve(*_):
    print(os.getpid(), file=sys.stderr, flush=True)
    time.sleep(100)
imgstored.app.serve = serve
from imgstored.__main__ import main
sys.exit(main())
"""


# -- a host without FUSE -------------------------------------------------------------------------------------

WITHOUT_FUSE = """
import sys
sys.modules["pyfuse3"] = None
from imgstored.__main__ import main
sys.exit(main())
"""


def test_without_fuse_the_view_is_plain_files_and_the_log_says_why(tmp_path):
    """As on SmartOS, which has none."""
    file = settings(tmp_path, **{"view.mode": "auto", "view.path": f"{tmp_path}/images"})
    log = tmp_path / "log"
    with log.open("w") as output:
        subprocess.run(
            [sys.executable, "-c", WITHOUT_FUSE, "--config", str(file), "--detach"],
            stderr=output,
            timeout=TIMEOUT,
            check=True,
        )
    pid = daemon_pid(log)
    try:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        told = next(line for line in lines if line["event"] == "the view is plain files")
        assert "FUSE is not possible here" in told["why"]
        assert next(line for line in lines if line["event"] == "ready")["view"] == "files"
        assert (tmp_path / "images" / "by-name").is_dir()
    finally:
        os.kill(pid, signal.SIGTERM)
    await_end(pid)


# -- several files -------------------------------------------------------------------------------------------


def test_what_a_later_file_says_holds(tmp_path):
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text('state = "/a"\n[socket]\npath = "/a/s"\ngroup = "staff"\n[limits]\ntries = 2\n')
    above.write_text('socket.path = "/b/s"\nlog.level = "debug"\npool.type = "zfs"\npool.name = "tank"\n')
    both = loading.load(below, above)
    assert (both.state, both.limits.tries, both.log.level) == ("/a", 2, "debug")
    assert (both.socket.path, both.socket.group) == ("/b/s", "staff")
    assert [pool.name for pool in both.pools] == ["tank"]
    assert loading.load(above, below).socket.path == "/a/s"


def test_a_list_is_replaced_as_a_whole(tmp_path):
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text('[[pool]]\n[[pool]]\nname = "tank2"\n')
    above.write_text('pool.name = "tank3"\n')
    assert [pool.name for pool in loading.load(below, above).pools] == ["tank3"]


def test_the_file_that_is_wrong_is_named(tmp_path):
    below, above = tmp_path / "below.toml", tmp_path / "above.toml"
    below.write_text('state = "/a"\n')
    above.write_text("state = 1\n")
    with pytest.raises(ConfigError, match=f"^{above}:1: state: expected"):
        loading.load(below, above)
    above.write_text('pool.path = "/p"\n')
    below.write_text('pool.type = "zfs"\n')
    with pytest.raises(ConfigError, match=f"^{below} with {above}: pool.path: "):
        loading.load(below, above)


def test_the_daemon_reads_all_files_again(tmp_path):
    below, above = settings(tmp_path), tmp_path / "above.toml"
    above.write_text('log.level = "info"\n')
    log = tmp_path / "log"
    command = [sys.executable, "-m", "imgstored", "--config", str(below), "--config", str(above)]
    with log.open("w") as output:
        subprocess.run([*command, "--detach"], stderr=output, timeout=TIMEOUT, check=True)
    pid = daemon_pid(log)
    try:
        above.write_text('log.level = "shout"\n')
        os.kill(pid, signal.SIGHUP)
        await_line(log, f"{above}:1: log.level: ")
        above.write_text('log.level = "warning"\n')
        os.kill(pid, signal.SIGHUP)
    finally:
        os.kill(pid, signal.SIGTERM)
    await_end(pid)
    assert '"stopped"' not in log.read_text()


def await_line(log: Path, words: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while words not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_message_that_cannot_be_written_does_not_change_the_exit_status(tmp_path):
    file = settings(tmp_path, nonsense="1")
    command = f'exec "{sys.executable}" -m imgstored --config "{file}" 2>/dev/full'
    assert subprocess.run(["sh", "-c", command], timeout=TIMEOUT, check=False).returncode == os.EX_CONFIG
